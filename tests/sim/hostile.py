"""Error rates of the gate on suites that break its assumptions: python -m tests.sim.hostile [trials] writes results/gate/hostile.md.

Tasks that share items, the best of several candidates, corpus metrics, baselines at chance, a loss hidden in one task, and the number
of items that the gate asks for. "before" is the rule without the correction that the cell is about.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.decide.compare import Row
from assay.harness.decide.planning.power import items_needed
from assay.harness.decide.policy import Policy
from assay.harness.decide.verdict import GatedTask, Rule, gated_tasks, task_weights, verdict_of
from assay.harness.stats.difference import Levels, paired_difference
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.influence import blocks
from assay.harness.stats.interval import Part, score_interval
from assay.harness.stats.paired import tango_bound
from assay.harness.stats.rule import NAMES, loss_excluded
from assay.harness.task.metric import Array, Codes, Metric
from tests.sim.coverage import MEAN
from tests.sim.gate_size import limit
from tests.sim.gate_tasks import MARGIN, TASK_MARGIN, Suite, all_must_pass, evidence, uncorrected
from tests.sim.gate_tasks import draw as draw_suite
from tests.sim.gate_tasks import verdicts as suite_verdicts
from tests.sim.many_gates import corpus_joint, corpus_verdicts, draw_shared, shared_verdicts

OUT, SUITES_OUT = Path("results/gate/hostile.md"), Path("results/gate/suites.md")
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured rate, before and after. `claim`: "at most" alpha, or "at least" a power; "" where nothing is claimed."""

    part: str
    cell: str
    what: str
    before: float | None
    after: float
    trials: int
    claim: str = "at most 5 %"
    others: tuple[float, float] | None = None
    """The same rate of two families of other gates, see `other_rates`."""


def pair(rng: np.random.Generator, n: int, churn: float, delta: float, right: float = 0.65) -> tuple[Array, Array]:
    """Correctness of a baseline and a candidate that disagree on a share `churn` of the items."""
    base, level = rng.random(n) < right, rng.random(n)
    flip = np.where(base, level < (churn - delta) / 2 / right, level < (churn + delta) / 2 / (1 - right))
    return base.astype(np.float64), np.where(flip, ~base, base).astype(np.float64)


def gated(pairs: dict[str, tuple[Array, Array]], rule: Rule, metric: Metric[Any] = MEAN, chance: float | None = None) -> list[GatedTask]:
    """The gated tasks of a suite of arrays: statistics of the baseline and the candidate by task."""
    rows = []
    for task, (base, candidate) in pairs.items():
        one, two = (scores.reshape(len(scores), -1) for scores in (base, candidate))
        codes = np.arange(len(base))
        part = Part(metric, one, codes, codes)
        found = paired_difference(part, two, levels=Levels(rule.policy.alpha, rule.candidates))
        values = [float(metric.combine(each, codes)) for each in (one, two)]
        signal = chance is None or (score_interval(*part, level=0.9).low or 0.0) > chance
        rows.append(Row(task, metric.name, True, False, *values, unit=1.0, points=100.0, better="higher", difference=found, signal=signal))
    return gated_tasks(rows, rule)


def sharing(trials: int, suites: tuple[tuple[int, float], ...] = ((2, 1.0), (2, 0.5), (5, 1.0), (5, 0.8))) -> Iterator[Cell]:
    """Cell 1: numbers of tasks that share a part of their items. Before: tasks taken as independent."""
    for count, same in suites:
        for what, delta in (("regressed", 0.0), ("pass", -MARGIN)):
            suite = draw_shared(np.random.default_rng([1, count, round(10 * same)]), trials, count, same, delta)
            found = [float((each == NAMES.index(what)).mean()) for each in (suite_verdicts(suite.tasks), shared_verdicts(suite))]
            cell = f"{count} tasks, {same:.0%} shared"
            yield Cell("tasks share items", cell, f"false {what}", *found, trials, others=other_rates(suite.tasks, what))


def other_rates(suite: Suite, what: str) -> tuple[float, float]:
    """The same error of other gates: each task at 5 %, and every task at 2.5 % one-sided, with the same margin."""
    side = ("regressed", "pass").index(what)
    return tuple(float(found[side].mean()) for found in (uncorrected(suite, MARGIN), all_must_pass(suite, MARGIN)))  # type: ignore[return-value]


