"""Run an evaluation: prepare the plan, send the requests, score, store. Resuming is the same with some items already scored."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from assay.harness.engines import Engine, Settings
from assay.harness.engines.arguments import check_arguments, library_of, positions_with
from assay.harness.engines.opening import check_name, open_engine
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.threads import set_passive_wait
from assay.harness.errors import AssayError, Incomplete, Invalid, Missing, redact
from assay.harness.files.interruption import resumable, resume_command
from assay.harness.files.memory import return_freed, use_system_memory
from assay.harness.files.places import Access, Surroundings
from assay.harness.model.find import ModelRef, checkpoint_of, find_model
from assay.harness.model.finite import check_weights
from assay.harness.model.served import is_address
from assay.harness.prompt.served import check_named, check_server, find_served, tokenizer_of
from assay.harness.run.dispatch import NoProgress, Part, RunProgress, Scorer, title
from assay.harness.run.doctor import check_machine, inspect_machine, pick_engine, vllm_misfit
from assay.harness.run.manifest import manifest_of, results_of, same_run, summary_of, tokens_of
from assay.harness.run.noise import repeat
from assay.harness.run.prepare import PreparedItem, PreparedRun, PreparedTask, check_rows, load_rows, prepare_task, shard_of
from assay.harness.run.proof import check_ids, proof_of, together
from assay.harness.run.scoring.rescore import inconsistent_records
from assay.harness.run.scoring.signature import run_settings
from assay.harness.run.scoring.verify import verify
from assay.harness.run.selection import Selection, select_planned, select_stored
from assay.harness.store import Run, Writer, create_bundle, index, open_writer, read_run
from assay.harness.store.plan import Plan
from assay.harness.store.provenance import clock
from assay.harness.store.record import Record
from assay.harness.task.task import Task

NOT_FINITE = re.compile("non-finite|NaN|infinite")


class CannotOpen(AssayError):
    """The engine could not load the model; no item was scored."""


Summary = dict[str, Any]
"""The summary of a run, as it is stored."""
OpenEngine = Callable[[str, ModelRef, Settings], Engine]
Made = TypeVar("Made")


def prepare(plan: Plan, place: Surroundings, progress: RunProgress, stored: bool = False) -> PreparedRun:
    """Find the model and the tasks, render and encode every item. Raises AssayError before anything is written.

    `stored`: the plan comes from a manifest, so task code loads only if the user named it on this machine before.
    """
    for name in (plan.engine, plan.repeat_engine):
        if name not in ("", "auto"):
            check_name(name)
    set_passive_wait()  # before anything loads torch
    use_system_memory()
    access = place.access(plan.allow_partial)
    selection = select_stored({"plan": plan.as_json()}, access) if stored else select_planned(plan, access)
    if plan.split:
        for_each_task(selection, lambda task: check_split(task, plan.split, access))
    progress.stage(f"reading model {plan.model}")
    if is_address(plan.model):
        check_named(plan.model, place.cache, stored)
    model = find_planned_model(plan, place)
    engine, reason = pick_engine(model, plan.engine)
    check_arguments(engine, plan.engine_args, {} if model.server else checkpoint_of(model).config)
    if plan.repeat_engine == "vllm" and (misfit := vllm_misfit(model, inspect_machine())):
        raise AssayError(misfit, where="--repeat-engine vllm", do="name another engine, or leave it out")
    tokenizer = tokenizer_of(model)

    settings = run_settings(plan, model, tokenizer.template() if plan.chat and model.server is None else "")

    def prepared(task: Task) -> PreparedTask:
        progress.stage(f"rendering prompts of {task.full_name}")
        found = prepare_task(task, plan, access, tokenizer, positions_with(plan.engine_args, model.positions))
        for note in found.facts["notes"]:
            progress.stage(f"{task.full_name}: {note}")
        if model.server is None:
            check_ids(found, tokenizer, plan.chat, plan.seed)
            check_rows(found, tokenizer, model)
        return replace(found, facts={**found.facts, "settings": settings})

    tasks, left_out = for_each_task(selection, prepared)
    shares = shard_of([len(task.items) for task in tasks], *plan.part())
    tasks = tuple(replace(task, items=task.items[share]) for task, share in zip(tasks, shares, strict=True))
    check_server(model, tokenizer, [request for task in tasks for each in task.items for request in each.requests])
    return PreparedRun(plan, model, engine, reason, tasks, selection.totals, tokenizer.digest, left_out)


def check_split(task: Task, split: str, access: Access) -> None:
    """Raises the AssayError of loading a split that the task does not have, before anything else is read."""
    try:
        known = split in task.rows.splits(access)
    except Exception:  # the author's code may list the splits; loading them says what is wrong
        known = False
    if not known:
        load_rows(task, split, access)


def find_planned_model(plan: Plan, place: Surroundings) -> ModelRef:
    """The plan's model with its adapter and revision. Raises AssayError where it cannot be found or read."""
    if is_address(plan.model):
        return find_served(plan)
    if plan.served_name or plan.tokenizer:
        raise AssayError("only served models have these options", where="--served-name, --tokenizer", do="give --model http://host:8000/v1")
    return find_model(
        plan.model,
        adapter=Path(plan.adapter) if plan.adapter else None,
        revision=plan.revision or None,
        cache=place.cache,
        offline=place.offline,
    )


