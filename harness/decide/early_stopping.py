"""The gate with early stopping: scores items in a fixed order and stops at the first interim look that decides.

The scored items are an ordinary run. The same gate resumes it and decides the same; `assay resume` completes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.decide.compare import Side, side_of
from assay.harness.decide.decision import EXIT
from assay.harness.decide.mismatch import FIELDS, Mismatch
from assay.harness.decide.policy import Policy, check_verified
from assay.harness.decide.shared_items import Items, Key, groups_of, shared_clusters
from assay.harness.decide.stored_gate import append_gate, best_of, gates, main_metrics, now, pair_key
from assay.harness.decide.verdict import task_weights
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError, Incomplete, NotComparable
from assay.harness.files.interruption import resumable
from assay.harness.files.places import Surroundings
from assay.harness.model.served import is_address
from assay.harness.prompt.served import check_named
from assay.harness.run.dispatch import NoProgress, Part, RunProgress, Scorer
from assay.harness.run.evaluate import OpenEngine, open_scorer, prepare
from assay.harness.run.manifest import manifest_of, same_run
from assay.harness.run.prepare import PreparedItem, PreparedRun, PreparedTask
from assay.harness.run.scoring.rescore import inconsistent_records
from assay.harness.stats.difference import unit_of
from assay.harness.stats.influence import is_mean
from assay.harness.stats.sequential import E_EVERY, Design, Stop, fixed_order, look_sizes, monitor, stopped_interval
from assay.harness.store import Run, Writer, create_bundle, index, open_writer, read_run
from assay.harness.store.plan import Plan
from assay.harness.task.metric import Array, Codes, Metric, Pooled


@dataclass(frozen=True, slots=True)
class TaskProgress:
    """One task when the gate stopped. `delta` in points; early stopping exaggerates it."""

    task: str
    items: int
    planned: int
    delta: float
    wins: int
    losses: int


@dataclass(frozen=True, slots=True)
class EarlyGate:
    """The verdict of a gate that stopped after `items` of `planned` items; `bundle` is its run, which can be completed.

    `delta`, `low` and `high` in points; the limits hold at all looks together. `looks`: numbers of items at the interim looks.
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
    tasks: tuple[TaskProgress, ...]
    tried: int
    attempt: int

    def exit_code(self, policy: Policy) -> int:
        return 0 if self.verdict == "inconclusive" and policy.on_inconclusive == "pass" else EXIT[self.verdict]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is fixed before the first item: items in order, their task codes, signed baseline scores (points / 100), the design."""

    items: tuple[PreparedItem, ...]
    tasks: Codes
    base: Array
    names: tuple[str, ...]
    units: tuple[tuple[Metric[Any], float], ...]
    design: Design
    seed: int

    def as_json(self) -> dict[str, Any]:
        """The schedule as it is stored in the manifest before the first item."""
        facts = {"order": "hmac-sha256", "seed": self.seed, "looks": list(look_sizes(self.design.items)), "e_every": E_EVERY}
        return {**facts, "tasks": list(self.names), **{key: json_value(value) for key, value in asdict(self.design).items()}}


def json_value(value: Any) -> Any:
    """The value as JSON returns it."""
    return list(value) if isinstance(value, tuple) else value


def gate_early(
    plan: Plan, baseline: Run, policy: Policy, place: Surroundings, watch: RunProgress | None = None, opener: OpenEngine = open_engine
) -> EarlyGate:
    """Evaluates `plan` (the baseline's tasks and settings, another model) until there is a verdict; see assay.harness.stats.sequential.

    Resumes an interrupted run of the same model, plan and design if the store has one, and records the decision. Raises
    NotComparable, Incomplete (the same command resumes), AssayError if a task's main metric is not a bounded mean of
    independent items or the policy needs a full run.
    """
    watch = watch or NoProgress()
    base = side_of(baseline, place.access(allow_partial=True))
    policy = policy.with_full_names(base.tasks)
    check_policy(policy, base)
    if is_address(plan.model):
        check_named(plan.model, place.cache, stored=False)  # the user named the model; only the tasks come from a stored run
    prepared = prepare(plan, place, watch, stored=True)
    comparable(base, prepared)
    check_verified(policy, [base.digest, prepared.model.digest])
    main = [
        (task.task.full_name, task.task.metrics[0].name)
        for task in prepared.tasks
        if (task.task.full_name, task.task.metrics[0].name) in base.tables
    ]
    tried = policy.tried or best_of(place.results, base, prepared.model.digest, main_metrics(base, main))
    schedule = schedule_of(base, prepared, policy, plan.seed, tried)
    manifest = {**manifest_of(prepared), "early_stop": schedule.as_json()}
    begun = unfinished(place.results, manifest)
    if begun is None:
        bundle = create_bundle(place.results, manifest, [each.item for task in prepared.tasks for each in task.items])
    elif inconsistent_records(prepared.tasks, begun):
        what = "stored responses do not give their stored statistics"
        raise AssayError(what, where=str(begun.path), do="move this folder away and repeat the command")
    else:  # `tried` stays as it was: models scored since do not count
        bundle, schedule = (
            begun.path,
            replace(schedule, design=replace(schedule.design, tried=policy.tried or int(begun.manifest["early_stop"]["tried"]))),
        )
    with resumable(bundle), open_writer(bundle) as writer:
        try:
            stop = score_until_decided(schedule, prepared, writer, watch, opener)
        except KeyboardInterrupt:
            raise Incomplete("interrupted", where=bundle.name, do="repeat the command to resume") from None
        d = differences(schedule, stop.items, writer)
    index(place.results, [bundle])
    fit = base.purpose == "release" and base.evidence == "complete" and manifest["purpose"] == "release"
    key = pair_key(prepared.model.digest, base, schedule.names)
    found = early_gate(schedule, stop, d, bundle, fit, attempt=len(gates(place.results, key)) + 1)
    append_gate(place.results, entry_of(key, found, base, prepared, policy))
    return found


def check_policy(policy: Policy, base: Side) -> None:
    """Raises AssayError for a policy that a gate with early stopping cannot decide."""
    for name in ("critical", "margins", "relative", "every_task", "recovery"):
        if getattr(policy, name):
            raise AssayError(f"`{name}` needs every item", where="--early-stop", do="omit --early-stop, or remove it from the policy")
    if missing := [name for name in policy.tasks if name not in base.tasks]:
        raise NotComparable(f"the baseline was not evaluated on {missing[0]}", do=f"assay run --model {base.model} --tasks {missing[0]}")


def early_gate(schedule: Schedule, stop: Stop, d: Array, bundle: Path, fit: bool, attempt: int) -> EarlyGate:
    """The decision with the statistics behind it; a pass is inconclusive unless `fit`."""
    codes, design = schedule.tasks[: stop.items], schedule.design
    progress = []
    for code, (name, planned) in enumerate(zip(schedule.names, design.sizes, strict=True)):
        own = d[codes == code]
        delta = 100 * float(own.mean()) if len(own) else 0.0
        progress.append(TaskProgress(name, len(own), planned, delta, int((own > 0).sum()), int((own < 0).sum())))
    whole = stopped_interval(d, codes, design)
    reasons = [f"decided by {stop.by} after {stop.items:,} of {design.items:,} items"]
    if stop.verdict == "regressed":
        worst = sorted((each for each in progress if each.losses > each.wins), key=strength)[:5]
        reasons += [
            f"{each.task} changed by {each.delta:+.2f} points (+{each.wins} -{each.losses} of {each.items} items)" for each in worst
        ]
    verdict: str = stop.verdict
    if verdict == "pass" and not fit:
        verdict = "inconclusive"
        reasons.insert(0, "the baseline is incomplete or has smoke tasks: it cannot pass")
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
        tasks=tuple(progress),
        tried=design.tried,
        attempt=attempt,
    )


def strength(progress: TaskProgress) -> float:
    """McNemar's z of a task's gains against its losses; negative for a loss."""
    return float((progress.wins - progress.losses) / np.sqrt(max(1, progress.wins + progress.losses)))


def entry_of(key: str, found: EarlyGate, base: Side, prepared: PreparedRun, policy: Policy) -> dict[str, Any]:
    """The line in gates.jsonl for this gate."""
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


def comparable(base: Side, prepared: PreparedRun) -> None:
    """Raises NotComparable if the candidate's tasks are not the baseline's, field by field."""
    facts = {task.task.full_name: task.facts for task in prepared.tasks}
    if set(facts) != set(base.tasks):
        raise NotComparable(f"the tasks differ: {', '.join(sorted(set(facts) ^ set(base.tasks)))[:120]}", do="use the baseline's tasks")
    for name, fact in facts.items():
        for each in FIELDS:
            if fact.get(each) != base.tasks[name].get(each):
                raise NotComparable(str(Mismatch(name, each, base.tasks[name].get(each), fact.get(each))), do=f"assay rerun {base.run}")


def schedule_of(base: Side, prepared: PreparedRun, policy: Policy, seed: int, tried: int) -> Schedule:
    """Every item with its baseline score, in the fixed order, without advisory tasks and tasks that are not required."""
    gated = [task for task in prepared.tasks if task.task.full_name not in policy.advisory]
    gated = [task for task in gated if not policy.tasks or task.task.full_name in policy.tasks]
    if not gated:
        raise AssayError("every task is advisory", do="remove a task from `advisory` in gate.toml")
    units = tuple(simple_metric(base, task) for task in gated)
    check_independent(base, [(task.task.full_name, metric.name) for task, (metric, _) in zip(gated, units, strict=True)])
    items, codes, scores = [], [], []
    for code, (task, (metric, scale)) in enumerate(zip(gated, units, strict=True)):
        table = base.tables[task.task.full_name, metric.name]
        found = dict(zip(table.item_ids, table.stats[:, 0] * scale, strict=True))
        items += list(task.items)
        codes += [code] * len(task.items)
        scores += [float(found[each.item.id]) for each in task.items]
    order = fixed_order([each.item.task for each in items], [each.item.id for each in items], seed)
    names = tuple(task.task.full_name for task in gated)
    sizes = {task.task.full_name: len(task.items) for task in gated}
    weights = task_weights(sizes, policy.weights, policy.weighting)
    design = Design(tuple(weights[name] for name in names), tuple(sizes[name] for name in names), policy.margin / 100, policy.alpha, tried)
    ordered = tuple(items[place] for place in order)
    return Schedule(ordered, np.array(codes)[order], np.array(scores)[order], names, units, design, seed)


def simple_metric(base: Side, task: PreparedTask) -> tuple[Metric[Any], float]:
    """The main metric and its sign divided by its unit. Raises AssayError if it is not a bounded mean of independent items."""
    metric, name = task.task.metrics[0], task.task.full_name
    table = base.tables.get((name, metric.name))
    folds = isinstance(metric.combine, Pooled) and metric.combine.fold is not None
    if table is None or not is_mean(metric) or folds or metric.low is None or metric.high is None:
        raise AssayError(f"{metric.name} is not a bounded mean of items", where=name, do="omit --early-stop, or make the task advisory")
    if len(set(table.clusters)) < len(table.clusters):
        raise AssayError("its items share passages", where=name, do="omit --early-stop, or make the task advisory")
    return metric, (-1.0 if metric.better == "lower" else 1.0) / unit_of(metric)


def check_independent(base: Side, main: Sequence[Key]) -> None:
    """Raises AssayError for tasks that share items: the looks take tasks as independent."""
    items: dict[str, Items] = {}
    for task, metric in main:
        table = base.tables[task, metric]
        prompts = [base.prompts.get((task, item), "") for item in table.item_ids]
        items[task] = list(zip(table.clusters, prompts, strict=True))
    if groups := groups_of(shared_clusters(items, base.tasks)):
        what = f"{' and '.join(groups[0])} share items"
        raise AssayError(what, where="--early-stop", do="omit --early-stop, or make all but one of them advisory")


def unfinished(root: Path, wanted: Mapping[str, Any]) -> Run | None:
    """The latest interrupted run of the same plan, model and design."""
    for path in sorted((Path(root) / "runs").glob("*/manifest.json"), reverse=True):
        run = read_run(path.parent)
        stored = {**run.manifest.get("early_stop", {}), "tried": wanted["early_stop"]["tried"]}
        same = stored == wanted["early_stop"] and run.manifest.get("plan_digest") == wanted["plan_digest"]
        if same and run.manifest["model"]["digest"] == wanted["model"]["digest"] and run.status == "running":
            same_run(run.manifest, wanted, path.parent)
            return run
    return None


def score_until_decided(schedule: Schedule, prepared: PreparedRun, writer: Writer, watch: RunProgress, opener: OpenEngine) -> Stop:
    """Scores the missing items of each interim look and tests all items so far, until a look decides."""
    scorer: Scorer | None = None
    try:
        for size in look_sizes(schedule.design.items):
            done, looked_at = writer.done(), schedule.items[:size]
            missing = [each for each in looked_at if (each.item.task, each.item.id) not in done]
            if missing and scorer is None:
                scorer = open_scorer(prepared, writer, watch, opener)
            watch.begin(f"interim look at {size} of {schedule.design.items} items", size, size - len(missing))
            if scorer is not None:
                score_missing(scorer, prepared.tasks, missing, looked_at)
            stop = monitor(differences(schedule, size, writer), schedule.tasks[:size], schedule.design)
            if stop is not None:
                return stop
    finally:
        if scorer is not None:
            scorer.close()
    raise AssertionError("the last look always decides")


def score_missing(
    scorer: Scorer, tasks: Sequence[PreparedTask], missing: Sequence[PreparedItem], looked_at: Sequence[PreparedItem]
) -> None:
    """Score the missing items of each task; all `looked_at` so far where a proof fails."""
    parts = []
    for task in tasks:
        wanted, again = ([each for each in items if each.item.task == task.task.full_name] for items in (missing, looked_at))
        parts.append(Part(task, wanted, again))
    scorer.score(parts)


def differences(schedule: Schedule, size: int, writer: Writer) -> Array:
    """Candidate minus baseline of the first `size` items [size]. Raises Incomplete if one failed."""
    records = {(record.task, record.item): record for record in writer.records()}
    found = np.empty(size)
    for place, (each, code) in enumerate(zip(schedule.items[:size], schedule.tasks[:size], strict=True)):
        record = records[each.item.task, each.item.id]
        if record.status == "error":
            raise Incomplete(f"item {record.item} failed: {record.error}", where=record.task, do="fix the cause, then repeat the command")
        metric, scale = schedule.units[code]
        found[place] = record.stats[metric.name][0] * scale
    return found - schedule.base[:size]


def plan_like(baseline: Run, model: str, **changed: Any) -> Plan:
    """The baseline's plan for another model."""
    stored = Plan.from_json(baseline.manifest["plan"])
    own: dict[str, Any] = {"adapter": "", "revision": "", "repeat_check": False, "repeat_engine": ""}
    if not is_address(model):
        own |= {"served_name": "", "tokenizer": ""}
    return replace(stored, model=model, **own | changed)
