"""The gate that evaluates while it decides: asks the items in a fixed order and stops at the first look that decides.

What was asked is an ordinary run that can be resumed: by this gate, which then decides the same, or by `assay resume`, which
completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.asking import answer
from harness.compare import FIELDS, Mismatch, Side, side_of
from harness.engines import Engine
from harness.engines.opening import open_engine
from harness.errors import AssayError, Incomplete, NotComparable
from harness.gate import EXIT, equal_weights
from harness.metric import Array, Codes, Metric, Pooled
from harness.plan import Plan
from harness.policy import Policy
from harness.prepare import PreparedItem, PreparedTask
from harness.provenance import Surroundings
from harness.run import OpenEngine, Prepared, Recorder, Unwatched, Watch, manifest_of, prepare, same_run, settings_of
from harness.stats.difference import unit_of
from harness.stats.influence import is_mean
from harness.stats.sequential import Design, Stop, fixed_order, look_sizes, monitor
from harness.store import Run, Writer, create_bundle, open_writer, read_run

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class EarlyGate:
    """What an early-stopped gate decided, after how many of all items; the run it left can be completed."""

    verdict: str
    items: int
    planned: int
    by: str
    bundle: Path
    reasons: tuple[str, ...]

    def exit_code(self, policy: Policy) -> int:
        return 0 if self.verdict == "inconclusive" and policy.on_inconclusive == "pass" else EXIT[self.verdict]


@dataclass(frozen=True, slots=True)
class Course:
    """The fixed course: items in order with task codes and baseline scores (signed, in points/100), and the design."""

    items: tuple[PreparedItem, ...]
    tasks: Codes
    base: Array
    units: tuple[tuple[Metric[Any], float], ...]
    design: Design


def gate_early(
    plan: Plan, baseline: Run, policy: Policy, place: Surroundings, watch: Watch | None = None, opener: OpenEngine = open_engine
) -> EarlyGate:
    """Evaluate `plan` (the baseline's tasks and settings, another model) until a verdict falls; see harness.stats.sequential.

    Continues an interrupted run of the same model and plan if the store has one. Raises NotComparable, Incomplete (resumable:
    the same command goes on), AssayError where a task's main metric is no bounded mean of independent items.
    """
    watch = watch or Unwatched()
    base = side_of(baseline, place.access(allow_partial=True))
    prepared = prepare(plan, place, watch)
    comparable(base, prepared)
    course = course_of(base, prepared, policy, plan.seed)
    bundle = unfinished(place.results, prepared) or create_bundle(
        place.results, manifest_of(prepared), [each.item for task in prepared.tasks for each in task.items]
    )
    with open_writer(bundle) as writer:
        try:
            stop = ask_until_decided(course, prepared, writer, watch, opener)
        except KeyboardInterrupt:
            raise Incomplete("interrupted", where=bundle.name, do="give the same command again to go on") from None
    fit = base.purpose == "release" and base.evidence == "complete" and manifest_of(prepared)["purpose"] == "release"
    reasons = [f"decided by {stop.by} after {stop.items} of {course.design.items} items"]
    verdict = stop.verdict
    if verdict == "pass" and not fit:
        verdict, reasons = "inconclusive", ["the baseline's evidence is not complete, or its tasks are smoke tasks: never a pass", *reasons]
    return EarlyGate(verdict, stop.items, course.design.items, stop.by, bundle, tuple(reasons))


def comparable(base: Side, prepared: Prepared) -> None:
    """The candidate's tasks are the baseline's, field by field."""
    facts = {task.task.full_name: task.facts for task in prepared.tasks}
    if set(facts) != set(base.tasks):
        raise NotComparable(f"the tasks differ: {', '.join(sorted(set(facts) ^ set(base.tasks)))[:120]}", do="use the baseline's tasks")
    for name, fact in facts.items():
        for each in FIELDS:
            if fact.get(each) != base.tasks[name].get(each):
                raise NotComparable(str(Mismatch(name, each, base.tasks[name].get(each), fact.get(each))), do="run the baseline again")


def course_of(base: Side, prepared: Prepared, policy: Policy, seed: int) -> Course:
    """Every item with its baseline score, in the fixed order. Advisory tasks are left out."""
    gated = [task for task in prepared.tasks if task.task.full_name not in policy.advisory]
    if not gated:
        raise AssayError("no task is gated", do="take some task off `advisory`")
    units = tuple(simple_metric(base, task) for task in gated)
    items, codes, scores = [], [], []
    for code, (task, (metric, scale)) in enumerate(zip(gated, units, strict=True)):
        table = base.tables[task.task.full_name, metric.name]
        found = dict(zip(table.item_ids, table.stats[:, 0] * scale, strict=True))
        items += list(task.items)
        codes += [code] * len(task.items)
        scores += [float(found[each.item.id]) for each in task.items]
    order = fixed_order([each.item.task for each in items], [each.item.id for each in items], seed)
    weights = equal_weights([task.task.full_name for task in gated], policy.weights)
    design = Design(tuple(weights), tuple(len(task.items) for task in gated), policy.margin / 100, policy.alpha)
    return Course(tuple(items[place] for place in order), np.array(codes)[order], np.array(scores)[order], units, design)


def simple_metric(base: Side, task: PreparedTask) -> tuple[Metric[Any], float]:
    """The main metric and its sign over its unit, if it is a bounded mean of independent items."""
    metric, name = task.task.metrics[0], task.task.full_name
    table = base.tables.get((name, metric.name))
    folds = isinstance(metric.combine, Pooled) and metric.combine.fold is not None
    if (
        table is None
        or not is_mean(metric)
        or folds
        or (metric.low, metric.high) == (None, None)
        or metric.low is None
        or metric.high is None
    ):
        raise AssayError(f"{metric.name} is no bounded mean of single items", where=name, do="gate a full run, or make the task advisory")
    if len(set(table.clusters)) < len(table.clusters):
        raise AssayError("its items share passages", where=name, do="gate a full run, or make the task advisory")
    return metric, (-1.0 if metric.better == "lower" else 1.0) / unit_of(metric)


def unfinished(root: Path, prepared: Prepared) -> Path | None:
    """The latest interrupted run of this very plan and model."""
    now = manifest_of(prepared)
    for path in sorted((Path(root) / "runs").glob("*/manifest.json"), reverse=True):
        run = read_run(path.parent)
        same = run.manifest.get("plan_digest") == now["plan_digest"] and run.manifest["model"]["digest"] == now["model"]["digest"]
        if same and run.status == "running":
            same_run(run.manifest, now, path.parent)
            return path.parent
    return None


def ask_until_decided(course: Course, prepared: Prepared, writer: Writer, watch: Watch, opener: OpenEngine) -> Stop:
    """Look by look: ask what is missing, then decide from everything so far."""
    plan = prepared.plan
    engine: Engine | None = None
    tasks = {task.task.full_name: task for task in prepared.tasks}
    try:
        for size in look_sizes(course.design.items):
            done = writer.done()
            missing = [each for each in course.items[:size] if (each.item.task, each.item.id) not in done]
            if missing and engine is None:
                engine = opener(prepared.engine, prepared.model, settings_of(plan))
            watch.begin(f"look at {size} of {course.design.items} items", size, size - len(missing))
            if missing and engine is not None:
                ask(missing, tasks, writer, watch, engine)
            stop = monitor(differences(course, size, writer), course.tasks[:size], course.design)
            if stop is not None:
                return stop
    finally:
        if engine is not None:
            engine.close()
    raise AssertionError("the last look always decides")


def ask(missing: Sequence[PreparedItem], tasks: Mapping[str, PreparedTask], writer: Writer, watch: Watch, engine: Engine) -> None:
    """Answer these items, task by task."""
    for name, task in tasks.items():
        recorder = Recorder(task, writer, watch, engine)
        try:
            answer([each for each in missing if each.item.task == name], engine, recorder.add, {}, frozenset())
        finally:
            recorder.flush()


def differences(course: Course, size: int, writer: Writer) -> Array:
    """Candidate minus baseline of the first `size` items. Raises Incomplete where one failed."""
    records = {(record.task, record.item): record for record in writer.records()}
    found = np.empty(size)
    for place, (each, code) in enumerate(zip(course.items[:size], course.tasks[:size], strict=True)):
        record = records[each.item.task, each.item.id]
        if record.status == "error":
            raise Incomplete(
                f"item {record.item} failed: {record.error}", where=record.task, do="mend the cause, then give the same command"
            )
        metric, scale = course.units[code]
        found[place] = record.stats[metric.name][0] * scale
    return found - course.base[:size]


def plan_like(baseline: Run, model: str, **changed: Any) -> Plan:
    """The baseline's plan for another model."""
    stored = Plan.from_json(baseline.manifest["plan"])
    return replace(stored, model=model, adapter="", revision="", repeat_check=False, repeat_engine="", **changed)