def for_each_task(selection: Selection, make: Callable[[Task], Made]) -> tuple[tuple[Made, ...], tuple[tuple[str, str], ...]]:
    """`make` of every task, and (name, reason) of each family member left out because its data are missing.

    Raises Missing for a task that was named itself, or where no task is left.
    """
    made: list[Made] = []
    left_out: list[tuple[str, str]] = []
    for task in selection.tasks:
        try:
            made.append(make(task))
        except Missing as error:
            if task.full_name not in selection.members or len(left_out) + 1 == len(selection.tasks):
                raise
            left_out.append((task.full_name, str(error)))
    return tuple(made), tuple(left_out)


def check_opener(plan: Plan, opener: OpenEngine) -> None:
    """Raises AssayError for an engine or a device that this machine lacks. Other openers, such as a cluster's, have their own machines."""
    if opener is open_engine and not is_address(plan.model):
        check_machine(plan.engine, plan.device)


def evaluate(
    plan: Plan, place: Surroundings, progress: RunProgress | None = None, opener: OpenEngine = open_engine, stored: bool = False
) -> Path:
    """Score a model on tasks and store the run; returns the bundle's directory. `stored`: as in `prepare`.

    Raises AssayError (nothing written) for anything wrong with the plan, Incomplete (resumable) where items are missing at
    the end, Invalid where the model's files changed while it was scored.
    """
    progress = progress or NoProgress()
    check_opener(plan, opener)
    bundle, summary = evaluate_planned(plan, place, progress, opener, stored)
    return complete(bundle, summary, place)


def complete(bundle: Path, summary: Summary, place: Surroundings) -> Path:
    """Write the result files of a scored run and index it. It is called when the plan is no longer in memory. Returns the bundle."""
    return_freed()
    with resumable(bundle):
        with open_writer(bundle) as writer:
            writer.finish(summary)
        return_freed()
        update_index(place, [bundle])
    return bundle


def evaluate_planned(plan: Plan, place: Surroundings, progress: RunProgress, opener: OpenEngine, stored: bool) -> tuple[Path, Summary]:
    """Score a plan: with its engine, or with hf where `auto` chose one that cannot open the model."""
    prepared = prepare(plan, place, progress, stored)
    try:
        return evaluate_prepared(prepared, place, progress, opener)
    except CannotOpen as error:
        if plan.engine != "auto" or prepared.engine == "hf" or prepared.model.server is not None or plan.engine_args:
            raise
        progress.stage(f"{prepared.engine} cannot load this model; using engine hf")
        prepared = replace(prepared, engine="hf", reason=f"{prepared.engine} could not open: {error.what}")
    return evaluate_prepared(prepared, place, progress, opener)


def evaluate_prepared(prepared: PreparedRun, place: Surroundings, progress: RunProgress, opener: OpenEngine) -> tuple[Path, Summary]:
    bundle = create_bundle(place.results, manifest_of(prepared), [each.item for task in prepared.tasks for each in task.items])
    try:
        with resumable(bundle):
            update_index(place, [bundle])  # the run is listed as running
            return bundle, score(prepared, bundle, progress, opener)
    except CannotOpen:
        shutil.rmtree(bundle)
        update_index(place)
        raise


def update_index(place: Surroundings, bundles: Sequence[Path] | None = None) -> None:
    """Index these bundles (None: all that changed); results of other processes are verified first."""
    index(place.results, bundles, verify(place.access(allow_partial=True)))


