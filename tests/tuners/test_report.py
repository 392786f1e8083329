"""The report: estimates against arithmetic by hand, verdicts that may be inconclusive, and a report rebuilt from the rows alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay import AssayError
from assay.tuners.commands import study
from assay.tuners.report import text as report
from assay.tuners.report.claims import (
    Estimate,
    MatchedForgetting,
    against_full,
    against_plain,
    difference,
    estimate,
    holm_corrected,
    in_context,
    main_rows,
    matched,
    paired,
    verdict,
)
from assay.tuners.report.figures import FIGURES
from assay.tuners.report.heading import missing_runs
from assay.tuners.study.design import choose_rates, identity, ordered_trials, trial_key
from assay.tuners.study.presets import CPU_MINI
from assay.tuners.study.rows import add_derived_columns, write_rows
from assay.tuners.study.trial import Row, Trial

STUDY = replace(CPU_MINI, targets=("glue/sst2",), methods=("full", "lora", "ia3"))
GAINS = {"full": 0.30, "lora": 0.36, "ia3": 0.10}
LOSSES = {"full": 0.20, "lora": 0.05, "ia3": 0.20}
"""The truth of the made-up study: LoRA gains more than full tuning and forgets a quarter of it, IA3 gains less and forgets as much."""


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
    for trial in ordered_trials(STUDY, found):
        found.append(made_up(trial))
    return add_derived_columns(found, choose_rates(found))


def test_estimates_have_the_error_of_items_and_of_seeds() -> None:
    group = [{"gain": value, "gain_low": value - 0.1, "gain_high": value + 0.1} for value in (0.1, 0.2, 0.3)]
    found = estimate(group, "gain")
    assert found is not None and found.value == pytest.approx(0.2) and found.items == pytest.approx(0.1 / 1.959964)
    assert found.seeds == pytest.approx(0.1 / math.sqrt(3))
    assert found.half_width == pytest.approx(math.hypot(0.1, 4.302653 * 0.1 / math.sqrt(3)), rel=1e-5)
    assert estimate([{"kl": None}], "kl") is None
    alone = estimate([{"kl": 0.5}], "kl")
    assert alone is not None and alone.half_width == math.inf, "one seed gives no error over seeds"
    assert difference(Estimate(1.0, 0.3, 0.0, 1), Estimate(0.5, 0.4, 0.0, 1))[1] == pytest.approx(0.5 - 1.959964 * 0.5)
    assert [verdict(*bounds) for bounds in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1))] == ["yes", "no", "inconclusive"]


def test_forgetting_is_compared_at_the_same_gain(rows: list[Row]) -> None:
    found = against_full(rows, "glue/sst2", "average_drop")
    # LoRA reaches full tuning's gain of 0.3 before its own 0.36, having lost at most 5/6 of 0.05, and at least nothing.
    assert found["lora"].verdict == "less" and 0.13 < found["lora"].low < 0.2 - 0.05 * 5 / 6 and 0.2 < found["lora"].high < 0.23
    # At IA3's gain of 0.1 full tuning has lost between 0.02, at a tenth of the rate, and 0.2 / 3.
    assert found["ia3"].verdict == "more" and -0.22 < found["ia3"].low < -0.18 and 0.2 / 3 - 0.2 < found["ia3"].high < -0.1
    noisy = [
        row | {"average_drop_low": row["average_drop"] - 1, "average_drop_high": row["average_drop"] + 1} for row in rows if row.get("gain")
    ]
    assert against_full(noisy, "glue/sst2", "average_drop")["lora"].verdict == "inconclusive"
    useless = [row | ({"gain": 0.0} if row["method"] == "ia3" and row.get("gain") else {}) for row in rows]
    assert against_full(useless, "glue/sst2", "average_drop")["ia3"].verdict == "no gain to match"


def points(*pairs: tuple[float, float]) -> list[list[Row]]:
    """A curve of exact points, each of three seeds that hardly differ."""
    return [
        [{"gain": gain + shift, "kl_text": loss + shift, "average_drop": loss + shift} for shift in (-1e-4, 0.0, 1e-4)]
        for gain, loss in pairs
    ]


def test_less_gain_on_one_and_the_same_curve_is_not_less_forgetting() -> None:
    """KL = 5 gain^2 for both. The straight line to full tuning's point alone would give "less"."""
    found = matched(points((0.15, 5 * 0.15**2)), points((0.30, 5 * 0.30**2), (0.05, 5 * 0.05**2)), "kl_text")
    assert found is not None and found.verdict == "inconclusive" and found.low < 0 < found.high
    clear = matched(points((0.32, 0.1)), points((0.30, 5 * 0.30**2), (0.05, 5 * 0.05**2)), "kl_text")
    assert clear is not None and clear.verdict == "less" and clear.low == pytest.approx(0.45 - 0.1 * 30 / 32, abs=0.01)


