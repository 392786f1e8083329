"""Ranks models and computes rank intervals. All models share the items, so each resample of clusters applies to all models.

Rank intervals follow Mogstad, Romano, Shaikh and Wilhelm (2024, Review of Economic Studies): a model's interval excludes the ranks
of models that are significantly better or worse, at a critical value from the largest studentised difference over all others.
Resampling uses Bayesian-bootstrap weights (Rubin 1981), rescaled to the unbiased variance.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Aggregator = Literal["chance-normalised mean", "mean win rate", "Borda", "Bradley-Terry"]
AGGREGATORS: tuple[Aggregator, ...] = get_args(Aggregator)
BLOCKS = 400
"""More clusters than this are merged at random into this many resampling units, which keeps the expected variance of a mean."""
DRAWS, BRADLEY_TERRY_DRAWS = 1000, 200
PRIOR = 0.5
"""Pseudo-ties added to every pair in a Bradley-Terry fit, in units of one task: keeps the strength of an unbeaten model finite."""
LEVEL = 0.95
"""Confidence level of rank intervals and score intervals."""
Z95 = 1.959964
"""Normal quantile of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Column:
    """One task for M models on the same items.

    `values` [M] are the stored scores, `errors` [M] their standard errors. `means` [C, M] and `sizes` [C] are cluster means and item
    counts, None if the score is not a mean over items: then each model is resampled on its own, which widens the intervals.
    `chance` is the score of random guessing, `unit` the best possible score (None: unbounded, excluded from means).
    """

    task: str
    values: Array
    errors: Array
    means: Array | None = None
    sizes: Array | None = None
    chance: float = 0.0
    unit: float | None = 1.0
    sign: float = 1.0
    """-1 where lower is better."""
    floor: float = 0.0
    """The lowest possible score of a bounded metric."""


@dataclass(frozen=True, slots=True)
class Standings:
    """M models under one aggregator. `best` to `worst` is the rank interval; models in a tier are not significantly worse than its
    first model; `ranks` [A, M] are the point ranks under every aggregator, in the order of AGGREGATORS; `halves` [M, M] are the
    half-widths of the intervals of differences (`rank_intervals`)."""

    score: Array
    low: Array
    high: Array
    rank: Ints
    best: Ints
    worst: Ints
    tier: Ints
    ranks: Ints
    halves: Array

    @property
    def rule_dependent(self) -> NDArray[np.bool_]:
        """Whether each model's rank depends on the aggregator [M]."""
        return np.asarray(self.ranks.min(axis=0) != self.ranks.max(axis=0))


def standings(
    columns: Sequence[Column], by: Aggregator = "chance-normalised mean", *, seed: int = 0, draws: Array | None = None
) -> Standings:
    """Ranks M models that have a score in every column. Raises ValueError if there are no columns or a score is missing.

    `draws` are resampled aggregate scores [B, M], if there are some already.
    """
    if not columns or any(not np.isfinite(column.values).all() for column in columns):
        raise ValueError("ranking needs a finite score of every model in every column")
    points = {name: point_scores(columns, name) for name in AGGREGATORS}
    ranks = np.stack([ranks_of(points[name]) for name in AGGREGATORS])
    drawn = resampled_scores(columns, by, seed) if draws is None else draws
    if by == AGGREGATORS[0]:
        return standings_of(points[by], drawn, minimum_error(columns), ranks, (lowest(columns), 1.0))
    return standings_of(points[by], drawn, 0.0, ranks)


def standings_of(score: Array, draws: Array, minimum: float, ranks: Ints, ends: tuple[float, float] = (-np.inf, np.inf)) -> Standings:
    """Standings from scores [M] and their resamples [B, M]; `minimum` is the smallest standard error of a difference,
    `ends` are the lowest and the best possible score."""
    best, worst, beats, halves = rank_intervals(score, draws, minimum)
    spread = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Standings(
        score=score,
        low=np.minimum(np.maximum(spread[0], ends[0]), score),
        high=np.maximum(np.minimum(spread[1], ends[1]), score),
        rank=ranks_of(score),
        best=best,
        worst=worst,
        tier=tiers(score, beats),
        ranks=ranks,
        halves=halves,
    )


def point_scores(columns: Sequence[Column], by: Aggregator) -> Array:
    """The aggregate score of each model [M]."""
    if by == "Bradley-Terry":
        return bradley_terry(np.mean([win_shares(column) for column in columns], axis=0))
    return np.asarray(aggregate([column.values[None] for column in columns], columns, by)[0])


def resampled_scores(columns: Sequence[Column], by: Aggregator, seed: int) -> Array:
    """Resampled aggregate scores [B, M]."""
    if by == "Bradley-Terry":
        return bradley_terry(np.mean([resampled_win_shares(column, seed) for column in columns], axis=0))
    return aggregate([resampled(column, DRAWS, seed) for column in columns], columns, by)