def passes(wins: Array, losses: Array, n: int, divisor: Array | float, margin: float = 0.01) -> Array:
    """Whether a loss of the margin is excluded at alpha / divisor."""
    levels = np.broadcast_to(np.asarray(divisor, dtype=np.float64), wins.shape)
    found = np.zeros(wins.shape, dtype=np.bool_)
    for level in np.unique(levels):
        own = levels == level
        found[own] = tango_bound(wins[own], losses[own], n, z_quantile(1 - ALPHA / level)) > -margin
    return found


def choosing(trials: int, n: int = 2000, churn: float = 0.1) -> Iterator[Cell]:
    """Cell 2: every candidate has lost the margin; the best of K is gated, or one after another until one passes."""
    for count in (3, 10, 30):
        rng = np.random.default_rng([2, count])
        wins, losses, _ = np.moveaxis(rng.multinomial(n, [(churn - 0.01) / 2, (churn + 0.01) / 2, 1 - churn], (trials, count)), -1, 0)
        best = (wins - losses).argmax(axis=1)
        a, b = (np.take_along_axis(each, best[:, None], 1)[:, 0].astype(float) for each in (wins, losses))
        others = other_rates(Suite(a[:, None], b[:, None], np.array([float(n)])), "pass")
        rates = [float(passes(a, b, n, k).mean()) for k in (1, count)]
        yield Cell("best of K candidates", f"K = {count}", "false pass", *rates, trials, others=others)
        order = np.arange(1, count + 1)
        divisors = np.broadcast_to(order * (order + 1), wins.shape)
        found = [passes(wins.astype(float), losses.astype(float), n, each).any(axis=1).mean() for each in (1.0, divisors)]
        yield Cell("watch --gate until one passes", f"K = {count}", "false pass", *found, trials)


def looped_f1(stats: Array, groups: Codes) -> float:
    """F1 as a function that needs all items: its jackknife merges items into 60 blocks."""
    gold, picked = stats[:, 0], stats[:, 1]
    return float(2 * (gold * picked).sum() / max((gold + picked).sum(), 1.0))


LOOPED: Metric[Any] = Metric("f1", lambda doc, out: (0.0, 0.0), looped_f1)


def labelled(rng: np.random.Generator, n: int, churn: float, lost: float) -> tuple[Array, Array]:
    """Gold and picked labels of a baseline that is right on 80 %, and of a candidate that gains churn / 2 and loses churn / 2 + lost."""
    gold, right, level = rng.random(n) < 0.4, rng.random(n) < 0.8, rng.random(n)
    flip = np.where(right, level < (churn / 2 + lost) / 0.8, level < churn / 2 / 0.2)
    picked = [np.where(each, gold, ~gold) for each in (right, right ^ flip)]
    one, two = (np.stack([gold, each], axis=1).astype(np.float64) for each in picked)
    return one, two


def corpus(trials: int) -> Iterator[Cell]:
    """Cell 3: one corpus metric. The margin of the false pass is the true loss. Before: 60 units, whatever the number of items."""
    for n in (500, 2000):
        yield Cell("one corpus metric", f"n = {n}", "pass, identical outputs", 0.0, float(n >= 298), 1, "")
        for what, lost in (("regressed", 0.0), ("pass", 0.009)):
            big = labelled(np.random.default_rng(3), 2_000_000, 0.1, lost)
            true = float(looped_f1(big[0], np.arange(0)) - looped_f1(big[1], np.arange(0)))
            rng, block, hits = np.random.default_rng([3, n]), blocks(np.arange(n)), 0
            for start in range(0, trials, 500):
                pairs = [labelled(rng, n, 0.1, lost) for _ in range(min(500, trials - start))]
                one, two = (np.stack([each[at] for each in pairs]) > 0.5 for at in (0, 1))
                joint = corpus_joint(one[..., 0], (one[..., 1], two[..., 1]), block)
                hits += int((corpus_verdicts(joint, true if lost else MARGIN) == NAMES.index(what)).sum())
            yield Cell("one corpus metric", f"n = {n}, churn 10 %", f"false {what}", None, hits / trials, trials)


