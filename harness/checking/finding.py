"""What a check found: how grave, what, what to do, and where: each row by its number."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.interval import wilson

Level = Literal["E", "W", "I"]
"""E: the numbers would be wrong; blocks (exit 14). W: a reader must know. I: a fact."""
RANK: dict[Level, int] = {"I": 0, "W": 1, "E": 2}
LONG = 8
"""Characters from which on a text does not turn up by chance."""


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


def contains(text: str, part: str) -> bool:
    """Whether `part` stands in `text` as whole words."""
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
    """Whether `count` coincidences are more than `chance` explains (Poisson, 1 %). A short text may well turn up anywhere, so a few
    of those are no surprise; one long text is."""
    from scipy.special import pdtrc

    expected = chance + (0.3 if any(len(text) < LONG for text in texts) else 0.01)
    return count > 0 and float(pdtrc(count - 1, expected)) < 0.01
