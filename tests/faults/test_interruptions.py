"""SIGTERM and Ctrl-C at any stage of a run: exit code 13 and the command that goes on, soon.

Run: pytest tests/faults/test_interruptions.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, place, write_task

from assay import Plan, evaluate, read_run
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.errors import Incomplete
from assay.harness.run import evaluate as running
from assay.harness.run.evaluate import resume
from assay.harness.store import find_run
from assay.harness.store.writer import Writer


def opening(name: str, ref: object, settings: object) -> Scripted:
    return Scripted(hashed(3))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", ["opener", "check_model_unchanged", "index", "append", "finish"])
def test_an_interruption_at_any_stage_is_incomplete_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, number: signal.Signals
) -> None:
    model, task = make_model(tmp_path / "model"), write_task(tmp_path, 20)
    plan = Plan(model=str(model), tasks=(str(task),), engine="scripted")

    def interrupted(inner: Any) -> Any:
        def call(*args: Any, **names: Any) -> Any:
            os.kill(os.getpid(), number)
            return inner(*args, **names)

        return call

    with monkeypatch.context() as patch:
        if stage in ("append", "finish"):
            patch.setattr(Writer, stage, interrupted(getattr(Writer, stage)))
        elif stage != "opener":
            patch.setattr(running, stage, interrupted(getattr(running, stage)))
        with pytest.raises(Incomplete, match=r"continue with: assay resume \S+ --results") as caught:
            evaluate(plan, place(tmp_path), opener=interrupted(opening) if stage == "opener" else opening)
    assert caught.value.exit_code == 13
    run = read_run(resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening))
    assert (run.status, len(run.records())) == ("complete", 20)


def test_an_interruption_that_a_library_disguises_is_one_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def query_interrupted(*_: object) -> None:
        """What DuckDB does with a signal in the middle of a query."""
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("Query interrupted") from None

    monkeypatch.setattr(running, "index", query_interrupted)
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(write_task(tmp_path, 5)),), engine="scripted")
    with pytest.raises(Incomplete, match=r"terminated\. continue with: assay resume"):
        evaluate(plan, place(tmp_path), opener=opening)
    monkeypatch.setattr(running, "index", bug)
    with pytest.raises(RuntimeError, match="a bug"):
        evaluate(plan, place(tmp_path), opener=opening)


def bug(*_: object) -> None:
    raise RuntimeError("a bug is no interruption")


def items_stored(results: Path) -> bool:
    return any(path.read_bytes().count(b"\n") > 1 for path in results.glob("runs/*/journal.jsonl"))


def test_a_terminated_process_exits_13_within_ten_seconds(tmp_path: Path) -> None:
    model, task = make_model(tmp_path / "model"), write_task(tmp_path, 2000)
    command = [
        "run",
        "--model",
        str(model),
        "--tasks",
        str(task),
        "--engine",
        "scripted:hashed,delay=0.02",
        "--results",
        str(tmp_path / "r"),
    ]
    process = subprocess.Popen([sys.executable, "-m", "assay", *command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not items_stored(tmp_path / "r") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    began = time.monotonic()
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 13, said
    assert "continue with: assay resume" in said and "Traceback" not in said
    run = read_run(find_run(tmp_path / "r", "20"))
    assert 0 < len(run.records()) < 2000
