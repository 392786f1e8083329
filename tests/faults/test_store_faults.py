"""Kills, full disks and crowds, for real. ASSAY_SOAK=1 runs the long versions: 1,000 kills, 8 processes with 20 runs each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from assay.harness import store

CHILD = Path(__file__).with_name("store_child.py")
SOAK = bool(os.environ.get("ASSAY_SOAK"))


def start(*args: object, wrap: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [*wrap, sys.executable, str(CHILD), *map(str, args)]
    environment = os.environ | {"PYTHONPATH": str(CHILD.parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=3600)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_random_kills_lose_nothing_and_repeat_nothing() -> None:
    count = 1000 if SOAK else 50
    found = result(start("kills", count, 7))
    assert found["killed"] == count
    assert found["killed_asked"] and found["killed_closing"], "kills met batches and the closing of a run"
    assert found["runs"] >= 2
    wrong = {name: found[name] for name in ("lost", "duplicated", "different", "leftovers", "failed", "excess", "index_wrong", "problems")}
    assert not any(wrong.values()), found


def test_a_kill_at_every_write_of_a_run_can_be_resumed() -> None:
    found = result(start("boundaries"))
    assert found["killed"] > 15
    assert found["asked_again"] <= 4 * found["killed"]
    assert found["runs"] == found["killed"] + 1
    assert not any(found[name] for name in ("lost", "duplicated", "different", "leftovers", "failed")), found


def test_a_kill_at_every_step_of_indexing_leaves_a_whole_index() -> None:
    found = result(start("index_boundaries"))
    assert found["killed"] >= 4
    assert not any(found[name] for name in ("torn", "index_wrong", "problems")), found


def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("user namespaces are off: no small file system can be mounted")
    mount = ("unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=4m none {tmp_path} && exec "$0" "$@"')
    found = result(start("full", tmp_path, wrap=mount))
    judge_full(found, "No space left on device")
    assert "No space left on device" in found["third"]  # also while writing the results


def test_a_file_size_limit_stops_a_run_that_goes_on_without_it(tmp_path: Path) -> None:
    judge_full(result(start("limit", tmp_path)), "File too large")


def judge_full(found: dict[str, Any], reason: str) -> None:
    assert found["code"] == 13
    assert reason in found["first"]
    assert "assay resume" in found["first"]
    assert reason in found["second"]
    assert not found["half_written"]
    assert found["kept"] == found["acknowledged"] > 0
    assert (found["status"], found["items"]) == ("complete", 2000)


def test_many_processes_index_into_one_store(tmp_path: Path) -> None:
    count = 20 if SOAK else 2
    crowd = [start("index", tmp_path, count) for _ in range(8)]
    assert [result(process) for process in crowd] == [{"runs": count}] * 8
    rows = store.query(tmp_path, "SELECT count(*), count(DISTINCT run_id), count(DISTINCT (run_id, item_id)) FROM samples")
    assert rows == [(8 * count * 5, 8 * count, 8 * count * 5)]
    assert store.check(tmp_path) == ()
