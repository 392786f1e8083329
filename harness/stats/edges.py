"""Limits for scores that the usual intervals miss: proportions near 0 or 1, confusion tables with rare classes, biased scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.harness.stats.influence import dense, replicate
from assay.harness.task.metric import Array, Codes, Metric, Pooled

FEW = 5
"""With fewer right or fewer wrong items than this, Wilson's interval covers too rarely."""
PRIORS = (0.25, 0.5)
"""Prior weights of a cell; the wider limits count. tests.sim.coverage measures how often they contain the true score."""
DRAWS, SPLITS = 4000, 40


def clopper_pearson(right: int, n: int, level: float) -> tuple[float, float]:
    """The exact interval of a proportion: it covers at least `level`. Source: Clopper and Pearson (1934)."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = float(betaincinv(right, n - right + 1, tail)) if right else 0.0
    return low, float(betaincinv(right + 1, n - right, 1 - tail)) if right < n else 1.0


def are_cells(metric: Metric[Any], stats: Array, clusters: int) -> bool:
    """Whether the statistics [n, k] are one-hot cells of a table, of independent items."""
    plain = isinstance(metric.combine, Pooled) and metric.combine.fold is None
    return plain and stats.shape[1] > 2 and clusters == len(stats) and bool(np.isin(stats, (0, 1)).all() and (stats.sum(axis=1) == 1).all())


def cell_limits(metric: Metric[Any], stats: Array, level: float, seed: int) -> tuple[float, float]:
    """Limits of a function of cell frequencies from their Dirichlet posterior; cells that were not seen are possible.

    Source: Goutte and Gaussier (2005), for F1.
    """
    assert isinstance(metric.combine, Pooled)
    rng, ends = np.random.default_rng(seed), []
    for prior in PRIORS:
        drawn = rng.gamma(stats.sum(axis=0) + prior, size=(DRAWS, stats.shape[1]))
        with np.errstate(all="ignore"):
            scores = np.asarray(metric.combine.finish(drawn / drawn.sum(axis=1, keepdims=True)))
        ends.append(np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2]))
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def half_samples(metric: Metric[Any], stats: Array, groups: Codes, clusters: Codes, value: float, seed: int) -> tuple[float, float] | None:
    """Bias and variance of a score that is no function of means, from random halves of the clusters; None where these do not define it.

    Two halves differ with four times the variance of the whole. A bias that falls with the square root of the number of items, as that
    of ECE, is larger by a factor of sqrt(2) in a half. Unlike the jackknife this holds for scores that are not smooth.
    Source: McCarthy (1969), half-sample replication.
    """
    codes, count = dense(clusters)
    rng, halves = np.random.default_rng(seed), np.empty((SPLITS, 2))
    for at in range(SPLITS):
        first = (rng.permutation(count) < count // 2)[codes]
        halves[at] = [replicate(metric, stats[part], dense(groups[part])[0]) if part.any() else np.nan for part in (first, ~first)]
    if not np.isfinite(halves).all():
        return None
    return (float(halves.mean()) - value) / (2**0.5 - 1), float(np.mean((halves[:, 0] - halves[:, 1]) ** 2)) / 4
