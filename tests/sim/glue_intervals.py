"""Time the confidence intervals of the nine GLUE tasks and their total, from stored statistics.

    python -m tests.sim.glue_intervals [repeats]

Statistics of the validation sets' sizes with random picks; the time is that of the scoring stage of a run, as `assay run` calls it.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from assay import ChoiceScores, Doc, ExpectedValue, Regress, Task
from assay.harness.run.scoring.results import Scored, score_run
from assay.harness.store import StatTable
from assay.harness.store.record import Item
from assay.tasks import glue

SIZES = {
    "cola": 1043,
    "sst2": 872,
    "mrpc": 408,
    "stsb": 1500,
    "qqp": 40430,
    "mnli": 9815,
    "mnli_mismatched": 9832,
    "qnli": 5463,
    "rte": 277,
    "wnli": 71,
}
"""Items of the validation sets."""


def table(task: Task, position: int, size: int, draw: np.random.Generator) -> StatTable:
    """The statistics that a run stores for one metric."""
    metric, choices = task.metrics[position], task.doc(task.worked[0].row).choices
    golds, picks = draw.integers(0, max(2, len(choices)), (2, size))
    stats = []
    for gold, pick, value in zip(golds.tolist(), picks.tolist(), draw.uniform(0, 4, size).tolist(), strict=True):
        if isinstance(task.ask, Regress):
            stats.append(metric.measure(Doc("p", value=value), ExpectedValue(value + pick, ())))
        else:
            stats.append(metric.measure(Doc("p", choices=choices, gold=gold), ChoiceScores((), (), pick)))
    ids = tuple(str(number) for number in range(size))
    return StatTable(ids, ids, ids, np.array(stats, dtype=np.float64))


def main(repeats: int) -> None:
    draw = np.random.default_rng(0)
    members = [task for task in glue.TASKS if task.name.removeprefix("glue/") in SIZES]
    tables, scored = {}, []
    for task in members:
        size = SIZES[task.name.removeprefix("glue/")]
        tables |= {(task.full_name, metric.name): table(task, place, size, draw) for place, metric in enumerate(task.metrics)}
        items = [Item(task.full_name, str(number), "", "", "", choices=("a", "b"), doc={"gold": 0}) for number in range(size)]
        facts = {"shots": 0, "shots_order": "", "version": 1, "split": "validation", "items": size, "evidence": "complete"}
        scored.append(Scored(task, {**facts, "purpose": "release"}, items))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        results = score_run(scored, [glue.GLUE], tables, "hf")
        seconds.append(time.perf_counter() - start)
    for result in results:
        ends = f"{result['value']:8.4f}  {result['low']:8.4f} {result['high']:8.4f}"
        print(f"{result['task']:<30} {result['metric']:<10} {ends}  {result['method']}")
    took = f"{min(seconds):.2f} s at best, {max(seconds):.2f} s at worst of {repeats}"
    print(f"{len(results)} intervals of {sum(SIZES.values()):,} items: {took}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
