"""A first look at anchor items: those nearest to a tie in the earlier runs of the line, taken as a sample of all items."""

from __future__ import annotations

import numpy as np

from assay.harness.stats.rule import PASS, REGRESSED
from assay.harness.stats.smoothing import spread
from assay.harness.task.metric import Array
from tests.sim.estimators.real_pairs import TITLES
from tests.sim.estimators.simulated import BASES, DESTROYED, Truth, step
from tests.sim.gate_tasks import Suite, verdicts
from tests.sim.pooling.line import Line, row_of, table

LOOK, ITEMS, LOSS, HISTORY = 200, 2000, 0.02, 4
"""Items of the first look and of the whole gate, its margin, and earlier candidates of the line."""
SEEN = ("all", "anchors", "random")
"""What is looked at."""


def looked(truth: Truth, trials: int, seed: int) -> dict[str, Suite]:
    """Counts of one gate by what is looked at: all items, as many anchors as a look has, or as many random items."""
    rng = np.random.default_rng([56, seed])
    amount, s = truth.calibrated(), float(spread(BASES[truth.base](np.random.default_rng(2), (400_000,))))
    found: dict[str, list[Array]] = {name: [] for name in SEEN}
    for start in range(0, trials, 200):
        base, new = truth.draw(rng, min(200, trials - start), ITEMS, amount, s)
        d = step(new) - step(base)
        # The mean margin over the line: the baseline and earlier candidates, each with noise of .3 of the spread.
        near = base + 0.3 * s * np.sqrt(HISTORY) / (HISTORY + 1) * rng.normal(size=base.shape)
        first = np.argpartition(np.abs(near), LOOK, axis=1)[:, :LOOK]
        for name, part in (("all", d), ("anchors", np.take_along_axis(d, first, axis=1)), ("random", d[:, :LOOK])):
            found[name].append(np.stack([(part > 0).sum(axis=1), (part < 0).sum(axis=1)]).astype(np.float64))
    sizes = {"all": ITEMS, "anchors": ITEMS, "random": LOOK}  # items that are no anchors are taken as unchanged
    joined = {name: np.concatenate(each, axis=1)[..., None] for name, each in found.items()}
    return {name: Suite(wins, losses, np.array([float(sizes[name])])) for name, (wins, losses) in joined.items()}


def tells(one: Array, two: Array) -> float:
    """How often a value of `two` is below one of `one`; equal values count half."""
    ordered = np.sort(one)
    above = len(one) - (np.searchsorted(ordered, two, side="left") + np.searchsorted(ordered, two, side="right")) / 2
    return float(above.mean() / len(one))


def anchor_table(trials: int) -> str:
    head = ("margins", "change", "changed items that are anchors", "tells 2 points lost: all", "anchors", "random", "same verdict: anchors")
    lines = [row_of(*head, "false regressed: all", "anchors", "random", "false pass: all", "anchors", "random")]
    for at, (base, change) in enumerate(
        (base, change)
        for base in ("normal, accuracy .65", "normal, accuracy .9", "heavy tails")
        for change in ("noise .3", "flattened to .8", "sharpened to 1.25", DESTROYED)
    ):
        found = [looked(Truth(base, change, times * LOSS), trials, at) for times in (0, 1, 2)]
        told = [f"{tells(found[0][name].delta[:, 0], found[1][name].delta[:, 0]):.2f}" for name in SEEN]
        judged = [{name: verdicts(suite, margin=LOSS) for name, suite in each.items()} for each in found]
        same = np.mean([(each["all"] == each["anchors"]).mean() for each in judged])
        kept = [sum(float((each[name].wins + each[name].losses).sum()) for each in found) for name in ("anchors", "all")]
        errors = [float((judged[case][name] == code).mean()) for case, code in ((0, REGRESSED), (1, PASS)) for name in SEEN]
        lines.append(row_of(base, change, f"{kept[0] / kept[1]:.0%}", *told, f"{same:.0%}", *(f"{rate:.1%}" for rate in errors)))
    return table(lines)


def real_anchors(line: Line, share: float = 0.2) -> str:
    """A fifth of each task's items, those nearest to a tie in the other runs: what they say of all items."""
    lines = [
        row_of("pair", "changed items that are anchors", "change, all items", "by anchors", "error of a task, anchors", "random items")
    ]
    for pair, margins in line.copies.items():
        rows = []
        for task in margins:
            d = line.change(pair, task)
            near = np.mean([line.base[task], *(line.copies[name][task] for name in line.earlier(pair, task))], axis=0)
            first = np.argsort(np.abs(near), kind="stable")[: round(share * len(d))]
            by_chance = d.var(ddof=1) * (1 / len(first) - 1 / len(d))
            rows.append((np.abs(d[first]).sum(), np.abs(d).sum(), d.mean(), d[first].sum() / len(d), by_chance))
        inside, moved, whole, seen, chance = np.array(rows).T
        errors = (100 * np.sqrt(value) for value in (((seen - whole) ** 2).mean(), chance.mean()))
        kept = f"{inside.sum() / moved.sum():.0%}" if moved.sum() else "-"
        lines.append(
            row_of(TITLES[pair], kept, f"{100 * whole.mean():.2f}", f"{100 * seen.mean():.2f}", *(f"{each:.2f}" for each in errors))
        )
    return table(lines)
