"""Error rates over ten tasks, of the gate and of other rules: python -m tests.sim.gate_tasks [trials] writes results/gate/tasks.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from assay.harness.stats.correction import holm
from assay.harness.stats.difference import paired_difference
from assay.harness.stats.interval import Part
from assay.harness.stats.paired import mid_p, tango_bound
from assay.harness.stats.rule import NAMES, PASS, REGRESSED, Aggregate, Columns, combine, gate_verdicts, loss_excluded
from assay.harness.task.metric import Array
from tests.sim.coverage import MEAN
from tests.sim.rules import ALPHA, Flags, z_of

OUT = Path("results/gate")
SIZES = np.array([250, 400, 600, 800, 1000, 1200, 1838, 1912, 2000, 3000])
MARGIN, TASK_MARGIN = 0.01, 0.03


@dataclass(frozen=True, slots=True)
class Suite:
    """T comparisons of m binary tasks: wins and losses [T, m] of `sizes` [m] items; the baseline's accuracy is .65."""

    wins: Array
    losses: Array
    sizes: Array

    @property
    def delta(self) -> Array:
        return (self.wins - self.losses) / self.sizes


def draw(rng: np.random.Generator, trials: int, sizes: Array, churn: float, deltas: Array) -> Suite:
    """Every task disagrees on a share `churn` of its items (more where its difference needs it)."""
    moved = np.maximum(churn, np.abs(deltas))
    columns = [
        rng.multinomial(int(n), [(share + delta) / 2, (share - delta) / 2, 1 - share], size=trials)
        for n, share, delta in zip(sizes, moved, deltas, strict=True)
    ]
    counts = np.stack(columns, axis=1).astype(np.float64)
    return Suite(counts[..., 0], counts[..., 1], sizes.astype(np.float64))


def evidence(suite: Suite, weights: Array | None = None) -> tuple[Aggregate, Columns]:
    """What the gate computes from such counts, for all trials at once; with equal weights, or those given [m]."""
    a, b, n = suite.wins, suite.losses, np.broadcast_to(suite.sizes, suite.wins.shape)
    z = z_of(1 - ALPHA)
    se = np.sqrt(((a + b) / n - suite.delta**2) / n + 1 / n**2)
    columns = Columns(suite.delta, tango_bound(a, b, n, z), -tango_bound(b, a, n, z), se, n - 1)
    return combine(columns, np.full(len(suite.sizes), 1 / len(suite.sizes)) if weights is None else weights), columns


def verdicts(suite: Suite, weights: Array | None = None, *, margin: float = MARGIN, tried: int = 1) -> Array:
    """The gate's verdicts [T]."""
    whole, columns = evidence(suite, weights)
    held = loss_excluded(columns.low, TASK_MARGIN, suite.sizes)
    p = np.minimum(1.0, tried * mid_p(suite.wins, suite.losses))
    none = np.zeros(held.shape, dtype=np.bool_)
    return np.asarray(gate_verdicts(tried * whole.p_loss, whole.low > -margin, p, held, none))


def undivided(suite: Suite) -> tuple[Flags, Flags]:
    """The aggregate at 5 % and the tasks by Holm at another 5 %."""
    whole, _ = evidence(suite)
    lost = (whole.p_loss <= ALPHA) | (holm(mid_p(suite.wins, suite.losses)) <= ALPHA).any(axis=1)
    return lost, ~lost & (whole.low > -MARGIN)


def uncorrected(suite: Suite, margin: float = TASK_MARGIN) -> tuple[Flags, Flags]:
    """Each task at 5 %; to pass, every task's interval must be within the margin (evalsig, errorbars, deltagate, abeval)."""
    _, columns = evidence(suite)
    return (mid_p(suite.wins, suite.losses) <= ALPHA).any(axis=1), (columns.low > -margin).all(axis=1)