def resume(
    bundle: Path,
    place: Surroundings,
    progress: RunProgress | None = None,
    opener: OpenEngine = open_engine,
    allow_failed: bool = False,
) -> Path:
    """Resume an interrupted run: score the items that have no final record. `allow_failed`: finish it even if items fail again.

    Raises AssayError where the model, data, tasks, versions or hardware differ from those of the run, and for task code that was
    not named on this machine.
    """
    progress = progress or NoProgress()
    run = read_run(bundle)
    if run.status == "complete":
        update_index(place)
        return bundle
    return complete(bundle, resume_planned(run, place, progress, opener, allow_failed), place)


def resume_planned(run: Run, place: Surroundings, progress: RunProgress, opener: OpenEngine, allow_failed: bool) -> Summary:
    """Score the items of a run that have no final record."""
    plan = Plan.from_json(run.manifest["plan"])
    plan = replace(plan, engine=run.manifest["engine"]["name"], allow_failed=plan.allow_failed or allow_failed)
    prepared = prepare(plan, place, progress, stored=True)
    same_run(run.manifest, manifest_of(prepared), run.path)
    with resumable(run.path):
        return score(prepared, run.path, progress, opener)


def score(prepared: PreparedRun, bundle: Path, progress: RunProgress, opener: OpenEngine) -> Summary:
    """Score the items that have no final record. Returns the summary of the run."""
    command, started = resume_command(bundle), clock()
    with open_writer(bundle) as writer:
        wrong = inconsistent_records(prepared.tasks, read_run(bundle)) if writer.done() else frozenset()
        if wrong:
            progress.stage(f"{len(wrong)} stored items have statistics that do not match their outputs: scoring them again")
        done = writer.done() - wrong
        pending = [[each for each in task.items if (each.item.task, each.item.id) not in done] for task in prepared.tasks]
        facts: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        try:
            if any(pending) or prepared.plan.repeat_check:
                facts, extra = score_pending(prepared, pending, writer, progress, opener)
            if prepared.plan.repeat_engine and (noise := repeat_on_other_engine(prepared, writer, progress, opener)):
                extra["noise"] = extra.get("noise", {}) | noise
        except AssayError as error:
            if error.exit_code != 13:
                raise
            check_numbers(prepared, writer.records())
            raise Incomplete(str(error), where=bundle.name, do=f"continue with: {command}") from None
        except Exception as error:  # an engine may fail in any way; finished items are stored
            raise Incomplete(f"{type(error).__name__}: {error}", where=bundle.name, do=f"continue with: {command}") from error
        records, proof = writer.records(), together(writer.proofs())  # read once: all of the journal
        check_numbers(prepared, records)
        if (failed := failed_records(records)) and not prepared.plan.allow_failed:
            raise Incomplete(
                f"{len(failed)} items failed, the first ({failed[0].task} {failed[0].item}): {failed[0].error}",
                where=bundle.name,
                do=f"fix the cause, then: {command}; or finish without them: {command} --allow-failed",
            )
        check_model_unchanged(prepared.model, prepared.plan)
        progress.stage("computing scores")
        seconds = {"engine": round(sum(record.seconds for record in records), 3), "last_attempt": round(clock() - started, 3)}
        results, tokens = results_of(prepared, records, facts), tokens_of(prepared.model, records)
        return {**summary_of(records, results, facts, tokens, seconds, proof), **extra}


