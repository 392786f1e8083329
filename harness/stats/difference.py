"""The paired difference of two runs on the same items, for any metric and any total: estimate, confidence limits, test.

Every metric becomes one value per cluster whose mean is the difference: the cluster's mean difference, or its jackknife
pseudo-value. Differences are signed so that positive is better, and in units of the metric's upper bound: 0.01 is one point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.stats.distributions import t_quantile, z_quantile
from assay.harness.stats.influence import Undefined, blocks, combined, dense, influence, is_mean, rows_of, sums_by
from assay.harness.stats.interval import Part, total_weights
from assay.harness.stats.paired import mid_p, score_z, sign_flip_loss, swap_loss, t_loss, tango_bound
from assay.harness.stats.rule import FEW_CLUSTERS, Columns, combine
from assay.harness.task.metric import Array, Codes, Metric, Pooled
from assay.harness.task.task import Term, Total

EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus baseline. `low` and `high` are each one-sided limits at 1 - alpha; `p_loss` tests "no loss".

    `n` counts scored rows (items, or groups where the metric folds), `units` their independent clusters. `se`, with `df` degrees of
    freedom, includes one unobserved discordant unit; `worst` is the largest possible loss of one unit. `wins` and `losses` count rows
    whose score rose and fell.
    """

    delta: float
    low: float
    high: float
    p_loss: float
    se: float
    df: float
    n: int
    units: int
    wins: int
    losses: int
    worst: float
    method: str
    strict: float = -np.inf
    """The lower limit at 1 - alpha / `candidates`, on which a pass rests; `low` where the candidate is the only one."""
    exact: bool = False
    """True where every unit gained, lost or kept its whole score: their numbers are sufficient statistics."""
    bounded: bool = True
    """False where the metric lacks a bound: then values are in the metric's own unit, not points."""

    @property
    def p(self) -> float:
        """Two-sided p value."""
        return min(1.0, 2 * min(self.p_loss, 1 - self.p_loss)) if self.wins or self.losses else 1.0

    @property
    def churn(self) -> float:
        """Share of rows whose score changed."""
        return (self.wins + self.losses) / max(self.n, 1)


@dataclass(frozen=True, slots=True)
class Units:
    """`values`: one per cluster, whose mean is the difference; `moves` [n]: change of each row, positive where it rose."""

    values: Array
    worst: float
    moves: Array
    sign: float
    """1, or -1 for a metric where lower is better, over the metric's unit."""
    codes: Codes
    """The cluster code of each value, ascending."""
    clusters: int = 0
    """Number of independent clusters; more than there are values where these are blocks of clusters."""


@dataclass(frozen=True, slots=True)
class Levels:
    """`alpha` of each one-sided limit; a pass of the best of `candidates` models rests on limits at alpha / candidates."""

    alpha: float = 0.05
    candidates: int = 1


def unit_of(metric: Metric[Any]) -> float:
    """The score that counts as 100 points: the metric's upper bound, or 1 where it has none."""
    return float(metric.high) if metric.high is not None and metric.high > 0 else 1.0


def paired_difference(base: Part, candidate: Array, *, levels: Levels = Levels(), seed: int = 0, draws: int = 9999) -> Difference:
    """`candidate` statistics [n, k] minus those of `base`; both hold the same items in the same order.

    Binary rows of equal clusters: mid-p McNemar and Tango. Other means: clustered t (exact sign flips below ten clusters) and
    the score limit. Other metrics: random swaps (Pooled) or the jackknife's t. Raises Undefined where the items do not define one of
    the two scores, AssayError for unequal shapes.
    """
    base = base._replace(stats=np.asarray(base.stats, dtype=np.float64))
    candidate = np.asarray(candidate, dtype=np.float64)
    if candidate.shape != base.stats.shape or not len(candidate):
        raise AssayError(
            f"{candidate.shape} statistics cannot be paired with {base.stats.shape}",
            where=base.metric.name,
            do="score both runs with the same version",
        )
    units = blocked_units(base, candidate, seed)
    exact = is_mean(base.metric) and bool(np.all(np.min(np.abs(units.values[:, None] - [-1.0, 0.0, 1.0]), axis=1) < EXACT))
    found = _exact(units, levels) if exact and units.worst == 1.0 else _graded(units, levels, seed)
    found = replace(found, bounded=base.metric.high is not None and base.metric.low is not None)
    if isinstance(base.metric.combine, Pooled) and not is_mean(base.metric):
        return replace(found, p_loss=_swapped(base, candidate, units, draws, seed), method="random swaps, score limit")
    return found


