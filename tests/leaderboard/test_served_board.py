"""Runs of served models are marked on the board. Run: pytest tests/leaderboard/test_served_board.py"""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import make_model, place, write_task

from assay import Plan, evaluate
from assay.leaderboard.data.assembly import with_columns
from assay.leaderboard.data.queries import cells
from assay.leaderboard.documents.run_report import run_report
from tests.faulty_server import serving

pytest.importorskip("openai")


def test_a_served_model_is_marked_on_the_board_and_in_reports(tmp_path: Path) -> None:
    task = str(write_task(tmp_path, 40))
    with serving() as state:
        served = evaluate(Plan(model=state.address, tasks=(task,)), place(tmp_path))
    evaluate(Plan(model=str(make_model(tmp_path / "model")), tasks=(task,), engine="scripted"), place(tmp_path))
    rows = with_columns(cells(tmp_path / "results")).set_index("engine")
    assert rows.kind.to_dict() == {"served": "served", "scripted": "base"}
    assert rows.source.to_dict() == {"served": "served, weights not verified", "scripted": "assay"}
    assert "served (served, weights not verified)" in run_report(tmp_path / "results", [served.name], markdown=True)
