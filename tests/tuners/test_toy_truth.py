"""The toy study finds what is known to be true. Trains the toy model and a small study on it: over two minutes of processor time.

Marked `model`, though it needs no download, because of that time: it runs where the tests of the real model do.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from assay.harness.files.places import Surroundings
from assay.harness.model.find import find_model
from assay.tuners.report.frontier import along_table
from assay.tuners.report.frontier_text import frontier_section, verdict_between
from assay.tuners.report.text import build
from assay.tuners.study.design import Study
from assay.tuners.study.presets import TOY
from assay.tuners.study.rows import read_points
from assay.tuners.study.scoring import PipelineScorer
from assay.tuners.study.study import run_study
from assay.tuners.study.trial import Row
from assay.tuners.toy import make_toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("truth")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    from dataclasses import replace

    place = Surroundings(folder / "results", folder / "cache", None, True)
    model = find_model(str(make_toy(folder / "toy")), cache=place.cache, offline=True)
    study: Study = replace(
        TOY,
        methods=("full", "lora", "pfeiffer", "prompt_tuning"),
        rates=(3.0, 10.0),
        seeds=(0,),
        loss_tokens=3000,
        mitigations=("replay=0.5", "kl=1", "wise_ft=0.5", "stop_at_kl=0.05"),
        mitigated=("lora",),
    )
    return run_study(study, model, place.access(), PipelineScorer(place), folder / "study")


@pytest.mark.model
@pytest.mark.filterwarnings("default")
def test_the_truth_is_recovered(rows: list[Row]) -> None:
    def only(method: str, role: str, mitigation: str = "none") -> Row:
        return next(r for r in rows if (r["method"], r["role"], r["mitigation"]) == (method, role, mitigation) and r["selected"])

    assert all(row["not_measurable"] == [] for row in rows if row["role"] == "grid"), "the base knows every old skill"
    learned, plain = [row for row in rows if row["role"] == "grid"], only("lora", "grid")
    assert plain["gain_low"] > 0.3 and plain["average_drop_low"] > 0.1, "the new skill is learned, and old ones are lost"
    assert only("lora", "random_labels")["gain"] < 0.1, "random labels teach nothing"
    for mitigation in ("replay=0.5", "kl=1", "wise_ft=0.5", "stop_at_kl=0.05"):
        held = only("lora", "mitigation", mitigation)
        assert held["average_drop"] < plain["average_drop"] and held["kl_base"] < plain["kl_base"], mitigation
    still = only("lora", "untrained")
    assert still["gain"] == still["average_drop"] == still["kl_base"] == still["kl_target"] == 0
    soft = only("prompt_tuning", "untrained")
    assert soft["kl_base"] > 0.1 and soft["average_drop"] > 0.05, "virtual tokens change the model before any training"
    trained = learned + [row for row in rows if row["role"] == "mitigation"]
    assert spearmanr([r["kl_base"] for r in trained], [r["average_drop"] for r in trained]).statistic > 0.7, "more KL, more forgetting"


@pytest.mark.model
@pytest.mark.filterwarnings("default")
def test_the_report_agrees_with_the_truth(rows: list[Row], folder: Path) -> None:
    pytest.importorskip("vl_convert")
    text = build(folder / "study").read_text()
    claims = text.split("## The claims")[1]
    assert len(rows) and "LoRA before training: largest of gain, drop and KL 0 (must be 0)" in text
    replay = claims.split("`replay=0.5`: ")[1].split("`")[0]
    assert "drop on retention tasks (points) -" in replay and "training rows of the retention tasks" in replay, "replay forgets less"
    assert "prompt_tuning before training: KL on text" not in claims or "drop +" in claims
    assert "all methods store less" in claims and text.count("](figures/") == len(list((folder / "study" / "figures").glob("*.svg"))) == 5


@pytest.mark.model
@pytest.mark.filterwarnings("default")
def test_verdicts_at_equal_gain_recover_what_is_known(folder: Path) -> None:
    """LoRA and rsLoRA with one scale are the same model, so they must not differ; random virtual tokens that stay in the prompt move the
    old skills from the start, so prompt tuning must be dominated by LoRA, which starts as the identity."""
    from dataclasses import replace

    place = Surroundings(folder / "results", folder / "cache", None, True)
    model = find_model(str(make_toy(folder / "toy")), cache=place.cache, offline=True)
    study = replace(
        TOY,
        name="verdicts",
        methods=("lora", "rslora", "prompt_tuning"),
        rates=(10.0,),
        seeds=(0, 1, 2, 3),
        retain=TOY.retain[:1],
        steps=32,
        points=(8, 16),
        mitigations=(),
        controls=False,
        shots=(),
        limit=100,
        retain_limit=50,
        options={"lora": {"rank": 8, "alpha": 16}, "rslora": {"rank": 8, "alpha": 16 / math.sqrt(8)}, "prompt_tuning": {"tokens": 8}},
    )
    rows = run_study(study, model, place.access(), PipelineScorer(place, limit=100), folder / "verdicts")
    points, target = read_points(folder / "verdicts" / "points.parquet"), study.targets[0]
    found = along_table(rows, points, target)
    words = {frozenset(pair): each for pair, each in found.items()}
    same = words[frozenset({"lora", "rslora"})]
    assert same.verdict == same.verdict_over_range == "no difference" and same.factor == pytest.approx((1.0, 1.0, 1.0), abs=0.02)
    assert {verdict_between("prompt_tuning", other, found)[0] for other in ("lora", "rslora")} == {"dominated"}
    text = "\n".join(frontier_section(rows, points))
    assert "3 of 3 pairs of 3 methods are decided" in text and "| prompt_tuning | 4 |" in text
