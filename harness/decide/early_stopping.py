"""The gate that evaluates while it decides: asks the items in a fixed order and stops at the first look that decides.

What was asked is an ordinary run that can be resumed: by this gate, which then decides the same, or by `assay resume`, which
completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.decide.compare import FIELDS, Mismatch, Side, side_of
from assay.harness.decide.decision import EXIT, equal_weights
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import best_of, gates, mains_of, now, pair_key, remember
from assay.harness.engines import Engine
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError, Incomplete, NotComparable
from assay.harness.files.places import Surroundings
from assay.harness.run.dispatch import answer
from assay.harness.run.evaluate import OpenEngine, Prepared, Recorder, Unwatched, Watch, manifest_of, prepare, same_run, settings_of
from assay.harness.run.interruption import resumable
from assay.harness.run.prepare import PreparedItem, PreparedTask
from assay.harness.run.scoring.rescore import altered
from assay.harness.stats.difference import unit_of
from assay.harness.stats.influence import is_mean
from assay.harness.stats.sequential import E_EVERY, Design, Stop, fixed_order, look_sizes, monitor, stopped_interval
from assay.harness.store import Run, Writer, create_bundle, index, open_writer, read_run
from assay.harness.store.plan import Plan
from assay.harness.task.metric import Array, Codes, Metric, Pooled

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Seen:
    """One task when the gate stopped. `delta` in points; it is biased outward, as every estimate that was stopped on."""

    task: str
    items: int
    planned: int
    delta: float
    wins: int
    losses: int


@dataclass(frozen=True, slots=True)
class EarlyGate:
    """What an early-stopped gate decided, after how many of all items; the run it left can be completed.

    `delta`, `low` and `high` in points: the limits hold at all looks together. `looks`: after how many items each took place.
    """

    verdict: str
    items: int
    planned: int
    by: str
    looks: tuple[int, ...]
    bundle: Path
    reasons: tuple[str, ...]
    delta: float | None
    low: float | None
    high: float | None
    tasks: tuple[Seen, ...]
    tried: int
    attempt: int

    def exit_code(self, policy: Policy) -> int:
        return 0 if self.verdict == "inconclusive" and policy.on_inconclusive == "pass" else EXIT[self.verdict]


@dataclass(frozen=True, slots=True)
class Course:
    """The fixed course: items in order with task codes and baseline scores (signed, in points/100), and the design."""

    items: tuple[PreparedItem, ...]
    tasks: Codes
    base: Array
    names: tuple[str, ...]
    units: tuple[tuple[Metric[Any], float], ...]
    design: Design
    seed: int

    def as_json(self) -> dict[str, Any]:
        """What is fixed in the manifest before the first item."""
        facts = {"order": "hmac-sha256", "seed": self.seed, "looks": list(look_sizes(self.design.items)), "e_every": E_EVERY}
        return {**facts, "tasks": list(self.names), **{key: wire(value) for key, value in asdict(self.design).items()}}


def wire(value: Any) -> Any:
    """As JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def gate_early(
    plan: Plan, baseline: Run, policy: Policy, place: Surroundings, watch: Watch | None = None, opener: OpenEngine = open_engine
) -> EarlyGate:
    """Evaluate `plan` (the baseline's tasks and settings, another model) until a verdict falls; see assay.harness.stats.sequential.

    Continues an interrupted run of the same model, plan and design if the store has one, and remembers the decision. Raises
    NotComparable, Incomplete (resumable: the same command goes on), AssayError where a task's main metric is no bounded mean of
    independent items or the policy asks for what only a full run can show.
    """
    watch = watch or Unwatched()
    base = side_of(baseline, place.access(allow_partial=True))
    policy = policy.spelled(base.tasks)
    check_policy(policy, base)
    prepared = prepare(plan, place, watch, stored=True)
    comparable(base, prepared)
    mains = [
        (task.task.full_name, task.task.metrics[0].name)
        for task in prepared.tasks
        if (task.task.full_name, task.task.metrics[0].name) in base.tables
    ]
    tried = policy.tried or best_of(place.results, base, prepared.model.digest, mains_of(base, mains))
    course = course_of(base, prepared, policy, plan.seed, tried)
    manifest = {**manifest_of(prepared), "early_stop": course.as_json()}
    begun = unfinished(place.results, manifest)
    if begun is None:
        bundle = create_bundle(place.results, manifest, [each.item for task in prepared.tasks for each in task.items])
    elif altered(prepared.tasks, begun):
        what = "stored answers do not give their statistics"
        raise AssayError(what, where=str(begun.path), do="move this folder away and give the same command again")
    else:  # what has been scored since it began changes nothing for it
        bundle, course = (
            begun.path,
            replace(course, design=replace(course.design, tried=policy.tried or int(begun.manifest["early_stop"]["tried"]))),
        )
    with resumable(bundle), open_writer(bundle) as writer:
        try:
            stop = ask_until_decided(course, prepared, writer, watch, opener)
        except KeyboardInterrupt:
            raise Incomplete("interrupted", where=bundle.name, do="give the same command again to go on") from None
        d = differences(course, stop.items, writer)
    index(place.results, [bundle])
    fit = base.purpose == "release" and base.evidence == "complete" and manifest["purpose"] == "release"
    key = pair_key(prepared.model.digest, base, course.names)
    found = early_gate(course, stop, d, bundle, fit, attempt=len(gates(place.results, key)) + 1)
    remember(place.results, entry_of(key, found, base, prepared, policy))
    return found


