"""Quantiles and tail probabilities for the tests. scipy.special is imported in the functions to keep `import assay` fast."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from assay.harness.task.metric import Array


def z_quantile(p: float) -> float:
    """The standard normal quantile of p in (0, 1)."""
    return NormalDist().inv_cdf(p)


def z_cdf(z: ArrayLike) -> Array:
    """The standard normal distribution function, elementwise."""
    from scipy.special import ndtr

    return np.asarray(ndtr(z), dtype=np.float64)


def t_quantile(p: float, df: ArrayLike) -> Array:
    """Student's t quantile of p in (0, 1) at `df` > 0 degrees of freedom, elementwise."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, p), dtype=np.float64)


def t_cdf(t: ArrayLike, df: ArrayLike) -> Array:
    """Student's t distribution function, elementwise."""
    from scipy.special import stdtr

    return np.asarray(stdtr(df, t), dtype=np.float64)


def half_binomial_cdf(k: ArrayLike, n: ArrayLike) -> Array:
    """P(Bin(n, 1/2) <= k), elementwise; 0 for k < 0."""
    from scipy.special import betainc

    count, total = np.broadcast_arrays(np.asarray(k, dtype=np.float64), np.asarray(n, dtype=np.float64))
    inside = (count >= 0) & (count < total)
    tail = betainc(np.where(inside, total - count, 1.0), np.where(inside, count + 1.0, 1.0), 0.5)
    return np.where(inside, tail, (count >= total).astype(np.float64))
