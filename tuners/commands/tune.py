"""assay tune."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from assay import AssayError, ModelRef
from assay.harness.reports.results import show_number
from assay.harness.run.stages import Surroundings, open_tokenizer, surroundings
from assay.tuners.commands import options
from assay.tuners.commands.options import file_name, names, read_budget, read_numbers, read_options, read_rates, share_options
from assay.tuners.commands.output import check_installed, duration, open_model, print_rows, run_plan, tell
from assay.tuners.study.design import Study, check_methods, identity
from assay.tuners.study.sequence import TaskSequence
from assay.tuners.study.trial import Row
from assay.tuners.training.batches import UNLIMITED
from assay.tuners.training.own_data import OwnData, is_own_data, write_own_task

REGIMES = ("single", "multi-task", "sequential")
EQUAL_MIX = "multi_task=1000"
"""All tasks in equal shares: at this temperature their sizes do not matter."""
FILE_EPOCHS, TASK_STEPS = 3.0, 200
"""The default budgets: as transformers' Trainer for a file of examples; minutes on a CPU for a benchmark, whatever its size."""
AS_IN_PLAN = ("batch", "micro", "limit", "gradient_checkpointing", "steps", "epochs", "max_length")
"""Options that are fields of the plan under the same name."""
RECIPE = ("warmup", "weight_decay", "clip", "checkpoint_every")
Given = Mapping[str, Any]


def tune(
    context: typer.Context,
    model: options.Model,
    task: options.Target,
    method: options.MethodNames = "lora",
    lr: options.Rates = "",
    epochs: options.Epochs = 0.0,
    steps: options.Steps = 0,
    budget: options.Budget = "",
    batch: options.Batch = 8,
    seeds: options.Seeds = 1,
    warmup: options.Warmup = None,
    weight_decay: options.WeightDecay = None,
    clip: options.Clip = None,
    checkpoint_every: options.CheckpointEvery = None,
    mitigation: options.Mitigations = "",
    option: options.MethodOptions = None,
    regime: options.Regime = "single",
    held_out: options.HeldOut = None,
    max_length: options.MaxLength = 0,
    chat: options.Chat = False,
    retain: options.Retain = "",
    retain_shots: options.RetainShots = 0,
    text: options.Text = "",
    shots: options.ShotCounts = "default",
    limit: options.Limit = None,
    micro: options.Micro = 8,
    gradient_checkpointing: options.Recompute = False,
    precision: options.Precision = "auto",
    out: options.Folder = None,
    log_to: options.LogTo = "",
    as_json: options.Json = False,
) -> None:
    """Fine-tune MODEL on a task or a file of examples and measure gain and forgetting. The same command resumes an interrupted run.

    [dim]assay tune --model builtin:smollm2-135m --task data.jsonl[/dim]
    """
    check_installed()
    place, given = surroundings(), context.params
    methods = names(method)
    check_methods(methods, shared := share_options(read_options(option or []), methods))
    rates = read_rates(lr, methods)
    ref = open_model(model, place)
    own = own_data(names(task), ref, place, held_out)
    for name, data in own.items():
        tell(f"{name}: {data.sentence(0)}", f"task file: {data.task}")
    plan = plan_of({**given, "options": shared, "rates": rates}, ref, own)
    root = out or default_folder(plan, ref, place)
    tell(plan_line(plan))
    rows = run_plan(plan, ref, place, root, log_to)
    trained = [row for row in rows if row.get("lr")]
    lines = [line for row in trained for line in finding(row, plan, root, model)]
    print_rows(plan, ref, rows, root, as_json, {"data": {name: str(data.task) for name, data in own.items()}, "findings": lines})
    tell(*lines)
    if {row["status"] for row in trained} == {"refused"}:
        raise typer.Exit(AssayError.exit_code)  # the reasons are already on stderr


