"""Confidence intervals of scores and totals from stored per-item statistics.

Binary items without clusters: Wilson (1927), near 0 and 1 Clopper and Pearson (1934). Other bounded means: Wilson's interval at the
effective sample size of the clustered variance with a t quantile (Korn and Graubard 1998). Confusion tables of independent items:
Dirichlet posterior. Every other metric and every total: cluster jackknife, t on the logit scale between the metric's bounds, which for
bounds -1 and 1 is Fisher's z; limits of a score that is not a function of means are moved by its bias. tests/sim measures the coverage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.stats.distributions import t_quantile, z_quantile
from assay.harness.stats.edges import FEW, SPLITS, are_cells, cell_limits, clopper_pearson, half_samples
from assay.harness.stats.influence import Influence, Undefined, blocks, combined, dense, influence, is_mean, rows_of
from assay.harness.task.metric import Affine, Array, Codes, Metric, Pooled
from assay.harness.task.task import Term, Total


@dataclass(frozen=True, slots=True)
class Interval:
    """A score and its confidence limits; both are None where they cannot be computed, or would cover more than half of the scale.

    `n` counts items; `method` names the method of the limits, or why there are none (too few items, too few clusters, no variation).
    `value` is None where these items do not define the score; `reason` then says why. `wide` holds limits that cover too much.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str
    reason: str = ""
    wide: tuple[float, float] | None = None


MOST_OF_SCALE = 0.5
"""A longer interval, as a share of the metric's scale, says too little to be shown or ranked."""


def undefined(n: int, reason: str) -> Interval:
    return Interval(None, None, None, n, "undefined", reason)


def helpful(found: Interval, bounds: tuple[float | None, float | None]) -> Interval:
    """The interval, with its limits put aside where they cover more than half of the scale."""
    low, high = bounds
    if low is None or high is None or found.low is None or found.high is None:
        return found
    if found.high - found.low <= MOST_OF_SCALE * (high - low) * (1 + 1e-12):
        return found
    return replace(found, low=None, high=None, method="too few items", wide=(found.low, found.high))


class Part(NamedTuple):
    """The stored statistics of one metric: stats [n, k], score group and cluster code of each item [n]."""

    metric: Metric[Any]
    stats: Array
    groups: Codes
    clusters: Codes


def score_interval(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes, *, level: float = 0.95, seed: int = 0) -> Interval:
    """The score of stats [n, k] with its two-sided confidence interval.

    Each score group lies inside one cluster; clusters are the units of sampling. `seed` has an effect only where clusters are merged
    into blocks (a combine that is not Pooled). A score that is not a finite number is undefined; limits that cover more than half of
    the scale are "too few items" (see Interval). Raises AssayError for no items and non-finite statistics.
    """
    if not len(stats):
        raise AssayError("no items to score", where=metric.name, do="check the split and --limit")
    stats = np.asarray(stats, dtype=np.float64).reshape(len(stats), -1)
    if not np.isfinite(stats).all():
        raise AssayError("a stored statistic is not finite", where=metric.name, do="score the run again")
    try:
        return helpful(_score_interval(metric, stats, groups, clusters, level, seed), (metric.low, metric.high))
    except Undefined as error:
        return undefined(len(stats), error.what)


def is_above(part: Part, value: float) -> bool:
    """Whether the score is above a value by the lower limit of its 90 % interval."""
    found = score_interval(*part, level=0.9)
    low = found.wide[0] if found.wide else found.low
    return low is not None and low > value


def _score_interval(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes, level: float, seed: int) -> Interval:
    if is_mean(metric):
        return _mean_interval(metric, stats, groups, clusters, level)
    if isinstance(metric.combine, Pooled) and isinstance(metric.combine.finish, Affine):
        scale, offset = metric.combine.finish.scale, metric.combine.finish.offset
        low, high = (None if end is None else (end - offset) / scale for end in (metric.low, metric.high))
        plain = replace(metric, combine=Pooled(metric.combine.finish.finish, metric.combine.fold), low=low, high=high)
        unscaled = _score_interval(plain, stats, groups, clusters, level, seed)
        value, low, high = (None if end is None else scale * end + offset for end in (unscaled.value, unscaled.low, unscaled.high))
        return replace(unscaled, value=value, low=low, high=high)
    if are_cells(metric, stats, dense(clusters)[1]):
        value, (least, most) = combined(metric, stats, dense(groups)[0]), cell_limits(metric, stats, level, seed)
        return Interval(value, min(least, value), max(most, value), len(stats), "Dirichlet posterior of the table")
    if isinstance(metric.combine, Pooled):
        found = influence(metric, stats, groups, clusters)
        df = float(len(found.effects) - 1)
        return _transformed(found.value, found.variance, df, (metric.low, metric.high), len(stats), level, "jackknife")
    return _by_halves(metric, stats, groups, clusters, level, seed)


