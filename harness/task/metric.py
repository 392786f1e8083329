"""A metric is a function from one item to its statistics, and a function from the statistics of many items to one number.

This generalizes the design of sacrebleu. The statistics are stored, so intervals, paired tests, slices, totals and
re-scoring work for every metric with the same code and without the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from assay.harness.task.doc import Doc

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Stats = tuple[float, ...]
Out = TypeVar("Out", contravariant=True)


class Combine(Protocol):
    """A function from `stats` [n, k] and the group code of each item [n] to one number."""

    def __call__(self, stats: Array, groups: Codes) -> float: ...


@dataclass(frozen=True, slots=True)
class Pooled:
    """A function of the mean of the statistics, which allows resampling by a matrix product.

    `finish` maps means [..., k] to values [...]. `fold` first turns the items [n, k] of every group into one row each
    [g, k'] (all answers correct, the worst of a pair), in the order of the group codes 0..g-1.
    """

    finish: Callable[[Array], Array]
    fold: Callable[[Array, Codes], Array] | None = None

    def __call__(self, stats: Array, groups: Codes) -> float:
        rows = stats if self.fold is None else self.fold(stats, groups)
        return float(self.finish(rows.mean(axis=0)))


def first(means: Array) -> Array:
    """Return the first statistic."""
    return means[..., 0]


@dataclass(frozen=True, slots=True)
class Affine:
    """A `finish` on another scale: scale * finish + offset, with scale > 0. Its confidence interval is rescaled in the same way."""

    finish: Callable[[Array], Array]
    scale: float
    offset: float

    def __call__(self, means: Array) -> Array:
        return self.scale * self.finish(means) + self.offset


mean = Pooled(first)
"""The mean of the first statistic."""


@dataclass(frozen=True, slots=True)
class Metric(Generic[Out]):
    """`measure(doc, output)` returns the statistics of one item; `combine` turns those of many items into the score.

    `low` and `high` bound the score (None: unbounded); `reads` is the type of output it measures (ChoiceScores, Completion, TextLogprob,
    ExpectedValue; None: any); `signature` names everything that changes the number (tokenizer, case, version), as in sacrebleu.
    """

    name: str
    measure: Callable[[Doc, Out], Stats]
    combine: Combine = mean
    better: str = "higher"
    low: float | None = 0.0
    high: float | None = 1.0
    reads: type[Any] | None = None
    parses: Callable[[Doc, Any], bool] | None = None
    """Whether an answer could be parsed from the output. If False, the item is marked as unparsed, and still measured."""
    signature: str = ""
    undefined: str = ""
    """What it means that `combine` gives NaN, as "all predictions are equal". Such a score is stored as null with this reason."""
    unmeasurable: Callable[[Doc], str] | None = None
    """Why no answer to a Doc can be measured, such as a script that the tokenizer drops, and what to use instead; "" where it can."""
    partial: bool = False
    """Items for which `measure` returns an empty tuple are left out of this metric; without it, that is an error."""
    rule: Callable[[Mapping[str, Any]], str] | None = None
    """What an item (its stored Doc) adds to `signature`: a rule that only some items need, as for blank references; "" for others."""
