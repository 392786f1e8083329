"""Shrunken estimates of the change of every task, with limits that are to hold jointly, beside the gate's limits of each task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from assay.harness.stats.correction import holm
from assay.harness.stats.distributions import z_cdf, z_quantile
from assay.harness.stats.paired import mid_p, tango_bound
from assay.harness.stats.rule import n_min
from assay.harness.task.metric import Array
from tests.sim.estimators.real_pairs import TITLES
from tests.sim.gate_tasks import TASK_MARGIN, Suite
from tests.sim.pooling.line import Line, row_of, table
from tests.sim.rules import ALPHA, Flags

SUBJECTS = np.geomspace(50, 300, 57).round()
"""Items of each of 57 subjects."""


@dataclass(frozen=True, slots=True)
class Statements:
    """Estimates and limits [T, m] of the change of every task. `excluded`: a loss of TASK_MARGIN is called excluded; `flagged`: a loss is
    called significant."""

    estimate: Array
    low: Array
    high: Array
    flagged: Flags
    excluded: Flags
    error: Array | None = None
    """The posterior standard deviation of a shrunken estimate."""


def drawn(rng: np.random.Generator, sizes: Array, gain: Array, loss: Array, trials: int) -> Suite:
    """Wins and losses [trials, m] where items are won and lost with these probabilities, [m] or [trials, m]."""
    n = np.broadcast_to(sizes, (trials, len(sizes))).astype(np.int64)
    losses = rng.binomial(n, loss)
    wins = rng.binomial(n - losses, np.minimum(1.0, gain / np.maximum(1 - loss, 1e-12)))
    return Suite(wins.astype(np.float64), losses.astype(np.float64), sizes.astype(np.float64))


def joint_z(m: int) -> float:
    """The two-sided limit of one of m independent tasks at which all hold with 95 %: the maximum of m |t| (Sidak)."""
    return z_quantile((1 + (1 - ALPHA) ** (1 / m)) / 2)


def plain(suite: Suite, z: float) -> Statements:
    """The gate's limits of each task at `z`, and its per-task tests."""
    a, b, n = suite.wins, suite.losses, np.broadcast_to(suite.sizes, suite.wins.shape)
    low, high = tango_bound(a, b, n, z), -tango_bound(b, a, n, z)
    excluded = (tango_bound(a, b, n, z_quantile(1 - ALPHA)) > -TASK_MARGIN) & (n >= n_min(TASK_MARGIN))
    return Statements(suite.delta, low, high, np.asarray(holm(mid_p(a, b)) <= ALPHA / 2), excluded)


def spread_between(x: Array, v: Array, steps: int) -> Array:
    """The variance between tasks [T, 1] of estimates x with variances v [T, m]: DerSimonian and Laird's (1986), then steps of REML
    (Viechtbauer 2005)."""
    w = 1 / v
    total = w.sum(axis=1, keepdims=True)
    q = (w * (x - (w * x).sum(axis=1, keepdims=True) / total) ** 2).sum(axis=1, keepdims=True)
    tau = np.maximum(0.0, (q - (x.shape[1] - 1)) / (total - (w**2).sum(axis=1, keepdims=True) / total))
    for _ in range(steps):
        w = 1 / (v + tau)
        total = w.sum(axis=1, keepdims=True)
        excess = (x - (w * x).sum(axis=1, keepdims=True) / total) ** 2 - v
        tau = np.maximum(0.0, (w**2 * excess).sum(axis=1, keepdims=True) / (w**2).sum(axis=1, keepdims=True) + 1 / total)
    return np.asarray(tau)


def shrunken(suite: Suite, steps: int, common: bool = False) -> Statements:
    """Normal-normal empirical Bayes with Morris's (1983) variances. `common`: one churn for all tasks instead of each task's own."""
    x, n, m = suite.delta, suite.sizes, suite.wins.shape[1]
    moved = suite.wins + suite.losses
    churn = moved.sum(axis=1, keepdims=True) / n.sum() if common else moved / n - x**2
    v = churn / n + 1 / n**2
    tau = spread_between(x, v, steps)
    w = 1 / (v + tau)
    total, kept = w.sum(axis=1, keepdims=True), tau * w
    mean = (w * x).sum(axis=1, keepdims=True) / total
    unsure = 2 / (m - 3) * (1 - kept) ** 2 * (x - mean) ** 2 * w * ((w * v).sum(axis=1, keepdims=True) / total + tau)
    estimate, error = mean + kept * (x - mean), np.sqrt(v * kept + (1 - kept) ** 2 / total + unsure)
    z = joint_z(m)
    high = estimate + z * error
    excluded = (estimate - z_quantile(1 - ALPHA) * error > -TASK_MARGIN) & (n >= n_min(TASK_MARGIN))
    return Statements(estimate, estimate - z * error, high, high < 0, excluded, error)


