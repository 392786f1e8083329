"""Tests common claims on a study's rows: estimates with 95% confidence intervals, and verdicts that may be "inconclusive".

Rows of one method share their scored items, so an estimate has two standard errors: over items, which more seeds do not reduce, and over
seeds (Student's t). Comparisons of two methods treat their item errors as independent although they are not, which widens the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from assay.harness.stats.correction import holm
from assay.harness.stats.distributions import t_quantile
from assay.tuners.study.forgetting import choice_score, drop_at_gain

Row = Mapping[str, Any]
Key = TypeVar("Key")
Z = 1.959964
DRAWS = 4000
MEASURES = ("average_drop", "kl_text", "delta_bits_per_byte")
"""Measures of forgetting: lost accuracy, KL(base || tuned) on neutral text in nats per token, increase in bits per byte of that text."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` seeds; `items` and `seeds` are its standard errors over items and over seeds."""

    value: float
    items: float
    seeds: float
    count: int

    @property
    def half_width(self) -> float:
        """Half the width of the 95% confidence interval; infinite for one seed without an error over items."""
        return math.hypot(Z * self.items, t_multiplier(self.count) * self.seeds) if self.count > 1 or self.items else math.inf

    @property
    def low(self) -> float:
        return self.value - self.half_width

    @property
    def high(self) -> float:
        return self.value + self.half_width

    def draws(self, random: np.random.Generator) -> Any:
        """[DRAWS] random values from the estimate's sampling distribution."""
        found = self.value + self.items * random.standard_normal(DRAWS)
        return found + self.seeds * random.standard_t(self.count - 1, DRAWS) if self.count > 1 else found


def t_multiplier(count: int) -> float:
    """The 97.5% quantile of Student's t for a mean over `count` seeds."""
    return float(t_quantile(0.975, count - 1)) if count > 1 else 0.0


def estimate(rows: Sequence[Row], name: str) -> Estimate | None:
    """The mean of a column over rows that differ in seed; the error over items is from the columns `name_low` and `name_high`."""
    kept = [row for row in rows if row.get(name) is not None]
    if not kept:
        return None
    values = np.array([float(row[name]) for row in kept])
    widths = [float(row[f"{name}_high"]) - float(row[f"{name}_low"]) for row in kept if row.get(f"{name}_high") is not None]
    items = math.sqrt(float(np.mean(np.square(widths)))) / (2 * Z) if widths else 0.0
    seeds = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Estimate(float(values.mean()), items, seeds, len(values))


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these values."""
    return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


def main_rows(rows: Sequence[Row], target: str, method: str) -> list[Row]:
    """The rows of the main comparison: true labels, no mitigation, the chosen learning rate."""
    return [row for row in pick(rows, target=target, method=method, role="grid", mitigation="none") if row.get("selected", True)]


def methods_of(rows: Sequence[Row], target: str) -> list[str]:
    """Methods with a finished main row, best gain first."""
    grid = {row["method"] for row in pick(rows, target=target, role="grid")}
    found = [name for name in sorted(grid) if estimate(main_rows(rows, target, name), "gain")]
    return sorted(found, key=lambda name: -mean_of(main_rows(rows, target, name), "gain"))


def mean_of(rows: Sequence[Row], name: str) -> float:
    found = estimate(rows, name)
    return found.value if found else -math.inf


def verdict(low: float, high: float, yes: str = "yes", no: str = "no", inconclusive: str = "inconclusive") -> str:
    """`yes` for an interval above zero, `no` for one below, else `inconclusive`."""
    return yes if low > 0 else no if high < 0 else inconclusive


Curve = Sequence[Sequence[Row]]
"""Groups of rows that differ in seed; each group is one point of gain and forgetting."""


def curve_of(rows: Sequence[Row], target: str, method: str) -> Curve:
    """A method's points without mitigation: at the chosen learning rate, and for full tuning also at a tenth of it."""
    return [main_rows(rows, target, method), pick(rows, target=target, method=method, role="tenth_rate")]