def total_difference(
    total: Total,
    parts: Mapping[Term, tuple[Part, Array]],
    *,
    levels: Levels = Levels(),
    groups: Sequence[Sequence[str]] = (),
    seed: int = 0,
) -> Difference:
    """The difference of a total, in units of `total.scale`. Tasks are independent, except `groups` of tasks that share items: their
    cluster codes are equal where the items are. The metrics of one task share its items."""
    weights = total_weights(total, {term: len(part.stats) for term, (part, _) in parts.items()})
    group_of = {task: number for number, tasks in enumerate(groups) for task in tasks}
    members: dict[str | int, list[Term]] = {}
    for term in total.terms:
        members.setdefault(group_of.get(term.task, term.task), []).append(term)
    found = []
    for terms in members.values():
        aligned = aligned_units([parts[term] for term in terms], [f"{term.metric} of {term.task}" for term in terms], seed)
        scale = np.array([weights[term] / total.scale * unit_of(parts[term][0].metric) for term in terms])
        longest = {terms[at].task: at for at in sorted(range(len(terms)), key=lambda at: len(aligned.moves[at]))}  # one metric per task
        moves = np.concatenate([aligned.moves[at] for at in longest.values()])
        found.append(_graded(aligned.weighted(scale, moves), levels, seed))
    whole, strict = (combine(columns(found, strict=strict), np.ones(len(found))) for strict in (False, True))
    n, units, wins, losses = (sum(getattr(each, name) for each in found) for name in ("n", "units", "wins", "losses"))
    return Difference(
        delta=float(whole.delta),
        low=float(whole.low),
        high=float(whole.high),
        p_loss=float(whole.p_loss),
        se=float(whole.se),
        df=float(whole.df),
        n=n,
        units=units,
        wins=wins,
        losses=losses,
        worst=sum(each.worst for each in found),
        method="paired jackknife total",
        strict=float(strict.low),
    )


@dataclass(frozen=True, slots=True)
class Aligned:
    """Units of m metrics over the same C clusters: `values` [m, C], each row with its metric's difference as mean, `worst` [m]."""

    values: Array
    worst: Array
    clusters: int
    moves: tuple[Array, ...]

    def weighted(self, weights: Array, moves: Array | None = None) -> Units:
        """The weighted sum of the metrics."""
        rows = np.concatenate(self.moves) if moves is None else moves
        return Units(weights @ self.values, float(np.abs(weights) @ self.worst), rows, 1.0, np.arange(self.values.shape[1]), self.clusters)

    def difference(self, weights: Array, levels: Levels, seed: int = 0) -> Difference:
        """The paired difference of the weighted sum."""
        return _graded(self.weighted(weights), levels, seed)


