"""Compares estimators of the change in accuracy: python -m tests.sim.estimators.report FOLDER writes results/gate/estimators.md.

Reads results/gate/estimators.csv (tests.sim.estimators.simulated) and the runs in FOLDER (tests.sim.estimators.real_pairs).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np

from assay.harness.decide.compare import Side, side_of
from assay.harness.decide.items.margins import Margins
from assay.harness.files.places import surroundings
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.rule import PASS, REGRESSED, n_min
from assay.harness.stats.smoothing import RANGE, can_smooth, has_spread, smoothed
from assay.harness.store import find_run, read_run
from assay.harness.task.metric import Array
from tests.sim.estimators.real_pairs import TITLES
from tests.sim.estimators.simulated import ESTIMATORS, normal_kernel, same_scale, step
from tests.sim.gate_size import limit
from tests.sim.many_gates import Joint, corpus_verdicts

OUT = Path("results/gate/estimators.md")
MARGIN, SWAPS, SWAP_MARGIN = 0.01, 1000, 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """One pair on one task: items needed to exclude a loss of 1 point with 80 % power, variances in units of plain accuracy's, and rates
    of verdicts under random swaps of the two models, plain and used."""

    pair: str
    task: str
    n: int
    churn: float
    plain: int
    used: int
    smooth: bool
    variances: Mapping[str, float]
    regressed: tuple[float, float]
    passed: tuple[float, float]


def needed(d: Array, worst: float = 1.0) -> int:
    """Items that exclude a loss of MARGIN with 80 % power where nothing is lost."""
    factor = ((z_quantile(0.95) + z_quantile(0.8)) / MARGIN) ** 2
    return max(ceil(worst * n_min(MARGIN)), ceil(factor * float(d.var())))


def control(d: Array, margins: Array) -> float:
    """The share of the variance of d that a regression on the baseline's margin and its absolute value leaves; cross-fitted in halves."""
    design = np.stack([np.ones_like(margins), margins, np.abs(margins), (margins > 0) * 1.0], axis=1)
    half, rest = np.arange(len(d)) % 2 == 0, np.empty_like(d)
    for fit, use in ((half, ~half), (~half, half)):
        rest[use] = d[use] - design[use] @ np.linalg.lstsq(design[fit], d[fit], rcond=None)[0]
    return float(rest.var())


def swap_rates(one: Array, two: Array, smooth: bool) -> tuple[float, float]:
    """How often random swaps of the two models, item by item, are called regressed; and pass, once the margin is subtracted."""
    swap = np.random.default_rng(0).random((SWAPS, len(one))) < 0.5
    base, new = np.where(swap, two, one), np.where(swap, one, two)
    d = smoothed(new) - smoothed(base) if smooth else step(new) - step(base)
    worst = np.full(SWAPS, RANGE if smooth else 1.0)
    rates = []
    for shift, code in ((0.0, REGRESSED), (SWAP_MARGIN, PASS)):
        values = d - shift
        joint = Joint(values, np.ones_like(values), np.maximum(worst, np.abs(values).max(axis=1)), len(one))
        rates.append(float((corpus_verdicts(joint, SWAP_MARGIN) == code).mean()))
    return rates[0], rates[1]


def measure(pair: str, task: str, base: Margins, new: Margins) -> Measured:
    one, two = base.margins, new.margins
    raw = step(two) - step(one)
    smooth = can_smooth(one, base.picks) and has_spread(two) and not np.array_equal(one, two)
    used = smoothed(two) - smoothed(one) if smooth else raw
    scale = max(float(raw.var()), 1e-12)
    variances = {
        "smoothed, fourth order": float((smoothed(two) - smoothed(one)).var()) / scale,
        "smoothed, normal kernel, one s": float(same_scale(one, two).var()) / scale,
        "smoothed, normal kernel, own s": float((normal_kernel(two) - normal_kernel(one)).var()) / scale,
        "probability of the right choice": float((new.probability - base.probability).var()) / scale,
        "control variate: the baseline's margin": control(raw, one) / scale,
    }
    plain, own = (swap_rates(one, two, kind) for kind in (False, smooth))
    return Measured(
        pair=pair,
        task=task,
        n=len(raw),
        churn=float((raw != 0).mean()),
        plain=needed(raw),
        used=needed(used, RANGE if smooth else 1.0),
        smooth=smooth,
        variances=variances if raw.any() else {},
        regressed=(plain[0], own[0]),
        passed=(plain[1], own[1]),
    )


