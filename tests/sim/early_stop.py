"""Early stop over one and ten tasks: python -m tests.sim.early_stop [trials] writes results/gate/early_stop.md."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from assay.harness.stats.paired import tango_z
from assay.harness.stats.sequential import Design, Stop, fixed_order, monitor
from assay.harness.task.metric import Array, Codes
from tests.sim.gate_tasks import SIZES

OUT = Path("results/gate")
Method = Callable[[Array, Codes, Design], Stop]


def ours(d: Array, tasks: Codes, design: Design) -> Stop:
    found = monitor(d, tasks, design)
    assert found is not None
    return found


def full(d: Array, tasks: Codes, design: Design) -> Stop:
    """One Tango and one score test at 5 %, after all items."""
    wins, losses = (d > 0).sum(), (d < 0).sum()
    if tango_z(wins, losses, len(d), design.margin) > 1.645:
        return Stop("pass", len(d), "end")
    return Stop("regressed" if (wins - losses) / np.sqrt(max(wins + losses, 1)) < -1.645 else "inconclusive", len(d), "end")


def peeking(d: Array, tasks: Codes, design: Design) -> Stop:
    """A plain z test every 25 items, without correction for repeated looks."""
    for size in range(25, len(d) + 1, 25):
        found = full(d[:size], tasks[:size], design)
        if found.verdict != "inconclusive":
            return found
    return Stop("inconclusive", len(d), "end")


def mixture(d: Array, tasks: Codes, design: Design) -> Stop:
    """A mixture sequential probability ratio test around the margin, every 25 items with the variance so far (statgate)."""
    sizes = np.arange(25, len(d) + 1, 25)
    sums, squares = np.cumsum(d)[sizes - 1], np.cumsum(d**2)[sizes - 1]
    mean = sums / sizes
    variance = np.maximum(squares / sizes - mean**2, 1e-9) * sizes / (sizes - 1)
    tau = design.margin**2
    log_ratio = 0.5 * np.log(variance / (variance + sizes * tau))
    log_ratio += sizes**2 * tau * (mean + design.margin) ** 2 / (2 * variance * (variance + sizes * tau))
    hit = np.flatnonzero(log_ratio >= np.log(1 / design.alpha))
    if not len(hit):
        return Stop("inconclusive", len(d), "end")
    first = hit[0]
    return Stop("pass" if mean[first] > -design.margin else "regressed", int(sizes[first]), "mixture")


METHODS: dict[str, Method] = {"full run": full, "z every 25 items": peeking, "mixture SPRT (statgate)": mixture, "ours": ours}


def stream(rng: np.random.Generator, design: Design, churn: float, deltas: Array) -> tuple[Array, Codes]:
    """Differences and task codes of all items in the fixed order."""
    tasks = np.repeat(np.arange(len(design.sizes)), design.sizes)
    tasks = tasks[fixed_order([str(task) for task in tasks], [str(place) for place in range(len(tasks))], 0)] if len(deltas) > 1 else tasks
    share = np.maximum(churn, np.abs(deltas))[tasks]
    level = rng.random(len(tasks))
    return np.where(level < (share - deltas[tasks]) / 2, -1.0, np.where(level < share, 1.0, 0.0)), tasks


def outcome(method: Method, design: Design, churn: float, deltas: Array, trials: int, seed: int = 31) -> tuple[dict[str, float], float]:
    """The share of each verdict, and the mean number of items."""
    rng = np.random.default_rng(seed)
    order = stream(np.random.default_rng(0), design, churn, deltas)[1]
    found = []
    for _ in range(trials):
        share = np.maximum(churn, np.abs(deltas))[order]
        level = rng.random(len(order))
        found.append(method(np.where(level < (share - deltas[order]) / 2, -1.0, np.where(level < share, 1.0, 0.0)), order, design))
    counts = Counter(stop.verdict for stop in found)
    return {name: counts[name] / trials for name in ("pass", "regressed", "inconclusive")}, float(np.mean([stop.items for stop in found]))


def rows(trials: int) -> Iterator[str]:
    singles = [(Design((1.0,), (n,), margin), churn) for n, margin, churn in ((1000, 0.03, 0.1), (4000, 0.02, 0.1), (14000, 0.01, 0.1))]
    for design, churn in singles:
        for times in (0, 1, 2, 5):
            delta = np.array([-times * design.margin + 0.0])
            for name, method in METHODS.items():
                share, items = outcome(method, design, churn, delta, trials)
                yield line(
                    f"one task of {design.items}, margin {100 * design.margin:g}, loss {100 * times * design.margin:g}",
                    name,
                    share,
                    items,
                    design,
                )
    ten = Design(tuple([0.1] * 10), tuple(int(n) for n in SIZES), 0.01)
    even = Design(tuple([0.1] * 10), tuple([1400] * 10), 0.01)
    for truth, deltas in (("no change", np.zeros(10)), ("every task -1 (the margin)", np.full(10, -0.01))):
        share, items = outcome(ours, even, 0.1, deltas, max(200, trials // 2))
        yield line(f"ten tasks of 1400 items, margin 1, {truth}", "ours", share, items, even)
    truths = {
        "no change": np.zeros(10),
        "every task -1 (the margin)": np.full(10, -0.01),
        "every task -2": np.full(10, -0.02),
        "every task -5": np.full(10, -0.05),
        "the task of 1838 items -10": np.where(SIZES == 1838, -0.1, 0.0),
        "the task of 250 items -10 (the margin)": np.where(SIZES == 250, -0.1, 0.0),
    }
    for truth, deltas in truths.items():
        share, items = outcome(ours, ten, 0.1, deltas, max(200, trials // 2))
        yield line(f"ten tasks, {ten.items} items, margin 1, {truth}", "ours", share, items, ten)


def line(truth: str, name: str, share: dict[str, float], items: float, design: Design) -> str:
    rates = " | ".join(f"{rate:.4f}" for rate in share.values())
    return f"| {truth} | {name} | {rates} | {items:.0f} ({items / design.items:.0%}) |"


def main(trials: int = 2000) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    lines = ["| truth (points, churn 10 %) | rule | pass | regressed | inconclusive | mean items |", "|---|---|---|---|---|---|"]
    for row in rows(trials):
        lines.append(row)
        print(row, flush=True)
    errors = "At no change `regressed` and at the margin `pass` are errors, each nominally 5 %."
    head = f"# Early stop\n\n`python -m tests.sim.early_stop {trials}`\n\n{errors}\n\n"
    (OUT / "early_stop.md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
