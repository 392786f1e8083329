"""Smoothed accuracy of ranked choices: margins from stored runs, when it is used, what it tells, and its error rates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.harness.decide.compare import Side, compare
from assay.harness.decide.decision import Decision, gate
from assay.harness.decide.items.margins import Margins, task_margins
from assay.harness.decide.policy import Policy
from assay.harness.stats.smoothing import KEPT, can_smooth, smoothed
from assay.harness.task.metric import Array
from assay.harness.task.task import Choose
from tests.sim.coverage import MEAN
from tests.sim.estimators.simulated import DESTROYED, Truth, measure
from tests.sim.sides import side

ACCURACY = replace(MEAN, name="accuracy")
SMOOTHED = Policy(estimator="smoothed")


def with_margins(margins: Array, name: str, probability: Array | None = None) -> Side:
    made = side({"a": (margins > 0).astype(float)}, name, metric=ACCURACY)
    chance = 1 / (1 + np.exp(-margins)) if probability is None else probability
    return replace(made, margins={"a": Margins(margins, np.arange(len(margins)) % 2, chance)})


def decide(one: Array, two: Array, policy: Policy = SMOOTHED) -> Decision:
    return gate(compare(with_margins(one, "v1"), with_margins(two, "v2")), policy)


def test_margins_are_those_of_the_normalised_scores() -> None:
    record = {"pick": 1, "logprobs": [[-1.0, -1.0], [-1.5], [-9.0]]}
    shorter = {"pick": 0, "logprobs": [[-1.0], [-3.0]]}
    found = task_margins(Choose(), [record, shorter], [{"gold": 0}, {"gold": 1}], [])
    assert found is not None and found.margins == pytest.approx([-0.5, -2.0]) and found.picks.tolist() == [1, 0]
    assert found.probability == pytest.approx([0.3775, 0.1192], abs=1e-3)
    for ask, more, gold, choices, margin in (
        (Choose(normalize="tokens"), {}, 0, [], 0.5),
        (Choose(normalize="chars"), {}, 1, [("aaaa", "bbb", "c")], 0.0),
        (Choose(normalize="bytes"), {}, 0, [("éé", "bbb", "c")], 0.0),
        (Choose(calibrate="Answer:"), {"priors": [-2.0, 0.0, 0.0]}, 0, [], 1.5),
    ):
        found = task_margins(ask, [{**record, **more}], [{"gold": gold}], choices)
        assert found is not None and found.margins == pytest.approx([margin])
    assert task_margins(Choose(), [{"pick": 0}], [{"gold": 0}], []) is None and task_margins(Choose(), [record], [{}], []) is None


def test_smoothed_scores_are_near_accuracy_and_do_not_depend_on_the_scale() -> None:
    margins = np.random.default_rng(0).normal(0.4, 1, 20_000)
    assert KEPT * smoothed(margins).mean() == pytest.approx((margins > 0).mean(), abs=0.005)
    assert smoothed(7 * margins) == pytest.approx(smoothed(margins))


def test_the_rule_looks_at_the_baseline_alone() -> None:
    margins = np.random.default_rng(0).normal(0.4, 1, 200)
    assert can_smooth(margins, np.arange(200) % 2)
    assert not can_smooth(margins, np.zeros(200, dtype=np.int64))  # names one letter
    assert not can_smooth(margins[:40], np.arange(40) % 2) and not can_smooth(np.sign(margins), np.arange(200) % 2)


def test_a_harmless_change_has_a_narrower_interval_and_the_verdict_says_how() -> None:
    rng = np.random.default_rng(3)
    one = rng.normal(0.4, 1, 1000)
    two = one + 0.1 * rng.normal(size=1000)
    found, plain = decide(one, two), decide(one, two, Policy())
    assert found.verdict == "pass" and found.low is not None and plain.low is not None
    assert found.high - found.low < 0.75 * (plain.high - plain.low)  # type: ignore[operator]
    assert found.smoothed == ("a",) and plain.smoothed == () and found.plain is not None
    assert found.plain == pytest.approx((plain.delta, plain.low, plain.high))
    assert any("judged by smoothed accuracy; by plain accuracy" in reason for reason in found.reasons)


def test_a_lost_probability_is_told_and_prevents_a_pass_only_by_the_policy() -> None:
    one = np.random.default_rng(3).normal(1.0, 0.5, 1000)
    two = np.where(one > 0.1, one - 0.08, one)
    found = decide(one, two, Policy())
    assert found.verdict == "pass" and found.degraded and any("degraded, accuracy not shown to fall" in each for each in found.reasons)
    assert decide(one, two, Policy(degraded="inconclusive")).verdict == "inconclusive"
    assert decide(one, one, Policy()).degraded == ""


def test_where_smoothed_and_plain_accuracy_disagree_the_lower_limit_counts() -> None:
    rng = np.random.default_rng(1)
    one = rng.normal(0.4, 1, 1000)
    two = np.where(rng.random(1000) < 0.05, -0.02 * np.abs(one), one)  # right items fall just below a tie
    row = compare(with_margins(one, "v1"), with_margins(two, "v2")).rows[0]
    assert not row.agrees and row.smoothed is not None
    assert row.judged.delta == row.difference.delta and row.judged.low <= row.difference.low


@pytest.mark.parametrize("change", ["noise .3", "sharpened to 1.25", DESTROYED])
def test_smoothed_accuracy_errs_at_most_at_its_level_by_plain_accuracy(change: str) -> None:
    for lost in (0.0, 0.02):
        found = {each.estimator: each.rate for each in measure(Truth("many near ties", change, lost), 1000, 0.02, 200, 7)}
        assert found["smoothed, fourth order (the gate's)"] <= 0.096  # three standard errors above 5 % in 200 trials
    assert found["probability of the right choice"] > 0.2 or change == "noise .3"