def aligned_units(parts: Sequence[tuple[Part, Array]], names: Sequence[str] = (), seed: int = 0) -> Aligned:
    """The units of metrics whose cluster codes are equal where they share clusters. A metric that lacks a cluster is constant there.

    Raises Undefined, with the metric of `names`, where the items do not define a score.
    """
    every = np.unique(np.concatenate([part.clusters for part, _ in parts]))
    coarse = any(not isinstance(part.metric.combine, Pooled) for part, _ in parts)
    numbers = blocks(every, seed) if coarse else np.arange(len(every))
    size = int(numbers.max()) + 1
    values, worst, moves, alone = [], [], [], False
    for at, (part, candidate) in enumerate(parts):
        try:
            units = units_of(part._replace(clusters=numbers[np.searchsorted(every, part.clusters)]), candidate)
        except Undefined as error:
            raise Undefined(error.what, where=names[at] if names else error.where) from None
        row, delta, share = np.zeros(size), float(units.values.mean()), size / len(units.values)
        row[units.codes] = share * (units.values - delta)
        values.append(row + delta if share > 1 else units.values)
        worst.append(share * units.worst)
        moves.append(units.moves)
        alone = alone or len(units.values) < 2
    if alone:  # no error is known
        return Aligned(np.array([row[:1] * 0 + row.mean() for row in values]), np.array(worst), 1, tuple(moves))
    return Aligned(np.stack(values), np.array(worst), len(every), tuple(moves))


def blocked_units(base: Part, candidate: Array, seed: int = 0) -> Units:
    """The units of a metric, blocks of clusters where its `combine` is not Pooled."""
    if isinstance(base.metric.combine, Pooled):
        return units_of(base, candidate)
    whole = dense(base.clusters)[1]
    return replace(units_of(base._replace(clusters=blocks(base.clusters, seed)), candidate), clusters=whole)


def units_of(base: Part, candidate: Array) -> Units:
    """One signed value per cluster (see Units), in the metric's unit."""
    metric = base.metric
    sign = (-1.0 if metric.better == "lower" else 1.0) / unit_of(metric)
    first, second = (rows_of(metric, stats, base.groups, base.clusters) for stats in (base.stats, candidate))
    sizes = np.bincount(first.clusters, minlength=first.count)
    codes = np.unique(base.clusters)
    if is_mean(metric):
        rows = sign * (second.stats[:, 0] - first.stats[:, 0])
        span = (metric.high - metric.low) * abs(sign) if metric.high is not None and metric.low is not None else None
        worst = float(np.abs(rows).max() or 1.0) if span is None else span
        if (sizes == sizes[0]).all():
            return Units(sums_by(first.clusters, rows[:, None], first.count)[:, 0] / sizes[0], worst, rows, sign, codes, first.count)
    groups = dense(base.groups)[0]
    whole = sign * (combined(metric, candidate, groups) - combined(metric, base.stats, groups))
    alone = Units(np.array([whole]), max(abs(whole), 1.0), np.zeros(len(base.stats)), sign, codes[:1], 1)
    if first.count < 2:
        return alone
    one, two = (influence(metric, stats, base.groups, base.clusters) for stats in (base.stats, candidate))
    if not (np.isfinite(one.effects).all() and np.isfinite(two.effects).all()):  # undefined without some cluster: no error is known
        return alone
    effects = sign * (two.effects - one.effects)
    scale = np.sqrt(first.count * (first.count - 1.0))
    values = sign * (two.value - one.value) + scale * (effects - effects.mean())
    if not is_mean(metric):
        worst = float(scale * max(np.ptp(one.effects), np.ptp(two.effects))) * abs(sign) or 1.0
        changed = np.any(base.stats != candidate, axis=1)
        rows = np.where(changed, values[dense(base.clusters)[0]], 0.0)
    return Units(values, worst, rows, sign, codes, first.count)


def _exact(units: Units, levels: Levels) -> Difference:
    """For binary items, or clusters that change as a whole: mid-p McNemar test, Tango limits."""
    n, a, b = len(units.values), int((units.values > 0.5).sum()), int((units.values < -0.5).sum())
    usual, stricter = (z_quantile(1 - levels.alpha / k) for k in (1, levels.candidates))
    low, turned, strict = tango_bound([a, b, a], [b, a, b], n, [usual, usual, stricter]).tolist()
    delta = (a - b) / n
    se = float(np.sqrt(((a + b) / n - delta**2) / n + 1 / n**2))
    wins, losses = int((units.moves > EXACT).sum()), int((units.moves < -EXACT).sum())
    method = "mid-p McNemar, Tango"
    p_loss, df = float(mid_p(a, b)), max(n - 1.0, 1.0)
    return Difference(delta, low, -turned, p_loss, se, df, len(units.moves), n, wins, losses, 1.0, method, strict, exact=True)


