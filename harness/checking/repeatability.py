"""Scores a sample of a run's items again, in another order and batch size, to measure run-to-run noise of the engine."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from assay.harness.checking.finding import Finding, Level, Place, at_least, short
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, prepare, settings_of
from assay.harness.run.noise import Key, portions, prediction, score_portion, task_noise
from assay.harness.run.prepare import PreparedTask
from assay.harness.store import Run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Record

BATCH = 3
"""A batch size that is no default and no power of two."""
CHURN = 0.01
"""Share of changed predictions above which the finding is a warning."""


def rescore_sample(run: Run, count: int, place: Surroundings, watch: RunProgress, opener: OpenEngine = open_engine) -> list[Finding]:
    """One finding per task: how many predictions change among `count` randomly drawn items of the run, and the largest drift in nats.

    Raises AssayError if the model's files have changed since the run.
    """
    plan = Plan.from_json(run.manifest["plan"])
    plan = replace(plan, engine=run.manifest["engine"]["name"], batch=BATCH)
    prepared = prepare(plan, place, watch, stored=True)
    if prepared.model.digest != run.manifest["model"]["digest"]:
        raise AssayError("the model's files have changed since this run", where=run.id, do="restore the weights, or leave out --rerun")
    parts = draw_items(prepared.tasks, count, f"{plan.seed}:{run.id}")
    before = {(record.task, record.item): record for record in run.records()}
    engine = opener(prepared.engine, prepared.model, replace(settings_of(plan), data_parallel=1))
    try:
        found = []
        for part in parts:
            watch.begin(f"{part.task.full_name} again", len(part.items), 0)
            again: dict[Key, Record] = {}
            for portion in portions(part.items, plan.seed + 1):
                score_portion([part], portion, engine, again)
                watch.advance(len(portion), 0)
            found.append(repeat_finding(part, before, again))
        return found
    finally:
        engine.close()


def draw_items(tasks: Sequence[PreparedTask], count: int, seed: int | str) -> list[PreparedTask]:
    """The tasks with only those items that a seeded draw of `count` of all items contains."""
    every = [(number, index) for number, task in enumerate(tasks) for index in range(len(task.items))]
    kept = set(random.Random(seed).sample(every, min(count, len(every))))
    parts = (replace(task, items=tuple(each for i, each in enumerate(task.items) if (n, i) in kept)) for n, task in enumerate(tasks))
    return [part for part in parts if part.items]


def repeat_finding(part: PreparedTask, before: Mapping[Key, Record], again: Mapping[Key, Record]) -> Finding:
    """The finding for one task: new responses compared with stored ones."""
    noise = task_noise(part, before, again)
    pairs = ((key, before[key], again[key]) for each in part.items if (key := (each.item.task, each.item.id)) in before)
    changed = ((key, prediction(one.output), prediction(two.output)) for key, one, two in pairs)
    places = tuple(Place(None, key[1], f"{short(str(one), 30)}, now {short(str(two), 30)}") for key, one, two in changed if one != two)
    n = len(part.items)
    what = (
        f"{len(places)} of {n} predictions changed when scored again; log-probabilities changed by at most {noise['max_logprob']:.1g} nats"
    )
    level: Level = "W" if at_least(len(places), n) > CHURN else "I"
    return Finding("rerun", level, part.task.full_name, what, "differences between runs of this size are noise" if places else "", places)