def hidden(trials: int) -> Iterator[Cell]:
    """Cell 5: a loss in one of ten tasks. After: passes that do not name the task among those that are not shown."""
    for n, lost in ((100, -0.1), (400, -0.05)):
        deltas = np.where(np.arange(10) == 0, lost, 0.0)
        suite = draw_suite(np.random.default_rng([5, n]), trials, np.full(10, n), 0.1, deltas)
        passed = suite_verdicts(suite) == NAMES.index("pass")
        shown = loss_excluded(evidence(suite)[1].low, TASK_MARGIN, suite.sizes)[:, 0]
        cell, what = f"{n} items each, one loses {-100 * lost:g} points", "pass that does not say the task is not shown"
        rates = float(passed.mean()), float((passed & shown).mean())
        yield Cell("a loss in one of ten tasks", cell, what, *rates, trials, others=other_rates(suite, "pass"))


def chance(trials: int) -> Iterator[Cell]:
    """Cell 8: a destroyed candidate against a baseline that guesses (two choices)."""
    few = trials
    for n, churn in ((300, 0.1), (2000, 0.5)):
        rng, hits = np.random.default_rng([8, n]), np.zeros(2)
        for _ in range(few):
            one, two = pair(rng, n, churn, 0.0, right=0.5)
            for at, rule in enumerate((Rule(Policy(margin=3.0, signal_tasks=0)), Rule(Policy(margin=3.0)))):
                hits[at] += verdict_of(gated({"a": (one, two)}, rule, chance=0.5), rule) == "pass"
        yield Cell("a baseline that guesses", f"n = {n}, churn {churn:.0%}, margin 3", "pass", *(hits / few), few)


