"""Compares two methods by pairs: their runs have equal seeds, batches and scored items, so what seeds and items share cancels.

A difference of gains has two errors, over seeds and over items (two-way clustering, Cameron, Gelbach and Miller 2011):
V = V_items + V_seeds - V_both. KL divergences differ by factors, so they are compared as logarithms. A verdict needs
both: see `verdict_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from assay.harness.stats.correction import holm
from assay.harness.stats.distributions import t_cdf, t_quantile

Row = Mapping[str, Any]
Items = Mapping[str, Mapping[str, float]]
"""By trial the score of each item, from `items.parquet`."""
RunPath = Sequence[tuple[float, float]]
"""Points (gain, KL) of one run, in the order of its steps."""
Verdict = Literal["dominates", "dominated", "no difference", "cannot tell"]
POINTS, FACTOR = 0.03, 1.5
"""Differences that matter: 3 points of gain, a factor of 1.5 in KL."""
SHARE = 0.8
"""Methods are compared at this share of the smaller of their two final gains."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """A mean paired difference over `seeds` seeds with its standard error, which has `df` degrees of freedom.

    `over_items`: whether the error includes that over items, from the scores of each item. Else it is of these items, but for one item
    or the net change, whichever is larger, that may fall out otherwise.
    """

    value: float
    error: float
    df: float
    seeds: int
    over_items: bool = False

    @property
    def low(self) -> float:
        return self.value - float(t_quantile(0.975, self.df)) * self.error

    @property
    def high(self) -> float:
        return self.value + float(t_quantile(0.975, self.df)) * self.error

    def p_at_most(self, bound: float) -> float:
        """One-sided p of "the difference is at most `bound`"; small if it is larger."""
        return 1 - self.p_at_least(bound)

    def p_at_least(self, bound: float) -> float:
        """One-sided p of "the difference is at least `bound`"; small if it is smaller."""
        if not self.error:
            return float(self.value >= bound)
        return float(t_cdf((self.value - bound) / self.error, self.df))


@dataclass(frozen=True, slots=True)
class PairedMethods:
    """A method minus another: difference of gains, and log ratio of their KL on neutral text. `p` by verdict."""

    gain: Contrast
    log_kl: Contrast
    p: Mapping[Verdict, float]

    @property
    def verdict(self) -> Verdict:
        return verdict_from(self.p)

    @property
    def factor(self) -> tuple[float, float, float]:
        """KL of the method over KL of the other, with its 95% confidence interval."""
        return math.exp(self.log_kl.value), math.exp(self.log_kl.low), math.exp(self.log_kl.high)


def compare_methods(one: Sequence[Row], other: Sequence[Row], items: Items | None = None) -> PairedMethods | None:
    """Two methods by their chosen runs; None with fewer than two seeds in common, or without KL above 0."""
    gain = contrast(one, other, "gain", items=items)
    log_kl = contrast(one, other, "kl_text", of=math.log)
    return PairedMethods(gain, log_kl, verdict_of(gain, log_kl)) if gain and log_kl else None


def verdict_of(gain: Contrast, log_kl: Contrast) -> dict[Verdict, float]:
    """The p value of each verdict, the larger of those of its two parts (intersection-union test).

    dominates: KL is lower, and gain is not lower by POINTS; dominated: the reverse (each of the two directions counts twice).
    no difference: gain differs by less than POINTS and KL by less than FACTOR.
    """
    x, k = POINTS, math.log(FACTOR)
    better = max(log_kl.p_at_least(0), gain.p_at_most(-x))
    worse = max(log_kl.p_at_most(0), gain.p_at_least(x))
    same = max(gain.p_at_most(-x), gain.p_at_least(x), log_kl.p_at_most(-k), log_kl.p_at_least(k))
    return {"dominates": min(1.0, 2 * better), "dominated": min(1.0, 2 * worse), "no difference": same}


def corrected(found: Mapping[str, PairedMethods]) -> dict[str, PairedMethods]:
    """The comparisons with p values after Holm's correction over all of them, by their smallest p."""
    smallest = [min(each.p.values()) for each in found.values()]
    adjusted = holm(smallest).tolist() if smallest else []
    return {
        name: replace(each, p={verdict: max(p, after) for verdict, p in each.p.items()})
        for (name, each), after in zip(found.items(), adjusted, strict=True)
    }