def score_pending(
    prepared: PreparedRun, pending: Sequence[Sequence[PreparedItem]], writer: Writer, progress: RunProgress, opener: OpenEngine
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Open the engine and score every pending item of all tasks in one call. Returns the engine's facts, and the noise."""
    plan, opened = prepared.plan, clock()
    scorer = open_scorer(prepared, writer, progress, opener)
    opened = clock() - opened
    try:
        parts = [Part(task, items, task.items) for task, items in zip(prepared.tasks, pending, strict=True)]
        every = sum(len(part.again) for part in parts)
        progress.begin(title(parts), every, every - sum(len(part.items) for part in parts))
        scorer.score(parts)
        engine = scorer.engine
        facts = {**engine.describe(), "notes": [redact(note) for note in engine.stats.notes], "open_seconds": round(opened, 3)}
        extra: dict[str, Any] = {}
        if plan.repeat_check and not failed_records(writer.records()):  # with failed items the check waits until the run is resumed
            extra["noise"] = {"batches": repeat(prepared.tasks, writer.records(), engine, progress, plan.seed)}
        return facts, extra
    finally:
        scorer.close()


def open_scorer(prepared: PreparedRun, writer: Writer, progress: RunProgress, opener: OpenEngine) -> Scorer:
    """Open the engine of a run. Raises CannotOpen, Incomplete."""
    progress.stage(f"starting engine {prepared.engine}")
    generates = any(isinstance(request, GenRequest) for task in prepared.tasks for each in task.items for request in each.requests)
    settings = replace(settings_of(prepared.plan), scores_only=not generates)
    try:
        engine = opener(prepared.engine, prepared.model, settings)
    except AssayError as error:
        raise error if error.exit_code == 13 else CannotOpen(error.what, where=error.where, do=error.do) from None
    if fault := length_fault(prepared, engine):
        engine.close()
        raise CannotOpen(fault, where=prepared.model.name, do="use --engine hf, or shorter prompts and responses")

    def open_plain() -> Engine:
        engine.close()
        return opener(prepared.engine, prepared.model, replace(settings, plain=True))

    proof = proof_of(prepared.tasks, prepared.model, settings, prepared.plan.seed)
    return Scorer(engine, open_plain, proof, writer, progress, prepared.plan.allow_failed)


def length_fault(prepared: PreparedRun, engine: Engine) -> str:
    """Why a request of the run is too long for the opened engine, which may take less than the model (memory, rope); empty if none is."""
    spare = 1 if prepared.engine.startswith("vllm") else 0  # vLLM always generates a token

    def needs(request: ScoreGroup | GenRequest) -> int:
        if isinstance(request, ScoreGroup):
            return len(request.context) + max(map(len, request.continuations)) - 1 + spare
        thinking = request.thinking.budget or 0 if request.thinking else 0
        return len(request.prompt) + request.max_tokens + thinking

    longest = max((needs(request) for task in prepared.tasks for each in task.items for request in each.requests), default=0)
    if longest <= engine.limits.positions:
        return ""
    return f"the longest request needs {longest} tokens; engine {prepared.engine} takes {engine.limits.positions} with this model here"


def settings_of(plan: Plan, arguments: bool = True) -> Settings:
    """How the plan's engine is opened; without the library's own `arguments` for another engine."""
    return Settings(
        plan.dtype,
        plan.device,
        plan.budget,
        plan.batch,
        plan.tensor_parallel,
        plan.pipeline_parallel,
        plan.seed,
        plan.data_parallel,
        plan.engine_args if arguments else (),
    )


def repeat_on_other_engine(prepared: PreparedRun, writer: Writer, progress: RunProgress, opener: OpenEngine) -> dict[str, Any]:
    """The noise between the run's engine and `plan.repeat_engine`, which scores the same requests."""
    plan = prepared.plan
    if failed_records(writer.records()):
        return {}
    progress.stage(f"starting engine {plan.repeat_engine}")
    try:
        same = library_of(plan.repeat_engine) == library_of(prepared.engine)
        engine = opener(plan.repeat_engine, prepared.model, settings_of(plan, arguments=same))
    except AssayError as error:  # the records of the first engine stay
        what = f"{plan.repeat_engine} cannot repeat the run: {error.what}"
        raise Incomplete(what, do=error.do or "leave out --repeat-engine") from None
    try:
        return {plan.repeat_engine: repeat(prepared.tasks, writer.records(), engine, progress, plan.seed)}
    finally:
        engine.close()


def failed_records(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record.status == "error"]


def check_numbers(prepared: PreparedRun, records: Sequence[Record]) -> None:
    """Raises Invalid where items failed because the model's weights or logits hold NaN: no repetition can give them a score."""
    failed = [record for record in failed_records(records) if NOT_FINITE.search(record.error)]
    if not failed:
        return
    if prepared.model.server is None:
        check_weights(checkpoint_of(prepared.model))
    if {record.status for record in records} <= {"error", "skipped"}:
        what = f"the model's logits are NaN or infinite for every item ({len(failed)} so far), although its weights are finite"
        raise Invalid(what, where=prepared.model.name, do="use --dtype float32; if that fails too, the checkpoint or its config is broken")


def check_model_unchanged(model: ModelRef, plan: Plan) -> None:
    """Raises Invalid where the checkpoint was overwritten, or the server serves another model, while it was scored."""
    if model.server is not None:
        if find_served(plan).digest != model.digest:
            raise Invalid("the server serves another model than when the run began", where=model.server.address, do="score again")
        return
    now = find_model(str(model.path), adapter=model.adapter, revision=None, cache=Path(), offline=True)
    if now.digest != model.digest:
        raise Invalid(
            "the model's files changed while they were scored", where=str(model.path), do="score again when the checkpoint is final"
        )
