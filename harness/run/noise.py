"""The noise floor: the same checkpoint asked again, in other batches or by another engine, item by item.

Batches change the order in which a machine adds numbers up, and so a few picks near a tie. What such a repetition moves is no
property of the model: a difference between two checkpoints that is no larger may be nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from assay.harness.engines import Engine
from assay.harness.run.dispatch import answer
from assay.harness.run.prepare import PreparedItem, PreparedTask
from assay.harness.run.scoring.measure import Reply, judge
from assay.harness.run.scoring.results import codes
from assay.harness.stats.difference import units_of
from assay.harness.stats.influence import blocks
from assay.harness.stats.interval import Part
from assay.harness.store.record import Record
from assay.harness.task.metric import Metric, Pooled

PORTION = 64
"""Most items asked at once when a run is repeated; a call decides what can share a batch."""
Key = tuple[str, str]
Noise = Mapping[str, Any]


class Progress(Protocol):
    """What assay.harness.run.evaluate.Watch can do and is needed here."""

    def begin(self, task: str, items: int, done: int) -> None: ...

    def advance(self, items: int, tokens: int) -> None: ...


def repeat(tasks: Sequence[PreparedTask], first: Sequence[Record], engine: Engine, watch: Progress, seed: int) -> dict[str, Any]:
    """Ask every item again, shuffled and in small portions, and compare with the records of the run (see `task_noise`).

    The tokens are counted here and nowhere else; engines that keep a cache between calls are asked to forget it.
    """
    before = {(record.task, record.item): record for record in first}
    start, found = engine.stats.computed, {}
    getattr(engine, "forget", nothing)()
    for task in tasks:
        watch.begin(f"{task.task.full_name} again", len(task.items), 0)
        again: dict[Key, Record] = {}
        for portion in portions(task.items, seed):
            done = engine.stats.computed
            ask_portion(task, portion, engine, again)
            watch.advance(len(portion), engine.stats.computed - done)
        found[task.task.full_name] = task_noise(task, before, again)
    return {"tasks": found, "computed": engine.stats.computed - start}


def nothing() -> None:
    """Most engines keep nothing between calls."""


def ask_portion(task: PreparedTask, portion: Sequence[PreparedItem], engine: Engine, again: dict[Key, Record]) -> None:
    def finished(each: PreparedItem, replies: Sequence[Reply]) -> None:
        again[each.item.task, each.item.id] = judge(task.task, each, replies)

    answer(portion, engine, finished, {}, frozenset())


def portions(items: Sequence[PreparedItem], seed: int) -> list[list[PreparedItem]]:
    """The items in another order, fixed by the seed, cut into at least three portions of at most PORTION."""
    order = sorted(items, key=lambda each: hashlib.sha256(f"{seed}|{each.item.id}".encode()).digest())
    size = max(1, min(PORTION, -(-len(order) // 3)))
    return [order[at : at + size] for at in range(0, len(order), size)]


def task_noise(task: PreparedTask, before: Mapping[Key, Record], again: Mapping[Key, Record]) -> dict[str, Any]:
    """What the repetition moved: `flipped` picks of `items`, log-probabilities by at most `max_logprob` and on average
    `mean_logprob` nats, and `floor` by metric: the mean size of an item's change, in points (in the metric's unit where it has
    no upper bound), which no shift of the score exceeds."""
    pairs = [(each, before[key], again[key]) for each in task.items if (key := (each.item.task, each.item.id)) in before and key in again]
    failed = sum("error" in (one.status, two.status) for _, one, two in pairs)
    pairs = [pair for pair in pairs if "error" not in (pair[1].status, pair[2].status)]
    drifts = [value for _, one, two in pairs for value in differences(one.output, two.output)]
    return {
        "items": len(pairs),
        "failed": failed,
        "flipped": sum(said(one.output) != said(two.output) for _, one, two in pairs),
        "max_logprob": max(drifts, default=0.0),
        "mean_logprob": sum(drifts) / len(drifts) if drifts else 0.0,
        "floor": {metric.name: floor for metric in task.task.metrics if (floor := metric_floor(metric, pairs)) is not None},
    }


def metric_floor(metric: Metric[Any], pairs: Sequence[tuple[PreparedItem, Record, Record]]) -> float | None:
    """The mean size of the change per independent unit; None where no item has this metric."""
    kept = [(each.item, one.stats[metric.name], two.stats[metric.name]) for each, one, two in pairs if metric.name in one.stats]
    if not kept:
        return None
    groups, clusters = codes([item.group for item, _, _ in kept]), codes([item.cluster for item, _, _ in kept])
    part = Part(metric, np.array([one for _, one, _ in kept], dtype=np.float64), groups, clusters)
    if not isinstance(metric.combine, Pooled):
        part = part._replace(clusters=blocks(part.clusters, 0))
    again = np.array([two for _, _, two in kept], dtype=np.float64)
    if np.array_equal(part.stats, again):
        return 0.0
    values = np.nan_to_num(units_of(part, again).values)
    bounded = metric.high is not None and metric.low is not None
    return float(np.abs(values).mean()) * (100 if bounded else 1)


def said(output: Mapping[str, Any]) -> Any:
    """The prediction in an output: the pick, the text, or nothing where only numbers were measured."""
    return output.get("pick", output.get("text"))


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """Differences between the summed log-probabilities of the same choices, or of the same text."""
    found = [abs(sum(left) - sum(right)) for left, right in zip(one.get("logprobs") or (), other.get("logprobs") or (), strict=True)]
    whole = one.get("logprob"), other.get("logprob")
    if None not in whole and one.get("text") == other.get("text"):
        found.append(abs(whole[0] - whole[1]))  # type: ignore[operator]
    return found


def floors(noise: Noise) -> dict[Key, float]:
    """The floor of every (task, metric) in a run's stored noise: the largest of all repetitions."""
    found: dict[Key, float] = {}
    for kind in noise.values():
        for task, facts in kind["tasks"].items():
            for metric, floor in facts["floor"].items():
                found[task, metric] = max(float(floor), found.get((task, metric), 0.0))
    return found


def sentence(kind: str, noise: Noise) -> str:
    """One repetition in words."""
    tasks = noise["tasks"].values()
    items, flipped = (sum(facts[name] for facts in tasks) for name in ("items", "flipped"))
    largest = max((facts["max_logprob"] for facts in tasks), default=0.0)
    how = "in other batches" if kind == "batches" else f"by {kind}"
    return f"asked again {how}, {flipped} of {items:,} picks flipped and log-probabilities moved by at most {largest:.1e} nats"