def aggregate(scores: Sequence[Array], columns: Sequence[Column], by: Aggregator) -> Array:
    """Aggregates the scores [B, M] of all columns to one score per model [B, M]; 0 if no column has a unit."""
    if by == "chance-normalised mean":
        kept = [normalised(each, column) for each, column in zip(scores, columns, strict=True) if column.unit is not None]
        return np.asarray(np.mean(kept, axis=0)) if kept else np.zeros_like(scores[0])
    beaten = np.mean([beaten_share(column.sign * each) for each, column in zip(scores, columns, strict=True)], axis=0)
    rivals = max(1, beaten.shape[-1] - 1)
    return np.asarray(beaten if by == "mean win rate" else beaten * rivals)


def normalised(scores: Array, column: Column) -> Array:
    """Scores as a share of the way from chance (0) to the best possible score (1); unchanged where there is none."""
    return scores if column.unit is None else np.asarray((scores - column.chance) / (column.unit - column.chance))


def lowest(columns: Sequence[Column]) -> float:
    """The lowest possible chance-normalised mean over the bounded columns."""
    ends = [column.sign * normalised(np.array([column.floor, column.unit]), column) for column in columns if column.unit is not None]
    return float(np.mean([each.min() for each in ends])) if ends else -np.inf


def beaten_share(scores: Array) -> Array:
    """The share of the other models with a score that each model beats [..., M]; ties count half. NaN for a score that is missing."""
    from scipy.stats import rankdata

    rivals = np.isfinite(scores).sum(axis=-1, keepdims=True) - 1
    return np.asarray((rankdata(scores, axis=-1, nan_policy="omit") - 1) / np.maximum(rivals, 1))


def mean_win_rates(scores: Array) -> Array:
    """HELM's mean win rate [..., M] of scores [..., M, S], NaN where missing (crfm-helm 0.5.16, presentation/summarize.py).

    The mean of `beaten_share` over the scenarios that the model has and at least one other. NaN for a model without one.
    """
    counted = np.isfinite(scores) & (np.isfinite(scores).sum(axis=-2, keepdims=True) > 1)
    shares = np.where(counted, np.moveaxis(beaten_share(np.moveaxis(scores, -2, -1)), -1, -2), 0.0)
    count = counted.sum(axis=-1)
    return np.where(count > 0, shares.sum(axis=-1) / np.maximum(count, 1), np.nan)


def generator(column: Column, seed: int) -> np.random.Generator:
    """A random generator per task, so that a task's draws do not depend on which other tasks are selected."""
    return np.random.default_rng([seed, zlib.crc32(column.task.encode())])


def blocks(count: int, rng: np.random.Generator) -> Ints:
    """The resampling unit of each cluster [C]."""
    return rng.permutation(count) % BLOCKS if count > BLOCKS else np.arange(count)


def weights(units: int, draws: int, rng: np.random.Generator) -> Array:
    """Random weights [B, units] with mean 1."""
    found = rng.standard_exponential((draws, units))
    return np.asarray(found / found.mean(axis=1, keepdims=True))


def resampled(column: Column, draws: int, seed: int) -> Array:
    """Resampled scores [B, M] of one task. All models share each resample of clusters."""
    rng = generator(column, seed)
    if column.means is None or column.sizes is None or len(column.sizes) < 2:
        return np.asarray(column.values + column.errors * rng.standard_normal((draws, len(column.values))))
    unit = blocks(len(column.sizes), rng)
    count = int(unit.max()) + 1
    sums = np.zeros((count, len(column.values) + 1))
    np.add.at(sums, unit, np.column_stack([column.means * column.sizes[:, None], column.sizes]))
    totals = weights(count, draws, rng) @ sums
    found = totals[:, :-1] / totals[:, -1:]
    stretch = np.sqrt((count + 1) / (count - 1))
    return np.asarray(column.values + (found - column.values) * stretch)


def leaders(score: Array, draws: Array, minimum: float = 0.0) -> NDArray[np.bool_]:
    """The models that are not significantly worse than the first [M], from scores [M], where higher is better, and resamples [B, M]."""
    gap = score.max() - score
    noise = draws[:, [int(score.argmax())]] - draws - gap
    error = np.sqrt((noise**2).mean(axis=0) + minimum**2)
    error = np.where(error > 0, error, np.inf)
    critical = float(np.quantile((np.abs(noise) / error).max(axis=1), LEVEL))
    return np.asarray((gap <= 1e-12) | ((error < np.inf) & (gap / error <= critical)))


def minimum_error(columns: Sequence[Column]) -> float:
    """Smallest standard error of a difference: that of one more cluster. Without it, no observed variation would count as certainty."""
    kept = [column for column in columns if column.unit is not None]
    return float(np.sqrt(sum(1.0 / len(column.sizes) ** 2 for column in kept if column.sizes is not None))) / max(1, len(kept))


