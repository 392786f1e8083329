"""Regular expressions from files: only those that cannot take forever."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from assay.harness.errors import AssayError

LONGEST, REPEATS, WAYS = 300, 2, 64
STEPS = 5e7
"""Most steps of one search: about a second of them."""
SINGLE = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}
"""What may be repeated: one character of some kind."""
FIXED = 16
"""A repeat of one length is no choice, up to here."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much a pattern can backtrack: `repeats` of open length, and `ways` through its options and alternatives."""

    repeats: int = 0
    ways: int = 1
    refused: str = ""

    def then(self, other: Effort) -> Effort:
        return Effort(self.repeats + other.repeats, self.ways * other.ways, self.refused or other.refused)


def check_regex(pattern: str, where: str) -> None:
    """Raises AssayError for a pattern that is none, or whose search may take forever: Python's engine backtracks.

    Refused are repeated groups, more than two open repeats, and more than 64 ways through options and alternatives; `[-+]?\\d+` and
    `(\\d+)[.]{0,1}$` are fine.
    """
    if what := f"is longer than {LONGEST} characters" if len(pattern) > LONGEST else fault(pattern):
        raise AssayError(f"{pattern!r:.80} {what}", where=where, do="write a plainer pattern")


def fault(pattern: str) -> str:
    """What is wrong with a pattern, or nothing."""
    try:
        re.compile(pattern)
        found = effort(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is no regular expression ({error})"
    if found.repeats > REPEATS:
        return f"has more than {REPEATS} repeats, which can take forever"
    return found.refused or (f"has more than {WAYS} ways through it, which can take forever" if found.ways > WAYS else "")


def reach(pattern: str) -> int:
    """How much of a text a pattern is looked for in, in characters, so that the search ends in time."""
    found = effort(pattern)
    degree = found.repeats + 1  # it may begin anywhere
    return int((STEPS * math.factorial(degree) / found.ways) ** (1 / degree))


@functools.lru_cache(maxsize=64)
def effort(pattern: str) -> Effort:
    """Raises re.error for what is no pattern."""
    return of_all(re._parser.parse(pattern))  # type: ignore[attr-defined]


def of_all(parts: Iterable[tuple[Any, Any]]) -> Effort:
    return functools.reduce(Effort.then, (of_part(str(act), what) for act, what in parts), Effort())


def of_part(act: str, what: Any) -> Effort:
    """The effort of one part of a parsed pattern."""
    if act in SINGLE or act == "AT":
        return Effort()
    if act in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, inner = what
        if (least, most) == (0, 1):
            return of_all(inner).then(Effort(ways=2))
        if len(inner) != 1 or str(inner[0][0]) not in SINGLE:
            return Effort(refused="repeats a group, which can take forever")
        return Effort() if least == most <= FIXED else Effort(repeats=1)
    if act == "BRANCH":
        return functools.reduce(Effort.then, map(of_all, what[1]), Effort(ways=len(what[1])))
    if act in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return of_all(what[-1])
    if act == "ATOMIC_GROUP":
        return of_all(what)
    if act == "GROUPREF":
        return Effort(repeats=1)  # as long as what it stands for
    return Effort(refused="has a condition, which can take forever")
