"""The effect of each cluster on a score: the delete-one-cluster jackknife, for every metric.

For a Pooled metric one call of `finish` gives all leave-one-out scores; for any other `combine` the clusters are first merged
into a few blocks. The effects of one task's clusters on two scores can be added or subtracted, which gives the
standard errors of totals and of paired differences in one pass. Source: Efron and Stein (1981); for clusters it is CR3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.metric import Array, Codes, Metric, Pooled, first

BLOCKS = 60
"""Number of jackknife blocks for metrics that are not Pooled: enough degrees of freedom, few calls of `combine`."""


class Undefined(AssayError):
    """A score that these items do not define; `what` is the reason."""


def reason_of(metric: Metric[Any], value: float) -> str:
    """Why a score of `value`, which is not finite, is undefined."""
    return metric.undefined or f"its formula gives {value}"


def combined(metric: Metric[Any], stats: Array, groups: Codes) -> float:
    """The score of stats [n, k]. Raises Undefined where it is not a finite number, or the author's `combine` fails."""
    try:
        with np.errstate(all="ignore"):
            value = float(metric.combine(stats, groups))
    except Exception as error:  # the author's code may raise anything
        raise Undefined(f"{type(error).__name__}: {error}", where=metric.name) from None
    if not np.isfinite(value):
        raise Undefined(reason_of(metric, value), where=metric.name)
    return value


def replicate(metric: Metric[Any], stats: Array, groups: Codes) -> float:
    """The score of a part of the items, NaN where it is undefined."""
    try:
        return combined(metric, stats, groups)
    except Undefined:
        return np.nan


@dataclass(frozen=True, slots=True)
class Influence:
    """A score and the `effects` [C] of its C clusters: the sum of their squares is the score's variance."""

    value: float
    effects: Array

    @property
    def variance(self) -> float:
        return float(self.effects @ self.effects)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that a score averages: one per item, or per group where the metric folds, each with its cluster code."""

    stats: Array
    clusters: Codes
    count: int
    """Number of clusters."""


def dense(codes: Codes) -> tuple[Codes, int]:
    """Codes as 0..C-1 in ascending order, and C."""
    kept, inverse = np.unique(codes, return_inverse=True)
    return inverse.astype(np.int64), len(kept)


def rows_of(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes) -> Rows:
    """The rows of stats [n, k], folded by group where the metric folds. Raises AssayError for a group that spans two clusters."""
    codes, count = dense(clusters)
    fold = metric.combine.fold if isinstance(metric.combine, Pooled) else None
    if fold is None:
        return Rows(stats, codes, count)
    own, size = dense(groups)
    home = np.zeros(size, dtype=np.int64)
    home[own] = codes
    if not np.array_equal(home[own], codes):
        raise AssayError("a score group spans two clusters", where=metric.name, do="give all its items the same cluster")
    return Rows(np.asarray(fold(stats, own), dtype=np.float64), home, count)


def is_mean(metric: Metric[Any]) -> bool:
    """Whether the score is a plain mean of (folded) item scores."""
    return isinstance(metric.combine, Pooled) and metric.combine.finish is first


def blocks(clusters: Codes, seed: int = 0) -> Codes:
    """Clusters merged at random into at most BLOCKS blocks of nearly equal numbers of clusters."""
    codes, count = dense(clusters)
    order = np.random.default_rng(seed).permutation(count)
    return (order[codes] % BLOCKS).astype(np.int64)


def sums_by(codes: Codes, values: Array, count: int) -> Array:
    """Sums [count, k] of values [n, k] by code."""
    return np.stack([np.bincount(codes, weights=column, minlength=count) for column in values.T], axis=1)


def influence(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes) -> Influence:
    """The score of stats [n, k] and its cluster effects [C]; NaN effects where the score without some cluster is undefined.

    Raises Undefined where the score itself is not a finite number.

    For a combine that is not Pooled, pass few clusters (see `blocks`): it is called once per cluster.
    """
    combine = metric.combine
    if not isinstance(combine, Pooled):
        codes, count = dense(clusters)
        value = combined(metric, stats, dense(groups)[0])
        left = np.full(count, np.nan)
        if count > 1:
            left = np.array([replicate(metric, stats[codes != c], dense(groups[codes != c])[0]) for c in range(count)])
    else:
        rows = rows_of(metric, stats, groups, clusters)
        count = rows.count
        total = rows.stats.sum(axis=0)
        sizes = np.bincount(rows.clusters, minlength=count).astype(np.float64)
        with np.errstate(all="ignore"):
            value = float(combine.finish(total / len(rows.stats)))
            rest = (total - sums_by(rows.clusters, rows.stats, count)) / (len(rows.stats) - sizes)[:, None]
            left = np.asarray(combine.finish(rest), dtype=np.float64)
    if not np.isfinite(value):
        raise Undefined(reason_of(metric, value), where=metric.name)
    return Influence(value, (value - left) * np.sqrt((count - 1) / count))