def side(folder: Path, name: str) -> Side:
    return side_of(read_run(find_run(folder, (folder / f"{name}.run").read_text())), surroundings().access(allow_partial=True))


def measured(folder: Path) -> Iterator[Measured]:
    base = side(folder, "base")
    for name in TITLES:
        if not (folder / f"{name}.run").exists():
            continue
        new = side(folder, name)
        for task in base.margins:
            if task in new.margins:
                yield measure(name, task, base.margins[task], new.margins[task])


def header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def simulated_table() -> list[str]:
    rows = list(csv.DictReader(OUT.with_suffix(".csv").open()))
    lines = [
        "| estimator | worst false regressed | worst false pass | of accuracy lost | cells above | median variance |",
        "|" + "---|" * 6,
    ]
    for name in ESTIMATORS:
        mine = [row for row in rows if row["estimator"] == name]
        worst = [max((float(row["rate"]), f"{row['base']}; {row['change']}") for row in mine if row["error"] == error) for error in ERRORS]
        above = sum(float(row["rate"]) > limit(int(row["trials"])) for row in mine)
        variance = np.median([float(row["variance"]) for row in mine])
        lines.append(f"| {name} | {worst[0][0]:.4f} | {worst[1][0]:.4f} | {worst[1][1]} | {above} of {len(mine)} | {variance:.2f} |")
    return lines


ERRORS = ("regressed", "pass")


def pair_table(found: list[Measured]) -> list[str]:
    lines = [
        "| pair | changed items | items needed, plain | items needed, the gate's | ratio, median over tasks | tasks smoothed |",
        "|" + "---|" * 6,
    ]
    for name in dict.fromkeys(each.pair for each in found):
        own = [each for each in found if each.pair == name]
        plain, used = (int(np.median([getattr(each, kind) for each in own])) for kind in ("plain", "used"))
        ratio = np.median([each.used / each.plain for each in own])
        smooth = f"{sum(each.smooth for each in own)} of {len(own)}"
        lines.append(f"| {TITLES[name]} | {np.mean([each.churn for each in own]):.1%} | {plain:,} | {used:,} | {ratio:.2f} | {smooth} |")
    every = np.median([each.used / each.plain for each in found])
    moved = [each.used / each.plain for each in found if each.churn > 0 and each.smooth]
    lines.append(f"| all, {len(found)} pairs of runs and tasks | | | | {every:.2f} | |")
    lines.append(f"| those smoothed, in which an item changed ({len(moved)}) | | | | {np.median(moved):.2f} | |")
    return lines


def candidate_table(found: list[Measured]) -> list[str]:
    names = list(dict.fromkeys(name for each in found for name in each.variances))
    lines = header("pair", *names)
    for pair in dict.fromkeys(each.pair for each in found if each.variances):
        own = [each.variances for each in found if each.pair == pair and each.variances]
        lines.append(f"| {TITLES[pair]} | " + " | ".join(f"{np.median([each[name] for each in own]):.2f}" for name in names) + " |")
    return lines


def swap_table(found: list[Measured]) -> list[str]:
    lines = [
        "| pair | task | n | changed | needed, plain | needed, the gate's | regressed, plain | the gate's | pass, plain | the gate's |"
    ]
    lines.append("|" + "---|" * 10)
    for each in found:
        rates = " | ".join(f"{rate:.3f}" for rate in (*each.regressed, *each.passed))
        used = f"{each.used:,}" + ("" if each.smooth else " (not smoothed)")
        lines.append(f"| {TITLES[each.pair]} | {each.task} | {each.n} | {each.churn:.1%} | {each.plain:,} | {used} | {rates} |")
    return lines


