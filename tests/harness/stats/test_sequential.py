"""Early stop: limits, order, bets, decisions that resuming cannot change, and error rates in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.sequential import Design, Stop, boundaries, fixed_order, log_e, look_sizes, monitor
from tests.sim.early_stop import METHODS, many_stops, mixture, ours, outcome, peeking, stream

ONE = Design((1.0,), (1000,), 0.03)
TEN = Design(tuple([0.1] * 10), tuple([300] * 10), 0.02)


def differences(n: int, churn: float, delta: float, seed: int = 0) -> np.ndarray:
    level = np.random.default_rng(seed).random(n)
    return np.where(level < (churn - delta) / 2, -1.0, np.where(level < churn, 1.0, 0.0))


def test_the_limits_are_those_of_lan_and_demets() -> None:
    assert boundaries(0.05) == pytest.approx((6.09, 4.23, 3.40, 2.91, 2.58, 2.35, 2.16, 2.02, 1.90, 1.80), abs=0.011)
    assert boundaries(0.05, 1) == pytest.approx((z_quantile(0.95),), abs=1e-6)


def test_the_limits_spend_what_they_may() -> None:
    scores = np.cumsum(np.random.default_rng(0).normal(size=(200_000, 10)), axis=1) / np.sqrt(np.arange(1, 11))
    assert (scores > np.array(boundaries(0.04))).any(axis=1).mean() == pytest.approx(0.04, abs=3 * (0.04 * 0.96 / 200_000) ** 0.5)


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 5))
def test_the_order_is_fixed_by_ids_and_seed_and_interleaves_strata(first: int, second: int, seed: int) -> None:
    strata, ids = ["a"] * first + ["b"] * second, [f"i{n}" for n in range(first + second)]
    order = fixed_order(strata, ids, seed)
    assert sorted(order) == list(range(first + second))
    turned = fixed_order(strata[::-1], ids[::-1], seed)
    assert [ids[place] for place in order] == [ids[::-1][place] for place in turned]
    seen = np.cumsum([strata[place] == "a" for place in order])
    expected = np.arange(1, first + second + 1) * first / (first + second)
    assert np.abs(seen - expected).max() <= 1.5


def test_looks_end_with_the_last_item() -> None:
    assert look_sizes(1000) == tuple(range(100, 1001, 100)) and look_sizes(3) == (1, 2, 3)


@pytest.mark.parametrize("loss", [True, False])
def test_e_values_are_fair_bets_at_the_boundary(loss: bool) -> None:
    paths = np.stack([differences(400, 0.1, 0.0 if loss else -0.03, seed) for seed in range(3000)])
    wealth = log_e(paths, 0.03, loss=loss)
    assert np.exp(wealth[:, 50]).mean() == pytest.approx(1.0, abs=0.1)
    assert (wealth.max(axis=1) >= np.log(20)).mean() <= 0.05
    assert (np.exp(wealth) > 0).all()


def test_more_items_never_change_an_earlier_decision() -> None:
    for seed in range(6):
        d, tasks = differences(1000, 0.1, -0.02, seed), np.zeros(1000, dtype=np.int64)
        final = monitor(d, tasks, ONE)
        assert final is not None
        for seen in range(50, 1001, 50):  # interrupted after so many items, then resumed
            assert monitor(d[:seen], tasks[:seen], ONE) == (final if final.items <= seen else None)


def test_a_broken_model_stops_early_and_an_equal_one_is_not_kept_to_the_end() -> None:
    tasks = np.zeros(1000, dtype=np.int64)
    broken = monitor(differences(1000, 0.4, -0.35), tasks, ONE)
    assert broken is not None and broken.verdict == "regressed" and broken.items <= 150 and broken.by == "e-process"
    same = monitor(np.zeros(1000), tasks, ONE)
    assert same is not None and same.verdict == "pass" and 98 <= same.items <= 500
    assert monitor(np.zeros(60), tasks[:60], Design((1.0,), (60,), 0.03)) == Stop("inconclusive", 60, "last look")


def test_one_broken_task_of_ten_is_found() -> None:
    tasks = np.tile(np.arange(10), 300)
    d = differences(3000, 0.1, 0.0)
    d[(tasks == 7) & (np.random.default_rng(1).random(3000) < 0.3)] = -1
    found = monitor(d, tasks, TEN)
    assert found is not None and found.verdict == "regressed" and found.items < 1500


def bound(trials: int) -> float:
    return float(0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5)


def test_both_errors_hold_over_one_task_and_peeking_does_not() -> None:
    still, items = outcome(ours, ONE, 0.1, np.zeros(1), 200)
    worse, _ = outcome(ours, ONE, 0.1, np.array([-0.03]), 200)
    assert still["regressed"] <= bound(200) and worse["pass"] <= bound(200) and items < 800
    assert outcome(peeking, ONE, 0.1, np.zeros(1), 200)[0]["regressed"] > bound(200)
    assert outcome(mixture, ONE, 0.1, np.zeros(1), 200)[0]["inconclusive"] > still["inconclusive"]
    assert set(METHODS) >= {"ours", "full run"}


def test_both_errors_hold_over_ten_tasks() -> None:
    still, items = outcome(ours, TEN, 0.1, np.zeros(10), 100)
    worse, _ = outcome(ours, TEN, 0.1, np.full(10, -0.02), 100)
    assert still["regressed"] <= bound(100) and worse["pass"] <= bound(100) and items < 2700


@pytest.mark.parametrize(
    ("sizes", "weights", "lost"), [((1000,), (1.0,), 0.01), ((300, 400, 700), (0.3, 0.3, 0.4), 0.01), ((500, 900), (0.2, 0.8), 0.03)]
)
def test_the_simulation_of_many_streams_decides_like_the_monitor(sizes: tuple[int, ...], weights: tuple[float, ...], lost: float) -> None:
    design = Design(weights, sizes, 0.03)
    order = stream(np.random.default_rng(0), design, 0.1, np.full(len(sizes), -lost))[1]
    level = np.random.default_rng(1).random((25, design.items))
    d = np.where(level < (0.1 + lost) / 2, -1.0, np.where(level < 0.1, 1.0, 0.0))
    found = many_stops(d, order, design)
    assert found == [monitor(each, order, design) for each in d] and len({stop.verdict for stop in found}) > 1
