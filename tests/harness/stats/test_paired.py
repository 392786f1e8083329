"""Paired tests: against scipy, against each other, and their symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from assay.harness.errors import AssayError
from assay.harness.stats.correction import holm
from assay.harness.stats.difference import paired_difference, total_difference
from assay.harness.stats.interval import Part
from assay.harness.stats.paired import mid_p, score_z, sign_flip_loss, swap_loss, t_loss, tango_bound, tango_z
from assay.harness.stats.rule import Columns, combine, loss_excluded, mde80, n_min
from assay.harness.task.task import Term, Total
from tests.sim.coverage import EM, F1, GLUE, MEAN, SCORES, TOTAL, alone, glue

counts = st.integers(0, 60)


@given(counts, counts)
def test_mid_p_is_the_binomial_tail_less_half_its_last_term(a: int, b: int) -> None:
    both = stats.binom(a + b, 0.5)
    assert float(mid_p(a, b)) == pytest.approx(both.cdf(a) - both.pmf(a) / 2, abs=1e-12)
    assert float(mid_p(a, b) + mid_p(b, a)) == pytest.approx(1.0)


@given(counts, counts, st.integers(0, 300), st.floats(0.005, 0.3))
def test_tango_is_the_score_test_of_which_it_is_a_special_case(a: int, b: int, same: int, margin: float) -> None:
    if a + b + same < 2:
        return
    d = np.array([1.0, -1.0, 0.0])
    general = score_z(d, margin, 1.0, np.array([a, b, same], dtype=float))
    closed = float(tango_z(a, b, a + b + same, margin))
    if closed > 0:  # the restricted variance is only searched for where the loss may be excluded
        assert float(general) == pytest.approx(closed, rel=1e-5, abs=1e-6)
    else:
        assert float(general) <= 1e-9


@pytest.mark.parametrize(("a", "b", "n", "margin"), [(3, 7, 100, 0.05), (1, 0, 44, 0.02), (12, 20, 60, 0.2), (0, 4, 300, 0.03)])
def test_tango_is_the_score_of_the_numerically_constrained_likelihood(a: int, b: int, n: int, margin: float) -> None:
    def unlikely(wins: float) -> float:
        shares = np.array([wins, wins + margin, 1 - 2 * wins - margin])
        return -float(np.array([a, b, n - a - b]) @ np.log(np.maximum(shares, 1e-300)))

    wins = optimize.minimize_scalar(unlikely, bounds=(1e-12, (1 - margin) / 2 - 1e-12), method="bounded", options={"xatol": 1e-12}).x
    error = np.sqrt(n * (2 * wins + margin - margin**2))
    assert float(tango_z(a, b, n, margin)) == pytest.approx((a - b + n * margin) / error, rel=1e-4)


@given(counts, counts, st.integers(0, 200))
def test_tangos_limits_contain_the_estimate_and_swap_with_the_runs(a: int, b: int, same: int) -> None:
    n = a + b + same
    if n == 0:
        return
    low, high = float(tango_bound(a, b, n, 1.645)), -float(tango_bound(b, a, n, 1.645))
    assert low <= (a - b) / n + 1e-9 and high >= (a - b) / n - 1e-9
    assert low < high


def test_no_disagreement_is_not_certainty() -> None:
    assert float(tango_bound(0, 0, 60, 1.645)) < -0.04
    assert float(score_z(np.zeros(60), 0.02, 1.0)) == pytest.approx(float(tango_z(0, 0, 60, 0.02)))


@pytest.mark.parametrize(("points", "least"), [(0.5, 598), (1, 298), (2, 148), (3, 98), (5, 58)])
def test_the_least_number_of_items_of_each_margin(points: float, least: int) -> None:
    assert n_min(points / 100) == least
    assert not bool(loss_excluded(0.0, points / 100, least - 1))
    assert bool(loss_excluded(0.0, points / 100, least))


def test_student_and_sign_flips_agree_with_scipy() -> None:
    d = np.random.default_rng(0).normal(-0.1, 1, 11)
    assert float(t_loss(d)) == pytest.approx(stats.ttest_1samp(d, 0, alternative="less").pvalue)
    exact = stats.permutation_test((d,), np.sum, permutation_type="samples", alternative="less", n_resamples=5000)
    assert float(sign_flip_loss(d)) == pytest.approx(exact.pvalue)
    drawn = float(sign_flip_loss(d, draws=1999))
    assert drawn == pytest.approx(exact.pvalue, abs=0.04) and drawn == float(sign_flip_loss(d, draws=1999))


def test_swaps_of_a_mean_are_sign_flips() -> None:
    rng = np.random.default_rng(1)
    base, new = rng.random((40, 1)), rng.random((40, 1)) - 0.1
    swapped = swap_loss(base, new, lambda one, two: (two - one)[..., 0])
    assert swapped == pytest.approx(float(sign_flip_loss((new - base)[:, 0], seed=5)), abs=0.02)
    assert swap_loss(base, base, lambda one, two: (two - one)[..., 0]) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels_definition(p: list[float]) -> None:
    order = np.argsort(p, kind="stable")
    expected, worst = np.empty(len(p)), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        expected[index] = worst
    assert holm(p) == pytest.approx(expected)
    assert (holm(p) >= np.array(p) - 1e-12).all()


def test_one_task_is_its_own_aggregate_and_more_tasks_narrow_it() -> None:
    one = Columns(*(np.array([value]) for value in (-0.01, -0.03, 0.012, 0.012, 200.0)))
    whole = combine(one, np.ones(1))
    assert (float(whole.delta), float(whole.low), float(whole.high)) == pytest.approx((-0.01, -0.03, 0.012))
    ten = combine(Columns(*(np.repeat(column, 10) for column in one)), np.full(10, 0.1))
    assert float(ten.high - ten.low) == pytest.approx(0.042 / 10**0.5)
    assert float(ten.df) == pytest.approx(2000)


def test_smallest_detectable_loss_is_the_textbook_one() -> None:
    assert 100 * float(mde80((0.1 / 1000) ** 0.5)) == pytest.approx(249 * (0.1 / 1000) ** 0.5, rel=2e-3)


def shaken(name: str, n: int, share: float, seed: int = 0) -> tuple[Part, np.ndarray]:
    """A run, and a second one in which a share of the items was drawn again."""
    draw, rng = SCORES[name], np.random.default_rng(seed)
    part, other = draw(rng, n), draw(rng, n)
    stats_ = part.stats.copy()
    if name == "EM by question":
        flip = rng.random(len(stats_)) < share
        stats_[flip] = 1 - stats_[flip]
        return part, stats_
    kept = rng.random(len(stats_)) < share
    stats_[kept] = other.stats[: len(stats_)][kept]
    return part, stats_


@pytest.mark.parametrize("name", sorted(SCORES))
def test_swapping_the_runs_turns_the_sign_for_every_metric(name: str) -> None:
    part, other = shaken(name, 200, 0.2)
    there, back = paired_difference(part, other), paired_difference(part._replace(stats=other), part.stats)
    assert there.delta == pytest.approx(-back.delta) and there.low == pytest.approx(-back.high, abs=1e-6)
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.low < there.delta < there.high
    assert there.p_loss + back.p_loss == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["accuracy .65", "EM by question", "F1 (MRPC)", "graded score"])
def test_the_order_of_items_changes_nothing(name: str) -> None:
    part, other = shaken(name, 150, 0.2)
    order = np.random.default_rng(9).permutation(len(other))
    moved = Part(part.metric, part.stats[order], part.groups[order], part.clusters[order])
    here, there = paired_difference(part, other), paired_difference(moved, other[order])
    assert (here.delta, here.low, here.high) == pytest.approx((there.delta, there.low, there.high))
    assert here.p_loss == pytest.approx(there.p_loss, abs=0.02)


@pytest.mark.parametrize("name", ["accuracy .65", "graded score", "F1 (MRPC)"])
def test_duplicating_every_item_within_its_cluster_changes_nothing(name: str) -> None:
    part, other = shaken(name, 150, 0.2)
    once = paired_difference(part, other)
    clusters = np.repeat(np.arange(150), 3)
    thrice = paired_difference(Part(part.metric, np.repeat(part.stats, 3, 0), np.arange(450), clusters), np.repeat(other, 3, 0))
    assert (once.delta, once.low, once.high, once.se) == pytest.approx((thrice.delta, thrice.low, thrice.high, thrice.se))
    assert once.p_loss == pytest.approx(thrice.p_loss, abs=0.02) and once.units == thrice.units == 150


def test_lower_is_better_turns_the_sign_and_unbounded_metrics_stay_in_their_unit() -> None:
    from dataclasses import replace

    part, other = shaken("accuracy .65", 200, 0.2)
    up = paired_difference(part, other)
    down = paired_difference(part._replace(metric=replace(part.metric, better="lower")), other)
    assert down.delta == -up.delta and down.losses == up.wins
    bits = replace(part.metric, high=None, low=None, better="lower")
    values = np.random.default_rng(3).normal(3, 1, (200, 1))
    found = paired_difference(alone(bits, values), values + np.random.default_rng(4).normal(0.1, 0.2, (200, 1)))
    assert not found.bounded and found.delta < 0 and found.p_loss < 0.01 and found.low < found.delta < found.high


def test_few_clusters_alarm_by_exact_sign_flips() -> None:
    part = Part(MEAN, np.ones((40, 1)), np.arange(40), np.arange(40) // 5)
    worse = part.stats.copy()
    worse[np.arange(0, 40, 5)] = 0
    found = paired_difference(part, worse)
    assert found.units == 8 and found.p_loss == pytest.approx(2**-8) and "sign flips" in found.method
    assert not bool(loss_excluded(found.low, 0.5, found.units))


def test_a_single_cluster_decides_nothing() -> None:
    part = Part(MEAN, np.ones((4, 1)), np.arange(4), np.zeros(4, dtype=np.int64))
    found = paired_difference(part, 0 * part.stats)
    assert found.units == 1 and found.p_loss >= 0.25 and not bool(loss_excluded(found.low, 0.99, found.units))
    uneven = Part(F1, np.ones((4, 3)), np.arange(4), np.zeros(4, dtype=np.int64))
    assert paired_difference(uneven, uneven.stats).method == "random swaps, score limit"


def test_unequal_shapes_are_an_error() -> None:
    with pytest.raises(AssayError, match="paired"):
        paired_difference(alone(MEAN, np.ones((5, 1))), np.ones((4, 1)))


def test_a_total_of_one_binary_task_is_that_task() -> None:
    part, other = shaken("accuracy .65", 400, 0.2)
    term = Term("a", "acc", 1.0)
    single, whole = paired_difference(part, other), total_difference(Total("t", (term,), scale=100.0), {term: (part, other)})
    assert whole.delta == pytest.approx(single.delta)
    assert (whole.low, whole.high) == pytest.approx((single.low, single.high), rel=0.02)


def test_a_total_counts_the_correlation_of_one_tasks_metrics() -> None:
    pair = (Term("a", "acc", 0.5), Term("a", "again", 0.5))
    part, other = shaken("accuracy .65", 400, 0.2)
    whole = total_difference(Total("t", pair), dict.fromkeys(pair, (part, other)))
    assert whole.se == pytest.approx(paired_difference(part, other).se, rel=0.01)


@settings(deadline=None)
@given(st.integers(0, 5))
def test_a_glue_total_is_paired(seed: int) -> None:
    one, two = (glue(np.random.default_rng(each), 150) for each in (seed, seed + 100))
    mixed = {term: (part, np.where(np.arange(150)[:, None] < 30, two[term].stats, part.stats)) for term, part in one.items()}
    found = total_difference(TOTAL, mixed)
    values = [100 * sum(t.weight * float(p.metric.combine(s, p.groups)) for t, (p, s) in mixed.items())]
    values.append(100 * sum(t.weight * float(p.metric.combine(p.stats, p.groups)) for t, (p, s) in mixed.items()))
    assert 100 * found.delta == pytest.approx(values[0] - values[1])
    assert len(GLUE) == len(mixed) and found.low < found.delta < found.high


def test_the_swap_test_of_a_corpus_metric_holds_its_level() -> None:
    rng, alarms, trials = np.random.default_rng(12), 0, 100
    for _ in range(trials):
        gold, level = rng.random(150) < 0.4, rng.random(150)
        runs = [np.where(rng.random(150) < 0.15, rng.random(150), level) < np.where(gold, 0.8, 0.2) for _ in range(2)]
        one, two = (np.stack([gold, picked, gold & picked], axis=1).astype(float) for picked in runs)
        alarms += paired_difference(alone(F1, one), two, draws=199).p_loss <= 0.05
    assert alarms <= trials * 0.05 + 3 * (trials * 0.05 * 0.95) ** 0.5


def test_groups_fold_before_they_are_paired() -> None:
    part, other = shaken("EM by question", 100, 0.05)
    found = paired_difference(part, other)
    assert found.n == len(np.unique(part.groups)) and part.metric is EM
    assert found.delta == pytest.approx(EM.combine(other, part.groups) - EM.combine(part.stats, part.groups))


def test_the_number_of_items_does_not_depend_on_what_changed() -> None:
    codes = np.arange(100)
    base = Part(MEAN, np.ones((100, 1)), codes, codes // 5)
    found = []
    for lost in (0, 5, 6):  # nothing, a whole cluster, and one item of another: the last is judged by t
        stats = np.ones((100, 1))
        stats[:lost] = 0
        found.append(paired_difference(base, stats))
    assert [(each.n, each.units, each.exact) for each in found] == [(100, 20, True), (100, 20, True), (100, 20, False)]
    assert found[1].churn == 0.05 and (found[1].delta, found[1].losses) == (-0.05, 5)
