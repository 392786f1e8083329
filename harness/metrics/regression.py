"""Metrics over expected values: Pearson's and Spearman's correlation with the gold values."""

from __future__ import annotations

import math

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Codes, Metric, Pooled, Stats
from assay.harness.task.output import ExpectedValue

__all__ = ["pearson", "spearman"]

CONSTANT = 1e-13
"""Values with a variance below this share of their mean square are constant but for rounding errors."""


def pair(doc: Doc, output: ExpectedValue) -> Stats:
    """The estimate and the gold value. Raises AssayError where the value is hidden."""
    if doc.value is None:
        raise AssayError("no gold value to score against", where=doc.id, do="score a labelled split, or read the predictions")
    return (output.value, doc.value)


def moments(doc: Doc, output: ExpectedValue) -> Stats:
    """x, y, xx, yy, xy of the estimate x and the gold value y."""
    x, y = pair(doc, output)
    return (x, y, x * x, y * y, x * y)


def correlate(means: Array) -> Array:
    """Pearson's correlation of mean moments [..., 5]; NaN where either variable is constant."""
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    spread_x, spread_y = xx - x * x, yy - y * y
    constant = (spread_x <= CONSTANT * xx) | (spread_y <= CONSTANT * yy)
    scale = np.sqrt(np.where(constant, np.nan, spread_x * spread_y))
    correlation: Array = np.clip((xy - x * y) / scale, -1.0, 1.0)
    return correlation


UNDEFINED = "a correlation needs at least two different predictions and two different gold values"

pearson: Metric[ExpectedValue] = Metric("pearson", moments, Pooled(correlate), low=-1.0, reads=ExpectedValue, undefined=UNDEFINED)
"""Pearson's correlation of estimate and gold value; NaN where either is constant."""


def ranks(values: Array) -> Array:
    """Ranks 1..n, ties averaged."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle: Array = np.cumsum(counts) - (counts - 1) / 2
    return middle[place]


def rank_correlation(stats: Array, groups: Codes) -> float:
    """Pearson's correlation of the ranks of two columns [n, 2]; NaN where either is constant."""
    x, y = (ranks(column) - (len(stats) + 1) / 2 for column in stats.T)
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale else math.nan


spearman: Metric[ExpectedValue] = Metric(
    "spearman", pair, rank_correlation, low=-1.0, reads=ExpectedValue, signature="ties:average", undefined=UNDEFINED
)
"""Spearman's rank correlation of estimate and gold value; NaN where either is constant."""
