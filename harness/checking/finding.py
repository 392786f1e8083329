"""Findings of checks: level, text, fix and the rows concerned; and the statistics and text comparisons that checks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.interval import wilson

Level = Literal["E", "W", "I"]
"""E: an error that makes scores wrong (exit code 14). W: a warning. I: information."""
RANK: dict[Level, int] = {"I": 0, "W": 1, "E": 2}
LONG = 8
"""Texts of at least so many characters rarely occur in a prompt by chance."""


@dataclass(frozen=True, slots=True)
class Place:
    """A row of the scored split by number (from 0; None if the place is not a single row), its item id, and a note."""

    row: int | None
    item: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found in one task, with all places."""

    check: str
    level: Level
    task: str
    what: str
    do: str = ""
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """One task (or one task of a run) with its findings, most severe first, and the `facts` that are printed with them."""

    task: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def level(self) -> Level:
        """The most severe level; I if there are no findings."""
        return max((finding.level for finding in self.findings), key=RANK.__getitem__, default="I")


def most_severe_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -RANK[finding.level]))


def at_least(count: float, n: int) -> float:
    """Lower end of Wilson's 95 % interval of count / n. Checks compare it with their limits, so that noise rarely causes a finding."""
    return wilson(count / n, n, z_quantile(0.975))[0] if n else 0.0


def graded(count: float, n: int, warn: float, error: float = 1.0) -> Level | None:
    """W or E if the lower bound of a rate exceeds `warn` or `error`; with `warn` 0, a single case is a warning."""
    bound = at_least(count, n)
    return "E" if bound > error else "W" if count and bound > warn else None


def short(text: str, size: int = 60) -> str:
    """The text's repr, cut in the middle to `size` characters."""
    shown = repr(text)
    return shown if len(shown) <= size else f"{shown[: size // 2]}…{shown[-size // 2 + 1 :]}"


def contains(text: str, part: str) -> bool:
    """Whether `text` contains `part` as whole words."""
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        before = start == 0 or not (text[start - 1].isalnum() and part[0].isalnum())
        if before and (end == len(text) or not (text[end].isalnum() and part[-1].isalnum())):
            return True
        start = text.find(part, start + 1)
    return False


def ends(text: str, part: str) -> bool:
    """Whether `text` ends with `part` as whole words."""
    at = len(text) - len(part)
    return text.endswith(part) and (at == 0 or not (text[at - 1].isalnum() and part[0].isalnum()))


def surprising(count: int, chance: float, texts: Sequence[str]) -> bool:
    """Whether `count` matches are significantly more than expected by `chance` (Poisson, 1 %).

    The expectation is raised if a text is short: short texts occur anywhere.
    """
    from scipy.special import pdtrc

    expected = chance + (0.3 if any(len(text) < LONG for text in texts) else 0.01)
    return count > 0 and float(pdtrc(count - 1, expected)) < 0.01