def main(folder: Path) -> None:
    found = list(measured(folder))
    smooth = [each for each in found if each.smooth]
    worst = [max(getattr(each, name)[1] for each in smooth) for name in ("regressed", "passed")]
    text = HEAD.format(
        limit=limit(10_000),
        few=limit(1000),
        swaps=SWAPS,
        worst=worst,
        count=len(smooth),
        simulated="\n".join(simulated_table()),
        pairs="\n".join(pair_table(found)),
        candidates="\n".join(candidate_table(found)),
        swapped="\n".join(swap_table(found)),
    )
    OUT.write_text(text)


HEAD = """# Estimators of the change in accuracy

Ranked choices store the log-likelihood of every choice, so an item has a margin: the gold choice's score less the best other score.
Estimators that use margins are compared with plain accuracy. Errors are those of *plain accuracy*: a false pass is one where plain
accuracy lost the margin, whatever the estimator measures.

## Simulated margins

`python -m tests.sim.estimators.simulated 10000`: six distributions of margins, six changes, 1,000 items, margin 2 points. A true 5
% shows at most {limit:.4f} in 10,000 trials (accuracy and the gate's estimator) and {few:.4f} in 1,000 (the others). Variance is
relative to accuracy's.

{simulated}

The loss of each cell is set on 400,000 items, to about 0.04 points; plain accuracy is tested here as graded scores are.

Only the kernel of fourth order, scaled by each run's own spread and divided by the least share of a loss that it shows, holds both
errors. A normal kernel shows only a part of a loss, and one width for both runs takes a change of temperature for a change of
accuracy. The gold choice's probability has the smallest variance and is no measure of accuracy: a significant loss there is told as
"degraded, accuracy not shown to fall", and prevents a pass only where the policy says so (`degraded = "inconclusive"`).

## Real pairs

`python -m tests.sim.estimators.real_pairs FOLDER`, then `python -m tests.sim.estimators.report FOLDER`: the built-in model against
changed copies, 100 to 150 items of each task. "Items needed" exclude a loss of 1 point with 80 % power where nothing is lost. A
task is smoothed if no position is picked on more than 80 % of the baseline's items; the rule looks at the baseline alone. Where the
candidate has equal best choices (bfloat16), plain accuracy decides, and such tasks are left out here.

{pairs}

Smoothing helps where margins move little. It costs a few per cent where they move by their own spread (4-bit rounding without
calibration, which is a real loss), and a sixth where nothing changes (the same weights in vLLM). Half of the items at the median
over all pairs was the goal and is not reached; so the policy of a kind of change chooses (`estimator` in gate.toml): 8-bit copies
and KV caches are smoothed, 4-bit copies, engine upgrades and the default are not. Wider kernels need fewer items, and falsely pass
in the table above.

Median variance over the tasks in which an item changed, in units of plain accuracy's:

{candidates}

A control variate can use the baseline's margin only where its mean is known on more items than the candidate is scored on; on the
same items it changes nothing. Its column shows what would be left in such a sample: almost everything. Shrinkage over tasks,
numbers of items by variance and anchor items are measured in pooling.md and not used.

## Every pair and task, with random swaps

In {swaps:,} random swaps of the two models, item by item, nothing is lost by construction: "regressed" is an error. With 5 points
subtracted from every difference, "pass" at a margin of 5 points is one. In the {count} smoothed cells the highest rates are
{worst[0]:.3f} regressed and {worst[1]:.3f} pass; a true 5 % shows at most {few:.4f}. Plain accuracy with few changed items takes
few values, so that swaps of them can give more (0.12 with three changed items); they are no sample of other items.

{swapped}
"""

if __name__ == "__main__":
    main(Path(sys.argv[1]))
