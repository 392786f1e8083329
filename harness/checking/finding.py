"""What a check found: how grave, what, what to do, and where: each row by its number."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.stats.distributions import z_quantile
from harness.stats.interval import wilson

Level = Literal["E", "W", "I"]
"""E: the numbers would be wrong; blocks (exit 14). W: a reader must know. I: a fact."""
RANK: dict[Level, int] = {"I": 0, "W": 1, "E": 2}


@dataclass(frozen=True, slots=True)
class Place:
    """A row of the scored split by its number (from 0; None where no single row is meant), its item, and what stands there."""

    row: int | None
    item: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check that fired on one task, with every place it fired at."""

    check: str
    level: Level
    task: str
    what: str
    do: str = ""
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """One task (or one task of a run) with its findings, gravest first, and the `facts` that people want to see beside them."""

    task: str
    findings: tuple[Finding, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def level(self) -> Level:
        """The gravest level; I where nothing was found."""
        return max((finding.level for finding in self.findings), key=RANK.__getitem__, default="I")


def gravest_first(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: -RANK[finding.level]))


def at_least(count: float, n: int) -> float:
    """Lower end of Wilson's 95 % interval of count / n: what a rate flag fires on, so that noise is no alarm."""
    return wilson(count / n, n, z_quantile(0.975))[0] if n else 0.0


def at_most(count: float, n: int) -> float:
    """Upper end of the same interval."""
    return wilson(count / n, n, z_quantile(0.975))[1] if n else 1.0


def graded(count: float, n: int, warn: float, error: float = 1.0) -> Level | None:
    """The level of a rate whose lower bound exceeds `warn` or `error`; with `warn` 0 a single case is a warning."""
    bound = at_least(count, n)
    return "E" if bound > error else "W" if count and bound > warn else None


def normal(text: str) -> str:
    """Text as it is compared: NFKC, casefolded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def short(text: str, size: int = 60) -> str:
    """The text on one line, as Python writes it, cut in the middle."""
    shown = repr(text)
    return shown if len(shown) <= size else f"{shown[: size // 2]}…{shown[-size // 2 + 1 :]}"