def all_must_pass(suite: Suite, margin: float = 0.015) -> tuple[Flags, Flags]:
    """Every task by a t interval at its margin (NeMo Evaluator's gate, statgate)."""
    error = np.sqrt(((suite.wins + suite.losses) / suite.sizes - suite.delta**2) / (suite.sizes - 1))
    return (suite.delta + 1.96 * error < -margin).any(axis=1), (suite.delta - 1.96 * error > -margin).all(axis=1)


def relative_point(suite: Suite) -> tuple[Flags, Flags]:
    """A test on the point estimate: no task may drop by 3 % of its baseline (NeMo Evaluator's relative guard)."""
    lost = (suite.delta < -0.03 * 0.65).any(axis=1)
    return lost, ~lost


def scenarios() -> dict[str, tuple[float, Array]]:
    """The simulated truths: churn, and the true difference of each task."""
    none = np.zeros(len(SIZES))

    def one(size: int, delta: float) -> Array:
        return np.where(size == SIZES, delta, 0.0)

    return {
        "identical outputs": (0.0, none),
        "same model, 2 % engine noise": (0.02, none),
        "no change, 10 % churn": (0.1, none),
        "no change, 20 % churn": (0.2, none),
        "every task -0.5 pt": (0.1, none - 0.005),
        "every task -1 pt (the margin)": (0.1, none - 0.01),
        "every task -2 pt": (0.1, none - 0.02),
        "the task of 1838 items -5 pt": (0.1, one(1838, -0.05)),
        "the task of 250 items -10 pt (the margin on the aggregate)": (0.1, one(250, -0.1)),
        "the task of 3000 items -3 pt": (0.1, one(3000, -0.03)),
        "half of the tasks +2, half -2 pt": (0.1, np.where(np.arange(len(SIZES)) % 2, 0.02, -0.02)),
    }


