"""What a study's rows say about the common claims: estimates with 95% intervals, and verdicts that may be "cannot tell".

Rows of one method share their scored items, so an estimate has two errors: that over items, which more seeds do not lessen, and that over
seeds (Student's t). Two methods are compared as if their item errors were independent; they are not, so intervals are on the wide side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from assay.harness.stats.correction import holm
from assay.harness.stats.distributions import t_quantile
from assay.tuners.study.forgetting import drop_at_gain

Row = Mapping[str, Any]
Key = TypeVar("Key")
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
    return float(t_quantile(0.975, count - 1)) if count > 1 else 0.0


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


Curve = Sequence[Sequence[Row]]
"""Groups of rows that differ in seed; each group is one point of gain and forgetting."""


def curve_of(rows: Sequence[Row], target: str, method: str) -> Curve:
    """A method's points without mitigation: the chosen rate, and for full tuning a tenth of it."""
    return [main_rows(rows, target, method), pick(rows, target=target, method=method, role="tenth_rate")]


@dataclass(frozen=True, slots=True)
class Matched:
    """How much less one curve forgets than another at the same gain, as a 95% interval over what the points allow.

    `gained`: how often there is a gain at all to match; `p`: two-sided, for any difference.
    """

    low: float
    high: float
    gained: float
    p: float

    @property
    def says(self) -> str:
        if self.gained < 0.95:
            return "no gain to match"
        if self.low == self.high == 0:
            return "nothing lost"
        return verdict(self.low, self.high, "less", "more") if self.p <= 0.05 else "cannot tell"


def matched(own: Curve, other: Curve, measure: str) -> Matched | None:
    """The other curve's forgetting minus the own one's, at the smaller of their two largest gains; positive: the own one forgets less.

    `drop_at_gain` says between which ends forgetting at a gain lies. The interval spans both ends, of points drawn from their estimates,
    so a verdict holds at either end. None where a curve has no point with a known error.
    """
    points = [known_points(curve, measure) for curve in (own, other)]
    if not all(points):
        return None
    random = np.random.default_rng(0)
    drawn = [[(gain.draws(random).tolist(), drop.draws(random).tolist()) for gain, drop in curve] for curve in points]
    tries = ([[(gain[n], drop[n]) for gain, drop in curve] for curve in drawn] for n in range(DRAWS))
    found = [ends for mine, theirs in tries if (ends := less_lost(mine, theirs))]
    if not found:
        return Matched(math.nan, math.nan, 0.0, 1.0)
    least, most = np.array(found).T
    tail = 1 + min(int((least <= 0).sum()), int((most >= 0).sum()))
    low, high = float(np.percentile(least, 2.5)), float(np.percentile(most, 97.5))
    return Matched(low, high, len(found) / DRAWS, min(1.0, 2 * tail / (len(found) + 1)))