def _by_halves(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes, level: float, seed: int) -> Interval:
    """For a combine that is not Pooled: t on the score's own scale, with variance and bias from half samples, else the block jackknife."""
    value = combined(metric, stats, dense(groups)[0])
    count = dense(clusters)[1]
    halves = half_samples(metric, stats, groups, clusters, value, seed) if count > 3 else None
    if halves is None or halves[1] == 0:
        found = influence(metric, stats, groups, blocks(clusters, seed))
        df = float(len(found.effects) - 1)
        return _transformed(found.value, found.variance, df, (metric.low, metric.high), len(stats), level, "block jackknife")
    excess, variance = halves
    half = float(t_quantile((1 + level) / 2, min(SPLITS, count - 1))) * math.sqrt(variance)
    bottom, top = (side * np.inf if end is None else end for end, side in ((metric.low, -1), (metric.high, 1)))
    # The estimated bias has an error of its own size: twice the bias, so that the error of a calibrated model may be 0.
    low, high = max(value - half - 2 * max(excess, 0.0), bottom), min(value + half - 2 * min(excess, 0.0), top)
    return Interval(value, float(low), float(high), len(stats), "half samples, t, bias")


def total_interval(total: Total, parts: Mapping[Term, Part], *, level: float = 0.95, seed: int = 0) -> Interval:
    """The total with its interval: the tasks are independent, the metrics of one task share its items.

    Undefined where one of its terms is. Raises AssayError where a term has no part: a missing task is never a zero.
    """
    missing = [term.task for term in total.terms if term not in parts]
    if missing:
        raise AssayError(f"no scores of {', '.join(missing)}, which the total needs", where=total.name, do="run the missing tasks")
    n = sum(len(parts[term].stats) for term in {term.task: term for term in total.terms}.values())
    try:
        return _total_interval(total, parts, n, level, seed)
    except Undefined as error:
        return undefined(n, f"{error.where}: {error.what}")


def _total_interval(total: Total, parts: Mapping[Term, Part], n: int, level: float, seed: int) -> Interval:
    weights = total_weights(total, {term: len(parts[term].stats) for term in total.terms})
    effects: dict[str, list[tuple[float, Array]]] = {}
    value, low, high = 0.0, 0.0, 0.0
    coarse = {term.task for term in total.terms if not isinstance(parts[term].metric.combine, Pooled)}
    for term in total.terms:
        part, weight = parts[term], weights[term]
        units = blocks(part.clusters, seed) if term.task in coarse else part.clusters
        try:
            found = influence(part.metric, np.asarray(part.stats, dtype=np.float64), part.groups, units)
        except Undefined as error:
            raise Undefined(error.what, where=f"{term.metric} of {term.task} is undefined") from None
        effects.setdefault(term.task, []).append((weight, _floored(part, found)))
        value += weight * found.value
        ends = [np.nan if end is None else weight * end for end in (part.metric.low, part.metric.high)]
        low, high = low + float(min(ends)), high + float(max(ends))
    sums = [_task_sum(found) for found in effects.values()]
    variances = np.array([float(s @ s) for s in sums])
    with np.errstate(divide="ignore", invalid="ignore"):
        df = float(variances.sum() ** 2 / (variances**2 / np.array([len(s) - 1 for s in sums])).sum())
    bounds = (low, high) if np.isfinite(low + high) else (None, None)
    return helpful(_transformed(value, float(variances.sum()), df, bounds, n, level, "jackknife total"), bounds)


def total_weights(total: Total, sizes: Mapping[Term, int]) -> dict[Term, float]:
    """The weight of each term, scale included; `by_size` weights are multiplied by n and normalised."""
    if not total.by_size:
        return {term: term.weight * total.scale for term in total.terms}
    mass = sum(term.weight * sizes[term] for term in total.terms)
    return {term: term.weight * sizes[term] / mass * total.scale for term in total.terms}