@dataclass(frozen=True, slots=True)
class MatchedForgetting:
    """How much less one curve forgets than another at the same gain, as a 95% confidence interval over all curves through the points.

    `gained`: share of the draws with a positive gain to match; `p`: two-sided p value of no difference.
    """

    low: float
    high: float
    gained: float
    p: float

    @property
    def verdict(self) -> str:
        if self.gained < 0.95:
            return "no gain to match"
        if self.low == self.high == 0:
            return "no loss"
        return verdict(self.low, self.high, "less", "more") if self.p <= 0.05 else "inconclusive"


def matched(own: Curve, other: Curve, measure: str) -> MatchedForgetting | None:
    """The other curve's forgetting minus the own curve's, at the smaller of their largest gains; positive: the own curve forgets less.

    `drop_at_gain` bounds the forgetting at a gain. The interval spans both bounds, for points drawn from their estimates, so a verdict
    holds at either bound. None if a curve has no point with a known error.
    """
    points = [known_points(curve, measure) for curve in (own, other)]
    if not all(points):
        return None
    random = np.random.default_rng(0)
    drawn = [[(gain.draws(random).tolist(), drop.draws(random).tolist()) for gain, drop in curve] for curve in points]
    tries = ([[(gain[n], drop[n]) for gain, drop in curve] for curve in drawn] for n in range(DRAWS))
    found = [ends for mine, theirs in tries if (ends := forgetting_gap(mine, theirs))]
    if not found:
        return MatchedForgetting(math.nan, math.nan, 0.0, 1.0)
    least, most = np.array(found).T
    tail = 1 + min(int((least <= 0).sum()), int((most >= 0).sum()))
    low, high = float(np.percentile(least, 2.5)), float(np.percentile(most, 97.5))
    return MatchedForgetting(low, high, len(found) / DRAWS, min(1.0, 2 * tail / (len(found) + 1)))


