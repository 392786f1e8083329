"""Rank intervals cover the true rank, copies share a tier, aggregators match their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from assay.leaderboard.data import ranking
from assay.leaderboard.data.ranking import AGGREGATORS, Column, bradley_terry, rank_intervals, ranks_of, standings, tiers

TRUE = np.array([0.62, 0.60, 0.57, 0.57 - 0.05, 0.45, 0.44, 0.30])


def simulated(rng: np.random.Generator, tasks: int = 3, clusters: int = 60, truth: np.ndarray = TRUE) -> list[Column]:
    """Simulates binary items, two per cluster, with a difficulty shared by all models; `truth` is the expected accuracy."""
    columns = []
    for task in range(tasks):
        hard = np.repeat(rng.normal(0, 0.15, clusters), 2)
        right = rng.random((2 * clusters, len(truth))) < truth + np.clip(hard, -0.25, 0.25)[:, None]
        columns.append(column_of(right.astype(float), f"t{task}"))
    return columns


def column_of(right: np.ndarray, task: str = "t", **facts: object) -> Column:
    means = right.reshape(-1, 2, right.shape[1]).mean(axis=1)
    return Column(task, means.mean(axis=0), np.full(right.shape[1], 0.05), means, np.full(len(means), 2.0), **facts)  # type: ignore[arg-type]


def test_the_rank_interval_covers_the_true_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "DRAWS", 250)
    rng = np.random.default_rng(20)
    trials, true = 1000, ranks_of(TRUE)
    covered, width = np.zeros(len(TRUE)), 0.0
    for trial in range(trials):
        columns = simulated(rng)
        score = ranking.point_scores(columns, AGGREGATORS[0])
        best, worst, *_ = rank_intervals(score, ranking.resampled_scores(columns, AGGREGATORS[0], trial), ranking.minimum_error(columns))
        covered += (best <= true) & (true <= worst)
        width += float((worst - best).mean()) / trials
    assert covered.min() >= 0.93 * trials, covered / trials
    assert width < 3.5, width  # the widest possible is 6


@pytest.mark.parametrize("by", AGGREGATORS)
def test_two_copies_of_one_model_share_a_tier(by: str) -> None:
    rng = np.random.default_rng(3)
    for trial in range(12):
        truth = rng.uniform(0.2, 0.9, 6)
        columns = []
        for task in range(2):
            right = (rng.random((80, 6)) < truth).astype(float)
            columns.append(column_of(np.column_stack([right, right[:, 2]]), f"t{task}"))
        found = standings(columns, by, seed=trial)  # type: ignore[arg-type]
        assert found.tier[2] == found.tier[6]
        assert found.rank[2] == found.rank[6]
        assert found.best[2] <= found.worst[6]
        assert found.best[6] <= found.worst[2]


def test_a_copy_stays_in_the_tier_when_an_equal_score_lies_between() -> None:
    beats = np.zeros((4, 4), dtype=bool)
    beats[0, 2] = True  # same score as 1 and 3, but significantly worse than the first
    assert tiers(np.array([0.9, 0.5, 0.5, 0.5]), beats).tolist() == [1, 1, 1, 1]
    beats[0, [1, 3]] = True
    assert tiers(np.array([0.9, 0.5, 0.5, 0.5]), beats).tolist() == [1, 2, 2, 2]


def test_models_far_apart_have_one_rank_and_a_tier_each() -> None:
    rng = np.random.default_rng(5)
    found = standings([column_of((rng.random((400, 3)) < [0.2, 0.9, 0.5]).astype(float))])
    assert found.rank.tolist() == found.best.tolist() == found.worst.tolist() == [3, 1, 2]
    assert found.tier.tolist() == [3, 1, 2]
    assert not found.rule_dependent.any()


def test_pairing_narrows_intervals_and_clusters_widen_them() -> None:
    rng = np.random.default_rng(6)
    easy = rng.random(300) < 0.5
    worse = easy & (rng.random(300) > 0.12)  # the same items less a few: significant only when paired
    right = np.column_stack([easy, worse]).astype(float)
    assert standings([column_of(right)]).worst[0] == 1
    alone = Column("t", right.mean(axis=0), np.full(2, 0.029))
    assert standings([alone]).worst[0] == 2
    doubled = np.repeat(np.column_stack([easy, worse])[:60], 20, axis=0).astype(float)
    clusters = doubled.reshape(60, 20, 2).mean(axis=1)
    clustered = Column("t", clusters.mean(axis=0), np.zeros(2), clusters, np.full(60, 20.0))
    single = Column("t", clusters.mean(axis=0), np.zeros(2), doubled, np.ones(len(doubled)))
    spread = [float(np.ptp(ranking.resampled(each, 500, 0)[:, 0])) for each in (clustered, single)]
    assert spread[0] > 3 * spread[1]


def test_the_draws_have_the_variance_of_the_mean() -> None:
    rng = np.random.default_rng(7)
    for clusters in (12, 300, 5000):  # the last is merged into blocks
        means = rng.random((clusters, 1))
        drawn = ranking.resampled(Column("t", means.mean(axis=0), np.zeros(1), means, np.ones(clusters)), 4000, 1)
        expected = means.std(ddof=1) / np.sqrt(clusters)
        assert drawn.std() == pytest.approx(expected, rel=0.12)


def test_no_interval_goes_above_the_best_possible_score() -> None:
    right = np.ones((24, 2))
    right[0, 0] = right[:6, 1] = 0.0
    found = standings([column_of(right, chance=0.25)])
    assert found.high[0] == 1.0 > found.score[0] > found.low[0]
    assert found.score[1] < found.high[1] < 1.0


def test_aggregators_against_hand_computed_values() -> None:
    # b wins two of three tasks by a hair, a wins one by far: mean and win rate disagree.
    columns = [
        Column(f"t{n}", np.array(values), np.full(3, 1e-6))
        for n, values in enumerate([[0.50, 0.51, 0.1], [0.5, 0.51, 0.2], [0.9, 0.2, 0.1]])
    ]
    mean, win, borda, _ = (ranking.point_scores(columns, by) for by in AGGREGATORS)
    assert mean == pytest.approx([1.9 / 3, 1.22 / 3, 0.4 / 3])
    assert win == pytest.approx([(0.5 + 0.5 + 1) / 3, (1 + 1 + 0.5) / 3, 0.0])
    assert borda == pytest.approx(win * 2)
    found = standings(columns)
    assert found.rank.tolist() == [1, 2, 3]
    assert found.rule_dependent.tolist() == [True, True, False]


def test_chance_and_direction() -> None:
    choice = Column("choice", np.array([0.25, 1.0]), np.zeros(2), chance=0.25)
    loss = Column("loss", np.array([3.0, 2.0]), np.zeros(2), unit=None, sign=-1.0)
    assert ranking.point_scores([choice, loss], AGGREGATORS[0]).tolist() == [0.0, 1.0]  # the loss is unbounded: not part of the mean
    assert ranking.point_scores([loss], "mean win rate").tolist() == [0.0, 1.0]
    assert ranking.point_scores([loss], "Bradley-Terry")[1] > 0


def test_a_missing_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="every model"):
        standings([Column("t", np.array([0.5, np.nan]), np.zeros(2))])
    with pytest.raises(ValueError, match="every model"):
        standings([])


def test_bradley_terry_maximises_the_likelihood() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(8)
    wins = rng.integers(1, 20, (5, 5)).astype(float)
    np.fill_diagonal(wins, 0)
    smoothed = wins + ranking.PRIOR / 5 * (1 - np.eye(5))

    def loss(free: np.ndarray) -> float:
        strength = np.append(free, -free.sum())
        return float((smoothed * np.log1p(np.exp(strength[None, :] - strength[:, None]))).sum())

    best = minimize(loss, np.zeros(4), method="BFGS", options={"gtol": 1e-8}).x
    assert bradley_terry(wins) == pytest.approx(np.append(best, -best.sum()), abs=1e-4)


def test_a_draw_of_one_task_does_not_depend_on_the_others() -> None:
    columns = simulated(np.random.default_rng(9))
    assert np.array_equal(ranking.resampled(columns[1], 50, 0), ranking.resampled(columns[1], 50, 0))
    assert not np.array_equal(ranking.resampled(columns[1], 50, 0), ranking.resampled(columns[1], 50, 1))


def test_the_mean_win_rate_is_helms() -> None:
    """Ties, missing scores and a scenario of one model, with the values of crfm-helm's compute_aggregate_row_win_rates."""
    nan = np.nan
    scores = np.array([[nan, 0.3, nan, 0.1], [0.5, nan, 0.8, nan], [0.2, 0.1, 0.8, nan], [nan, 0.3, 0.3, nan]])
    assert ranking.mean_win_rates(scores).tolist() == [0.75, 0.875, 0.25, 0.375]
    assert np.isnan(ranking.mean_win_rates(np.array([[1.0], [nan]]))).all()
    assert ranking.mean_win_rates(np.stack([scores, -scores])).shape == (2, 4)


def test_a_score_interval_stays_within_what_the_metric_can_reach() -> None:
    """Matthews correlation from -1, and accuracy of 0 with a chance of 25 %: the lowest mean is (-1 - 1/3) / 2."""
    mcc = Column("mcc", np.array([-0.97, 0.99]), np.array([0.4, 0.4]), floor=-1.0)
    accuracy = Column("accuracy", np.array([0.01, 0.98]), np.array([0.3, 0.3]), chance=0.25)
    assert ranking.lowest([mcc, accuracy]) == pytest.approx(-2 / 3)
    found = standings([mcc, accuracy])
    assert found.low[0] == pytest.approx(-2 / 3) and found.high[1] == 1.0
    assert (found.low <= found.score).all() and (found.score <= found.high).all()