def own_data(targets: Sequence[str], ref: ModelRef, place: Surroundings, share: float | None) -> dict[str, OwnData]:
    """The files among the targets, split into a task each, whose folder is named after the file's content."""
    files = [name for name in targets if is_own_data(name)]
    tokenizer = open_tokenizer(ref.path) if files else None
    folder = place.cache / "own_data"  # code in the results folder is not run
    return {name: write_own_task(Path(name).resolve(), folder.resolve(), tokenizer, share) for name in files} if tokenizer else {}


def plan_of(given: Given, ref: ModelRef, own: Mapping[str, OwnData]) -> Study | TaskSequence:
    """The study or sequence that the options describe."""
    written, methods, regime = names(given["task"]), names(given["method"]), given["regime"]
    if regime not in REGIMES:
        raise AssayError(f"no regime {regime!r}", where="--regime", do=f"use {', '.join(REGIMES)}")
    targets = tuple(str(own[name].task) if name in own else name for name in written)
    common: dict[str, Any] = {
        "name": f"tune-{file_name(','.join(map(short_name, written)))}-{file_name(Path(given['model']).name)}",
        "retain": names(given["retain"]), "methods": methods, "seeds": tuple(range(given["seeds"])), "options": given["options"],
        "chat": uses_chat(given, ref, own), "recipe": recipe_of(given),
        **{name: given[name] for name in AS_IN_PLAN}, **budget_of(given, own),
    }  # fmt: skip
    if own and not given["max_length"]:
        common["max_length"] = ref.positions
    mitigations = names(given["mitigation"])
    if regime == "sequential":
        if given["text"] or len(given["rates"]) > 1:
            raise AssayError(
                "a sequence takes one learning rate and no text", where="--lr, --text", do="leave them out, or use another --regime"
            )
        return TaskSequence(tasks=targets, rate=given["rates"][0], mitigations=("none", *mitigations), **common)
    mixed = tuple("+".join(filter(None, (EQUAL_MIX, each))) for each in ("", *mitigations)) if regime == "multi-task" else mitigations
    shots = ("" if own else "4") if given["shots"] == "default" else given["shots"]
    study = Study(
        targets=targets, rates=given["rates"], mitigations=mixed, mitigated=methods, controls=False, text=given["text"], all_rows=True,
        shots=tuple(map(int, read_numbers(shots, "--shots", whole=True))), **common,
    )  # fmt: skip
    return replace(study, retain_shots=given["retain_shots"])


def short_name(task: str) -> str:
    return Path(task).stem if is_own_data(task) else task


def budget_of(given: Given, own: Mapping[str, OwnData]) -> dict[str, Any]:
    """The limits of a run: those that are given, else epochs over a file of examples or steps on a task."""
    tokens = read_budget(given["budget"]) if given["budget"] else UNLIMITED
    if given["budget"] or given["steps"] or given["epochs"]:
        return {"loss_tokens": tokens}
    return {"loss_tokens": tokens, "epochs": FILE_EPOCHS} if own else {"loss_tokens": tokens, "steps": TASK_STEPS}


def recipe_of(given: Given) -> dict[str, Any]:
    """The parts of the training recipe that are given."""
    found = {name: given[name] for name in RECIPE if given[name] is not None}
    if given["precision"] not in ("auto", "no", "bf16"):
        raise AssayError(f"no precision {given['precision']!r}", where="--precision", do="use auto, no or bf16")
    return found | ({} if given["precision"] == "auto" else {"precision": given["precision"]})


def uses_chat(given: Given, ref: ModelRef, own: Mapping[str, OwnData]) -> bool:
    """Whether the chat template is applied: on request, and for chats and instructions if the model has one."""
    if given["chat"] or not any(data.chat for data in own.values()):
        return bool(given["chat"])
    has = bool(open_tokenizer(ref.path).inner.chat_template)
    if not has and any(data.columns == "messages" for data in own.values()):
        raise AssayError("the data are chats, and the model has no chat template", do="use the columns prompt and completion")
    return has