def _graded(units: Units, levels: Levels, seed: int) -> Difference:
    """For graded or clustered items: t test or exact sign flips, and score limits with a t quantile."""
    values, count = units.values, len(units.values)
    # One lost cluster moves a block of b clusters by a b-th of its effect, and clusters vary sqrt(b) times as much as blocks.
    worst = max(units.worst * np.sqrt(count / max(units.clusters, count)), float(np.abs(values).max()))
    delta, n, clusters = float(values.mean()), len(units.moves), max(units.clusters, count)
    wins, losses = int((units.moves > EXACT).sum()), int((units.moves < -EXACT).sum())
    if count < 2 or not np.isfinite(values).all():
        return Difference(delta, -worst, worst, 0.5, worst, 1.0, n, count, wins, losses, worst, "too few clusters", -worst)
    quantile, stricter = (float(t_quantile(1 - levels.alpha / k, count - 1)) for k in (1, levels.candidates))
    low, high = (_limit(side * values, quantile, worst) for side in (1, -1))
    strict = low if levels.candidates == 1 else _limit(values, stricter, worst)
    flips = count < FEW_CLUSTERS
    p_loss = float(sign_flip_loss(values, seed=seed) if flips else t_loss(values))
    se = float(np.sqrt(values.var(ddof=1) / count + (worst / count) ** 2))
    method = f"{'exact sign flips' if flips else 't'}, score limit"
    return Difference(delta, low, -high, p_loss, se, count - 1.0, n, clusters, wins, losses, worst, method, strict)


def _limit(values: Array, quantile: float, worst: float) -> float:
    """The score test's lower limit. For speed, equal values are grouped, and values of 0 or ±`worst` use Tango's limit."""
    if (np.isclose(values, 0) | np.isclose(np.abs(values), worst)).all():
        return worst * float(tango_bound((values > worst / 2).sum(), (values < -worst / 2).sum(), len(values), quantile))
    from scipy.optimize import brentq

    kept, counts = np.unique(values, return_counts=True)
    weights, edge = counts.astype(np.float64), worst * (1 - 1e-9)

    def excess(margin: float) -> float:
        # A negative margin tests whether a gain is excluded: the same test with the sign of the values reversed.
        side = 1.0 if margin >= 0 else -1.0
        return float(np.clip(side * score_z(side * kept, abs(margin), worst, weights), -1e6, 1e6)) - quantile

    if excess(edge) <= 0:
        return -worst
    return worst if excess(-edge) >= 0 else -float(brentq(excess, -edge, edge, xtol=1e-9))


def _swapped(base: Part, candidate: Array, units: Units, draws: int, seed: int) -> float:
    """One-sided p of a pooled metric under random swaps of whole clusters between the runs."""
    combine_ = base.metric.combine
    assert isinstance(combine_, Pooled)
    one, two = (rows_of(base.metric, stats, base.groups, base.clusters) for stats in (base.stats, candidate))
    size = len(one.stats)

    def difference(first: Array, second: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = units.sign * (combine_.finish(second / size) - combine_.finish(first / size))
        return np.asarray(np.nan_to_num(found, nan=-np.inf), dtype=np.float64)

    return swap_loss(sums_by(one.clusters, one.stats, one.count), sums_by(two.clusters, two.stats, two.count), difference, draws, seed)


def columns(found: Sequence[Difference], *, strict: bool = False) -> Columns:
    """Differences as columns [m], as the gate's rule takes them; `strict` limits are those that a pass rests on."""
    names = ("delta", "strict" if strict else "low", "high", "se", "df")
    return Columns(*(np.array([getattr(each, name) for each in found], dtype=np.float64) for name in names))
