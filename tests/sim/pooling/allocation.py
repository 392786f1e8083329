"""Numbers of items of each task by the variance of its change, under early stop, beside numbers in proportion to what is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from assay.harness.decide.verdict import task_weights
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.rule import NAMES
from assay.harness.stats.sequential import E_SHARE, Design, boundaries
from assay.harness.task.metric import Array
from tests.sim.early_stop import many_stops, stream
from tests.sim.estimators.real_pairs import TITLES
from tests.sim.gate_tasks import SIZES
from tests.sim.pooling.line import Line, row_of, table
from tests.sim.rules import ALPHA


@dataclass(frozen=True, slots=True)
class Plan:
    """Tasks (or strata) with weights, stored items and churn [m], and the margin of the aggregate."""

    name: str
    weights: Array
    sizes: Array
    churn: Array
    margin: float

    def items(self, goal: Array, churn: Array) -> Array:
        """Items of each task in proportion to `goal` [m], at most those stored: the fewest that pass an unchanged model with 80 % power if
        `churn` is right."""
        z = boundaries((1 - E_SHARE) * ALPHA)[-1] + z_quantile(0.8)
        low, high = 0.0, float((self.sizes / goal).max())
        for _ in range(50):
            middle = (low + high) / 2
            planned = np.maximum(2, np.minimum(self.sizes, middle * goal))
            enough = z**2 * (self.weights**2 * (churn / planned + 1 / planned**2)).sum() <= self.margin**2
            low, high = (low, middle) if enough else (middle, high)
        return np.asarray(np.maximum(2, np.minimum(self.sizes, np.ceil(high * goal))))


def plans() -> Iterator[Plan]:
    weights = np.array(list(task_weights({f"t{place}": int(n) for place, n in enumerate(SIZES)}, {}).values()))
    yield Plan("ten tasks, equal churn", weights, SIZES.astype(float), np.full(10, 0.1), 0.01)
    yield Plan("ten tasks, churn 2 % and 20 %", weights, SIZES.astype(float), np.where(np.arange(10) % 2, 0.2, 0.02), 0.01)
    mixed = np.where(np.arange(57) % 2, 0.2, 0.02)
    yield Plan("57 subjects of 246, churn 2 % and 20 %", np.full(57, 1 / 57), np.full(57, 246.0), mixed, 0.01)
    yield Plan("one task in thirds by the baseline's margin", np.full(3, 1 / 3), np.full(3, 5000.0), np.array([0.25, 0.04, 0.01]), 0.02)


def allocations(plan: Plan) -> Iterator[tuple[str, list[Array]]]:
    """Numbers of items of each task, by rule; twenty of them where they depend on an earlier pair of 100 items a task."""
    yield "proportional", [plan.items(plan.sizes, plan.churn)]
    if len(set(plan.sizes / plan.weights)) > 1:
        yield "by weight", [plan.items(plan.weights, plan.churn)]
    uneven = len(set(plan.churn)) > 1
    if uneven:
        yield "by weight and variance, known", [plan.items(plan.weights * np.sqrt(plan.churn), plan.churn)]
    rng = np.random.default_rng(53)
    seen = [(rng.binomial(100, plan.churn) + 0.5) / 101 for _ in range(20)]
    yield "by weight and variance, earlier pair", [plan.items(plan.weights * np.sqrt(churn), churn) for churn in seen]
    if uneven:
        turned = plan.churn.max() + plan.churn.min() - plan.churn
        yield "by weight and variance, wrong", [plan.items(plan.weights * np.sqrt(turned), turned)]


def stopped(plan: Plan, planned: list[Array], delta: Array, trials: int) -> tuple[dict[str, float], float]:
    """The share of each verdict under early stop, and the mean number of items."""
    counts: Counter[str] = Counter()
    items, rng = 0, np.random.default_rng(54)
    for sizes in planned:
        design = Design(tuple(plan.weights), tuple(int(n) for n in sizes), plan.margin)
        order = stream(np.random.default_rng(0), design, 0.1, delta)[1]
        share = np.maximum(plan.churn, np.abs(delta))[order]
        left, piece = trials // len(planned), max(1, 2_000_000 // len(order))
        while left > 0:
            level = rng.random((min(piece, left), len(order)))
            d = np.where(level < (share - delta[order]) / 2, -1.0, np.where(level < share, 1.0, 0.0))
            for stop in many_stops(d, order, design):
                counts[stop.verdict] += 1
                items += stop.items
            left -= piece
    total = counts.total()
    return {name: counts[name] / total for name in NAMES}, items / total


def allocation_table(trials: int) -> str:
    head = ("suite", "items of a task", "planned", "used, nothing lost", "pass, nothing lost", "false regressed", "false pass")
    lines = [row_of(*head, "pass, loss in a quiet part")]
    for plan in plans():
        m, quiet = len(plan.weights), int(np.argmin(plan.churn))
        strata = m == 3
        lost = np.where(np.arange(m) == m - 1, -plan.margin / plan.weights, 0.0) if strata else np.where(np.arange(m) == quiet, -0.1, 0.0)
        for name, planned in allocations(plan):
            same, used = stopped(plan, planned, np.zeros(m), trials)
            gone, hidden = (stopped(plan, planned, each, trials)[0] for each in (np.full(m, -plan.margin), lost))
            rates = (f"{rate:.1%}" for rate in (same["pass"], same["regressed"], gone["pass"], hidden["pass"]))
            lines.append(row_of(plan.name, name, f"{np.mean([each.sum() for each in planned]):,.0f}", f"{used:,.0f}", *rates))
            print(lines[-1], flush=True)
    return table(lines)


def thirds(margins: Array) -> Array:
    """The third of each item by the baseline's absolute margin."""
    return np.asarray(3 * np.abs(margins).argsort().argsort() // len(margins))


def real_allocation(line: Line) -> str:
    """Items needed by variance, in units of proportional: with the pair's own churn, and with that of the other copies."""
    lines = [row_of("pair", "over tasks, own churn", "over tasks, other copies'", "and thirds by margin, own", "and thirds, other copies'")]
    for pair, margins in line.copies.items():
        weights = task_weights({task: len(each) for task, each in margins.items()}, {})
        cells = []
        for split in (False, True):
            mass, size, own, earlier = [], [], [], []
            for task in margins:
                part = thirds(line.base[task]) if split else np.zeros(len(line.base[task]), dtype=np.int64)
                for each in np.unique(part):
                    kept = part == each
                    mass.append(weights[task] * kept.mean())
                    size.append(kept.sum())
                    own.append(np.abs(line.change(pair, task)[kept]).mean())
                    earlier.append(np.mean([np.abs(line.change(name, task)[kept]).mean() for name in line.earlier(pair, task)]))
            w, n, churn = np.array(mass), np.array(size, dtype=np.float64), np.array(own)
            usual = (w**2 * churn / (n / n.sum())).sum()
            for known in (own, earlier):
                goal = w * np.sqrt((np.array(known) * n + 0.5) / (n + 1))
                cells.append(f"{(w**2 * churn / (goal / goal.sum())).sum() / usual:.2f}" if usual > 0 else "-")
        lines.append(row_of(TITLES[pair], *cells))
    return table(lines)