def check_policy(policy: Policy, base: Side) -> None:
    """Raises AssayError for what a gate that stops early cannot decide."""
    for name in ("critical", "margins", "relative"):
        if getattr(policy, name):
            raise AssayError(f"`{name}` needs every item", where="--early-stop", do="gate a full run, or take it out of the policy")
    if missing := [name for name in policy.tasks if name not in base.tasks]:
        raise NotComparable(f"the baseline lacks {missing[0]}", do="run the baseline on it")


def early_gate(course: Course, stop: Stop, d: Array, bundle: Path, fit: bool, attempt: int) -> EarlyGate:
    """The decision with everything that a reader needs to judge it."""
    codes, design = course.tasks[: stop.items], course.design
    seen = []
    for code, (name, planned) in enumerate(zip(course.names, design.sizes, strict=True)):
        own = d[codes == code]
        delta = 100 * float(own.mean()) if len(own) else 0.0
        seen.append(Seen(name, len(own), planned, delta, int((own > 0).sum()), int((own < 0).sum())))
    whole = stopped_interval(d, codes, design)
    reasons = [f"decided by {stop.by} after {stop.items:,} of {design.items:,} items"]
    if stop.verdict == "regressed":
        worst = sorted((each for each in seen if each.losses > each.wins), key=strength)[:5]
        reasons += [f"{each.task} stood at {each.delta:+.2f} points (+{each.wins} -{each.losses} of {each.items})" for each in worst]
    verdict: str = stop.verdict
    if verdict == "pass" and not fit:
        verdict = "inconclusive"
        reasons.insert(0, "the baseline's evidence is not complete, or its tasks are smoke tasks: never a pass")
    return EarlyGate(
        verdict=verdict,
        items=stop.items,
        planned=design.items,
        by=stop.by,
        looks=tuple(size for size in look_sizes(design.items) if size <= stop.items),
        bundle=bundle,
        reasons=tuple(reasons),
        delta=None if whole is None else 100 * float(whole.delta),
        low=None if whole is None else 100 * float(whole.low),
        high=None if whole is None else 100 * float(whole.high),
        tasks=tuple(seen),
        tried=design.tried,
        attempt=attempt,
    )


def strength(seen: Seen) -> float:
    """How strongly a task's losses outweigh its gains: the score z, most negative first."""
    return float((seen.wins - seen.losses) / np.sqrt(max(1, seen.wins + seen.losses)))


def entry_of(key: str, found: EarlyGate, base: Side, prepared: Prepared, policy: Policy) -> dict[str, Any]:
    """What is remembered of it, beside the gates on whole runs."""
    model = prepared.model
    return {
        "key": key,
        "at": now(),
        "candidate": {"run": found.bundle.name, "model": model.name, "digest": model.digest},
        "baseline": {"run": base.run, "model": base.model, "digest": base.digest},
        **{name: getattr(found, name) for name in ("verdict", "attempt", "tried", "delta", "low", "high", "items", "planned", "by")},
        "looks": list(found.looks),
        "lost": [each.task for each in sorted(found.tasks, key=strength) if each.losses > each.wins][:5]
        if found.verdict == "regressed"
        else [],
        "evidence": "early-stopped",
        "policy": policy.model_dump(mode="json"),
    }


def comparable(base: Side, prepared: Prepared) -> None:
    """The candidate's tasks are the baseline's, field by field."""
    facts = {task.task.full_name: task.facts for task in prepared.tasks}
    if set(facts) != set(base.tasks):
        raise NotComparable(f"the tasks differ: {', '.join(sorted(set(facts) ^ set(base.tasks)))[:120]}", do="use the baseline's tasks")
    for name, fact in facts.items():
        for each in FIELDS:
            if fact.get(each) != base.tasks[name].get(each):
                raise NotComparable(str(Mismatch(name, each, base.tasks[name].get(each), fact.get(each))), do="run the baseline again")


def course_of(base: Side, prepared: Prepared, policy: Policy, seed: int, tried: int) -> Course:
    """Every item with its baseline score, in the fixed order. Advisory tasks, and those that are not required, are left out."""
    gated = [task for task in prepared.tasks if task.task.full_name not in policy.advisory]
    gated = [task for task in gated if not policy.tasks or task.task.full_name in policy.tasks]
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
    names = tuple(task.task.full_name for task in gated)
    weights = equal_weights(names, policy.weights)
    design = Design(tuple(weights), tuple(len(task.items) for task in gated), policy.margin / 100, policy.alpha, tried)
    ordered = tuple(items[place] for place in order)
    return Course(ordered, np.array(codes)[order], np.array(scores)[order], names, units, design, seed)


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


def unfinished(root: Path, wanted: Mapping[str, Any]) -> Run | None:
    """The latest interrupted run of this very plan, model and design."""
    for path in sorted((Path(root) / "runs").glob("*/manifest.json"), reverse=True):
        run = read_run(path.parent)
        stored = {**run.manifest.get("early_stop", {}), "tried": wanted["early_stop"]["tried"]}
        same = stored == wanted["early_stop"] and run.manifest.get("plan_digest") == wanted["plan_digest"]
        if same and run.manifest["model"]["digest"] == wanted["model"]["digest"] and run.status == "running":
            same_run(run.manifest, wanted, path.parent)
            return run
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
