"""Intervals: what they promise on small and degenerate data, against references, and their coverage in simulation."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from assay.harness.errors import AssayError
from assay.harness.metrics.bigbench import normalized
from assay.harness.metrics.calibration import ece
from assay.harness.metrics.choice import f1, macro_f1, mcc
from assay.harness.metrics.regression import pearson
from assay.harness.stats.interval import score_interval, total_interval
from assay.harness.task.metric import Metric, Pooled, first
from assay.harness.task.task import Term, Total
from tests.sim.coverage import EM, F1, GLUE, MCC, MEAN, PEARSON, SCORES, TOTAL, agreement, alone, cover, glue, truth_of

FREE = Metric("bits", measure=lambda doc, out: (0.0,), low=None, high=None)
SLOW = Metric("median", measure=lambda doc, out: (0.0,), combine=lambda stats, groups: float(np.median(stats)), low=None, high=None)


CB = np.array([0.41 * 0.85, 0.41 * 0.075, 0.41 * 0.075, 0.5 * 0.075, 0.5 * 0.85, 0.5 * 0.075, 0.09 * 0.25, 0.09 * 0.25, 0.09 * 0.5])
RARE = np.array([0.95 * 0.98, 0.95 * 0.02, 0.05 * 0.5, 0.05 * 0.5])


def one(n: int) -> np.ndarray:
    return np.ones((n, 1))


@pytest.mark.parametrize(
    ("right", "n", "exact"), [(0, 9, True), (3, 16, True), (50, 50, True), (46, 50, True), (5, 16, False), (631, 1000, False)]
)
def test_binary_items_get_wilsons_interval_and_the_exact_one_near_the_ends(right: int, n: int, exact: bool) -> None:
    found = score_interval(*alone(MEAN, np.arange(n).reshape(-1, 1) < right))
    reference = binomtest(right, n).proportion_ci(method="exact" if exact else "wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert found.method == ("clopper-pearson" if exact else "wilson") and found.n == n


@pytest.mark.parametrize("n", [20, 50, 100])
def test_the_coverage_of_accuracy_holds_at_every_probability(n: int) -> None:
    ends = [score_interval(*alone(MEAN, np.arange(n).reshape(-1, 1) < right)) for right in range(n + 1)]
    low, high = (np.array([(i.wide or (i.low, i.high))[side] for i in ends], dtype=float) for side in (0, 1))
    for p in np.linspace(0.002, 0.5, 100):
        assert binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum() > 0.92  # Wilson's alone: .85


@pytest.mark.parametrize(("metric", "cells", "n"), [(macro_f1(3), CB, 56), (f1, RARE, 100), (mcc(), RARE, 100)], ids=("CB", "F1", "MCC"))
def test_confusion_tables_with_a_rare_class_are_covered(metric: Metric, cells: np.ndarray, n: int) -> None:
    truth, rng, inside, defined = float(metric.combine.finish(cells)), np.random.default_rng(2), 0, 0
    for _ in range(150):
        found = score_interval(*alone(metric, np.repeat(np.eye(len(cells)), rng.multinomial(n, cells), axis=0)))
        limits = found.wide or (found.low, found.high)
        if found.value is not None:
            defined, inside = defined + 1, inside + (limits[0] <= truth <= limits[1])
    assert inside >= 0.86 * defined  # the jackknife covers .70 to .80


def test_the_error_of_a_calibrated_model_may_be_zero() -> None:
    rng, inside = np.random.default_rng(3), 0
    error = Metric("ece", lambda doc, out: (0.0, 0.0), lambda stats, groups: ece(stats[:, 0], stats[:, 1], 10), better="lower")
    for _ in range(20):
        confidence = rng.random(300)
        found = score_interval(*alone(error, np.stack([confidence, rng.random(300) < confidence], axis=1).astype(float)))
        assert found.value is not None and found.value > 0.02 and "bias" in found.method
        inside += found.low is not None and found.low < 0.01 and (found.high or 1) < 0.15
    assert inside >= 18


def test_another_scale_has_the_same_interval_moved_along() -> None:
    right = np.arange(16).reshape(-1, 1) < 3
    plain = score_interval(*alone(MEAN, right))
    found = score_interval(*alone(normalized(MEAN, 0.25, 1.0), right))
    assert plain.low is not None and plain.high is not None
    assert (found.low, found.high) == pytest.approx(tuple(100 * (end - 0.25) / 0.75 for end in (plain.low, plain.high)))
    assert (found.value, found.method) == (pytest.approx(-100 / 12), "clopper-pearson")


@pytest.mark.parametrize("stats", [one(30), 0 * one(30), 0.5 * one(30)])
def test_no_variation_is_never_certainty(stats: np.ndarray) -> None:
    found = score_interval(*alone(MEAN, stats))
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.03
    clustered = score_interval(MEAN, stats, np.arange(30), np.arange(30) // 4)
    assert clustered.low is not None and clustered.high is not None
    assert clustered.high - clustered.low > 0.28
    three = score_interval(MEAN, stats, np.arange(30), np.arange(30) // 10)
    assert three.low is None and three.method == "too few items" and three.wide is not None and three.wide[1] - three.wide[0] > 0.5


@pytest.mark.parametrize(("right", "n", "shown"), [(1, 2, False), (5, 10, False), (6, 12, True), (0, 5, False), (0, 6, True)])
def test_limits_that_cover_more_than_half_of_the_scale_are_put_aside(right: int, n: int, shown: bool) -> None:
    found = score_interval(*alone(MEAN, np.arange(n).reshape(-1, 1) < right))
    reference = binomtest(right, n).proportion_ci(method="exact" if min(right, n - right) < 5 else "wilson")
    assert (reference.high - reference.low <= 0.5) == shown
    assert found.value == right / n and (found.low is not None) == (found.high is not None) == shown
    if not shown:
        assert found.method == "too few items" and found.wide == pytest.approx((reference.low, reference.high))


def test_the_scale_of_a_correlation_is_two_wide() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=12)
    y = 0.3 * x + rng.normal(size=12)
    found = score_interval(*alone(PEARSON, np.stack([x, y, x * x, y * y, x * y], axis=1)))
    ends = found.wide or (found.low, found.high)
    assert ends[0] is not None and ends[1] is not None and (found.low is None) == (ends[1] - ends[0] > 1.0)


@pytest.mark.parametrize(
    ("metric", "stats"),
    [(MEAN, one(1)), (FREE, one(1)), (FREE, one(9)), (MCC, np.ones((9, 3))), (PEARSON, np.ones((1, 5))), (SLOW, one(1))],
)
def test_what_cannot_be_computed_has_no_limits(metric: Metric, stats: np.ndarray) -> None:
    found = score_interval(*alone(metric, stats))
    assert found.low is None and found.high is None
    assert found.method in {"too few items", "too few clusters", "no variation"}


def test_one_cluster_has_no_limits() -> None:
    found = score_interval(MEAN, np.arange(20).reshape(-1, 1) % 2.0, np.arange(20), np.zeros(20, dtype=np.int64))
    assert found.low is None and found.method == "too few clusters"


def test_clusters_widen_the_interval_as_the_design_effect_says() -> None:
    level = np.random.default_rng(0).random(100) < 0.6
    copied = np.repeat(level, 4)[:, None].astype(float)
    single = score_interval(*alone(MEAN, level[:, None].astype(float)))
    naive = score_interval(*alone(MEAN, copied))
    clustered = score_interval(MEAN, copied, np.arange(400), np.repeat(np.arange(100), 4))
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, rel=0.03)
    assert naive.high - naive.low < 0.55 * (clustered.high - clustered.low)


def test_the_order_of_items_and_the_names_of_clusters_do_not_matter() -> None:
    part = SCORES["EM by question"](np.random.default_rng(3), 200)
    order = np.random.default_rng(4).permutation(len(part.stats))
    moved = score_interval(part.metric, part.stats[order], 7 * part.groups[order] + 2, 1000 - part.clusters[order])
    here = score_interval(*part)
    assert (moved.value, moved.low, moved.high) == pytest.approx((here.value, here.low, here.high))


def test_a_group_spread_over_two_clusters_is_an_error() -> None:
    with pytest.raises(AssayError, match="two clusters"):
        score_interval(EM, one(4), np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]))


@pytest.mark.parametrize("stats", [np.zeros((0, 1)), np.array([[np.nan], [1.0]])])
def test_nothing_or_nan_is_an_error(stats: np.ndarray) -> None:
    with pytest.raises(AssayError):
        score_interval(*alone(MEAN, stats))


@pytest.mark.parametrize(
    ("combine", "reason"),
    [
        (Pooled(lambda m: m[..., 0] * np.nan), "its formula gives nan"),
        (Pooled(lambda m: m[..., 0] / 0), "its formula gives inf"),
        (lambda stats, groups: float(sum(stats[:, 0]) / (len(stats) - 9)), "its formula gives inf"),
        (lambda stats, groups: 1 / (len(stats) - 9), "ZeroDivisionError: division by zero"),
    ],
)
def test_a_score_that_is_not_finite_is_undefined_with_its_reason(combine: Any, reason: str) -> None:
    found = score_interval(*alone(Metric("bad", lambda doc, out: (0.0,), combine), one(9)))
    assert (found.value, found.low, found.high, found.method, found.reason) == (None, None, None, "undefined", reason)


def test_a_metric_says_why_it_is_undefined_and_its_total_is_too() -> None:
    x = np.ones(20)
    part = alone(pearson, np.stack([x, x, x, x, x], axis=1))
    found = score_interval(*part)
    assert found.value is None and "at least two different predictions" in found.reason
    total = Total("t", (Term("a", "pearson", 0.5), Term("b", "accuracy", 0.5)))
    whole = total_interval(total, {total.terms[0]: part, total.terms[1]: alone(MEAN, one(20))})
    assert (whole.value, whole.low, whole.high, whole.n) == (None, None, None, 40)
    assert whole.reason.startswith("pearson of a is undefined: a correlation needs")


def test_a_score_that_is_undefined_without_one_item_has_wide_limits() -> None:
    cells = np.zeros((9, 4))
    cells[:8, 0], cells[8, 3] = 1, 1  # the only item of class 1
    found = score_interval(*alone(mcc(), cells))
    assert found.value == pytest.approx(1.0) and found.low is not None and found.low < 0.5


def test_any_combine_works_and_its_interval_is_near_the_pooled_one() -> None:
    x = np.random.default_rng(1).normal(size=(400, 1))
    pooled = score_interval(*alone(FREE, x))
    looped = Metric("mean", lambda doc, out: (0.0,), lambda stats, groups: float(stats.mean()), low=None, high=None)
    found = score_interval(*alone(looped, x))
    assert found.value == pytest.approx(pooled.value)
    assert found.high - found.low == pytest.approx(pooled.high - pooled.low, rel=0.3)
    assert found == score_interval(*alone(looped, x), seed=0)
    assert score_interval(*alone(SLOW, x)).low < float(np.median(x)) < score_interval(*alone(SLOW, x)).high


def test_a_total_needs_every_term_and_shares_items_within_a_task() -> None:
    rng = np.random.default_rng(2)
    part = SCORES["accuracy .65"](rng, 500)
    pair = (Term("a", "acc", 0.5), Term("a", "copy", 0.5))
    twice = total_interval(Total("both", pair), dict.fromkeys(pair, part))
    alone_ = score_interval(*part)
    assert twice.value == pytest.approx(alone_.value)
    assert twice.high - twice.low == pytest.approx(alone_.high - alone_.low, rel=0.02)
    with pytest.raises(AssayError, match="missing"):
        total_interval(Total("both", pair), {pair[0]: part})


def test_a_total_by_size_is_the_micro_average() -> None:
    rng = np.random.default_rng(5)
    parts = {Term(f"t{n}", "acc", 1.0): SCORES["accuracy .65"](rng, n) for n in (50, 150, 400)}
    micro = total_interval(Total("micro", tuple(parts), by_size=True, scale=100.0), parts)
    joined = score_interval(*alone(MEAN, np.concatenate([part.stats for part in parts.values()])))
    assert micro.value == pytest.approx(100 * joined.value)
    assert micro.high - micro.low == pytest.approx(100 * (joined.high - joined.low), rel=0.05)
    assert micro.n == 600


def test_a_perfect_total_is_not_certain() -> None:
    parts = {Term(name, "acc", 0.5): alone(MEAN, one(40)) for name in "ab"}
    found = total_interval(Total("perfect", tuple(parts)), parts)
    assert found.value == found.high == 1.0 and found.low is not None and found.low < 0.99


@pytest.mark.parametrize("scenario", sorted(SCORES))
def test_intervals_cover_the_truth(scenario: str) -> None:
    draw = SCORES[scenario]
    row = cover(scenario, lambda rng: score_interval(*draw(rng, 200)), truth_of(draw, 300_000), 200, 400, seed=11)
    assert abs(row.covered - 0.95) < 0.02 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_a_plain_percentile_of_unclustered_items_would_not_cover() -> None:
    draw = SCORES["accuracy, 5 per passage"]

    def wrong(rng: np.random.Generator):
        part = draw(rng, 200)
        return score_interval(*alone(MEAN, part.stats))

    assert cover("iid on clusters", wrong, truth_of(draw, 300_000), 200, 400, seed=11).covered < 0.9


def test_intervals_of_nine_tasks_and_their_total_take_under_two_seconds() -> None:
    rng = np.random.default_rng(6)
    sizes = {"cola": 1043, "sst2": 872, "mrpc": 408, "stsb": 1500, "qqp": 40430, "mnli": 9815, "rte": 277}
    parts = glue(rng, 1)
    for term, (task, name, _, source) in zip(TOTAL.terms, GLUE, strict=True):
        drawn = SCORES[source](rng, sizes[task])
        parts[term] = agreement(drawn) if name == "acc" and "F1" in source else drawn
    start = time.perf_counter()
    for part in parts.values():
        score_interval(*part)
    total_interval(TOTAL, parts)
    assert time.perf_counter() - start < 2.0


def test_first_is_the_mean_and_f1_is_bounded() -> None:
    assert float(first(np.array([0.25, 3.0]))) == 0.25
    found = score_interval(*SCORES["F1 (MRPC)"](np.random.default_rng(8), 12))
    assert found.low is not None and 0 <= found.low < found.value < found.high <= F1.high
