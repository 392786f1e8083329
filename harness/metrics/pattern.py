"""Bound the running time of regular expressions that come from files."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from assay.harness.errors import AssayError

MAX_LENGTH, MAX_REPEATS, MAX_WAYS = 300, 2, 64
MAX_STEPS = 5e7
"""Largest number of steps of one search: about one second."""
SINGLE = {"LITERAL", "NOT_LITERAL", "ANY", "IN"}
"""Parsed nodes that match one character; only these may be repeated."""
MAX_FIXED = 16
"""Up to this count, a repeat of fixed length does not backtrack."""


@dataclass(frozen=True, slots=True)
class Backtracking:
    """How much a pattern can backtrack: number of open-ended `repeats`, and of `ways` through its options and alternatives."""

    repeats: int = 0
    ways: int = 1
    refused: str = ""

    def then(self, other: Backtracking) -> Backtracking:
        return Backtracking(self.repeats + other.repeats, self.ways * other.ways, self.refused or other.refused)


def check_regex(pattern: str, where: str) -> None:
    """Raises AssayError for an invalid pattern, and for one whose search may take forever, because Python's engine backtracks.

    Refused are repeated groups, more than two open repeats, and more than 64 ways through options and alternatives; `[-+]?\\d+` and
    `(\\d+)[.]{0,1}$` are fine.
    """
    if what := f"is longer than {MAX_LENGTH} characters" if len(pattern) > MAX_LENGTH else fault(pattern):
        raise AssayError(f"{pattern!r:.80} {what}", where=where, do="use a simpler pattern: no repeated groups, at most two open repeats")


def fault(pattern: str) -> str:
    """The reason why a pattern is refused, or an empty text."""
    try:
        re.compile(pattern)
        found = backtracking(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is no regular expression ({error})"
    if found.repeats > MAX_REPEATS:
        return f"has more than {MAX_REPEATS} repeats, which can take forever"
    return found.refused or (f"has more than {MAX_WAYS} ways through it, which can take forever" if found.ways > MAX_WAYS else "")


def max_search_length(pattern: str) -> int:
    """How many characters of a text may be searched for a pattern within MAX_STEPS."""
    found = backtracking(pattern)
    degree = found.repeats + 1  # a match may begin anywhere
    return int((MAX_STEPS * math.factorial(degree) / found.ways) ** (1 / degree))


@functools.lru_cache(maxsize=64)
def backtracking(pattern: str) -> Backtracking:
    """How much a pattern can backtrack. Raises re.error for an invalid pattern."""
    return of_all(re._parser.parse(pattern))  # type: ignore[attr-defined]


def of_all(parts: Iterable[tuple[Any, Any]]) -> Backtracking:
    return functools.reduce(Backtracking.then, (of_part(str(act), what) for act, what in parts), Backtracking())


def of_part(act: str, what: Any) -> Backtracking:
    """How much one node of a parsed pattern can backtrack."""
    if act in SINGLE or act == "AT":
        return Backtracking()
    if act in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, inner = what
        if (least, most) == (0, 1):
            return of_all(inner).then(Backtracking(ways=2))
        if len(inner) != 1 or str(inner[0][0]) not in SINGLE:
            return Backtracking(refused="repeats a group, which can take forever")
        return Backtracking() if least == most <= MAX_FIXED else Backtracking(repeats=1)
    if act == "BRANCH":
        return functools.reduce(Backtracking.then, map(of_all, what[1]), Backtracking(ways=len(what[1])))
    if act in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return of_all(what[-1])
    if act == "ATOMIC_GROUP":
        return of_all(what)
    if act == "GROUPREF":
        return Backtracking(repeats=1)  # as long as the group it refers to
    return Backtracking(refused="has a condition, which can take forever")
