"""Early stopping with controlled error rates: group-sequential looks and an e-process, over one task or many.

The order of items and the looks are fixed before the first item and depend only on ids and a seed. A decision is a pure function of
the scores so far, so an interrupted and resumed evaluation decides like an uninterrupted one.
Sources: Lan and DeMets (1983) with O'Brien-Fleming spending; Waudby-Smith and Ramdas (2024) for betting.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from assay.harness.stats.distributions import z_cdf, z_quantile
from assay.harness.stats.paired import score_z, tango_bound
from assay.harness.stats.rule import Aggregate, Columns, Verdict, combine, n_min
from assay.harness.task.metric import Array, Codes

LOOKS = 10
"""Number of group-sequential looks."""
E_EVERY = 25
"""Items between two checks of the e-process."""
E_SHARE = 0.2
"""Share of each error rate that the e-process may spend; the looks spend the rest."""


def fixed_order(strata: Sequence[str], ids: Sequence[str], seed: int) -> Codes:
    """Indices of the items in the order of evaluation: pseudo-random within a stratum, strata interleaved in proportion."""
    key = str(seed).encode()
    digest = [hmac.new(key, f"{stratum}\0{item}".encode(), hashlib.sha256).digest() for stratum, item in zip(strata, ids, strict=True)]
    members: dict[str, list[int]] = {}
    for place in sorted(range(len(ids)), key=digest.__getitem__):
        members.setdefault(strata[place], []).append(place)
    # The k-th of n items of a stratum comes at the fraction (k + 1/2) / n of the order.
    due = [((rank + 0.5) / len(places), digest[place], place) for places in members.values() for rank, place in enumerate(places)]
    return np.array([place for _, _, place in sorted(due)], dtype=np.int64)


def look_sizes(n: int) -> tuple[int, ...]:
    """Number of items at each look: equal fractions of n."""
    return tuple(sorted({max(1, round(n * look / LOOKS)) for look in range(1, LOOKS + 1)}))


@lru_cache(maxsize=64)
def boundaries(alpha: float, looks: int = LOOKS) -> tuple[float, ...]:
    """z limits of equally spaced looks, one-sided at `alpha` in total, by O'Brien-Fleming spending.

    Computed on a grid from the density of the Brownian score that has not crossed a limit at an earlier look.
    """
    times = np.arange(1, looks + 1) / looks
    spent = 2 * (1 - z_cdf(z_quantile(1 - alpha / 2) / np.sqrt(times)))
    step = np.sqrt(times[0])
    found: list[float] = []
    grid, density = np.zeros(1), np.ones(1)
    for k, (time, allowed) in enumerate(zip(times, np.diff(spent, prepend=0.0), strict=True)):
        low, high = 0.0, 12.0
        for _ in range(60):
            middle = (low + high) / 2
            crossing = float(density @ (1 - z_cdf((middle * np.sqrt(time) - grid) / step)))
            low, high = (middle, high) if crossing > allowed else (low, middle)
        found.append((low + high) / 2)
        if k + 1 < looks:
            target = np.linspace(-7 * np.sqrt(time), found[-1] * np.sqrt(time), 1200)
            kernel = np.exp(-0.5 * ((target[:, None] - grid) / step) ** 2) / (step * np.sqrt(2 * np.pi))
            weights = np.full(len(target), target[1] - target[0])
            weights[[0, -1]] /= 2
            grid, density = target, (kernel @ density) * weights
    return tuple(found)


def log_e(d: Array, margin: float, *, loss: bool, scale: float = 1.0, at: Codes | slice = slice(None)) -> Array:
    """Log e-values after every item [..., n], or after those `at` these indices, against "no loss" (`loss`) or "the loss is the margin";
    d in [-scale, scale].

    Half the wealth follows a predictable bet, half is on five constant bets. A value of at least log(1/alpha) at any time rejects.
    """
    x = -d / scale if loss else (d + margin) / scale
    delta = margin / scale
    most = 1.0 if loss else 1 / max(1 - delta, 1e-9)
    before = np.cumsum((d / scale) ** 2, axis=-1)
    before = np.concatenate([np.zeros((*d.shape[:-1], 1)), before[..., :-1]], axis=-1)
    second = (0.05 * 20 + before) / (20 + np.arange(d.shape[-1]))
    bet = np.minimum(delta / (second + delta**2), 0.9 * most)
    wealth = np.cumsum(np.log1p(bet * x), axis=-1)[..., at] + np.log(0.5)
    for constant in np.geomspace(0.05, 0.9, 5) * most:
        wealth = np.logaddexp(wealth, np.cumsum(np.log1p(constant * x), axis=-1)[..., at] + np.log(0.1))
    return np.asarray(wealth)


@dataclass(frozen=True, slots=True)
class Design:
    """Fixed before the first item: weights [m] and sizes [m] of the tasks, the margin (as a fraction), alpha, and `tried`: the number of
    runs that the baseline is the best of. Losses are tested at 1/`tried` of their level."""

    weights: tuple[float, ...]
    sizes: tuple[int, ...]
    margin: float = 0.01
    alpha: float = 0.05
    tried: int = 1

    @property
    def items(self) -> int:
        return sum(self.sizes)

    @property
    def scales(self) -> Array:
        """Weight of one item's difference in the running mean of the aggregate, by task [m]."""
        return np.asarray(np.array(self.weights) * self.items / np.array(self.sizes), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Stop:
    """The verdict and the number of items it is based on; `by` names the look or process that decided."""

    verdict: Verdict
    items: int
    by: str


def monitor(d: Array, tasks: Codes, design: Design) -> Stop | None:
    """Decide from the differences [n] of the first n items, in the fixed order, with their task codes; None: continue.

    Each look uses only the items before it, so more items never change an earlier decision. Undecided after the last item is
    inconclusive.
    """
    at_e = _e_stop(d, tasks, design)
    for look, size in enumerate(look_sizes(design.items)):
        if at_e is not None and at_e.items <= size:
            return at_e
        if size > len(d):
            return None
        verdict = _look(d[:size], tasks[:size], design, look)
        if verdict is not None:
            return Stop(verdict, size, f"look {look + 1}")
    return Stop("inconclusive", design.items, "last look")


def _look(d: Array, tasks: Codes, design: Design, look: int) -> Verdict | None:
    """One look at all tasks: "regressed" by the aggregate at alpha/2 or a task at alpha/2m, "pass" by the aggregate at alpha."""
    m, share = len(design.sizes), 1 - E_SHARE
    counts = np.bincount(tasks, minlength=m)
    if (counts < 2).any():
        return None
    sums, squares = (np.bincount(tasks, weights=values, minlength=m) for values in (d, d**2))
    whole = _whole(d, tasks, design, look)
    held = float(whole.low) > -design.margin and len(d) >= n_min(design.margin, design.alpha)
    spend = share * design.alpha / design.tried
    lost = float(whole.delta) <= -boundaries(spend / (2 if m > 1 else 1))[look] * float(whole.se)
    if m > 1:
        # The score z of "no loss": with d in -1, 0, 1 it is (wins - losses) / sqrt(wins + losses).
        each = boundaries(spend / (2 * m))[look]
        lost = (lost and not held) or bool((sums < 0).any() and (sums <= -each * np.sqrt(squares))[sums < 0].any())
    if held and not (m > 1 and lost):
        return "pass"
    return "regressed" if lost else None


def _whole(d: Array, tasks: Codes, design: Design, look: int) -> Aggregate:
    """The aggregate with confidence limits at the level of a look."""
    m = len(design.sizes)
    counts = np.bincount(tasks, minlength=m)
    sums, squares = (np.bincount(tasks, weights=values, minlength=m) for values in (d, d**2))
    level = boundaries((1 - E_SHARE) * design.alpha)[look]
    delta, error = sums / counts, np.sqrt(squares / counts**2 + 1 / counts**2)
    low = _limits(d, tasks, counts, level)
    high = -_limits(-d, tasks, counts, level)
    return combine(Columns(delta, low, high, error, counts.astype(np.float64) - 1), np.array(design.weights))


def stopped_interval(d: Array, tasks: Codes, design: Design) -> Aggregate | None:
    """The aggregate at the stop, with limits that hold at all looks simultaneously; None where a task has fewer than two items.

    Between two looks the wider limits of the earlier look are used. Source: Jennison and Turnbull (1989).
    """
    if (np.bincount(tasks, minlength=len(design.sizes)) < 2).any():
        return None
    look = max(0, int(np.searchsorted(look_sizes(design.items), len(d), side="right")) - 1)
    return _whole(d, tasks, design, look)


def _limits(d: Array, tasks: Codes, counts: Codes, level: float) -> Array:
    """The lower score limit of each task at z = level: Tango's, or by bisection where differences are graded."""
    m = len(counts)
    if np.isin(d, (-1.0, 0.0, 1.0)).all():
        wins, losses = (np.bincount(tasks, weights=flags, minlength=m) for flags in (d > 0, d < 0))
        return tango_bound(wins, losses, counts, level)
    return np.array([_limit(d[tasks == task], level) for task in range(m)])


def _limit(d: Array, level: float) -> float:
    values, counts = np.unique(d, return_counts=True)
    low, high = max(0.0, -float(d.mean())), 1.0 - 1e-9
    for _ in range(30):
        middle = (low + high) / 2
        shown = float(score_z(values, middle, 1.0, counts.astype(np.float64))) > level
        low, high = (low, middle) if shown else (middle, high)
    return -high


def _e_stop(d: Array, tasks: Codes, design: Design) -> Stop | None:
    """The first checkpoint of 25 items at which an e-process of the aggregate or of one task decides."""
    m, spend, tried = len(design.sizes), E_SHARE * design.alpha, design.tried
    scales = design.scales
    moved = d * scales[tasks]
    largest = float(scales.max())
    checks = np.arange(E_EVERY - 1, len(d), E_EVERY)
    if not len(checks):
        return None
    lost = log_e(moved, design.margin, loss=True, scale=largest, at=checks) >= np.log((2 if m > 1 else 1) * tried / spend)
    for task in range(m if m > 1 else 0):
        own = np.where(tasks == task, d, 0.0)
        lost |= log_e(own, design.margin, loss=True, at=checks) >= np.log(2 * m * tried / spend)
    held = log_e(moved, design.margin, loss=False, scale=largest, at=checks) >= np.log(1 / spend)
    held &= checks + 1 >= n_min(design.margin, design.alpha)
    either = np.flatnonzero(lost | held)
    if not len(either):
        return None
    first = either[0]
    return Stop("regressed" if lost[first] else "pass", int(checks[first]) + 1, "e-process")
