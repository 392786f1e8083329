"""Ranks models of which some lack scores: a model's mean is adjusted for the difficulty of the tasks that it has.

The adjusted mean is the least-squares mean of the two-way layout (Searle, Speed and Milliken 1980, The American Statistician):
score = model + task. It equals the plain mean of a complete model. What the missing tasks add to its error is that of a mean of S
sampled of T tasks, sigma^2 (1 - S/T) / S (Cochran 1977, Sampling Techniques, section 2.6), where sigma is the spread of the scores
about the two-way fit. This assumes that the missing tasks are like the scored ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from assay.harness.stats.distributions import t_quantile
from assay.leaderboard.data.ranking import (
    AGGREGATORS,
    DRAWS,
    Z95,
    Array,
    Column,
    Standings,
    bradley_terry,
    lowest,
    minimum_error,
    normalised,
    ranks_of,
    resampled,
    standings_of,
    win_shares,
)

FEWEST = 2
"""A model with fewer tasks is not ranked."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Scores of M models on T tasks. `columns` hold only the models that have the task, `present` [M, T] says which.

    `points` [M, T] and `draws` [B, M, T] are scores and resamples, normalised for chance where bounded, signed so that higher is
    better; NaN where missing.
    """

    columns: tuple[Column, ...]
    present: NDArray[np.bool_]
    points: Array
    draws: Array

    @property
    def bounded(self) -> list[int]:
        return [place for place, column in enumerate(self.columns) if column.unit is not None]

    def of(self, models: Sequence[int]) -> Grid:
        """The grid of some models, in this order."""
        rows = np.asarray(models, dtype=np.int64)
        columns = []
        for place, column in enumerate(self.columns):
            order = {int(row): number for number, row in enumerate(np.flatnonzero(self.present[:, place]))}
            kept = [order[int(row)] for row in rows if self.present[row, place]]
            means = None if column.means is None else column.means[:, kept]
            columns.append(replace(column, values=column.values[kept], errors=column.errors[kept], means=means))
        return Grid(tuple(columns), self.present[rows], self.points[rows], self.draws[:, rows])


def grid_of(columns: Sequence[Column], present: NDArray[np.bool_], seed: int = 0) -> Grid:
    """`columns` in the order of the columns of `present` [M, T], their models in the order of its rows."""
    points = np.full(present.shape, np.nan)
    draws = np.full((DRAWS, *present.shape), np.nan)
    for place, column in enumerate(columns):
        rows = np.flatnonzero(present[:, place])
        points[rows, place] = column.sign * normalised(column.values, column)
        draws[:, rows, place] = column.sign * normalised(resampled(column, DRAWS, seed), column)
    return Grid(tuple(columns), present, points, draws)


def two_way(values: Array, present: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Least-squares means of the models [..., M] and effects of the tasks [..., T] (mean 0) of scores [..., M, T]."""
    known = present.astype(np.float64)
    filled = np.where(present, values, 0.0)
    counts = known.sum(axis=1)
    means = filled.sum(axis=-1) / counts
    normal = np.diag(known.sum(axis=0)) - known.T @ (known / counts[:, None])
    tasks = (filled - known * means[..., None]).sum(axis=-2) @ np.linalg.pinv(normal)
    tasks -= tasks.mean(axis=-1, keepdims=True)
    return means - tasks @ known.T / counts, tasks


def connected(present: NDArray[np.bool_]) -> bool:
    """Whether every two models are linked by shared tasks, so that their means can be compared."""
    shared = (present.astype(np.int64) @ present.T.astype(np.int64)) > 0
    reached = shared[0]
    for _ in range(len(shared)):
        reached = shared[reached].any(axis=0)
    return bool(reached.all())


def rankable(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which models can be ranked [M]: complete ones, and with at least one of those, all that have FEWEST tasks."""
    complete = np.asarray(present.all(axis=1), dtype=np.bool_)
    kept = np.asarray(complete | (present.sum(axis=1) >= FEWEST), dtype=np.bool_)
    used = present[kept]
    spare = used.sum() - used.shape[0] - used.shape[1] + 1
    return kept if complete.any() and spare >= 1 and connected(used) else complete


def extra_errors(points: Array, present: NDArray[np.bool_]) -> Array:
    """The standard error [M] that missing tasks add to a model's mean; 0 for a complete model."""
    models, tasks = two_way(points, present)
    left = np.where(present, points - models[:, None] - tasks, 0.0)
    count, total = present.sum(axis=1), present.shape[1]
    spare = int(present.sum()) - sum(present.shape) + 1
    pooled = float((left**2).sum()) / spare
    own = (left**2).sum(axis=1) / np.maximum(1, count - 1)
    sharing = np.array([1.0 if row.all() else 1.0 + 1.0 / present[:, ~row].sum(axis=0).min() for row in present])
    widened = float(t_quantile(0.975, spare)) / Z95
    return np.asarray(widened * np.sqrt(np.maximum(pooled, own) * (1 - count / total) / count * sharing))


def incomplete_standings(grid: Grid, seed: int = 0) -> Standings:
    """Ranks models by adjusted mean; every model must be rankable. Equals `standings` where no score is missing."""
    bounded = grid.bounded
    points, present = grid.points[:, bounded], grid.present[:, bounded]
    extra = extra_errors(points, present)
    noise = np.random.default_rng([seed, 1]).standard_normal((DRAWS, len(extra)))
    draws = two_way(grid.draws[:, :, bounded], present)[0] + extra * noise
    score = two_way(points, present)[0]
    return standings_of(score, draws, minimum_error(grid.columns), all_ranks(grid, score), (lowest(grid.columns), 1.0))


def all_ranks(grid: Grid, score: Array) -> NDArray[np.int64]:
    """Point ranks under every aggregator [A, M]; the others compare two models on the tasks that both have."""
    models = len(score)
    wins, beaten, shared = np.zeros((models, models)), np.zeros((models, models)), np.zeros((models, models))
    for place, column in enumerate(grid.columns):
        rows = np.flatnonzero(grid.present[:, place])
        square = np.ix_(rows, rows)
        wins[square] += win_shares(column)
        value = grid.points[rows, place]
        beaten[square] += (value[:, None] > value[None, :]) + 0.5 * (value[:, None] == value[None, :])
        shared[square] += 1
    often = np.maximum(shared, 1)
    share = np.where(np.eye(models, dtype=bool) | (shared == 0), np.nan, beaten / often)
    rate = np.nanmean(share, axis=1) if models > 1 else np.zeros(models)
    strength = bradley_terry(wins / often)
    found = {AGGREGATORS[0]: score, AGGREGATORS[1]: rate, AGGREGATORS[2]: rate, AGGREGATORS[3]: strength}
    return np.stack([ranks_of(found[name]) for name in AGGREGATORS])