def statements(suite: Suite) -> dict[str, Statements]:
    return {
        "today: each task's limits": plain(suite, z_quantile(1 - ALPHA)),
        "today's limits at the joint level": plain(suite, joint_z(suite.wins.shape[1])),
        "shrunken, DerSimonian-Laird": shrunken(suite, 0),
        "shrunken, REML": shrunken(suite, 30),
        "shrunken, REML, one churn": shrunken(suite, 30, common=True),
    }


def truths(trials: int) -> Iterator[tuple[str, float, Array, int | None]]:
    """(name, churn, true changes [trials, 57], the lost task)."""
    none = np.zeros((trials, len(SUBJECTS)))
    rng = np.random.default_rng(51)
    for churn in (0.1, 0.03):
        yield "all equal, nothing lost", churn, none, None
    for sd in (0.01, 0.03):
        yield f"normal spread, mean -1, sd {100 * sd:g}", 0.1, np.clip(rng.normal(-0.01, sd, none.shape), -0.3, 0.3), None
    for churn in (0.1, 0.03):
        for size in (100, 200, 300):
            task = int(np.abs(SUBJECTS - size).argmin())
            yield f"one task of {SUBJECTS[task]:.0f} items lost 10", churn, np.where(np.arange(57) == task, -0.1, none), task


def shrinkage(trials: int) -> tuple[str, str]:
    """The tables of all tasks and of the lost task, 57 subjects."""
    every = [row_of("truth", "churn", "estimator", "error (RMSE)", "all 57 hold", "median width", "widening that holds", "false flag")]
    lost = [row_of("truth", "churn", "estimator", "mean estimate", "its interval holds", "flagged", "loss of 3 called excluded")]
    for at, (name, churn, delta, task) in enumerate(truths(trials)):
        share = np.maximum(churn, np.abs(delta))
        suite = drawn(np.random.default_rng([52, at]), SUBJECTS, (share + delta) / 2, (share - delta) / 2, trials)
        for kind, found in statements(suite).items():
            holds = (found.low <= delta) & (delta <= found.high)
            wrong = float((found.flagged & (delta >= 0)).any(axis=1).mean())
            every.append(row_of(name, f"{churn:.0%}", kind, *accuracy_of(found, delta), f"{wrong:.1%}"))
            if task is not None:
                rates = [f"{each[:, task].mean():.1%}" for each in (holds, found.flagged, found.excluded)]
                lost.append(row_of(name, f"{churn:.0%}", kind, f"{100 * found.estimate[:, task].mean():.1f}", *rates))
    return table(every), table(lost)


def accuracy_of(found: Statements, delta: Array) -> tuple[str, str, str, str]:
    """Root mean squared error and median width in points, joint coverage, and the factor of the width at which 95 % hold jointly."""
    holds = ((found.low <= delta) & (delta <= found.high)).all(axis=1).mean()
    factor = "-"
    if found.error is not None:
        worst = np.quantile((np.abs(found.estimate - delta) / found.error).max(axis=1), 1 - ALPHA)
        factor = f"{worst / joint_z(delta.shape[-1]):.2f}"
    rmse = 100 * np.sqrt(((found.estimate - delta) ** 2).mean())
    return f"{rmse:.2f}", f"{holds:.1%}", f"{100 * np.median(found.high - found.low):.1f}", factor


def best_gain(m: int) -> float:
    """The least expected width, in units of the usual one, of a normal interval that keeps its coverage at every truth (Pratt 1961)."""
    one, two = z_quantile((1 - ALPHA) ** (1 / m)), joint_z(m)
    return float(np.exp(-(one**2) / 2) / np.sqrt(2 * np.pi) + one * z_cdf(one)) / two


def real_shrinkage(line: Line, trials: int) -> str:
    """Items drawn with replacement from those of each pair: what the stored items show is the truth."""
    kinds = ("today's limits at the joint level", "shrunken, REML")
    head = ("pair", "tasks", "error (RMSE), plain", "shrunken", "all hold, plain", "shrunken", "width, plain", "shrunken")
    lines = [row_of(*head, "largest loss", "its interval holds, shrunken")]
    for at, (pair, margins) in enumerate(line.copies.items()):
        d = [line.change(pair, task) for task in margins]
        gain, loss = (np.array([(sign * each > 0).mean() for each in d]) for sign in (1, -1))
        sizes, delta = np.array([float(len(each)) for each in d]), gain - loss
        found = statements(drawn(np.random.default_rng([55, at]), sizes, gain, loss, trials))
        shown = [accuracy_of(found[kind], delta) for kind in kinds]
        worst, own = int(delta.argmin()), found[kinds[1]]
        holds = float(((own.low <= delta) & (delta <= own.high))[:, worst].mean())
        cells = [each[place] for place in range(3) for each in shown]
        lines.append(row_of(TITLES[pair], str(len(d)), *cells, f"{100 * delta[worst]:.1f}", f"{holds:.1%}"))
    return table(lines)
