"""A metric is a function from one item to its statistics, and a function from the statistics of many items to one number.

This generalizes the design of sacrebleu. The statistics are stored, so intervals, paired tests, slices, totals and
re-scoring work for every metric with the same code and without the model.
"""

from __future__ import annotations

import functools
import inspect
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


ANY_ATTRIBUTE = frozenset({"getattr", "vars", "asdict", "astuple", "fields", "__dict__", "__getattribute__", "attrgetter"})
"""Names by which code reads attributes that it does not name."""


def mentions(function: Any, name: str, seen: frozenset[int] = frozenset()) -> bool:
    """Whether the code of a function, or of its package's functions that it uses, may read an attribute `name`: it names it, or cannot be
    seen. Code of other packages gets texts and numbers, not outputs."""
    if id(function) in seen or inspect.isbuiltin(function) or isinstance(function, type):
        return False
    if isinstance(function, functools.partial):
        inner = (function.func, *function.args, *function.keywords.values())
        return any(mentions(each, name, seen) for each in inner if callable(each))
    if not inspect.isfunction(function):
        method = getattr(function, "__func__", None) or getattr(type(function).__call__, "__func__", type(function).__call__)
        return mentions(method, name, seen) if inspect.isfunction(method) else True
    codes = [function.__code__]
    for code in codes:  # grows: functions within functions
        codes += [each for each in code.co_consts if inspect.iscode(each)]
    names = {each for code in codes for each in code.co_names}
    if name in names or names & ANY_ATTRIBUTE:
        return True
    used = [function.__globals__.get(each) for each in names]
    used += [getattr(module, each, None) for module in used if inspect.ismodule(module) for each in names]
    package = function.__module__.partition(".")[0]
    own = [each for each in used if inspect.isfunction(each) and each.__module__.partition(".")[0] == package]
    held = [cell.cell_contents for cell in function.__closure__ or () if callable(cell.cell_contents)]
    return any(mentions(each, name, seen | {id(function)}) for each in (*own, *held))


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
