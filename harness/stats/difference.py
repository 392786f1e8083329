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
from assay.harness.task.metric import Array, Metric, Pooled
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
    exact: bool = False
    """True for binary, unclustered items: wins and losses are sufficient statistics."""
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


def unit_of(metric: Metric[Any]) -> float:
    """The score that counts as 100 points: the metric's upper bound, or 1 where it has none."""
    return float(metric.high) if metric.high is not None and metric.high > 0 else 1.0


def paired_difference(base: Part, candidate: Array, *, alpha: float = 0.05, seed: int = 0, draws: int = 9999) -> Difference:
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
    pooled = isinstance(base.metric.combine, Pooled)
    if not pooled:
        base = base._replace(clusters=blocks(base.clusters, seed))
    units = units_of(base, candidate)
    exact = is_mean(base.metric) and bool(np.all(np.min(np.abs(units.values[:, None] - [-1.0, 0.0, 1.0]), axis=1) < EXACT))
    found = _exact(units, alpha) if exact and units.worst == 1.0 else _graded(units, alpha, seed)
    found = replace(found, bounded=base.metric.high is not None and base.metric.low is not None)
    if pooled and not is_mean(base.metric):
        return replace(found, p_loss=_swapped(base, candidate, units, draws, seed), method="random swaps, score limit")
    return found


def total_difference(total: Total, parts: Mapping[Term, tuple[Part, Array]], *, alpha: float = 0.05, seed: int = 0) -> Difference:
    """The difference of a total: tasks are independent, the metrics of one task share its items. In units of `total.scale`."""
    weights = total_weights(total, {term: len(part.stats) for term, (part, _) in parts.items()})
    by_task: dict[str, list[Units]] = {}
    coarse = {term.task for term, (part, _) in parts.items() if not isinstance(part.metric.combine, Pooled)}
    for term in total.terms:
        part, candidate = parts[term]
        if term.task in coarse:
            part = part._replace(clusters=blocks(part.clusters, seed))
        try:
            units = units_of(part, candidate)
        except Undefined as error:
            raise Undefined(error.what, where=f"{term.metric} of {term.task}") from None
        weight = weights[term] / total.scale * unit_of(part.metric)
        by_task.setdefault(term.task, []).append(Units(weight * units.values, abs(weight) * units.worst, units.moves, weight))
    tasks = [_graded(_joined(units), alpha, seed) for units in by_task.values()]
    whole = combine(columns(tasks), np.ones(len(tasks)))
    n, units, wins, losses = (sum(getattr(task, name) for task in tasks) for name in ("n", "units", "wins", "losses"))
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
        worst=sum(task.worst for task in tasks),
        method="paired jackknife total",
    )


def units_of(base: Part, candidate: Array) -> Units:
    """One signed value per cluster (see Units), in the metric's unit."""
    metric = base.metric
    sign = (-1.0 if metric.better == "lower" else 1.0) / unit_of(metric)
    first, second = (rows_of(metric, stats, base.groups, base.clusters) for stats in (base.stats, candidate))
    sizes = np.bincount(first.clusters, minlength=first.count)
    if is_mean(metric):
        rows = sign * (second.stats[:, 0] - first.stats[:, 0])
        span = (metric.high - metric.low) * abs(sign) if metric.high is not None and metric.low is not None else None
        worst = float(np.abs(rows).max() or 1.0) if span is None else span
        if (sizes == sizes[0]).all():
            return Units(sums_by(first.clusters, rows[:, None], first.count)[:, 0] / sizes[0], worst, rows, sign)
    groups = dense(base.groups)[0]
    whole = sign * (combined(metric, candidate, groups) - combined(metric, base.stats, groups))
    alone = Units(np.array([whole]), max(abs(whole), 1.0), np.zeros(len(base.stats)), sign)
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
    return Units(values, worst, rows, sign)


def _joined(units: list[Units]) -> Units:
    """The weighted sum of one task's metrics, which share their clusters."""
    if len({len(each.values) for each in units}) > 1:
        raise AssayError("the metrics of one task are defined on different items", do="gate the tasks instead of this total")
    moves = max((each.moves for each in units), key=len)
    return Units(np.sum([each.values for each in units], axis=0), sum(each.worst for each in units), moves, 1.0)


def _exact(units: Units, alpha: float) -> Difference:
    """For binary, unclustered items: mid-p McNemar test, Tango limits."""
    n, a, b = len(units.values), int((units.values > 0.5).sum()), int((units.values < -0.5).sum())
    z = z_quantile(1 - alpha)
    low, turned = tango_bound([a, b], [b, a], n, z).tolist()
    delta = (a - b) / n
    se = float(np.sqrt(((a + b) / n - delta**2) / n + 1 / n**2))
    wins, losses = int((units.moves > EXACT).sum()), int((units.moves < -EXACT).sum())
    method = "mid-p McNemar, Tango"
    return Difference(delta, low, -turned, float(mid_p(a, b)), se, max(n - 1.0, 1.0), n, n, wins, losses, 1.0, method, exact=True)


def _graded(units: Units, alpha: float, seed: int) -> Difference:
    """For graded or clustered items: t test or exact sign flips, and score limits with a t quantile."""
    values, worst = units.values, max(units.worst, float(np.abs(units.values).max()))
    count, delta = len(values), float(values.mean())
    wins, losses = int((units.moves > EXACT).sum()), int((units.moves < -EXACT).sum())
    if count < 2 or not np.isfinite(values).all():
        return Difference(delta, -worst, worst, 0.5, worst, 1.0, len(units.moves), count, wins, losses, worst, "too few clusters")
    quantile = float(t_quantile(1 - alpha, count - 1))
    low, high = (_limit(side * values, quantile, worst) for side in (1, -1))
    flips = count < FEW_CLUSTERS
    p_loss = float(sign_flip_loss(values, seed=seed) if flips else t_loss(values))
    se = float(np.sqrt(values.var(ddof=1) / count + (worst / count) ** 2))
    method = f"{'exact sign flips' if flips else 't'}, score limit"
    return Difference(delta, low, -high, p_loss, se, count - 1.0, len(units.moves), count, wins, losses, worst, method)


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


def columns(found: Sequence[Difference]) -> Columns:
    """Differences as columns [m], as the gate's rule takes them."""
    return Columns(*(np.array([getattr(each, name) for each in found], dtype=np.float64) for name in ("delta", "low", "high", "se", "df")))