def _task_sum(terms: list[tuple[float, Array]]) -> Array:
    """Weighted effects of one task's metrics, cluster by cluster; unequal clusters count as perfectly correlated."""
    if len({len(effects) for _, effects in terms}) == 1:
        return np.asarray(sum(weight * effects for weight, effects in terms), dtype=np.float64)
    size = min(len(effects) for _, effects in terms)
    spread = sum(abs(weight) * float(np.sqrt(effects @ effects)) for weight, effects in terms)
    return np.full(size, spread / np.sqrt(size))


def _floored(part: Part, found: Influence) -> Array:
    """Effects whose variance is at least that of one item at the far bound, so that equal scores do not give an interval of width 0."""
    least = _least_variance(found.value, (part.metric.low, part.metric.high), len(found.effects))
    enough = found.variance >= least if is_mean(part.metric) else found.variance > 0
    if enough or not np.isfinite(found.variance):
        return found.effects
    return np.full(len(found.effects), np.sqrt(least / len(found.effects)))


def _least_variance(value: float, bounds: tuple[float | None, float | None], clusters: int) -> float:
    """The variance that one pseudo-cluster at the far bound would add to an otherwise constant score."""
    far = max((abs(value - end) for end in bounds if end is not None), default=0.0)
    return float((far / clusters) ** 2)


def _mean_interval(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes, level: float) -> Interval:
    rows = rows_of(metric, stats, groups, clusters)
    scores = rows.stats[:, 0]
    value, n = float(scores.mean()), len(stats)
    independent = rows.count == len(scores)
    if metric.low is None or metric.high is None:
        found = influence(metric, stats, groups, clusters)
        return _transformed(value, found.variance, float(rows.count - 1), (None, None), n, level, "t")
    span = metric.high - metric.low
    share = (value - metric.low) / span
    if rows.count < 2:
        return Interval(value, None, None, n, "too few clusters" if n > 1 else "too few items")
    if independent and np.isin(scores, (metric.low, metric.high)).all():
        right, count = round(share * len(scores)), len(scores)
        edge = min(right, count - right) < FEW
        low, high = clopper_pearson(right, count, level) if edge else wilson(share, float(count), z_quantile((1 + level) / 2))
        return Interval(value, metric.low + span * low, metric.low + span * high, n, "clopper-pearson" if edge else "wilson")
    found = influence(metric, stats, groups, clusters)
    variance = max(found.variance / span**2, _least_variance(share, (0.0, 1.0), rows.count))
    size = share * (1 - share) / variance if 0 < share < 1 else float(rows.count)
    low, high = wilson(share, size, float(t_quantile((1 + level) / 2, rows.count - 1)))
    return Interval(value, metric.low + span * low, metric.low + span * high, n, "wilson t" if independent else "clustered wilson t")


def wilson(share: float, n: float, z: float) -> tuple[float, float]:
    """Wilson's score interval of a proportion `share` of `n` (effective) items at quantile z."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, float(centre - half))), min(1.0, max(share, float(centre + half)))


def _transformed(
    value: float, variance: float, df: float, bounds: tuple[float | None, float | None], n: int, level: float, name: str
) -> Interval:
    """t interval on the logit scale between the bounds; on the score's own scale where a bound is missing."""
    if not df >= 1 or not np.isfinite(variance):
        return Interval(value, None, None, n, "too few clusters")
    low, high = bounds
    t = float(t_quantile((1 + level) / 2, df))
    if low is None or high is None:
        half = t * math.sqrt(variance)
        return Interval(value, value - half, value + half, n, name) if half > 0 else Interval(value, None, None, n, "no variation")
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    if not 0 < share < 1:
        ends = wilson(share, df + 1, t)
    elif variance > 0:
        half = t * math.sqrt(variance) / (high - low) / (share * (1 - share))
        odds = math.log(share / (1 - share))
        ends = (1 / (1 + math.exp(min(700.0, half - odds))), 1 / (1 + math.exp(max(-700.0, -half - odds))))
    else:
        return Interval(value, None, None, n, "no variation")
    return Interval(value, low + (high - low) * ends[0], low + (high - low) * ends[1], n, f"{name}, logit t")