def default_folder(study: Study | TaskSequence, ref: ModelRef, place: Surroundings) -> Path:
    """The output folder, named by model, task, methods and settings, so that the same command resumes the same run."""
    settings = hashlib.sha256(json.dumps(identity(study, ref.digest), sort_keys=True).encode()).hexdigest()[:8]
    return place.results / "tuned" / f"{study.name}-{file_name(','.join(study.methods))}-{settings}"


def plan_line(plan: Study | TaskSequence) -> str:
    """What will be trained and scored, before it starts."""
    each = len(plan.methods) * len(plan.seeds)
    if isinstance(plan, TaskSequence):
        what = f"{each * len(plan.mitigations)} sequences of {len(plan.tasks)} tasks, each"
    else:
        count = each * len(plan.targets) * len(plan.rates)
        what = f"{count} training run{'s' * (count != 1)} of" + f" {len(plan.mitigations) + 1} mitigations each," * bool(plan.mitigations)
    limits = [f"{plan.steps} steps"] * bool(plan.steps) + [f"{plan.epochs:g} epochs"] * bool(plan.epochs)
    limits += [f"{plan.loss_tokens:,} loss tokens"] * (plan.loss_tokens < UNLIMITED)
    kept = f" and {len(plan.retain)} retention tasks" if plan.retain else "; --retain would measure forgetting"
    scored = f"{plan.limit or 'all'} items of the target"
    return f"plan: {what} at most {' or '.join(limits)}, {plan.batch} examples a step; scored before and after: {scored}{kept}"


def finding(row: Row, plan: Study | TaskSequence, root: Path, model: str) -> Iterator[str]:
    """What a trained model gained and forgot, where it is, and the next commands."""
    if isinstance(plan, TaskSequence) or row["status"] not in ("done", "stopped"):
        return
    name = row["method"] + ("" if row["mitigation"] == "none" else f" with {row['mitigation']}")
    yield (
        f"{name}, learning rate {row['lr']:g}, seed {row['seed']}: trained {row['steps']} steps ({row['epochs']:.3g} epochs of "
        f"{row['training_rows']:,} rows; {row['rows_left_out']} too long and left out, {row['answers_cut']} answers "
        f"cut; {row['loss_tokens']:,} loss tokens) in {duration(row['train_seconds'])}."
    )
    if row.get("gain") is None:
        return
    word = "gained" if row["gain_low"] > 0 else "lost" if row["gain_high"] < 0 else "no significant change,"
    losses = f"; loss {row['target_loss_base']:.2f} -> {row['target_loss']:.2f} nats per token" if "target_loss" in row else ""
    yield (
        f"{name}: {word} {points(row, 'gain')} of {row['metric']} on {row['items']:,} held-out items ({show_number(row['target_base'])} -> "
        f"{show_number(row['target_score'])}){losses}."
    )
    if row.get("average_drop") is not None:
        lost = "forgot" if row["average_drop_low"] > 0 else "improved" if row["average_drop_high"] < 0 else "no significant forgetting,"
        yield f"{name}: {lost} {points(row, 'average_drop')} on average over {len(row['drops'])} retention tasks (higher is worse)."
    if row.get("kl_text") is not None:
        yield f"KL(base || tuned) on the text: {row['kl_text']:.3f} nats per token."
    result = root / "trials" / row["trial"] / "result"
    yield f"{'adapter' if row['served'] == 'adapter' else 'model'}: {result} ({row['saved_bytes'] / 1e6:,.1f} MB)"
    base, tuned, task = map(shlex.quote, (model, str(result), row["target"]))
    if row["served"] == "adapter":
        yield f"next: assay run --model {base} --adapter {tuned} --tasks {task}"
    elif (result / "config.json").is_file():
        yield f"next: assay run --model {tuned} --tasks {task}"
    retain = f" --retain {shlex.quote(','.join(plan.retain))}" if plan.retain else ""
    yield f"next: assay forget {base} {tuned}{retain}"


def points(row: Row, name: str) -> str:
    return f"{100 * row[name]:+.1f} points [{100 * row[f'{name}_low']:+.1f}, {100 * row[f'{name}_high']:+.1f}]"
