"""Data sets of the hub in a mirror. Run: pytest tests/harness/task/test_hub.py"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from assay import Access, hub


def test_a_mirror_may_hold_a_data_set_under_its_former_id(tmp_path: Path) -> None:
    def put(folder: str, value: int) -> None:
        path = tmp_path / folder
        path.mkdir(parents=True)
        pq.write_table(pa.table({"a": [value]}), path / "test.parquet")

    access, source = Access(tmp_path, offline=True), hub("new/id", "Part", former=("local/old", "part"))
    put("local__old/part", 1)
    assert source.splits(access) == ("test",)
    assert source.load("test", access).rows == ({"a": 1},)
    put("new__id/Part", 2)
    assert source.load("test", access).rows == ({"a": 2},), "the present id comes first"
