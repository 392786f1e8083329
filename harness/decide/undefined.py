"""Metrics and totals that cannot be compared, because the items of one run do not define their score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay.harness.stats.influence import Undefined, combined
from assay.harness.stats.interval import Part
from assay.harness.task.metric import Array
from assay.harness.task.task import Total


@dataclass(frozen=True, slots=True)
class UndefinedRow:
    """A metric or total that has no score in the `side` (baseline, candidate or both), so that nothing can be compared."""

    task: str
    metric: str
    main: bool
    total: bool
    side: str
    reason: str

    def __str__(self) -> str:
        return f"{self.task}: {self.metric} is undefined in {'both runs' if self.side == 'both' else f'the {self.side}'}: {self.reason}"


def undefined_row(key: tuple[str, str], part: Part, stats: Array, *, main: bool) -> UndefinedRow | None:
    """Why a (task, metric) has no score in the baseline's `part` or with the candidate's `stats`; None where both have one."""
    why = {}
    for side, values in (("baseline", part.stats), ("candidate", stats)):
        try:
            combined(part.metric, values, part.groups)
        except Undefined as error:
            why[side] = error.what
    if not why:
        return None
    return UndefinedRow(*key, main, False, "both" if len(why) > 1 else next(iter(why)), next(iter(why.values())))


def undefined_total(total: Total, undefined: Sequence[UndefinedRow]) -> UndefinedRow | None:
    """A total is undefined where one of its terms is."""
    found = {(each.task, each.metric): each for each in undefined}
    first = next((found[key] for term in total.terms if (key := (term.task, term.metric)) in found), None)
    return first and UndefinedRow(total.name, "total", True, True, first.side, f"{first.metric} of {first.task}: {first.reason}")