def test_retained_tasks_that_rose_give_no_verdict_on_forgetting() -> None:
    rose = matched(points((0.15, -0.05)), points((0.30, -0.06), (0.05, -0.08)), "average_drop")
    assert rose is not None and rose.verdict == "no loss", "both rose, so neither forgot"
    one = matched(points((0.30, -0.06)), points((0.29, 0.10)), "average_drop")
    assert one is not None and one.verdict == "less" and one.high == pytest.approx(0.1, abs=0.01), "a rise counts as no loss"


def test_verdicts_are_corrected_over_the_comparisons() -> None:
    found = {
        "clear": MatchedForgetting(0.1, 0.3, 1.0, 0.001),
        "close": MatchedForgetting(0.01, 0.3, 1.0, 0.04),
        "open": MatchedForgetting(-0.1, 0.1, 1.0, 0.9),
    }
    assert [each.verdict for each in found.values()] == ["less", "less", "inconclusive"]
    assert [each.verdict for each in holm_corrected(found).values()] == ["less", "inconclusive", "inconclusive"]
    assert holm_corrected(found)["close"].low == 0.01, "the interval stays"


def test_only_chosen_rates_and_plain_runs_are_compared(rows: list[Row]) -> None:
    assert [row["seed"] for row in main_rows(rows, "glue/sst2", "lora")] == [0, 1, 2]
    found = paired(rows, "multi_task=1000", "average_drop")
    assert found is not None and found.count == 3 and found.value == pytest.approx(-0.0625, abs=0.01)
    best = in_context(rows, "glue/sst2")
    assert best is not None and len(best[1]) == 3
    broken = {row["method"]: row["break_even"] for row in rows if row["role"] == "grid"}
    assert broken["lora"] == math.ceil(3 * 4800 / (best[1][0]["context_tokens"] - 25))


def test_a_mitigation_has_the_error_of_items_and_of_seeds(rows: list[Row]) -> None:
    """Two cells whose runs of one seed are the same training: they count once, and their items do not add evidence."""
    cells = [
        {"target": target, "method": "full", "role": role, "mitigation": mitigation, "seed": seed, "selected": True, "gain": gain,
         "gain_low": gain - 0.03, "gain_high": gain + 0.03}
        for target, level in (("a", 0.2), ("b", 0.5))
        for seed, noise in enumerate((-0.01, 0.0, 0.01))
        for role, mitigation, gain in (("grid", "none", level), ("mitigation", "replay=1", level - 0.1 + noise))
    ]  # fmt: skip
    found = paired(cells, "replay=1", "gain")
    assert found is not None and found.value == pytest.approx(-0.1) and found.count == 3
    assert found.seeds == pytest.approx(0.01 / math.sqrt(3)), "the levels of the cells are no spread"
    assert found.items == pytest.approx(math.hypot(0.03, 0.03) / 1.959964)
    held = against_plain(rows, "multi_task=1000")
    assert set(held) == {("glue/sst2", name, measure) for name in ("full", "lora") for measure in report.MEASURES}
    # With equal gains and seeds that differ, the plain run may have passed the gain: its loss before that is not known.
    assert {each.verdict for each in held.values()} == {"inconclusive"}
    better = [row | ({"gain": row["gain"] + 0.1} if row["role"] == "mitigation" else {}) for row in rows]
    assert {each.verdict for each in against_plain(better, "multi_task=1000").values()} == {"less"}
    text = " ".join(report.mitigation_claim(better, True))
    assert "`multi_task=1000`: yes, compared at equal gain with the same method without it (less 6; less: sst2 full average_drop," in text


def test_the_tuned_method_is_chosen_on_validation(rows: list[Row]) -> None:
    changed = [row | ({"validation_score": 0.95} if row["method"] == "ia3" and row["role"] == "rate" else {}) for row in rows]
    text = " ".join(report.in_context_claim(changed))
    assert "ia3, the best on validation, gains +8.0" in text and "tuning is cheaper after" in text
    assert "lora, the best on validation" in " ".join(report.in_context_claim(rows))
    strong = [row | ({"gain": 0.5} if row["role"] == "in_context" else {}) for row in rows]
    lost = " ".join(report.in_context_claim(strong))
    assert "sst2: no. lora" in lost and "which favours prompts" in lost and "tuning is cheaper" not in lost


def test_the_report_lists_rises_rates_at_the_edge_and_large_adapters(rows: list[Row]) -> None:
    assert not list(report.rise_note(rows)) and "all methods store less than full tuning" in " ".join(report.size_claim(rows))
    risen = [row | ({"drops": {"tuning/arc_easy@assay": -0.15, "tuning/blimp@assay": 0.05}} if row.get("gain") else {}) for row in rows]
    text = " ".join(report.rise_note(risen))
    assert "arc_easy after sst2 with 3 of 3 methods (full +15.0 [" in text and "lora on random labels +15.0 [" in text
    assert "blimp" not in text and "gained the answer format" in text
    large = [row | ({"saved_bytes": 6e8} if row["method"] == "ia3" else {}) for row in rows]
    assert "all methods but ia3 store less" in " ".join(report.size_claim(large))
    # Validation is best near 1e-3: the largest rate of full tuning, the smallest of IA3, the middle one of LoRA.
    edge = " ".join(report.controls(rows)).split("at the edge of those tried")[1].split(";")[0]
    assert "sst2 ia3 (smallest), sst2 full (largest)" in edge and "lora" not in edge


