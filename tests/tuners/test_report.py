"""The report: estimates against arithmetic by hand, verdicts that may be open, and a report that is rebuilt from the rows alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import AssayError
from tuners import report
from tuners.claims import Estimate, difference, estimate, in_context, main_rows, matched, paired, verdict
from tuners.design import agenda, choose_rates, identity, trial_key
from tuners.figures import FIGURES
from tuners.presets import CPU_MINI
from tuners.rows import collect, write_rows
from tuners.trial import Row, Trial

STUDY = replace(CPU_MINI, targets=("glue/sst2",), methods=("full", "lora", "ia3"))
GAINS = {"full": 0.30, "lora": 0.30, "ia3": 0.10}
LOSSES = {"full": 0.20, "lora": 0.05, "ia3": 0.20}
"""The truth of the made-up study: LoRA forgets a quarter of what full tuning forgets at equal gain, IA3 three times as much."""


def made_up(trial: Trial) -> Row:
    """A row as a trial would write it, with a little difference between seeds."""
    row: Row = {
        "study": "made-up", "trial": trial_key(trial), "target": trial.target, "method": trial.method, "family": "x", "role": trial.role,
        "lr": trial.lr or None, "seed": trial.seed, "mitigation": trial.mitigation, "labels": trial.labels, "status": "done",
    }  # fmt: skip
    if trial.role == "rate":
        return row | {"validation_score": 0.9 - abs(math.log(trial.lr / 1e-3)) / 100, "kl_text": trial.lr, "loss_tokens": 192}
    shift = 0.002 * (trial.seed - 1)
    gain, loss = GAINS.get(trial.method, 0.02) + shift, LOSSES.get(trial.method, 0.0) + shift
    if trial.role == "mitigation":
        loss /= 2
    if trial.role == "tenth_rate":
        gain, loss = gain / 10, loss / 10
    if trial.role in ("untrained", "base"):
        gain = loss = 0.0
    row |= {
        "gain": gain, "gain_low": gain - 0.01, "gain_high": gain + 0.01, "target_score": 0.5 + gain, "target_base": 0.5,
        "average_drop": loss, "average_drop_low": loss - 0.01, "average_drop_high": loss + 0.01, "kl_text": loss, "kl_target": loss,
        "delta_bits_per_byte": loss / 3, "drops": {"tuning/piqa@assay": loss}, "saved_bytes": 5e8 if trial.method == "full" else 5e6,
        "peak_memory": 2e9, "trainable_parameters": 100, "train_seconds": 9.0, "loss_tokens": trial.loss_tokens,
        "processed_tokens": 4800 if trial.loss_tokens else None, "parity": 1e-6,
    }  # fmt: skip
    shots = dict(trial.options).get("shots")
    return row if shots is None else row | {"shots": shots, "context_tokens": 25.0 + 26 * shots}


@pytest.fixture
def rows() -> list[Row]:
    found: list[Row] = []
    for trial in agenda(STUDY, found):
        found.append(made_up(trial))
    return collect(found, choose_rates(found))


def test_estimates_have_the_error_of_items_and_of_seeds() -> None:
    group = [{"gain": value, "gain_low": value - 0.1, "gain_high": value + 0.1} for value in (0.1, 0.2, 0.3)]
    found = estimate(group, "gain")
    assert found is not None and found.value == pytest.approx(0.2) and found.items == pytest.approx(0.1 / 1.959964)
    assert found.seeds == pytest.approx(0.1 / math.sqrt(3))
    assert found.half == pytest.approx(math.hypot(0.1, 4.302653 * 0.1 / math.sqrt(3)), rel=1e-5)
    assert estimate([{"kl": None}], "kl") is None
    alone = estimate([{"kl": 0.5}], "kl")
    assert alone is not None and alone.half == math.inf, "one seed says nothing about seeds"
    assert difference(Estimate(1.0, 0.3, 0.0, 1), Estimate(0.5, 0.4, 0.0, 1))[1] == pytest.approx(0.5 - 1.959964 * 0.5)
    assert [verdict(*bounds) for bounds in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == ["yes", "no", "cannot tell"]


def test_forgetting_is_compared_at_the_same_gain(rows: list[Row]) -> None:
    lora, ia3 = (matched(rows, "glue/sst2", name, "average_drop") for name in ("lora", "ia3"))
    assert lora is not None and lora.says == "less" and lora.value == pytest.approx(0.15, abs=0.01)
    # At IA3's gain of 0.1 full tuning, on the line between its two rates, has lost a third of 0.2.
    assert ia3 is not None and ia3.says == "more" and ia3.value == pytest.approx(0.2 / 3 - 0.2, abs=0.01)
    noisy = [
        row | {"average_drop_low": row["average_drop"] - 1, "average_drop_high": row["average_drop"] + 1} for row in rows if row.get("gain")
    ]
    unclear = matched(noisy, "glue/sst2", "lora", "average_drop")
    assert unclear is not None and unclear.says == "cannot tell"
    useless = [row | ({"gain": 0.0} if row["method"] == "ia3" and row.get("gain") else {}) for row in rows]
    nothing = matched(useless, "glue/sst2", "ia3", "average_drop")
    assert nothing is not None and nothing.says == "no gain to match"


def test_only_chosen_rates_and_plain_runs_are_compared(rows: list[Row]) -> None:
    assert [row["seed"] for row in main_rows(rows, "glue/sst2", "lora")] == [0, 1, 2]
    found = paired(rows, "multi_task=1000", "average_drop")
    assert found is not None and found.count == 6 and found.value == pytest.approx(-0.0625, abs=0.01)
    best = in_context(rows, "glue/sst2")
    assert best is not None and len(best[1]) == 3
    broken = {row["method"]: row["break_even"] for row in rows if row["role"] == "grid"}
    assert broken["lora"] == math.ceil(3 * 4800 / (best[1][0]["context_tokens"] - 25))


def test_a_report_answers_every_claim_from_the_rows_alone(rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vl_convert")
    write_rows(rows, tmp_path / "trials.parquet")
    (tmp_path / "study.json").write_text(json.dumps(identity(STUDY, "digest")))
    assert report.main([str(tmp_path)]) == 0 and capsys.readouterr().out.strip() == str(tmp_path / "REPORT.md")
    text = (tmp_path / "REPORT.md").read_text()
    claims: Any = text.split("## The claims")[1]
    assert "lora (100x, +0.0 " in claims and "ia3 (100x, -20.0" in claims and "gains less: ia3" in claims
    assert "| sst2 | lora | +15.0 [" in claims and "| sst2 | ia3 | -13." in claims
    assert "`multi_task=1000` minus without, 6 pairs" in claims and "(less forgotten)" in claims
    assert "yes, not enough" in claims and "LoRA before training: largest of gain, drop and KL 0 " in claims
    assert "Not finished yet" not in text and len(text.split()) < 1500
    for name in FIGURES:
        drawn = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert drawn.startswith("<svg") and ("lora" in drawn) and len(drawn) < 300_000
    before = text, (tmp_path / "figures" / "pareto.svg").read_text()
    report.build(tmp_path)
    assert ((tmp_path / "REPORT.md").read_text(), (tmp_path / "figures" / "pareto.svg").read_text()) == before, (
        "the same rows, the same report"
    )


def test_a_study_half_way_has_a_report_that_says_so(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    first = [row for row in rows if row["seed"] in (0, 3) and row["method"] != "ia3"][:9]
    begun = collect(first, choose_rates(first))
    write_rows(begun, tmp_path / "trials.parquet")
    (tmp_path / "study.json").write_text(json.dumps(identity(STUDY, "digest")))
    text = report.build(tmp_path).read_text()
    assert "**Not finished yet**: seeds are missing for sst2: full, lora, ia3" in text
    with pytest.raises(AssayError, match=r"no trials\.parquet"):
        report.build(tmp_path / "nowhere")


def test_the_board_shows_the_same_gains_and_leaves_controls_out(rows: list[Row], tmp_path: Path) -> None:
    from leaderboard import studies

    write_rows(rows, tmp_path / "studies" / "made-up" / "trials.parquet")
    whole = studies.trials(tmp_path, ())
    points = studies.points(whole[whole.target == "glue/sst2"])
    lora = points[(points.method == "lora") & points.selected]
    assert lora.runs.tolist() == [3] and lora.gain.tolist() == [pytest.approx(30.0)] and lora.kept.tolist() == [pytest.approx(-5.0)]
    assert set(studies.plotted(whole).role) == {"grid", "mitigation", "tenth_rate", "in_context"}
    shared = [row["bytes_per_further_task"] for row in rows if row["mitigation"] == "multi_task=1000"]
    assert shared == [row["saved_bytes"] for row in rows if row["mitigation"] == "multi_task=1000"], "one target alone shares with nobody"
