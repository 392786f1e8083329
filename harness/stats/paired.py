"""Paired tests: did the candidate lose (mid-p, t, sign flips, swaps), and is a loss of the margin excluded (score tests)?

Every function takes arrays with any leading axes, so that a simulation of ten thousand gates runs the same code as
one gate. `d` is candidate minus baseline, positive is better; p values are one-sided, against "no loss".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from assay.harness.stats.distributions import half_binomial_cdf, t_cdf
from assay.harness.task.metric import Array

STEPS = 32
"""Bisection steps; every halving is over a bounded range, so the error is below 1e-9."""


def mid_p(wins: ArrayLike, losses: ArrayLike) -> Array:
    """McNemar's one-sided mid-p: P(Bin(a + b, 1/2) <= a) less half of P(= a). Source: Fagerland et al. (2013)."""
    a, both = np.asarray(wins, dtype=np.float64), np.asarray(wins, dtype=np.float64) + np.asarray(losses, dtype=np.float64)
    return (half_binomial_cdf(a, both) + half_binomial_cdf(a - 1, both)) / 2


def tango_z(wins: ArrayLike, losses: ArrayLike, n: ArrayLike, margin: ArrayLike) -> Array:
    """Tango's score z of "the loss is `margin`", in (-1, 1), for n paired binary items; a large z excludes it. Source: Tango (1998)."""
    a, b, size, delta = (np.asarray(value, dtype=np.float64) for value in (wins, losses, n, margin))
    # The score for a negative margin is that of the swapped runs with its sign reversed.
    flip = delta < 0
    return np.asarray(np.where(flip, -1.0, 1.0) * _loss_z(np.where(flip, b, a), np.where(flip, a, b), size, np.abs(delta)))


def _loss_z(a: Array, b: Array, size: Array, delta: Array) -> Array:
    """Tango's score z for margins of at least 0."""
    same = size - a - b
    linear = a * (1 - 3 * delta) + b * (1 - delta) - 2 * same * delta
    constant = a * delta * (1 - delta)
    root = np.sqrt(np.maximum(linear**2 + 8 * size * constant, 0.0))
    shared = np.minimum(np.maximum((linear + root) / (4 * size), 0.0), (1 - delta) / 2)
    variance = size * (2 * shared + delta - delta**2)
    excess = a - b + size * delta
    return np.where(variance > 0, excess / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)


def score_z(d: Array, margin: ArrayLike, worst: ArrayLike, counts: Array | None = None) -> Array:
    """The score z of "the mean loss is `margin`" for graded differences d [..., K], each seen `counts` times.

    Tango's test for any bounded difference: the variance is that of the maximum-likelihood distribution with mean -margin, which
    may put unobserved mass on the `worst` loss. Equal to `tango_z` where d is -1, 0 or 1. Source: Owen (2001), empirical likelihood.
    """
    weight = np.ones_like(d) if counts is None else counts
    size = weight.sum(axis=-1)
    delta, floor = np.asarray(margin, dtype=np.float64), np.asarray(worst, dtype=np.float64)
    y = d + delta[..., None]
    excess = (weight * y).sum(axis=-1)
    above = excess > 0
    reach = np.maximum(floor, -d.min(axis=-1)) - delta
    high = np.where(above, 1 / np.maximum(reach, 1e-12), 0.0)
    low, limit = np.zeros_like(high), high
    for _ in range(STEPS if above.any() else 0):
        tilt = (low + high) / 2
        rest = (weight * y / np.maximum(1 + tilt[..., None] * y, 1e-12)).sum(axis=-1)
        low, high = np.where(rest > 0, tilt, low), np.where(rest > 0, high, tilt)
    share = weight / size[..., None] / np.maximum(1 + low[..., None] * y, 1e-12)
    unseen = np.where(limit - low < 1e-7 * limit, np.maximum(0.0, 1 - share.sum(axis=-1)), 0.0)
    variance = size * ((share * y**2).sum(axis=-1) + unseen * reach**2)
    certain = np.where(excess == 0, 0.0, np.copysign(np.inf, excess))
    return np.asarray(np.where(variance > 0, excess / np.sqrt(np.where(variance > 0, variance, 1.0)), certain))


def tango_bound(wins: ArrayLike, losses: ArrayLike, n: ArrayLike, z: ArrayLike) -> Array:
    """Tango's lower confidence limit of the difference of n paired binary items; swap wins and losses for minus the upper."""
    a, b, size, z = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (wins, losses, n, z)))
    gain = tango_z(a, b, size, 0.0) > z  # then the limit is a gain: a negative margin, see tango_z
    a, b, sign = np.where(gain, b, a), np.where(gain, a, b), np.where(gain, -1.0, 1.0)
    near, far = np.zeros(a.shape), np.full(a.shape, 1 - 1e-12)
    for _ in range(STEPS - 1):
        middle = (near + far) / 2
        inside = (sign * _loss_z(a, b, size, middle) > z) != gain
        near, far = np.where(inside, near, middle), np.where(inside, middle, far)
    return np.asarray(-sign * (near + far) / 2)


def t_loss(d: Array) -> Array:
    """One-sided p of Student's t on the cluster values d [..., C] at C - 1 degrees of freedom; 1/2 where nothing differs."""
    count = d.shape[-1]
    mean = d.mean(axis=-1)
    error = np.sqrt(d.var(axis=-1, ddof=1) / count)
    t = np.where(error > 0, mean / np.where(error > 0, error, 1.0), np.where(mean == 0, 0.0, np.copysign(np.inf, mean)))
    return t_cdf(t, float(count - 1))


def sign_flip_loss(d: Array, draws: int = 9999, seed: int = 0) -> Array:
    """One-sided p of the sum of d [..., C] under random signs: all patterns if there are at most `draws`, else random ones."""
    count = d.shape[-1]
    seen = d.sum(axis=-1)
    slack = 1e-9 * np.abs(d).sum(axis=-1) + 1e-300
    if 2**count <= draws + 1:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return np.asarray(((d @ signs.T) <= (seen + slack)[..., None]).mean(axis=-1))
    rng = np.random.default_rng(seed)
    below = np.zeros(seen.shape)
    for start in range(0, draws, 1000):
        signs = rng.integers(0, 2, (min(1000, draws - start), count)) * 2.0 - 1.0
        below += ((d @ signs.T) <= (seen + slack)[..., None]).sum(axis=-1)
    return np.asarray((below + 1) / (draws + 1))


def swap_loss(base: Array, candidate: Array, difference: Callable[[Array, Array], Array], draws: int = 9999, seed: int = 0) -> float:
    """One-sided p of a pooled metric under random swaps of the two runs, cluster by cluster.

    `base` and `candidate` are cluster sums [C, k]; `difference` maps two stacks of totals [..., k] to the signed difference.
    Source: approximate randomization, Noreen (1989), as in sacrebleu.
    """
    seen = float(difference(base.sum(axis=0), candidate.sum(axis=0)))
    moved = candidate - base
    moved = moved[np.any(moved != 0, axis=-1)]
    middle = (base.sum(axis=0) + candidate.sum(axis=0)) / 2
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(seed)
    below, slack = 0, 1e-9 * (abs(seen) + 1e-12)
    rows = max(1, min(draws, 4_000_000 // len(moved)))
    for start in range(0, draws, rows):
        signs = rng.integers(0, 2, (min(rows, draws - start), len(moved)), dtype=np.int8).astype(np.float32) - np.float32(0.5)
        half = signs @ moved
        below += int((difference(middle - half, middle + half) <= seen + slack).sum())
    return (below + 1) / (draws + 1)