def test_a_report_answers_every_claim_from_the_rows_alone(rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vl_convert")
    write_rows(rows, tmp_path / "trials.parquet")
    (tmp_path / "study.json").write_text(json.dumps(identity(STUDY, "digest")))
    study(report=tmp_path)
    assert capsys.readouterr().out.strip() == str(tmp_path / "REPORT.md")
    text = (tmp_path / "REPORT.md").read_text()
    claims: Any = text.split("## The claims")[1]
    assert "gain is higher: lora (100x, +6.0)" in claims and "gain is lower: ia3 (100x, -20.0)" in claims
    assert "| sst2 | lora | [+1" in claims and "]: less |" in claims and "| sst2 | ia3 | [-" in claims and "]: more |" in claims
    assert "at unequal gains, 6 pairs of runs in 2 cells" in claims and "training rows of the retention tasks" in claims
    assert "The learning rate of each method is the best of 3 on" in text, "from the rows: `study.json` leaves defaults out"
    assert text.count("![") == 1 and text.count("](figures/") == len(FIGURES)
    assert "sst2: yes. " in claims and "LoRA before training: largest of gain, drop and KL 0 " in claims
    assert "Unfinished study" not in text and len(text.split()) < 1500
    for name in FIGURES:
        drawn = (tmp_path / "figures" / f"{name}.svg").read_text()
        assert drawn.startswith("<svg") and ("lora" in drawn) and len(drawn) < 300_000
    before = text, (tmp_path / "figures" / "pareto.svg").read_text()
    report.build(tmp_path)
    assert ((tmp_path / "REPORT.md").read_text(), (tmp_path / "figures" / "pareto.svg").read_text()) == before, (
        "the same rows, the same report"
    )


def test_the_report_of_an_unfinished_study_says_so(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    first = [row for row in rows if row["seed"] in (0, 3) and row["method"] != "ia3"][:9]
    begun = add_derived_columns(first, choose_rates(first))
    write_rows(begun, tmp_path / "trials.parquet")
    (tmp_path / "study.json").write_text(json.dumps(identity(STUDY, "digest")))
    text = report.build(tmp_path).read_text()
    missing = "without sst2: 2 of 3 seeds of full; 3 of 3 seeds of lora, ia3; sst2 with mitigations: 3 of 3 seeds of every mitigation"
    assert f"**Unfinished study**, {missing}. The verdicts below use the finished runs." in text
    held = {"targets": ["glue/sst2"], "methods": ["full", "lora", "ia3"], "seeds": [0, 1, 2, 3], "mitigations": ["kl=1", "replay=0.5"]}
    found = missing_runs([row for row in rows if (row["method"], row["seed"]) != ("ia3", 2)], held)
    assert found == [
        "sst2: 1 of 4 seeds of full, lora; 2 of 4 seeds of ia3",
        "sst2 with mitigations: 1 of 4 seeds of replay=0.5 on full, replay=0.5 on lora; 4 of 4 seeds of kl=1 on full, kl=1 on lora",
    ]
    with pytest.raises(AssayError, match=r"no trials\.parquet"):
        report.build(tmp_path / "nowhere")


def test_the_board_shows_the_same_gains_and_leaves_controls_out(rows: list[Row], tmp_path: Path) -> None:
    from assay.leaderboard.data import studies

    write_rows(rows, tmp_path / "studies" / "made-up" / "trials.parquet")
    whole = studies.trials(tmp_path, ())
    points = studies.points(whole[whole.target == "glue/sst2"])
    lora = points[(points.method == "lora") & points.selected]
    assert lora.runs.tolist() == [3] and lora.gain.tolist() == [pytest.approx(36.0)] and lora.kept.tolist() == [pytest.approx(-5.0)]
    group = main_rows(rows, "glue/sst2", "lora")
    gain, drop = estimate(group, "gain"), estimate(group, "average_drop")
    assert gain is not None and drop is not None
    shown = lora.iloc[0]
    assert (shown.gain_low, shown.gain_high) == pytest.approx((100 * gain.low, 100 * gain.high)), "the report's interval"
    assert (shown.kept_low, shown.kept_high) == pytest.approx((-100 * drop.high, -100 * drop.low))
    assert set(studies.plotted(whole).role) == {"grid", "mitigation", "tenth_rate", "in_context"}
    shared = [row["bytes_per_further_task"] for row in rows if row["mitigation"] == "multi_task=1000"]
    assert shared == [row["saved_bytes"] for row in rows if row["mitigation"] == "multi_task=1000"], "one target alone shares with nobody"


def test_a_run_that_was_stopped_early_has_its_result(rows: list[Row], tmp_path: Path) -> None:
    from assay.leaderboard.data import studies

    ends = {"mitigation": "stopped", "tenth_rate": "diverged"}
    write_rows([row | {"status": ends.get(row["role"], "done")} for row in rows], tmp_path / "studies" / "made-up" / "trials.parquet")
    assert set(studies.failed(studies.trials(tmp_path, ())).role) == {"tenth_rate"}