def forgetting_gap(mine: Sequence[tuple[float, float]], theirs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """Bounds (least, most) of their forgetting minus mine at the smaller of the two largest gains; points are (gain, forgetting). None if
    there is no gain."""
    gain = min(max(point[0] for point in points) for points in (mine, theirs))
    if gain <= 0:
        return None
    own, other = drop_at_gain(mine, gain), drop_at_gain(theirs, gain)
    return other[0] - own[1], other[1] - own[0]


def known_points(groups: Curve, measure: str) -> list[tuple[Estimate, Estimate]]:
    """Gain and forgetting of each group of seeds, without groups that have no rows or no known error."""
    pairs = [(estimate(group, "gain"), estimate(group, measure)) for group in groups]
    return [(gain, drop) for gain, drop in pairs if gain and drop and math.isfinite(gain.half_width + drop.half_width)]


def holm_corrected(found: Mapping[Key, MatchedForgetting]) -> dict[Key, MatchedForgetting]:
    """The comparisons with p values after Holm's correction over all of them; the intervals are not corrected."""
    adjusted = holm([each.p for each in found.values()]).tolist()
    return {name: replace(each, p=p) for (name, each), p in zip(found.items(), adjusted, strict=True)}


def against_full(rows: Sequence[Row], target: str, measure: str) -> dict[str, MatchedForgetting]:
    """Every other method compared with full tuning by one measure, corrected over the methods."""
    full = curve_of(rows, target, "full")
    found = {name: matched(curve_of(rows, target, name), full, measure) for name in methods_of(rows, target) if name != "full"}
    return holm_corrected({name: each for name, each in found.items() if each})


def cells_of(rows: Sequence[Row], mitigation: str) -> dict[tuple[str, str], tuple[list[Row], list[Row]]]:
    """By target and method the rows with and without a mitigation, for the seeds that have both."""
    found: dict[tuple[str, str], tuple[list[Row], list[Row]]] = {}
    tried = [row for row in pick(rows, role="mitigation", mitigation=mitigation) if row.get("selected", True)]
    for target, method in sorted({(row["target"], row["method"]) for row in tried}):
        own, plain = pick(tried, target=target, method=method), main_rows(rows, target, method)
        both = {row["seed"] for row in own if row.get("gain") is not None} & {row["seed"] for row in plain if row.get("gain") is not None}
        if both:
            found[target, method] = ([row for row in own if row["seed"] in both], [row for row in plain if row["seed"] in both])
    return found


def against_plain(rows: Sequence[Row], mitigation: str) -> dict[tuple[str, str, str], MatchedForgetting]:
    """Runs with a mitigation compared with runs of the same method without it, by every measure, corrected over all these comparisons.

    The keys are target, method and measure.
    """
    found = {
        (target, method, measure): matched([own], curve_of(rows, target, method), measure)
        for (target, method), (own, _) in cells_of(rows, mitigation).items()
        for measure in MEASURES
    }
    return holm_corrected({name: each for name, each in found.items() if each})


def paired(rows: Sequence[Row], mitigation: str, name: str) -> Estimate | None:
    """Mean over cells (target and method) of a column with a mitigation minus without it.

    Runs of one seed share their data, and in a mixture of targets also their weights: each seed's deviations from the cell means are
    averaged first, and the error is taken over seeds. Cells may share items, so more cells do not reduce the error over items.
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
    deviations = [np.mean([change[seed] - mean for change, mean in zip(changes, means, strict=True) if seed in change]) for seed in seeds]
    error = float(np.std(deviations, ddof=1)) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    return Estimate(float(np.mean(means)), float(np.mean(items)), error, len(seeds))


def rise(rows: Sequence[Row], task: str) -> Estimate | None:
    """The rise of the score on one retention task. Rows hold the error over items of the average over k tasks; k times that is an upper
    bound for one task, which is used here."""
    found = []
    for row in rows:
        drops = row.get("drops") or {}
        if task in drops:
            half_width = len(drops) * (float(row["average_drop_high"]) - float(row["average_drop_low"])) / 2
            found.append({"rise": -drops[task], "rise_low": -drops[task] - half_width, "rise_high": -drops[task] + half_width})
    return estimate(found, "rise")


def rate_trials(rows: Sequence[Row], target: str, method: str) -> list[Row]:
    """The rows from which a method's learning rate was chosen, by their validation scores."""
    role = "rate" if pick(rows, role="rate") else "grid"
    return pick(rows, target=target, method=method, role=role, mitigation="none")


def best_tuned(rows: Sequence[Row], target: str) -> str | None:
    """The method with the best mean validation score at its chosen learning rate; test items are not used. Ties go by name."""
    scores = {
        name: mean_of([{"choice": choice_score(row)} for row in rate_trials(rows, target, name) if row.get("selected", True)], "choice")
        for name in sorted(methods_of(rows, target))
    }
    known = {name: score for name, score in scores.items() if score > -math.inf}
    return max(known, key=lambda name: known[name]) if known else None


def rates_at_edge(rows: Sequence[Row], target: str) -> dict[str, list[str]]:
    """Methods whose chosen learning rate is the smallest or largest tried, so that a better one may lie beyond."""
    found: dict[str, list[str]] = {"smallest": [], "largest": []}
    for name in methods_of(rows, target):
        tried = sorted({row["lr"] for row in rate_trials(rows, target, name)})
        chosen = {row["lr"] for row in main_rows(rows, target, name)}
        if len(tried) > 1:
            found["smallest"] += [name] * (tried[0] in chosen)
            found["largest"] += [name] * (tried[-1] in chosen)
    return found


def difference(one: Estimate, other: Estimate) -> tuple[float, float, float]:
    """One minus the other, with the bounds of its 95% confidence interval."""
    half_width = math.hypot(one.half_width, other.half_width)
    return one.value - other.value, one.value - other.value - half_width, one.value - other.value + half_width


def in_context(rows: Sequence[Row], target: str) -> tuple[int, list[Row]] | None:
    """The number of few-shot examples with the best mean gain, and its rows; None without such rows."""
    found = pick(rows, target=target, role="in_context")
    counts = sorted({int(row["shots"]) for row in found})
    if not counts:
        return None
    best = max(counts, key=lambda count: mean_of(pick(found, shots=count), "gain"))
    return best, pick(found, shots=best)
