"""What the comparison says of measurements: made ones, by hand. Run: pytest tests/bench/test_table.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assay.harness.engines.request import ScoreGroup
from tests.bench.cells import Bars, Cell, Slice
from tests.bench.table import agreement, row_of, starts, verdicts, write_results
from tests.bench.tokens import count_of, in_blocks

CELL = Cell("made", "", (Slice("ours", "theirs"),), 0, Bars(2, 4, 2))
REQUESTS = [[[1, 2, 3, number], [answer]] for number in (4, 5) for answer in (6, 7)]


def keep(path: Path, found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def measurements(work: Path, ours: list[list[float]]) -> None:
    common = {"open": {"wall": 1, "cpu": 1}, "peak": 2**30, "accuracy": 0.5}
    theirs = {"items": [[-1.0, -2.0], [-3.0, -1.0]], "requests": REQUESTS, "computed": 8, "padded": 8, "batch": 4}
    keep(work / "made" / "theirs.peer.json", {**common, **theirs, "score": {"wall": 10, "cpu": 8}})
    keep(work / "made" / "theirs.hf.json", {**common, "items": ours, "tokens": [[1, 1]] * 2, "computed": 5, "score": {"wall": 4, "cpu": 2}})


def test_predictions_agree_differ_or_tie() -> None:
    theirs = [[-1.0, -2.0], [-1.0, -1.00005], [-5.0, -6.0]]
    found = agreement(theirs, [[-1.00001, -2.0], [-1.00005, -1.0], [-6.0, -5.0]], [[1, 1], [1, 1], [2, 2]])
    assert (found.items, found.flips, found.ties) == (3, 1, 1) and found.worst == pytest.approx(0.5)
    with pytest.raises(ValueError, match="shorter"):
        agreement(theirs, theirs[:2], [[1, 1]] * 3)


def test_a_row_holds_tokens_ratios_and_verdicts(tmp_path: Path) -> None:
    measurements(tmp_path, [[-1.0, -2.0], [-3.0, -1.00001]])
    row = row_of(CELL, "hf", tmp_path)
    assert row is not None and row_of(CELL, "vllm", tmp_path) is None
    assert (row.tokens_lm_eval_vllm, row.tokens_lm_eval_hf, row.tokens_ideal, row.tokens_computed) == (20, 8, 5, 5)
    assert (row.wall_ratio_hf, row.cpu_ratio_hf, row.tokens_ratio_vllm) == (2.5, 4.0, 4.0)
    found = {what.partition(": ")[2]: holds for what, _, _, holds in verdicts(CELL, row)}
    assert found == {
        "same predictions outside ties": True,
        "log-probability per token": True,
        "tokens, lm-eval hf / ours": False,
        "tokens, lm-eval vllm / ours": True,
        "computed / ideal tokens": True,
        "seconds, lm-eval hf / ours": True,
    }


def test_a_page_keeps_its_own_words_and_names_what_fails(tmp_path: Path) -> None:
    measurements(tmp_path, [[-2.0, -1.0], [-3.0, -1.0]])
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("# Mine\n<!-- tables -->\nstale row\n<!-- end -->\nlast words\n")
    for _ in range(2):
        write_results([CELL], tmp_path, out)
    page = (out / "README.md").read_text()
    assert page.startswith("# Mine\n") and page.endswith("last words\n") and "stale row" not in page
    assert "| 0 differ | 1 of 2 (0 tied) | **no** |" in page and page.count("made, hf: same predictions") == 1
    assert (out / "table.csv").read_text().splitlines()[1].startswith("made,hf,2,0.5,0.5,1,0,1.0,20,8,5,5,")


def test_starts_are_compared_round_by_round(tmp_path: Path) -> None:
    side = {"open": {"cpu": 10}, "first": {"cpu": 2}}
    keep(tmp_path / "start" / "0.default.json", {**side, "ready": 80.0})
    keep(tmp_path / "start" / "0.assay.json", {**side, "ready": 20.0, "swaps": [{"wall": 1.0}, {"wall": 3.0}]})
    keep(tmp_path / "start" / "1.default.json", {**side, "ready": 80.0})
    assert [holds for *_, holds in starts(tmp_path)] == [True, False]


def test_blocks_are_answered_whole_and_the_last_token_never() -> None:
    stem = tuple(range(10))
    groups = [ScoreGroup((*stem, 20 + number), ((1,), (2,))) for number in range(3)]
    assert in_blocks(groups, 4) == 11 + 2 * (11 - 8)
    assert in_blocks(groups[:1] * 2, 11) == 22, "the last prompt token is always computed, so its block is too"
    assert count_of("t", groups).ideal == 13 and count_of("t", groups).lm_eval_hf == 33
