"""Run-to-run noise: score every item again in other batches or with another engine, and compare item by item.

Batching changes the order of floating-point sums, and so the picks of a few items near a tie. These changes are no property of the
model: a difference between two checkpoints that is no larger may be noise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from assay.harness.engines import Engine
from assay.harness.run.dispatch import RunProgress, send_requests
from assay.harness.run.prepare import PreparedItem, PreparedTask
from assay.harness.run.scoring.measure import Reply, score_item
from assay.harness.run.scoring.results import codes
from assay.harness.stats.difference import units_of
from assay.harness.stats.influence import Undefined, blocks
from assay.harness.stats.interval import Part
from assay.harness.store.record import Record
from assay.harness.task.metric import Metric, Pooled

PORTION = 1024
"""Largest number of items sent to the engine at once in a repetition; only items of one call can share a batch. As many as vLLM runs."""
Key = tuple[str, str]
Noise = Mapping[str, Any]


def repeat(tasks: Sequence[PreparedTask], first: Sequence[Record], engine: Engine, progress: RunProgress, seed: int) -> dict[str, Any]:
    """Score every item again, those of all tasks shuffled together and in portions, and compare with the run's records (see `task_noise`).

    `computed` counts the tokens of the repetition, which are not part of the run's own. Engines with a cache clear it first.
    """
    before = {(record.task, record.item): record for record in first}
    start, again = engine.stats.computed, dict[Key, Record]()
    getattr(engine, "forget", lambda: None)()
    items = [each for task in tasks for each in task.items if each.requests]
    progress.begin("repetition", len(items), 0)
    for portion in portions(items, seed):
        done = engine.stats.computed
        score_portion(tasks, portion, engine, again)
        progress.advance(len(portion), engine.stats.computed - done)
    return {"tasks": {task.task.full_name: task_noise(task, before, again) for task in tasks}, "computed": engine.stats.computed - start}


def score_portion(tasks: Sequence[PreparedTask], portion: Sequence[PreparedItem], engine: Engine, again: dict[Key, Record]) -> None:
    """Score these items of the tasks and add their records to `again`."""
    named = {task.task.full_name: task.task for task in tasks}

    def finished(each: PreparedItem, replies: Sequence[Reply]) -> None:
        again[each.item.task, each.item.id] = score_item(named[each.item.task], each, replies)

    send_requests(portion, engine, finished, {}, frozenset())


def portions(items: Sequence[PreparedItem], seed: int) -> list[list[PreparedItem]]:
    """The items in an order fixed by the seed, split into at least three portions of at most PORTION items."""
    order = sorted(items, key=lambda each: hashlib.sha256(f"{seed}|{each.item.task}|{each.item.id}".encode()).digest())
    size = max(1, min(PORTION, -(-len(order) // 3)))
    return [order[at : at + size] for at in range(0, len(order), size)]


def task_noise(task: PreparedTask, before: Mapping[Key, Record], again: Mapping[Key, Record]) -> dict[str, Any]:
    """Changes in the repetition: `flipped` predictions of `items`; the largest (`max_logprob`) and mean (`mean_logprob`) change of a
    log-probability, in nats; `floor` by metric: the mean absolute change of an item, in points (in the metric's unit where it has
    no upper bound). The change of the score is never larger than its floor."""
    pairs = [(each, before[key], again[key]) for each in task.items if (key := (each.item.task, each.item.id)) in before and key in again]
    failed = sum("error" in (one.status, two.status) for _, one, two in pairs)
    pairs = [pair for pair in pairs if "error" not in (pair[1].status, pair[2].status)]
    drifts = [value for _, one, two in pairs for value in logprob_changes(one.output, two.output)]
    return {
        "items": len(pairs),
        "failed": failed,
        "flipped": sum(prediction(one.output) != prediction(two.output) for _, one, two in pairs),
        "max_logprob": max(drifts, default=0.0),
        "mean_logprob": sum(drifts) / len(drifts) if drifts else 0.0,
        "floor": {metric.name: floor for metric in task.task.metrics if (floor := metric_floor(metric, pairs)) is not None},
    }


def metric_floor(metric: Metric[Any], pairs: Sequence[tuple[PreparedItem, Record, Record]]) -> float | None:
    """The mean absolute change per cluster; None where no item has this metric, or the items do not define its score."""
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
    try:
        values = np.nan_to_num(units_of(part, again).values)
    except Undefined:
        return None
    bounded = metric.high is not None and metric.low is not None
    return float(np.abs(values).mean()) * (100 if bounded else 1)


def prediction(output: Mapping[str, Any]) -> Any:
    """The predicted choice or completion in an output; None where it holds only numbers."""
    return output.get("pick", output.get("text"))


def logprob_changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[float]:
    """Absolute changes, in nats, of the summed log-probabilities of the same choices or the same text."""
    found = [abs(sum(left) - sum(right)) for left, right in zip(one.get("logprobs") or (), other.get("logprobs") or (), strict=True)]
    whole = one.get("logprob"), other.get("logprob")
    if None not in whole and one.get("text") == other.get("text"):
        found.append(abs(whole[0] - whole[1]))  # type: ignore[operator]
    return found


def floors(noise: Noise) -> dict[Key, float]:
    """The noise floor of every (task, metric) of a run: the largest of its repetitions."""
    found: dict[Key, float] = {}
    for kind in noise.values():
        for task, facts in kind["tasks"].items():
            for metric, floor in facts["floor"].items():
                found[task, metric] = max(float(floor), found.get((task, metric), 0.0))
    return found


def sentence(kind: str, noise: Noise) -> str:
    """One repetition as a sentence."""
    tasks = noise["tasks"].values()
    items, flipped = (sum(facts[name] for facts in tasks) for name in ("items", "flipped"))
    largest = max((facts["max_logprob"] for facts in tasks), default=0.0)
    how = "in other batches" if kind == "batches" else f"with engine {kind}"
    return f"scored again {how}, {flipped} of {items:,} predictions flipped and log-probabilities changed by at most {largest:.1e} nats"