def less_lost(mine: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Their loss minus mine, (least, most), at the smaller of the two largest gains; points are (gain, loss). None where nothing is
    gained."""
    gain = min(max(point[0] for point in points) for points in (mine, theirs))
    if gain <= 0:
        return None
    own, other = drop_at_gain(mine, gain), drop_at_gain(theirs, gain)
    return other[0] - own[1], other[1] - own[0]


def known_points(groups: Curve, measure: str) -> list[tuple[Estimate, Estimate]]:
    """Gain and loss of each group of seeds; left out where there are no rows or nothing is known of the error."""
    pairs = [(estimate(group, "gain"), estimate(group, measure)) for group in groups]
    return [(gain, drop) for gain, drop in pairs if gain and drop and math.isfinite(gain.half + drop.half)]


def corrected(found: Mapping[Key, Matched]) -> dict[Key, Matched]:
    """The same comparisons with p values after Holm's correction over all of them; the intervals stay as they are."""
    adjusted = holm([each.p for each in found.values()]).tolist()
    return {name: replace(each, p=p) for (name, each), p in zip(found.items(), adjusted, strict=True)}


def against_full(rows: Sequence[Row], target: str, measure: str) -> dict[str, Matched]:
    """Every other method against full tuning by one measure, corrected over the methods."""
    full = curve_of(rows, target, "full")
    found = {name: matched(curve_of(rows, target, name), full, measure) for name in methods_of(rows, target) if name != "full"}
    return corrected({name: each for name, each in found.items() if each})


def cells_of(rows: Sequence[Row], mitigation: str) -> dict[tuple[str, str], tuple[list[Row], list[Row]]]:
    """By target and method the rows with a mitigation and those without, of the seeds that have both."""
    found: dict[tuple[str, str], tuple[list[Row], list[Row]]] = {}
    tried = pick(rows, role="mitigation", mitigation=mitigation)
    for target, method in sorted({(row["target"], row["method"]) for row in tried}):
        own, plain = pick(tried, target=target, method=method), main_rows(rows, target, method)
        both = {row["seed"] for row in own if row.get("gain") is not None} & {row["seed"] for row in plain if row.get("gain") is not None}
        if both:
            found[target, method] = ([row for row in own if row["seed"] in both], [row for row in plain if row["seed"] in both])
    return found


def against_plain(rows: Sequence[Row], mitigation: str) -> dict[tuple[str, str, str], Matched]:
    """Runs with a mitigation against runs of the same method without, by every measure, corrected over all of these comparisons.

    The keys are target, method and measure.
    """
    found = {
        (target, method, measure): matched([own], curve_of(rows, target, method), measure)
        for (target, method), (own, _) in cells_of(rows, mitigation).items()
        for measure in MEASURES
    }
    return corrected({name: each for name, each in found.items() if each})


def paired(rows: Sequence[Row], mitigation: str, name: str) -> Estimate | None:
    """Mean over cells (target and method) of a column with a mitigation minus without it.

    Runs of one seed share their data, and in a mixture of targets even their weights: each seed's departures from the means of its cells
    are averaged first, and the error is that over seeds. All cells may share items, so more cells do not lessen the error over items.
    """
    changes, items = [], []
    for own, plain in cells_of(rows, mitigation).values():
        sides = [{row["seed"]: float(row[name]) for row in group if row.get(name) is not None} for group in (own, plain)]
        change = {seed: value - sides[1][seed] for seed, value in sides[0].items() if seed in sides[1]}
        if change:
            changes.append(change)
            items.append(math.hypot(*(found.items for group in (own, plain) if (found := estimate(group, name)))))
    if not changes:
        return None
    means = [float(np.mean(list(change.values()))) for change in changes]
    seeds = sorted({seed for change in changes for seed in change})
    apart = [np.mean([change[seed] - mean for change, mean in zip(changes, means, strict=True) if seed in change]) for seed in seeds]
    error = float(np.std(apart, ddof=1)) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    return Estimate(float(np.mean(means)), float(np.mean(items)), error, len(seeds))


def rise(rows: Sequence[Row], task: str) -> Estimate | None:
    """How much one retained task rose. Rows know the error over items of the average of their tasks; that of one task is at most so many
    times as large, which is what is used."""
    found = []
    for row in rows:
        drops = row.get("drops") or {}
        if task in drops:
            reach = len(drops) * (float(row["average_drop_high"]) - float(row["average_drop_low"])) / 2
            found.append({"rise": -drops[task], "rise_low": -drops[task] - reach, "rise_high": -drops[task] + reach})
    return estimate(found, "rise")


def choosing(rows: Sequence[Row], target: str, method: str) -> list[Row]:
    """The runs that a method's rate was chosen from, by their scores on validation."""
    role = "rate" if pick(rows, role="rate") else "grid"
    return pick(rows, target=target, method=method, role=role, mitigation="none")


def best_tuned(rows: Sequence[Row], target: str) -> str | None:
    """The method with the best mean score on validation at its chosen rate: no scored item chose it. Ties go by name."""
    scores = {
        name: mean_of([row for row in choosing(rows, target, name) if row.get("selected", True)], "validation_score")
        for name in sorted(methods_of(rows, target))
    }
    known = {name: score for name, score in scores.items() if score > -math.inf}
    return max(known, key=lambda name: known[name]) if known else None


def edges(rows: Sequence[Row], target: str) -> dict[str, list[str]]:
    """Methods whose chosen rate is the smallest or the largest of those tried: a better one may lie beyond."""
    found: dict[str, list[str]] = {"smallest": [], "largest": []}
    for name in methods_of(rows, target):
        tried = sorted({row["lr"] for row in choosing(rows, target, name)})
        chosen = {row["lr"] for row in main_rows(rows, target, name)}
        if len(tried) > 1:
            found["smallest"] += [name] * (tried[0] in chosen)
            found["largest"] += [name] * (tried[-1] in chosen)
    return found


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
