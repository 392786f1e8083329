"""Runs scored along their way: the points are the pipeline's scores, frontiers have bands that cover, and verdicts find planted truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import Access, AssayError, ModelRef
from assay.harness.files.places import Surroundings
from assay.tuners.report.expected import expect
from assay.tuners.report.frontier import compare_along, contrast_band, frontier_band, simultaneous_t
from assay.tuners.report.frontier_text import frontier_section
from assay.tuners.report.text import build
from assay.tuners.study.design import Study, choose_rates, ordered_trials, rates_to_try
from assay.tuners.study.presets import read_study
from assay.tuners.study.rows import read_points, read_rows, write_rows
from assay.tuners.study.scoring import PipelineScorer
from assay.tuners.study.study import run_study
from assay.tuners.training.batches import plan_steps
from assay.tuners.training.train import Recipe, Watch, train
from tests.tuners.tiny import tiny_examples, tiny_llama

MAX, FIRST = "assay.tuners.toy:MAX", "assay.tuners.toy:FIRST"
Paths = dict[int, list[tuple[float, float]]]


def along(**changes: Any) -> Study:
    study = Study(
        name="along", targets=(MAX,), retain=(FIRST,), methods=("lora", "prefix_tuning"), loss_tokens=10_000, steps=5, points=(2, 4),
        rates=(1.0,), centres={"lora": 0.02}, seeds=(0, 1), shots=(), controls=False, limit=20, examples=64, batch=4, probes=8,
        options={"lora": {"rank": 2}, "prefix_tuning": {"tokens": 2}},
    )  # fmt: skip
    return replace(study, **changes)


@pytest.mark.filterwarnings("default")
def test_points_are_the_scores_that_the_pipeline_gives_the_saved_result(base: ModelRef, tmp_path: Path) -> None:
    place = Surroundings(tmp_path / "results", tmp_path / "cache", None, True)
    scorer, root = PipelineScorer(place, limit=20), tmp_path / "study"
    rows = run_study(along(), base, place.access(), scorer, root)
    found = read_points(root / "points.parquet")
    tuned = {(row["method"], row["seed"]): row for row in rows if row["lr"]}
    assert {key: [point["step"] for point in found[row["trial"]]] for key, row in tuned.items()} == {
        **{("lora", seed): [2, 4, 5] for seed in (0, 1)},
        **{("prefix_tuning", seed): [0, 2, 4, 5] for seed in (0, 1)},  # it changes the model before any training
    }
    for row in tuned.values():
        last = found[row["trial"]][-1]
        assert row["gain"] == last["gain"] and last["kl_base"] > 0 and "points" not in row and "item_scores" not in row
        served = scorer(base.path, root / "trials" / row["trial"] / "result", (MAX, FIRST))
        assert row["target_score"] == pytest.approx(served["toy/max"].value)
        assert {"toy/first"} == {*row.get("drops", {}), *row["not_measurable"]}
    before = read_rows(root / "trials.parquet")
    for part in root.glob("trials/*/row.json"):
        part.unlink()
    run_study(along(), base, place.access(), scorer, root)
    assert read_rows(root / "trials.parquet") == before, "published rows count as finished"
    assert read_points(root / "points.parquet") == found, "and keep their points"
    text = "\n".join(frontier_section(read_rows(root / "trials.parquet"), found))
    assert "of 1 pairs of 2 methods are decided" in text and "Beside the literature" in text


def test_every_method_runs_with_a_seed_before_the_next_seed() -> None:
    order = [(trial.seed, trial.method) for trial in ordered_trials(along(seeds=(0, 1, 2)), []) if trial.lr]
    assert order == [(seed, method) for seed in (0, 1, 2) for method in ("lora", "prefix_tuning")]


def rate_row(lr: float, loss: float | None, seed: int = 9) -> dict[str, Any]:
    return {"role": "rate", "target": MAX, "method": "lora", "lr": lr, "seed": seed, "mitigation": "none", "validation_loss": loss}


def test_a_learning_rate_at_the_edge_is_extended_until_the_best_lies_inside() -> None:
    study = along(methods=("lora",), rates=(1.0, 3.0), rate_seeds=(9,), extensions=2, centres={"lora": 0.01})
    assert rates_to_try(study, [], MAX, "lora") == ((1.0, 3.0), False)
    rows = [rate_row(0.01, 1.0), rate_row(0.03, 0.5)]
    assert rates_to_try(study, rows, MAX, "lora") == ((1.0, 3.0, 9.0), False), "the largest was best"
    rows.append(rate_row(0.09, 0.8))
    assert rates_to_try(study, rows, MAX, "lora") == ((1.0, 3.0, 9.0), True) and choose_rates(rows) == {(MAX, "lora"): 0.03}
    falling = [rate_row(0.01 * 3.0**power, 1.0 - power / 10) for power in range(4)]
    assert rates_to_try(study, falling, MAX, "lora") == ((1.0, 3.0, 9.0, 27.0), True), "no more than two extensions"
    rising = [rate_row(0.01, 0.5), rate_row(0.03, None)]
    assert rates_to_try(study, rising, MAX, "lora") == ((1 / 3, 1.0, 3.0), False), "a diverged run is the worst"


def test_scoring_along_the_way_changes_neither_the_training_nor_its_measured_time() -> None:
    import time

    examples = tiny_examples(16)
    steps, seen = plan_steps(examples, loss_tokens=40, batch=4, seed=0), list[tuple[int, bool]]()

    def run(watch: Watch) -> Any:
        from assay.tuners.methods import find_method

        trainable = find_method("lora").begin(tiny_llama(), seed=0, options={"rank": 2})
        return train(trainable, steps, Recipe(lr=1e-2, micro=4), watch=watch), trainable

    def measure(step: int) -> None:
        seen.append((step, watched_model[0].training if watched_model else False))
        time.sleep(0.3)

    watched_model: list[Any] = []
    plain, _ = run(Watch())
    watched, _ = run(Watch(frozenset({0, 2}), measure))
    assert [step for step, _ in seen] == [0, 2, len(steps)] and watched.losses == plain.losses
    assert watched.seconds < plain.seconds + 0.6, "three calls of 0.3 s are not part of the run"


def paths(factor: float, final: float, seeds: int, random: np.random.Generator, noise: float = 0.2) -> Paths:
    """KL = factor x 5 gain^2, with noise per run and per point."""
    gains = [final * share for share in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)]
    runs = {seed: noise * random.standard_normal() for seed in range(seeds)}
    return {seed: [(g, factor * 5 * g**2 * math.exp(run + 0.05 * random.standard_normal())) for g in gains] for seed, run in runs.items()}


def test_the_band_covers_the_whole_true_curve() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(150):
        band = contrast_band(paths(1.5, 0.3, 6, random), paths(1.0, 0.3, 6, random))  # equal gains at the points
        hits += len(band) == 9 and all(point.low <= 1.5 <= point.high for point in band)
    assert 0.90 <= hits / 150 <= 1.0
    table = random.standard_normal((9, 6))
    assert simultaneous_t(table[:1]) == pytest.approx(2.571, abs=1e-3), "one gain: Student's t with five degrees of freedom"
    assert simultaneous_t(table[:1]) < simultaneous_t(table) <= 4.79
    assert simultaneous_t(np.repeat(table[:1], 9, axis=0)) == pytest.approx(2.571, abs=0.35), "gains that move together cost nothing"


def test_verdicts_at_equal_gain_find_the_planted_truth() -> None:
    random = np.random.default_rng(1)
    words = [compare_along(paths(2.0, 0.3, 6, random), paths(1.0, 0.4, 6, random)) for _ in range(40)]
    assert sum(each.verdict == "dominated" for each in words) > 34
    assert sum(each.verdict_over_range == "dominated" for each in words) > 20
    same = [compare_along(paths(1.0, 0.3, 8, random, 0.02), paths(1.0, 0.4, 8, random, 0.02)) for _ in range(40)]
    assert sum(each.verdict == "no difference" for each in same) > 34
    assert sum(each.verdict_over_range == "no difference" for each in same) > 34
    one = compare_along(paths(1.0, 0.3, 1, random), paths(2.0, 0.3, 1, random))
    assert one.verdict == one.verdict_over_range == "cannot tell" and one.factor is None
    least = frontier_band(paths(1.0, 0.3, 5, random))[-1]
    assert least.gain == pytest.approx(0.3) and least.low < 5 * 0.3**2 < least.high


def run_rows(method: str, runs: Paths, mitigation: str = "none") -> list[dict[str, Any]]:
    """Rows of a study whose runs were scored along these paths."""
    role = "grid" if mitigation == "none" else "mitigation"
    return [
        {
            **{"target": "t", "method": method, "seed": seed, "role": role, "mitigation": mitigation, "lr": 1e-3, "status": "done"},
            **{"trial": f"{method}{seed}{mitigation}", "gain": path[-1][0], "kl_text": path[-1][1], "average_drop": path[-1][1] / 10},
            **{"gain_low": path[-1][0] - 0.01, "gain_high": path[-1][0] + 0.01, "average_drop_low": 0.0, "average_drop_high": 0.1},
            "points": [{"step": step + 1, "gain": gain, "kl_text": kl} for step, (gain, kl) in enumerate(path)],
        }
        for seed, path in runs.items()
    ]


def test_a_mitigation_is_compared_with_the_same_runs_without_it_at_equal_gain(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    random = np.random.default_rng(3)
    plain = {name: paths(1.0, 0.3, 5, random, 0.05) for name in ("full", "lora")}
    rows = [row for name, runs in plain.items() for row in run_rows(name, runs)]
    less = {seed: [(0.8 * gain, 0.2 * kl) for gain, kl in path] for seed, path in plain["lora"].items()}
    rows += run_rows("lora", less, "kl=1")
    ends = run_rows("full", {seed: [path[-1]] for seed, path in plain["full"].items()}, "wise_ft=0.5")
    rows += [{name: value for name, value in row.items() if name != "points"} for row in ends]
    stale = [{**row, "lr": 9.0, "selected": False, "gain": -1.0, "trial": f"old {row['trial']}"} for row in ends]
    write_rows([*rows, *stale], tmp_path / "trials.parquet")
    claim = build(tmp_path).read_text().split("**4. Mitigations forget less")[1].split("**5.")[0]
    assert "t: yes, at equal gain against the same runs without it (forgets less (KL is lower): kl=1 on lora; no difference" in claim
    cells = next(line for line in claim.splitlines() if "| lora | kl=1 |" in line).split(" | ")
    assert cells[3] == "5" and cells[4].startswith("-6.0 [") and 0.19 < float(cells[5].split("x")[0]) < 0.21 and cells[7] == "dominates |"
    # The straight line from the base overstates KL before the end of a run: at 80% of its gain by 0.8 over 0.8 squared.
    cells = next(line for line in claim.splitlines() if "| full | wise_ft=0.5 |" in line).split(" | ")
    assert cells[3] == "5" and cells[4].startswith("+0.0") and 1.1 < float(cells[6].split("x")[0]) < 1.4
    (found,) = json.loads((tmp_path / "frontiers.json").read_text())
    assert {(each["method"], each["mitigation"]) for each in found["mitigations"]} == {("lora", "kl=1"), ("full", "wise_ft=0.5")}


def test_few_shot_examples_are_compared_by_pairs_with_methods_of_one_learning_rate(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    rows = [
        row | {"items": 2, "context_tokens": 29.0, "item_scores": {"a": 1.0, "b": 1.0}}
        for row in run_rows("full", paths(1, 0.3, 4, np.random.default_rng(4)))
    ]
    rows += [
        {
            **{"target": "t", "method": "in_context", "role": "in_context", "seed": seed, "mitigation": "none", "trial": f"shots{seed}"},
            **{"gain": 0.1, "gain_low": 0.0, "gain_high": 0.2, "shots": 4, "context_tokens": 148.0},
            **{"item_scores": {"a": 1.0, "b": 0.6 + seed / 10}},
        }
        for seed in range(4)
    ]  # fmt: skip
    write_rows(rows, tmp_path / "trials.parquet")
    claim = build(tmp_path).read_text().split("**5. Few-shot examples")[1].split("##")[0]
    assert (
        "t: inconclusive. full gains +12.5 [" in claim
        and "over 4 examples (+10.0 [" in claim
        and "148 context tokens per query against 29" in claim
    )
    assert "chosen" not in claim, "one number of examples was tried"


def test_the_report_and_the_file_for_pages_hold_paths_bands_and_verdicts(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert")
    random = np.random.default_rng(2)
    rows = [row for name, factor in (("full", 1.0), ("lora", 3.0)) for row in run_rows(name, paths(factor, 0.3, 4, random))]
    write_rows(rows, tmp_path / "trials.parquet")
    text = build(tmp_path).read_text()
    (found,) = json.loads((tmp_path / "frontiers.json").read_text())
    assert len(found["runs"]) == 8 and found["runs"][0]["points"][0] == [0.0, 0.0], "a run starts at the base"
    assert set(found["frontiers"]) == {"full", "lora"} and len(found["frontiers"]["full"]) == 9
    (pair,) = found["verdicts"]
    assert pair["verdict"] == ("dominated" if pair["method"] == "lora" else "dominates") and pair["seeds"] == 4
    assert "1 of 1 pairs of 2 methods are decided: dominat" in text and "| lora | 4 | +30.0 |" in text and "(figures/frontier.svg)" in text
    line = next(line for line in text.splitlines() if line.startswith("| lora | 4"))
    assert 2 < float(line.split("|")[6].split("x")[0]) < 4 and line.endswith("| dominated | dominated |")
    claim = text.split("**2. PEFT forgets less")[1].split("**3.")[0]
    assert "t: no, at equal gain along the runs against full tuning (forgets more: lora)." in claim
    assert "over 8 runs the rank correlation of final KL with the average drop on the retention tasks is +1.00" in text


def test_a_plan_tells_hours_and_what_the_seeds_can_tell(base: ModelRef) -> None:
    found = expect(along(seeds=tuple(range(8))), base, Access(None, False, True))
    fewer = expect(along(), base, Access(None, False, True))
    assert found.trials == 17 and found.runs == 16 and found.hours > 0 and found.memory > 10_000_000
    assert 1.1 < found.factor[0] < found.factor[1] < 2.1 and found.factor[1] < fewer.factor[1] and found.gain[0] < fewer.gain[0]
    assert expect(along(seeds=(0,)), base, Access(None, False, True)).factor == (math.inf, math.inf)


def test_a_study_file_is_read_with_its_folders_name(tmp_path: Path) -> None:
    path = tmp_path / "mine" / "study.toml"
    path.parent.mkdir()
    path.write_text(f'model = "toy"\ntargets = ["{MAX}"]\nretain = ["{FIRST}"]\nmethods = ["lora"]\nloss_tokens = 20\nseeds = [0, 1]\n')
    study, model = read_study(path)
    assert (study.name, model, study.seeds, study.methods) == ("mine", "toy", (0, 1), ("lora",))
    path.write_text(path.read_text() + "sedes = [0]\n")
    with pytest.raises(AssayError, match=r"unknown sedes.*did you mean seeds"):
        read_study(path)
    path.write_text('model = "toy"\n')
    with pytest.raises(AssayError, match="no loss_tokens, no methods"):
        read_study(path)
    path.write_text("model = \n")
    with pytest.raises(AssayError, match="cannot be read"):
        read_study(path)
    published, model = read_study(Path(__file__).parents[2] / "results" / "studies" / "frontier" / "study.toml")
    assert published.name == "frontier" and model == "builtin:smollm2-135m" and published.points
