"""What a study's rows say about the common claims: estimates with 95% intervals, and verdicts that may be "cannot tell".

Rows of one method share their scored items, so an estimate has two errors: that over items, which more seeds do not lessen, and that over
seeds (Student's t). Two methods are compared as if their item errors were independent; they are not, so intervals are on the wide side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuners.forgetting import drop_at_gain

Row = Mapping[str, Any]
Z = 1.959964
DRAWS = 4000
MEASURES = ("average_drop", "kl_text", "delta_bits_per_byte")
"""Forgetting: lost accuracy, KL(base || tuned) on neutral text in nats per token, further bits per byte of that text."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` seeds; `items` and `seeds` are standard errors. Infinite: one seed alone says nothing about seeds."""

    value: float
    items: float
    seeds: float
    count: int

    @property
    def half(self) -> float:
        """Half the width of the 95% interval."""
        return math.hypot(Z * self.items, reach(self.count) * self.seeds) if self.count > 1 or self.items else math.inf

    @property
    def low(self) -> float:
        return self.value - self.half

    @property
    def high(self) -> float:
        return self.value + self.half

    def draws(self, random: np.random.Generator) -> Any:
        """[DRAWS] values as likely as the interval says."""
        found = self.value + self.items * random.standard_normal(DRAWS)
        return found + self.seeds * random.standard_t(self.count - 1, DRAWS) if self.count > 1 else found


def reach(count: int) -> float:
    """The 97.5% point of Student's t for the mean of so many seeds."""
    from scipy.stats import t as student

    return float(student.ppf(0.975, count - 1)) if count > 1 else 0.0


def estimate(rows: Sequence[Row], name: str) -> Estimate | None:
    """The mean of a column over rows that differ in seed; the columns `name_low` and `name_high` give the error over items."""
    kept = [row for row in rows if row.get(name) is not None]
    if not kept:
        return None
    values = np.array([float(row[name]) for row in kept])
    widths = [float(row[f"{name}_high"]) - float(row[f"{name}_low"]) for row in kept if row.get(f"{name}_high") is not None]
    items = math.sqrt(float(np.mean(np.square(widths)))) / (2 * Z) if widths else 0.0
    seeds = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), items, seeds, len(values))


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Rows that have these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def main_rows(rows: Sequence[Row], target: str, method: str) -> list[Row]:
    """The main comparison: true labels, no mitigation, the chosen rate."""
    return [row for row in pick(rows, target=target, method=method, role="grid", mitigation="none") if row.get("selected", True)]


def methods_of(rows: Sequence[Row], target: str) -> list[str]:
    """Methods with a finished main row, best gain first."""
    grid = {row["method"] for row in pick(rows, target=target, role="grid")}
    found = [name for name in sorted(grid) if estimate(main_rows(rows, target, name), "gain")]
    return sorted(found, key=lambda name: -mean_of(main_rows(rows, target, name), "gain"))


def mean_of(rows: Sequence[Row], name: str) -> float:
    found = estimate(rows, name)
    return found.value if found else -math.inf


def verdict(low: float, high: float, yes: str = "yes", no: str = "no", open_: str = "cannot tell") -> str:
    """`yes` above zero, `no` below, else `open_`."""
    return yes if low > 0 else no if high < 0 else open_


@dataclass(frozen=True, slots=True)
class Matched:
    """How much less a method forgets than full fine-tuning at the same gain; `gained`: how often there is a gain at all to match."""

    value: float
    low: float
    high: float
    gained: float

    @property
    def says(self) -> str:
        return "no gain to match" if self.gained < 0.95 else verdict(self.low, self.high, "less", "more")


def matched(rows: Sequence[Row], target: str, method: str, measure: str) -> Matched | None:
    """Forgetting of full tuning minus that of a method, at the smaller of their two gains; positive: the method forgets less.

    Between the base and a run forgetting is taken to grow straight with gain, which interpolation of weights can reach; full tuning also
    has its runs at a tenth of the rate. The 95% interval draws all points from their estimates.
    """
    own = known_points([main_rows(rows, target, method)], measure)
    full = known_points([main_rows(rows, target, "full"), pick(rows, target=target, method="full", role="tenth_rate")], measure)
    if not own or not full:
        return None
    random = np.random.default_rng(0)
    mine, theirs = ([(gain.draws(random), drop.draws(random)) for gain, drop in points] for points in (own, full))
    drawn = [less_lost([(g[n], d[n]) for g, d in mine], [(g[n], d[n]) for g, d in theirs]) for n in range(DRAWS)]
    found = [value for value in drawn if value is not None]
    if not found:
        return Matched(math.nan, math.nan, math.nan, 0.0)
    middle = less_lost(*([(gain.value, drop.value) for gain, drop in points] for points in (own, full)))
    low, high = np.percentile(found, [2.5, 97.5])
    return Matched(math.nan if middle is None else middle, float(low), float(high), len(found) / DRAWS)


def less_lost(mine: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> float | None:
    """Their loss minus mine at the smaller of the two largest gains; points are (gain, loss). None where nothing is gained."""
    gain = min(max(point[0] for point in points) for points in (mine, theirs))
    return drop_at_gain(theirs, gain) - drop_at_gain(mine, gain) if gain > 0 else None


def known_points(groups: Sequence[Sequence[Row]], measure: str) -> list[tuple[Estimate, Estimate]]:
    """Gain and loss of each group of seeds; left out where there are no rows or nothing is known of the error."""
    pairs = [(estimate(group, "gain"), estimate(group, measure)) for group in groups]
    return [(gain, drop) for gain, drop in pairs if gain and drop and math.isfinite(gain.half + drop.half)]


def paired(rows: Sequence[Row], mitigation: str, name: str, keep: Callable[[Row], bool] = lambda row: True) -> Estimate | None:
    """Mean over target, method and seed of a column with a mitigation minus without it; the error is that over these pairs."""
    changes = []
    for row in rows:
        if row.get("role") != "mitigation" or row["mitigation"] != mitigation or row.get(name) is None or not keep(row):
            continue
        plain = pick(main_rows(rows, row["target"], row["method"]), seed=row["seed"])
        changes += [float(row[name]) - float(other[name]) for other in plain if other.get(name) is not None]
    if not changes:
        return None
    seeds = float(np.std(changes, ddof=1)) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0
    return Estimate(float(np.mean(changes)), 0.0, seeds, len(changes))


def difference(one: Estimate, other: Estimate) -> tuple[float, float, float]:
    """One minus the other with its 95% interval."""
    half = math.hypot(one.half, other.half)
    return one.value - other.value, one.value - other.value - half, one.value - other.value + half


def in_context(rows: Sequence[Row], target: str) -> tuple[int, list[Row]] | None:
    """The number of examples in the prompt with the best mean gain, and its rows."""
    found = pick(rows, target=target, role="in_context")
    counts = sorted({int(row["shots"]) for row in found})
    if not counts:
        return None
    best = max(counts, key=lambda count: mean_of(pick(found, shots=count), "gain"))
    return best, pick(found, shots=best)
