"""Item statistics of a task: difficulty, discrimination, and items that may have a wrong gold answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from assay.harness.stats.rule import mde80
from assay.leaderboard.data.ranking import Array

MIN_MODELS = 4
"""Discrimination is a correlation over models; with fewer it would rest on two or three responses."""
SUSPICIOUS = -0.2
"""Items with a lower discrimination may have a wrong gold answer."""


def matrix(items: Any) -> tuple[list[str], list[str], Array]:
    """Item ids, run ids and values [items, runs] of the items that every run has."""
    wide = items.pivot(index="item_id", columns="run_id", values="value").dropna()
    return list(wide.index), list(wide.columns), wide.to_numpy(dtype=np.float64)


def discrimination(values: Array) -> Array:
    """Correlation [items] of an item's score with the models' mean on the other items (corrected point-biserial); NaN where an item or
    the rest does not vary, or there are fewer than MIN_MODELS models. Source: Lord and Novick (1968), item-rest correlation."""
    count, models = values.shape
    if models < MIN_MODELS or count < 2:
        return np.full(count, np.nan)
    rest = (values.sum(axis=0) - values) / (count - 1)
    first, second = (each - each.mean(axis=1, keepdims=True) for each in (values, rest))
    size = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(size > 1e-12, (first * second).sum(axis=1) / size, np.nan))


def kinds(values: Array, found: Array) -> list[str]:
    """The kind of each item: all right, all wrong, suspicious (better models fail it) or ordinary."""
    low, high = values.min(axis=1), values.max(axis=1)
    return [
        "all right" if a >= 1 else "all wrong" if b <= 0 else "suspicious" if d < SUSPICIOUS else "ordinary"
        for a, b, d in zip(low, high, np.nan_to_num(found), strict=True)
    ]


def detectable_difference(values: Array) -> float:
    """Minimum detectable effect: the difference that a paired one-sided test at level 0.05 detects with 80 % power, at the median
    standard deviation over all pairs of models. NaN for one model or one item."""
    models = values.shape[1]
    pairs = [values[:, i] - values[:, j] for i in range(models) for j in range(i)]
    if not pairs or len(values) < 2:
        return float("nan")
    return float(mde80(np.median([each.std(ddof=1) for each in pairs]) / np.sqrt(len(values)), 0.05))