def categories(trials: int, groups: int, seed: int = 5, n: int = 1000, churn: float = 0.1, margin: float = 0.02) -> float:
    """False pass at the margin where independent items get one of `groups` labels that a rule takes for clusters and judges by z."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n, np.full(groups, 1 / groups), size=trials)
    drawn = rng.multinomial(counts, [(churn - margin) / 2, (churn + margin) / 2, 1 - churn])
    sums = (drawn[..., 0] - drawn[..., 1]).astype(np.float64)
    mean = sums.sum(axis=1) / n
    spread = ((sums - counts * mean[:, None]) ** 2).sum(axis=1) / n**2
    return float((mean - 1.96 * np.sqrt(spread) > -margin).mean())


def our_categories(trials: int, groups: int, seed: int = 5, n: int = 1000, churn: float = 0.1, margin: float = 0.02) -> float:
    """The same under our rule, through the function that the gate calls."""
    rng, passed = np.random.default_rng(seed), 0
    for _ in range(trials):
        level, base = rng.random(n), np.ones((n, 1))
        base[level < (churn - margin) / 2] = 0
        candidate = base.copy()
        candidate[level < churn] = 1 - base[level < churn]
        part = Part(MEAN, base, np.arange(n), rng.integers(0, groups, n))
        found = paired_difference(part, candidate)
        passed += bool(loss_excluded(found.low, margin, found.units))
    return passed / trials


def best_of(trials: int, count: int, corrected: bool, seed: int = 6, n: int = 1000) -> float:
    """False "regressed" where the baseline is the best of `count` equal models on the same items."""
    rng, alarms = np.random.default_rng(seed), 0
    for _ in range(trials):
        easy = rng.random(n) < 0.65
        runs = np.where(rng.random((count + 1, n)) < 0.9, easy, rng.random((count + 1, n)) < 0.65)
        best = runs[:count][runs[:count].sum(axis=1).argmax()]
        suite = Suite(*(np.array([[float(wins.sum())]]) for wins in (runs[-1] & ~best, best & ~runs[-1])), np.array([float(n)]))
        alarms += int(verdicts(suite, tried=count if corrected else 1)[0]) == REGRESSED
    return alarms / trials


RULES: dict[str, Callable[[Suite], tuple[Flags, Flags]]] = {
    "aggregate at 5 % and Holm at another 5 %": undivided,
    "ten uncorrected tasks": uncorrected,
    "every task must exclude 1.5 points": all_must_pass,
    "every task must exclude 3 points": partial(all_must_pass, margin=0.03),
    "point estimate may not drop by 3 % of the baseline": relative_point,
}


def report(trials: int) -> str:
    lines = ["## Verdicts over ten tasks (13,000 items, margin 1 point, task margin 3 points)", ""]
    lines += ["| truth | pass | regressed | inconclusive |", "|---|---|---|---|"]
    for name, (churn, deltas) in scenarios().items():
        found = verdicts(draw(np.random.default_rng(21), trials, SIZES, churn, deltas))
        lines.append(f"| {name} | " + " | ".join(f"{(found == code).mean():.4f}" for code in range(len(NAMES))) + " |")
    lines += [
        "",
        "## Other rules over ten tasks",
        "",
        "| rule | n per task | regressed, no change | pass, no change | pass, every task -1 pt |",
    ]
    lines.append("|---|---|---|---|---|")
    for sizes, label in ((SIZES, "250 to 3000"), (np.full(10, 250), "250"), (np.full(10, 1000), "1000")):
        still = draw(np.random.default_rng(22), trials, sizes, 0.1, np.zeros(10))
        worse = draw(np.random.default_rng(23), trials, sizes, 0.1, np.full(10, -0.01))
        ours, lost = verdicts(still), verdicts(worse)
        lines.append(f"| ours | {label} | {(ours == REGRESSED).mean():.4f} | {(ours == PASS).mean():.4f} | {(lost == PASS).mean():.4f} |")
        for name, rule in RULES.items():
            (alarm, passed), (_, wrong) = rule(still), rule(worse)
            lines.append(f"| {name} | {label} | {alarm.mean():.4f} | {passed.mean():.4f} | {wrong.mean():.4f} |")
    lines += ["", "## Ten small tasks that rarely disagree (margin 1 point)", ""]
    lines += ["| n per task | churn | regressed, no change | pass, every task -1 pt | pass, one task -10 pt |", "|---|---|---|---|---|"]
    for size in (30, 60, 150):
        for churn in (0.01, 0.02, 0.05):
            truths = (np.zeros(10), np.full(10, -0.01), np.where(np.arange(10) == 0, -0.1, 0.0))
            found = [verdicts(draw(np.random.default_rng(24), trials, np.full(10, size), churn, deltas)) for deltas in truths]
            rates = [(found[0] == REGRESSED).mean(), (found[1] == PASS).mean(), (found[2] == PASS).mean()]
            lines.append(f"| {size} | {churn:g} | " + " | ".join(f"{rate:.4f}" for rate in rates) + " |")
    lines += ["", "## Independent items with a category label taken for a cluster (n 1000, churn 10 %, loss at the margin of 2 points)", ""]
    lines += ["| categories | z on clusters (nominal .025) | ours (nominal .05) |", "|---|---|---|"]
    few = max(100, trials // 4)
    lines += [f"| {g} | {categories(trials, g):.4f} | {our_categories(few, g):.4f} |" for g in (2, 3, 4, 8, 14, 50, 200)]
    lines += [
        "",
        "## The baseline is the best of K equal models on the same 1,000 items",
        "",
        "| K | uncorrected | ours |",
        "|---|---|---|",
    ]
    some = max(200, trials // 5)
    lines += [f"| {k} | {best_of(some, k, False):.4f} | {best_of(some, k, True):.4f} |" for k in (1, 2, 5, 10, 50)]
    return "\n".join(lines) + "\n"


def main(trials: int = 10_000) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    text = f"# The gate over many tasks\n\n`python -m tests.sim.gate_tasks {trials}`\n\n" + report(trials)
    (OUT / "tasks.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
