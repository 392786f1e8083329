from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from faults.store_child import complete_run

from assay.harness.store import index, query


def write(path: Path, rows: list[dict[str, Any]], later: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    os.utime(path, (time.time() + later,) * 2)


def trial(method: str, gain: float | None, **more: Any) -> dict[str, Any]:
    return {
        "study": "toy",
        "method": method,
        "family": "full",
        "seed": 0,
        "lr": 1e-4,
        "task": "rte",
        "role": "grid",
        "gain": gain,
        "run_id": None,
        **more,
    }


def test_the_view_lists_the_trials_of_every_study(tmp_path: Path) -> None:
    complete_run(tmp_path)
    write(tmp_path / "studies" / "toy" / "trials.parquet", [trial("full", 0.1), trial("lora", math.nan, run_id="r1")])
    write(tmp_path / "tuned" / "one" / "trials.parquet", [{**trial("ia3", None, status="diverged"), "study": None}])
    assert not index(tmp_path).trouble
    rows = query(tmp_path, "SELECT study, run_id, method, seed, lr, task, role, gain FROM tuning ORDER BY method")
    assert rows == [
        ("toy", None, "full", 0, 1e-4, "rte", "grid", 0.1),
        ("one", None, "ia3", 0, 1e-4, "rte", "grid", None),
        ("toy", "r1", "lora", 0, 1e-4, "rte", "grid", None),  # not a number is no number
    ]


def test_the_index_follows_changed_and_deleted_studies(tmp_path: Path) -> None:
    complete_run(tmp_path)
    path = tmp_path / "studies" / "toy" / "trials.parquet"
    write(path, [trial("full", 0.1)])
    index(tmp_path)
    stamp = (tmp_path / "assay.duckdb").stat().st_mtime_ns
    index(tmp_path)
    assert (tmp_path / "assay.duckdb").stat().st_mtime_ns == stamp
    write(path, [trial("full", 0.1), trial("lora", 0.2)], later=1.0)
    index(tmp_path)
    assert query(tmp_path, "SELECT count(*) FROM tuning") == [(2,)]
    path.unlink()
    index(tmp_path)
    assert query(tmp_path, "SELECT count(*) FROM tuning") == [(0,)]


def test_a_damaged_trials_file_is_reported_and_the_others_are_indexed(tmp_path: Path) -> None:
    run = complete_run(tmp_path)
    write(tmp_path / "studies" / "good" / "trials.parquet", [trial("full", 0.1)])
    write(tmp_path / "studies" / "odd" / "trials.parquet", [{**trial("full", 0.1), "seed": "many"}])
    (tmp_path / "studies" / "torn").mkdir()
    (tmp_path / "studies" / "torn" / "trials.parquet").write_bytes(b"PAR1")
    report = index(tmp_path)
    assert report.indexed == (run.name,)
    assert set(report.trouble) == {"studies/odd/trials.parquet", "studies/torn/trials.parquet"}
    assert query(tmp_path, "SELECT method FROM tuning") == [("full",)]