def planned(trials: int) -> Iterator[Cell]:
    """Cell 4: a first gate is inconclusive; a second gate of an unchanged model has the number of items that the first one asked for."""
    few = max(200, trials // 5)
    for n, churn in ((200, 0.1), (500, 0.2), (1000, 0.05)):
        rng, rule = np.random.default_rng([4, n]), Rule(Policy())
        asked, passed = [], 0
        while len(asked) < few:
            tasks = gated({"a": pair(rng, n, churn, 0.0)}, rule)
            if (wanted := items_needed(tasks, rule).unchanged) is not None:
                asked.append(wanted)
                wins, losses, _ = rng.multinomial(wanted, [churn / 2, churn / 2, 1 - churn]).astype(float)
                passed += bool(passes(np.array([wins]), np.array([losses]), wanted, 1.0)[0])
        low, high = np.quantile(asked, [0.05, 0.95])
        spread = f"asked for {low:,.0f} to {high:,.0f} items (90 % of gates)"
        yield Cell("the items asked for", f"n = {n}, churn {churn:.0%}: {spread}", "pass, unchanged", None, passed / few, few, "about 80 %")


SUITES: dict[str, dict[str, int]] = {
    "five tasks of 100": {f"t{n}": 100 for n in range(5)},
    "five tasks of 300": {f"t{n}": 300 for n in range(5)},
    "five tasks of 1,000": {f"t{n}": 1000 for n in range(5)},
    "GLUE": dict(
        zip(
            ("glue/cola", "glue/sst2", "glue/mrpc", "glue/qqp", "glue/mnli", "glue/qnli", "glue/rte", "glue/wnli"),
            (1043, 872, 408, 40430, 9815, 5463, 277, 71),
            strict=True,
        )
    ),
    "SuperGLUE": dict(
        zip(
            ("sg/boolq", "sg/cb", "sg/copa", "sg/multirc", "sg/record", "sg/rte", "sg/wic", "sg/wsc"),
            (3270, 56, 100, 4848, 10000, 277, 638, 104),
            strict=True,
        )
    ),
    "MMLU": {f"mmlu/{n}": 246 for n in range(57)},
}
CORE = {"arc_easy": 2376, "arc_challenge": 1172, "hellaswag": 10042, "piqa": 1838, "winogrande": 1267, "openbookqa": 500, "boolq": 3270}
USUAL = {**SUITES, "core": {**CORE, "truthfulqa": 817, "lambada": 5153, "gsm8k": 1319, **SUITES["MMLU"]}}
CHANGES = {"engine upgrade, 1 %": 0.01, "8-bit copy, 3 %": 0.03, "quantised, 5 %": 0.05, "4-bit copy, 10 %": 0.1}
"""Share of items whose score changes although nothing is lost (KINDS of assay.harness.decide.planning.plan)."""
"""Numbers of binary items of usual suites."""


def weighting(trials: int) -> Iterator[Cell]:
    """Cell 9: usual suites with equal weights (before) and the default weights (after), margin 1 point."""
    for name, sizes in SUITES.items():
        weights = [np.array(list(task_weights(sizes, {}, kind).values())) for kind in ("equal", "sqrt")]
        for churn in (0.05, 0.1):
            for truth, lost, what in (
                ("nothing lost", 0.0, "pass"),
                ("nothing lost", 0.0, "regressed"),
                ("every task lost 1 point", 0.01, "pass"),
            ):
                suite = draw_suite(
                    np.random.default_rng([9, len(sizes)]), trials, np.array(list(sizes.values())), churn, np.full(len(sizes), -lost)
                )
                rates = [float((suite_verdicts(suite, each) == NAMES.index(what)).mean()) for each in weights]
                claim = "" if (truth, what) == ("nothing lost", "pass") else "at most 5 %"
                cell = f"churn {churn:.0%}, {truth}"
                yield Cell(f"{name}, {sum(sizes.values()):,} items", cell, what, *rates, trials, claim, other_rates(suite, what))


def usual(trials: int) -> str:
    """What the default policy decides on usual suites: pass, inconclusive and regressed, with equal weights (before) and by default."""
    lines = [
        "| suite | change | truth | before: pass | inconclusive | regressed | now: pass | inconclusive | regressed |",
        "|" + "---|" * 9,
    ]
    for name, sizes in USUAL.items():
        weights = [np.array(list(task_weights(sizes, {}, kind).values())) for kind in ("equal", "sqrt")]
        counts = np.array(list(sizes.values()))
        for change, churn in CHANGES.items():
            for truth, lost in (("nothing lost", 0.0), ("every task lost 2 points", 0.02)):
                suite = draw_suite(np.random.default_rng([10, len(sizes)]), trials, counts, churn, np.full(len(sizes), -lost))
                found = [[float((suite_verdicts(suite, each) == code).mean()) for code in (0, 2, 1)] for each in weights]
                rates = " | ".join(f"{rate:.1%}" for rate in (*found[0], *found[1]))
                lines.append(f"| {name} ({counts.sum():,}) | {change} | {truth} | {rates} |")
    return "\n".join(lines) + "\n"


PARTS: tuple[Callable[[int], Iterator[Cell]], ...] = (choosing, corpus, hidden, chance, planned, weighting, sharing)


def table(cells: list[Cell]) -> str:
    head = ["suite", "cell", "rate", "before", "after", "each task at 5 %", "every task must pass", "trials", "claim"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for each in cells:
        rates = [each.before, each.after, *(each.others or (None, None))]
        shown = " | ".join("-" if rate is None else f"{rate:.4f}" for rate in rates)
        lines.append(f"| {each.part} | {each.cell} | {each.what} | {shown} | {each.trials:,} | {each.claim} |")
    return "\n".join(lines) + "\n"


SUITES_HEAD = """# What the default policy decides on usual suites

`python -m tests.sim.hostile`: margin 1 point, task margin 3 points, alpha 0.05, plain accuracy, {trials:,} trials a row. "before" gives
each family the same weight, and each of its tasks; now weights grow with the square root of the items. With nothing lost, "regressed" is
an error; with 2 points lost in every task, "pass" is one.

"""
HEAD = """# Suites that break assumptions

`python -m tests.sim.hostile {trials}`. A true 5 % shows at most {limit:.4f} in {trials:,} trials (three standard errors).

"before" is the gate without the correction that the cell is about: tasks taken as independent, no count of candidates, tasks at chance as
evidence, passes that name no task, equal weights. Beside it other gates on the same suites and with the same margin: "each task at 5 %"
(evalsig, errorbars, deltagate, abeval; a pass where every task's interval is within the margin), "every task must pass" (NeMo Evaluator,
statgate: a 95 % interval within the margin, or beyond it to fail). None of them counts shared items or candidates.

"""


def main(trials: int = 2000) -> None:
    found: list[Cell] = []
    for part in PARTS:
        for cell in part(trials):
            found.append(cell)
            print(table([cell]).splitlines()[-1], flush=True)
            if cell.claim.startswith("at most") and cell.after > limit(cell.trials):
                print("above the limit", flush=True)
    SUITES_OUT.write_text(SUITES_HEAD.format(trials=trials // 5) + usual(trials // 5))
    OUT.write_text(HEAD.format(trials=trials, limit=limit(trials)) + table(found))


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
