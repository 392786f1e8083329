"""Models that lack scores: adjusted means, intervals that cover the truth, and when a model is not ranked."""

from __future__ import annotations

import numpy as np
import pytest

from assay.leaderboard.data import incomplete
from assay.leaderboard.data.incomplete import connected, grid_of, incomplete_standings, rankable, two_way
from assay.leaderboard.data.ranking import Column, leaders, ranks_of, standings

MODELS, TASKS, ITEMS = 8, 10, 60


def columns_of(truth: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> list[Column]:
    """Simulates items whose difficulty all models share, two per cluster; `truth` [M, T] is the expected accuracy."""
    found = []
    for task in range(truth.shape[1]):
        rows = np.flatnonzero(present[:, task])
        noise = rng.normal(0, 0.5, (ITEMS, 1)) + rng.normal(0, 0.5, (ITEMS, len(truth)))
        bars = np.quantile(rng.normal(0, 0.5**0.5, 20_000), truth[:, task])
        right = (noise < bars).astype(float)[:, rows]
        means = right.reshape(-1, 2, len(rows)).mean(axis=1)
        found.append(Column(f"t{task}", means.mean(axis=0), np.full(len(rows), 0.05), means, np.full(len(means), 2.0)))
    return found


def simulated(rng: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Expected accuracies, and which scores are present: three models are complete, the others lack one to five tasks."""
    truth = rng.normal(0.6, 0.07, (MODELS, 1)) + rng.normal(0, 0.12, TASKS) + rng.normal(0, spread, (MODELS, TASKS))
    present = np.ones((MODELS, TASKS), dtype=bool)
    for model in range(3, MODELS):
        present[model, rng.choice(TASKS, rng.integers(1, 6), replace=False)] = False
    return np.clip(truth, 0.03, 0.97), present


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_intervals_of_incomplete_models_cover_the_score_and_rank_on_all_tasks(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incomplete, "DRAWS", 200)
    rng = np.random.default_rng(5)
    ranks, scores = [], []
    for trial in range(80):
        truth, present = simulated(rng, spread)
        found = incomplete_standings(grid_of(columns_of(truth, present, rng), present, trial), trial)
        true = truth.mean(axis=1)
        ranks.append((found.best <= ranks_of(true)) & (ranks_of(true) <= found.worst))
        scores.append((found.low <= true) & (true <= found.high))
    assert np.mean(ranks) >= 0.95
    assert np.mean(np.array(scores)[:, 3:]) >= 0.92


def test_a_model_on_easy_tasks_alone_is_not_ranked_first() -> None:
    easy, hard = np.array([0.9, 0.85, 0.95]), np.array([0.4, 0.35, 0.45])
    values = np.array([[*easy, *hard], [*(easy - 0.1), *(hard - 0.1)], [*(easy - 0.2), np.nan, np.nan, np.nan]])
    present = ~np.isnan(values)
    score, tasks = two_way(values, present)
    assert score[:2] == pytest.approx(values[:2].mean(axis=1))  # complete: the plain mean
    assert score[2] == pytest.approx(score[0] - 0.2)  # its plain mean, 0.7, is above the first model's 0.65
    assert tasks[:3].min() > tasks[3:].max()


def test_complete_models_get_the_standings_of_the_plain_mean() -> None:
    rng = np.random.default_rng(3)
    truth, _ = simulated(rng, 0.05)
    present = np.ones((MODELS, TASKS), dtype=bool)
    columns = columns_of(truth, present, rng)
    one, two = incomplete_standings(grid_of(columns, present)), standings(columns)
    for name in ("score", "low", "high"):
        assert getattr(one, name) == pytest.approx(getattr(two, name))
    for name in ("rank", "best", "worst", "tier", "ranks"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_missing_tasks_widen_the_rank_interval() -> None:
    rng = np.random.default_rng(6)
    truth, _ = simulated(rng, 0.1)
    whole = np.ones((MODELS, TASKS), dtype=bool)
    columns = columns_of(truth, whole, rng)
    grid = grid_of(columns, whole)
    widths = []
    for missing in (0, 3, 7):
        present = whole.copy()
        present[5, :missing] = False
        kept = grid_of([column if present[5, place] else without(column, 5) for place, column in enumerate(columns)], present)
        found = incomplete_standings(kept) if missing else incomplete_standings(grid)
        widths.append(float(found.high[5] - found.low[5]))
    assert widths[0] < widths[1] < widths[2]


def without(column: Column, model: int) -> Column:
    assert column.means is not None
    values, errors = (np.delete(each, model) for each in (column.values, column.errors))
    return Column(column.task, values, errors, np.delete(column.means, model, axis=1), column.sizes)


def test_who_can_be_ranked() -> None:
    present = np.ones((5, 4), dtype=bool)
    present[3, 1:] = False  # one task
    present[4, 2:] = False  # two tasks
    assert rankable(present).tolist() == [True, True, True, False, True]
    assert not rankable(~np.eye(3, dtype=bool)).any()  # no model has all tasks
    apart = np.array([[True, True, False, False], [False, False, True, True]])
    assert not connected(apart) and connected(np.vstack([apart, [True, True, True, True]]))
    assert rankable(np.ones((1, 1), dtype=bool)).tolist() == [True]


def test_leaders_share_the_lead_unless_the_difference_is_significant() -> None:
    rng = np.random.default_rng(8)
    score = np.array([0.80, 0.79, 0.60])
    draws = score + rng.normal(0, 0.02, (1000, 3))
    assert leaders(score, draws).tolist() == [True, True, False]
    assert leaders(score, np.tile(score, (1000, 1))).tolist() == [True, False, False]  # no uncertainty at all
    assert leaders(np.array([0.5, 0.5]), np.tile([0.5, 0.5], (10, 1))).tolist() == [True, True]
