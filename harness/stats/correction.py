"""Correction for multiple tests: Holm's step-down procedure (1979), which controls the family-wise error rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from assay.harness.task.metric import Array


def holm(p: ArrayLike) -> Array:
    """Adjusted p values along the last axis [..., m]; reject where one is at most the family-wise level."""
    values = np.asarray(p, dtype=np.float64)
    if values.shape[-1] == 0:
        return values
    order = np.argsort(values, axis=-1, kind="stable")
    factors = np.arange(values.shape[-1], 0, -1)
    stepped = np.minimum(1.0, np.maximum.accumulate(np.take_along_axis(values, order, axis=-1) * factors, axis=-1))
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, stepped, axis=-1)
    return adjusted
