"""Early stop over one and ten tasks: python -m tests.sim.early_stop [trials] writes results/gate/early_stop.md."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.harness.decide.verdict import task_weights
from assay.harness.stats.paired import tango_bound, tango_z
from assay.harness.stats.rule import Columns, combine, n_min
from assay.harness.stats.sequential import E_EVERY, E_SHARE, Design, Stop, boundaries, fixed_order, log_e, look_sizes, monitor
from assay.harness.task.metric import Array, Codes
from tests.sim.gate_size import limit
from tests.sim.gate_tasks import SIZES
from tests.sim.rules import Flags

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


def many_stops(d: Array, tasks: Codes, design: Design) -> list[Stop]:
    """`monitor` of many streams d [T, n] of differences -1, 0 and 1 at once; a test compares it with `monitor`."""
    m, spend = len(design.sizes), E_SHARE * design.alpha
    checks = np.arange(E_EVERY - 1, d.shape[1], E_EVERY)
    moved, largest = d * design.scales[tasks], float(design.scales.max())
    lost = log_e(moved, design.margin, loss=True, scale=largest, at=checks) >= np.log((2 if m > 1 else 1) * design.tried / spend)
    for task in range(m if m > 1 else 0):
        lost |= own_wealth(d, np.flatnonzero(tasks == task), checks, design.margin) >= np.log(2 * m * design.tried / spend)
    held = log_e(moved, design.margin, loss=False, scale=largest, at=checks) >= np.log(1 / spend)
    held &= checks + 1 >= n_min(design.margin, design.alpha)
    first = np.where((lost | held).any(axis=1), (lost | held).argmax(axis=1), len(checks))
    at_e = np.append(checks + 1, d.shape[1] + 1)[first]
    looks = [(size, *look_flags(d[:, :size], tasks[:size], design, look)) for look, size in enumerate(look_sizes(design.items))]
    found = []
    for trial, end in enumerate(at_e):
        stop = Stop("inconclusive", design.items, "last look")
        for look, (size, passed, failed) in enumerate(looks):
            if end <= size:
                stop = Stop("regressed" if lost[trial, first[trial]] else "pass", int(end), "e-process")
            elif passed[trial] or failed[trial]:
                stop = Stop("pass" if passed[trial] else "regressed", size, f"look {look + 1}")
            else:
                continue
            break
        found.append(stop)
    return found


def own_wealth(d: Array, places: Codes, checks: Codes, margin: float) -> Array:
    """Log e-values [T, checks] of "no loss" on one task, whose items are at `places` of the stream: other items leave them as they are."""
    x = -d[:, places]
    before = np.cumsum(x**2, axis=1) - x**2
    second = (1 + before) / (20 + places)
    bets = [(np.minimum(margin / (second + margin**2), 0.9), 0.5), *((bet, 0.1) for bet in np.geomspace(0.05, 0.9, 5))]
    done = np.searchsorted(places, checks, side="right")
    wealth = np.full((len(d), len(checks)), -np.inf)
    for bet, share in bets:
        grown = np.concatenate([np.zeros((len(d), 1)), np.cumsum(np.log1p(bet * x), axis=1)], axis=1)
        wealth = np.logaddexp(wealth, grown[:, done] + np.log(share))
    return np.asarray(wealth)


def look_flags(d: Array, tasks: Codes, design: Design, look: int) -> tuple[Flags, Flags]:
    """Which streams d [T, n] pass and which regress at a look."""
    m, spend = len(design.sizes), (1 - E_SHARE) * design.alpha / design.tried
    counts = np.bincount(tasks, minlength=m).astype(np.float64)
    if (counts < 2).any():
        none = np.zeros(len(d), dtype=np.bool_)
        return none, none
    wins, losses = (np.stack([flags[:, tasks == task].sum(axis=1) for task in range(m)], axis=1) for flags in (d > 0, d < 0))
    level = boundaries((1 - E_SHARE) * design.alpha)[look]
    low = tango_bound(wins, losses, counts, level)
    delta, moved = (wins - losses) / counts, (wins + losses).astype(np.float64)
    error = np.sqrt(moved / counts**2 + 1 / counts**2)
    whole = combine(Columns(delta, low, low * 0, error, counts - 1), np.array(design.weights))
    held = (whole.low > -design.margin) & (d.shape[1] >= n_min(design.margin, design.alpha))
    lost = whole.delta <= -boundaries(spend / (2 if m > 1 else 1))[look] * whole.se
    if m > 1:
        each = boundaries(spend / (2 * m))[look]
        lost = (lost & ~held) | ((wins < losses) & (wins - losses <= -each * np.sqrt(moved))).any(axis=1)
        return held & ~lost, lost
    return held, lost & ~held


def outcome(method: Method, design: Design, churn: float, deltas: Array, trials: int, seed: int = 31) -> tuple[dict[str, float], float]:
    """The share of each verdict, and the mean number of items."""
    rng = np.random.default_rng(seed)
    order = stream(np.random.default_rng(0), design, churn, deltas)[1]
    found: list[Stop] = []
    share, size = np.maximum(churn, np.abs(deltas))[order], max(1, 500_000 // len(order))
    for start in range(0, trials, size):
        level = rng.random((min(size, trials - start), len(order)))
        d = np.where(level < (share - deltas[order]) / 2, -1.0, np.where(level < share, 1.0, 0.0))
        found += many_stops(d, order, design) if method is ours else [method(each, order, design) for each in d]
    counts = Counter(stop.verdict for stop in found)
    return {name: counts[name] / trials for name in ("pass", "regressed", "inconclusive")}, float(np.mean([stop.items for stop in found]))


@dataclass(frozen=True, slots=True)
class Cell:
    """A rule on one design with true differences of its tasks, in so many trials."""

    truth: str
    rule: str
    design: Design
    deltas: Array
    trials: int

    def row(self) -> str:
        share, items = outcome(METHODS[self.rule], self.design, 0.1, self.deltas, self.trials)
        return line(self.truth, self.rule, share, items, self.design, self.trials)


@dataclass(frozen=True, slots=True)
class Ordered:
    """One task whose losses are all in the last tenth of its data, evaluated in our order or in that of the data."""

    rule: str
    trials: int

    @property
    def design(self) -> Design:
        return Design((1.0,), (4000,), 0.02)

    def row(self) -> str:
        n, rng = self.design.items, np.random.default_rng(41)
        late = np.arange(n) >= 0.9 * n
        order = fixed_order([""] * n, [str(place) for place in range(n)], 0) if self.rule == "ours" else np.arange(n)
        level, codes, found = rng.random((self.trials, n)), np.zeros(n, dtype=np.int64), []
        loss = np.where(late, 0.05 + 10 * self.design.margin, 0.05)
        d = np.where(level < loss, -1.0, np.where(level > 0.95, 1.0, 0.0))[:, order]
        for start in range(0, self.trials, 100):
            found += many_stops(d[start : start + 100], codes, self.design)
        counts = Counter(stop.verdict for stop in found)
        share = {name: counts[name] / self.trials for name in ("pass", "regressed", "inconclusive")}
        truth = "one task of 4000, margin 2: a loss of 20 in the last tenth of the data, 2 in all (the margin)"
        return line(truth, self.rule, share, float(np.mean([stop.items for stop in found])), self.design, self.trials)


def cells(trials: int) -> Iterator[Cell | Ordered]:
    """Every cell; other rules have a twentieth of the trials, and so have truths in which no verdict is an error."""
    few = max(100, trials // 20)
    for n, margin in ((1000, 0.03), (4000, 0.02), (14000, 0.01)):
        for times in (0, 1, 2, 5):
            truth = f"one task of {n}, margin {100 * margin:g}, loss {100 * times * margin:g}"
            for name in METHODS:
                count = trials if name == "ours" and times < 2 else few
                yield Cell(truth, name, Design((1.0,), (n,), margin), np.array([-times * margin + 0.0]), count)
    yield Ordered("ours", trials // 2)
    yield Ordered("the looks in the order of the data", few)
    sizes = {f"t{place}": int(n) for place, n in enumerate(SIZES)}
    designs = {
        "ten tasks of 1400 items": Design(tuple([0.1] * 10), tuple([1400] * 10), 0.01),
        "ten tasks, 13000 items": Design(tuple(task_weights(sizes, {}).values()), tuple(sizes.values()), 0.01),
    }
    for name, design in designs.items():
        for truth, deltas in (("no change", np.zeros(10)), ("every task -1 (the margin)", np.full(10, -0.01))):
            yield Cell(f"{name}, margin 1, {truth}", "ours", design, deltas, trials)
    one = {
        "every task -2": np.full(10, -0.02),
        "every task -5": np.full(10, -0.05),
        "the task of 1838 items -10": np.where(SIZES == 1838, -0.1, 0.0),
        "the task of 250 items -10": np.where(SIZES == 250, -0.1, 0.0),
    }
    for truth, deltas in one.items():
        yield Cell(f"{name}, margin 1, {truth}", "ours", design, deltas, few)


def row_of(cell: Cell | Ordered) -> str:
    return cell.row()


def line(truth: str, name: str, share: dict[str, float], items: float, design: Design, trials: int) -> str:
    rates = " | ".join(f"{rate:.4f}" for rate in share.values())
    return f"| {truth} | {name} | {rates} | {items:.0f} ({items / design.items:.0%}) | {trials:,} |"


HEAD = """# Early stop

`python -m tests.sim.early_stop {trials}`

At no change `regressed` and at the margin `pass` are errors, each at most 5 %; a true 5 % shows at most {limit:.4f} in {trials:,} trials.
The order of items is a keyed hash of their ids, so the order of the data does not matter, and a resumed gate decides like an uninterrupted
one (a test resumes it at every look). Ten tasks of different sizes are weighted as the gate weights them.

"""


def main(trials: int = 10_000, workers: int = 2) -> None:
    lines = [
        "| truth (points, churn 10 %) | rule | pass | regressed | inconclusive | mean items | trials |",
        "|---|---|---|---|---|---|---|",
    ]
    with ProcessPoolExecutor(workers) as pool:
        for row in pool.map(row_of, cells(trials)):
            lines.append(row)
            print(row, flush=True)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "early_stop.md").write_text(HEAD.format(trials=trials, limit=limit(trials)) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
