"""The gate's decision as pure functions of arrays, so that one gate and a hundred thousand simulated gates run the same code."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.harness.stats.correction import holm
from assay.harness.stats.distributions import t_cdf, z_quantile
from assay.harness.task.metric import Array

Flags = NDArray[np.bool_]
Verdict = Literal["pass", "regressed", "inconclusive"]
PASS, REGRESSED, INCONCLUSIVE = 0, 1, 2
NAMES: tuple[Verdict, ...] = ("pass", "regressed", "inconclusive")
FEW_CLUSTERS = 10
"""With fewer clusters than this a loss can be significant, but never excluded."""


class Columns(NamedTuple):
    """Differences of m tasks [..., m]: estimate, one-sided limits, standard error and its degrees of freedom."""

    delta: Array
    low: Array
    high: Array
    se: Array
    df: Array


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A weighted sum of independent differences: estimate, one-sided limits, one-sided p of "no loss", error, degrees of freedom."""

    delta: Array
    low: Array
    high: Array
    p_loss: Array
    se: Array
    df: Array


def combine(tasks: Columns, weights: Array) -> Aggregate:
    """The weighted sum of differences: limits by recovered variances (Zou and Donner 2008), p by Welch's t.

    The limits of the tasks allow for unobserved losses, and so does the sum's; for one task it is that task's limit.
    """
    delta, low, high, se, df = tasks
    whole = (weights * delta).sum(axis=-1)
    below = np.sqrt((weights**2 * (delta - low) ** 2).sum(axis=-1))
    above = np.sqrt((weights**2 * (high - delta) ** 2).sum(axis=-1))
    variance = weights**2 * se**2
    total = variance.sum(axis=-1)
    freedom = total**2 / np.maximum((variance**2 / df).sum(axis=-1), 1e-300)
    error = np.sqrt(total)
    p_loss = np.where(error > 0, t_cdf(whole / np.where(error > 0, error, 1.0), freedom), 0.5)
    return Aggregate(whole, whole - below, whole + above, p_loss, error, freedom)


def n_min(margin: float, alpha: float = 0.05) -> int:
    """Least number of items for a pass: at a true loss of `margin`, that many items all agree with probability alpha."""
    return max(1, round(log(alpha) / log(1 - margin))) if 0 < margin < 1 else 1


def loss_excluded(low: ArrayLike, margin: ArrayLike, units: ArrayLike, alpha: float = 0.05) -> Flags:
    """Whether a loss of `margin` is excluded: the lower limit is above -margin, and there are enough units to detect it."""
    size, edge = np.asarray(units), np.asarray(margin, dtype=np.float64)
    least = np.vectorize(lambda value: n_min(float(value), alpha), otypes=[np.float64])(edge)
    return np.asarray((np.asarray(low) > -edge) & (size >= np.maximum(least, FEW_CLUSTERS)))


def mde80(se: ArrayLike, alpha: float = 0.05) -> Array:
    """Minimum detectable effect: the smallest true loss that a one-sided test at `alpha` detects with probability 0.80."""
    return np.asarray((z_quantile(1 - alpha) + z_quantile(0.8)) * np.asarray(se, dtype=np.float64))


def gate_verdicts(
    p_total: Array, total_excluded: Flags, p_tasks: Array, tasks_excluded: Flags, critical: Flags, alpha: float = 0.05
) -> NDArray[np.int64]:
    """PASS, REGRESSED or INCONCLUSIVE [...] from the aggregate [...] and the tasks [..., m].

    Regressed: a loss is significant, on the aggregate at alpha/2 or by Holm over the tasks at alpha/2, and a loss of the margin is not
    excluded there. Pass: not regressed, and a loss of the margin is excluded on the aggregate and on every critical task.
    """
    lost = (p_total <= alpha / 2) & ~total_excluded
    lost = lost | ((holm(p_tasks) <= alpha / 2) & ~tasks_excluded).any(axis=-1)
    passed = ~lost & total_excluded & (tasks_excluded | ~critical).all(axis=-1)
    return np.where(lost, REGRESSED, np.where(passed, PASS, INCONCLUSIVE)).astype(np.int64)
