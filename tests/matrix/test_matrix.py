"""A part of the matrix: every kind of fault once. The whole is made by python -m tests.matrix."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

from tests.matrix.compare import run_row
from tests.matrix.rows import DEFAULT, ROWS, Row

CHOSEN = [next(row for row in ROWS if word in (row.model, row.adapter, row.change)) for word in DEFAULT]


@pytest.mark.parametrize("row", CHOSEN, ids=lambda row: row.name)
def test_the_fast_way_equals_the_library_or_is_refused_in_a_true_line(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    outcome = run_row(row, tmp_path)
    assert outcome.good, outcome