def rank_intervals(score: Array, draws: Array, minimum: float = 0.0) -> tuple[Ints, Ints, NDArray[np.bool_], Array]:
    """Best and worst rank [M], whether model i is significantly better than model j at i's critical value [M, M], and the half-width
    of the interval of i's score minus j's [M, M]: simultaneous over all j, infinite where no resample varies."""
    count = len(score)
    halves = np.full((count, count), np.inf)
    best, worst = np.ones(count, dtype=np.int64), np.full(count, count, dtype=np.int64)
    beats = np.zeros((count, count), dtype=bool)
    for i in range(count):
        gap = score[i] - score
        noise = draws[:, i : i + 1] - draws - gap
        error = np.sqrt((noise**2).mean(axis=0) + minimum**2)
        error = np.where(error > 0, error, np.inf)
        certain = (error == np.inf) & (np.abs(gap) > 1e-12)
        critical = float(np.quantile((np.abs(noise) / error).max(axis=1), LEVEL))
        better, worse = gap / error > critical, gap / error < -critical
        halves[i] = critical * error if critical > 0 else np.inf
        beats[i] = better | (certain & (gap > 0))
        best[i] += int((worse | (certain & (gap < 0))).sum())
        worst[i] -= int(beats[i].sum())
    return best, worst, beats, halves


def ranks_of(score: Array) -> Ints:
    """Ranks [M], 1 for the highest; equal scores share the better rank. Differences below 1e-9 count as rounding errors."""
    return np.asarray(1 + (score[None, :] > score[:, None] + 1e-9).sum(axis=1), dtype=np.int64)


def tiers(score: Array, beats: NDArray[np.bool_]) -> Ints:
    """Tier of each model [M]: its first model and those that follow and are not significantly worse. Equal scores share a tier."""
    found = np.zeros(len(score), dtype=np.int64)
    order = np.argsort(-score, kind="stable")
    tier, head, at = 1, int(order[0]), 0
    while at < len(order):
        equal = [int(each) for each in order[at:] if score[order[at]] - score[each] <= 1e-9]
        if all(beats[head, each] for each in equal):
            tier, head = tier + 1, equal[0]
        found[equal] = tier
        at += len(equal)
    return found


def win_shares(column: Column) -> Array:
    """The share of one task's items on which model i beats model j [M, M], by cluster; ties count for neither."""
    if column.means is None or column.sizes is None:
        return np.asarray(column.sign * (column.values[:, None] - column.values[None, :]) > 1e-9, dtype=np.float64)
    share = column.sizes / column.sizes.sum()
    return np.asarray(np.einsum("c,cij->ij", share, cluster_wins(column)))


def cluster_wins(column: Column) -> Array:
    """1 where model i beats model j on a cluster [C, M, M]."""
    assert column.means is not None
    signed = (column.sign * column.means).astype(np.float32)
    return np.asarray(signed[:, :, None] > signed[:, None, :] + 1e-7, dtype=np.float32)


def resampled_win_shares(column: Column, seed: int) -> Array:
    """Resampled `win_shares` [B, M, M]."""
    rng, models = generator(column, seed), len(column.values)
    if column.means is None or column.sizes is None or len(column.sizes) < 2:
        found = column.sign * resampled(column, BRADLEY_TERRY_DRAWS, seed)
        return np.asarray(found[:, :, None] > found[:, None, :], dtype=np.float64)
    unit = blocks(len(column.sizes), rng)
    count = int(unit.max()) + 1
    drawn_weights = (weights(count, BRADLEY_TERRY_DRAWS, rng)[:, unit] * column.sizes).astype(np.float32)
    drawn_weights /= drawn_weights.sum(axis=1, keepdims=True)
    found = drawn_weights @ cluster_wins(column).reshape(len(column.sizes), models * models)
    return np.asarray(found.reshape(BRADLEY_TERRY_DRAWS, models, models), dtype=np.float64)


def bradley_terry(wins: Array) -> Array:
    """Fits log-strengths [..., M], mean 0, to wins [..., M, M] of i over j. Source: Hunter (2004), MM algorithm."""
    models = wins.shape[-1]
    if models < 2:
        return np.zeros(wins.shape[:-1])
    smoothed = wins + PRIOR / max(1, models) * (1 - np.eye(models))
    played, total = smoothed + np.swapaxes(smoothed, -1, -2), smoothed.sum(axis=-1)
    strength = np.ones(wins.shape[:-1])
    for _ in range(500):
        # The diagonal of `played` is 0, so it does not count.
        updated = total / (played / (strength[..., :, None] + strength[..., None, :])).sum(axis=-1)
        updated /= np.exp(np.log(updated).mean(axis=-1, keepdims=True))
        change = float(np.abs(np.log(updated / strength)).max())
        strength = updated
        if change < 1e-6:
            break
    return np.asarray(np.log(strength))


def pareto_front(first: Array, second: Array) -> NDArray[np.bool_]:
    """Whether no other point is at least as high in both values and higher in one [N]."""
    as_good = (first[None, :] >= first[:, None]) & (second[None, :] >= second[:, None])
    better = (first[None, :] > first[:, None]) | (second[None, :] > second[:, None])
    return np.asarray(~(as_good & better).any(axis=1))