def contrast(
    one: Sequence[Row], other: Sequence[Row], column: str, of: Callable[[float], float] = float, items: Items | None = None
) -> Contrast | None:
    """Mean over the common seeds of the difference of a column, as `of` transforms it. None if fewer than two seeds have it.

    With `items`, which hold the scores of each item by trial, the error over items is that of the paired item differences.
    """
    sides = [{int(row["seed"]): row for row in rows if row.get(column) is not None} for rows in (one, other)]
    seeds = sorted(sides[0].keys() & sides[1].keys())
    if len(seeds) < 2 or (of is math.log and any(side[seed][column] <= 0 for side in sides for seed in seeds)):
        return None
    pairs = [(sides[0][seed], sides[1][seed]) for seed in seeds]
    change = np.array([of(float(mine[column])) - of(float(theirs[column])) for mine, theirs in pairs])
    over_seeds = float(change.var(ddof=1)) / len(seeds)
    matrix = item_differences(pairs, items or {}) if column == "gain" else None
    count = pairs[0][0].get("items") if column == "gain" else None
    if matrix is not None:
        return two_way(matrix)
    if count:  # binary items: a net change of k items needs at least k items that differ
        floor = max(1.0, float(np.abs(change).mean()) * int(count)) / int(count) ** 2
        return Contrast(float(change.mean()), *welch((over_seeds, len(seeds) - 1), (floor, int(count) - 1)), len(seeds))
    return Contrast(float(change.mean()), math.sqrt(over_seeds), len(seeds) - 1, len(seeds))


def item_differences(pairs: Sequence[tuple[Row, Row]], items: Items) -> NDArray[np.float64] | None:
    """Differences [seeds, items]; None unless every run has scores of the same items."""
    scores = [(items.get(str(mine.get("trial"))), items.get(str(theirs.get("trial")))) for mine, theirs in pairs]
    ids = sorted(scores[0][0] or ())
    if not ids or any(side is None or sorted(side) != ids for pair in scores for side in pair):
        return None
    return np.array([[mine[name] - theirs[name] for name in ids] for mine, theirs in scores if mine and theirs])


def two_way(matrix: NDArray[np.float64]) -> Contrast:
    """The mean of differences [seeds, items] with its error over both, which is never below the error over either alone."""
    seeds, count = matrix.shape
    by_seed, by_item = matrix.mean(axis=1), matrix.mean(axis=0)
    over_seeds, over_items = float(by_seed.var(ddof=1)) / seeds, float(by_item.var(ddof=1)) / count
    rest = matrix - by_seed[:, None] - by_item[None] + matrix.mean()
    both = float(np.square(rest).sum()) / ((seeds - 1) * (count - 1)) / matrix.size
    added = max(0.0, over_items - both, over_items - over_seeds) if over_items else 1 / count**2
    whole, df = welch((over_seeds, seeds - 1), (added, count - 1))
    return Contrast(float(matrix.mean()), whole, df, seeds, over_items=True)


def welch(*parts: tuple[float, float]) -> tuple[float, float]:
    """The error of a sum of independent parts, each a variance with its degrees of freedom, and its own (Satterthwaite)."""
    total = sum(variance for variance, _ in parts)
    shares = sum(variance**2 / df for variance, df in parts)
    return math.sqrt(total), total**2 / shares if shares else parts[0][1]


def matched_log_kl(one: Mapping[int, RunPath], other: Mapping[int, RunPath], share: float = SHARE) -> Contrast | None:
    """The log ratio of KL at equal gain, per seed at `share` of the smaller of the two final gains, along the paths of the runs.

    None if fewer than two seeds have a gain that both runs reach between two scored points.
    """
    change = []
    for seed in sorted(one.keys() & other.keys()):
        gain = share * min(path[-1][0] for path in (one[seed], other[seed]))
        found = [log_kl_at(path, gain) for path in (one[seed], other[seed])]
        if gain > 0 and found[0] is not None and found[1] is not None:
            change.append(found[0] - found[1])
    if len(change) < 2:
        return None
    values = np.array(change)
    return Contrast(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1, len(values))


def log_kl_at(path: RunPath, gain: float) -> float | None:
    """log KL where a run first reaches a gain, None outside of its points. Between two points log KL is interpolated linearly, after the
    base, whose KL is 0, KL itself: an upper bound if KL is a convex function of gain."""
    for (before, kl), (after, next_kl) in pairwise(path):
        if not (before <= gain <= after and next_kl > 0):
            continue
        place = (gain - before) / (after - before) if after > before else 1.0
        if kl > 0:
            return math.log(kl) + place * (math.log(next_kl) - math.log(kl))
        if place > 0:
            return math.log(place * next_kl)
    return None


def p_of_factor(found: Contrast) -> dict[Verdict, float]:
    """The p value of each verdict at matched gain, from the log ratio of KL alone."""
    k = math.log(FACTOR)
    return {
        "dominates": min(1.0, 2 * found.p_at_least(0)),
        "dominated": min(1.0, 2 * found.p_at_most(0)),
        "no difference": max(found.p_at_most(-k), found.p_at_least(k)),
    }


def verdict_from(p: Mapping[Verdict, float], level: float = 0.05) -> Verdict:
    """The significant verdict. "no difference" goes first: a difference may be certain and still too small to matter."""
    order: tuple[Verdict, ...] = ("no difference", "dominates", "dominated")
    return next((name for name in order if p[name] <= level), "cannot tell")
