"""The commands `assay tune` and `assay study`, imported only when one of them is run."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from assay import AssayError, ModelRef
from assay.harness.run.stages import Surroundings, find_model, surroundings
from assay.tuners.methods import find_method
from assay.tuners.report.text import build
from assay.tuners.study.design import Study, check_methods, identity
from assay.tuners.study.presets import MODELS, find_preset
from assay.tuners.study.scoring import PipelineScorer
from assay.tuners.study.sequence import TaskSequence, run_sequence
from assay.tuners.study.study import run_study
from assay.tuners.study.trial import Row
from assay.tuners.study.workers import TrialEvent, refuse_launcher
from assay.tuners.toy import make_toy

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object to stdout.")]
REGIMES = ("single", "multi-task", "sequential")
EQUAL_MIX = "multi_task=1000"
"""All tasks in equal shares: at this temperature their sizes do not matter."""
SEQUENCE_COLUMNS = (
    *("task", "method", "mitigation", "seed", "average_accuracy", "learning_accuracy", "backward_transfer", "forward_transfer"),
    *("forgetting_measure", "average_drop", "status"),
)
STUDY_COLUMNS = (
    "method",
    "role",
    "mitigation",
    "lr",
    "seed",
    "gain",
    "average_drop",
    "kl_base",
    "trainable_parameters",
    "saved_bytes",
    "status",
)


def tune(
    model: Annotated[str, typer.Option(help="Model folder, hub id or builtin:smollm2-135m.")],
    task: Annotated[str, typer.Option(help="Task to train on; it needs a train split. Comma-separated for several, see --regime.")],
    method: Annotated[str, typer.Option(help="Comma-separated list of methods: lora, full, ia3, ... or peft:<Config>.")] = "lora",
    lr: Annotated[str, typer.Option(help="Comma-separated list of learning rates. \\[default: the method's own]")] = "",
    seeds: Annotated[int, typer.Option(help="Number of random seeds, counted from 0.")] = 1,
    retain: Annotated[str, typer.Option(help="Comma-separated list of tasks on which forgetting is measured.")] = "",
    regime: Annotated[
        str,
        typer.Option(
            help="For several tasks: single (a model per task), multi-task (mixed in equal shares) or sequential (one task after another)."
        ),
    ] = "single",
    text: Annotated[str, typer.Option(help="Neutral text on which KL and bits per byte are measured: a file, or a perplexity task.")] = "",
    budget: Annotated[str, typer.Option(help="tokens=N: train every trial on exactly N loss tokens.")] = "tokens=2000",
    mitigation: Annotated[str, typer.Option(help="Comma-separated list of mitigations, for example replay=0.25+kl=0.1.")] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Option of the method, for example rank=8. Repeatable. With several methods it goes to those that have it."
        ),
    ] = None,
    shots: Annotated[
        str, typer.Option(help="Comma-separated numbers of few-shot examples; the untuned model is scored with each for comparison.")
    ] = "4",
    retain_shots: Annotated[
        int, typer.Option(help="Also score the --retain tasks with K few-shot examples, to tell lost format from lost knowledge.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(help="Score a sample of N items per task.")] = None,
    batch: Annotated[int, typer.Option(help="Examples per optimizer step.")] = 8,
    micro: Annotated[int, typer.Option(help="Examples per forward pass; fewer need less memory.")] = 8,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Recompute activations in the backward pass: less memory, more time.")
    ] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Apply the model's chat template in training and scoring.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Output folder. \\[default: a folder in results/tuned/ named by model, task, methods and settings]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune MODEL on a task and measure gain and forgetting. The same command resumes an interrupted run."""
    check_installed()
    methods, tasks, mitigations = names(method), names(task), names(mitigation)
    factors = read_rates(lr, methods)
    if regime not in REGIMES:
        raise AssayError(f"no regime {regime!r}", where="--regime", do=f"use {', '.join(REGIMES)}")
    common: dict[str, Any] = {
        "name": f"tune-{file_name(task)}-{file_name(Path(model).name)}", "retain": names(retain), "methods": methods,
        "loss_tokens": read_budget(budget), "seeds": tuple(range(seeds)), "batch": batch, "micro": micro, "limit": limit,
        "options": share_options(read_options(option or []), methods), "chat": chat, "gradient_checkpointing": gradient_checkpointing,
    }  # fmt: skip
    study: Study | TaskSequence
    if regime == "sequential":
        if text or len(factors) > 1:
            raise AssayError(
                "a sequence takes one learning rate and no text", where="--lr, --text", do="leave them out, or use another --regime"
            )
        study = TaskSequence(tasks=tasks, rate=factors[0], mitigations=("none", *mitigations), **common)
    else:
        mixed = tuple("+".join(filter(None, (EQUAL_MIX, each))) for each in ("", *mitigations)) if regime == "multi-task" else mitigations
        counts = tuple(map(int, read_numbers(shots, "--shots", whole=True)))
        study = Study(targets=tasks, rates=factors, mitigations=mixed, mitigated=methods, shots=counts, controls=False, text=text, **common)
        study = replace(study, retain_shots=retain_shots)
    place = surroundings()
    rows = run_and_show(study, model, place, out, as_json)
    if {row["status"] for row in rows if row.get("lr")} == {"refused"}:
        raise typer.Exit(AssayError.exit_code)  # the reasons are already on stderr


def study(
    preset: Annotated[
        str, typer.Argument(help="toy (minutes), cpu-mini (hours), gpu; toy-sequence and cpu-sequence train on one task after another.")
    ] = "",
    model: Annotated[str, typer.Option(help="Model to use instead of the preset's.")] = "",
    methods: Annotated[str, typer.Option(help="Comma-separated list of methods to run.")] = "",
    seeds: Annotated[int | None, typer.Option(help="Number of random seeds, counted from 0. \\[default: the preset's]")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder. \\[default: results/studies/<preset>]")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report and figures of this study folder and exit.")] = None,
    as_json: Json = False,
) -> None:
    """Run a grid of methods, learning rates, seeds and mitigations. The same command resumes an interrupted study."""
    if report is not None:
        path = str(build(report))
        sys.stdout.write((json.dumps({"report": path}) if as_json else path) + "\n")
        return
    if not preset:
        raise AssayError("no preset named", do="run assay study toy (or cpu-mini, gpu), or assay study --report FOLDER")
    check_installed()
    chosen: Any = find_preset(preset)
    if methods:
        chosen = replace(chosen, methods=names(methods))
    if seeds is not None:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    place = surroundings()
    run_and_show(chosen, model or MODELS[preset], place, out or place.results / "studies" / preset, as_json)


def check_installed() -> None:
    """Raises AssayError without the libraries that training needs."""
    if missing := [name for name in ("torch", "transformers", "accelerate", "peft") if find_spec(name) is None]:
        raise AssayError(f"{missing[0]} is not installed", do="pip install 'assay[tune]'")


def names(text: str) -> tuple[str, ...]:
    """The non-empty parts of a comma-separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def file_name(text: str) -> str:
    """The text as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text.replace(",", "+"))[:60]


def read_numbers(text: str, where: str, whole: bool = False) -> tuple[float, ...]:
    """Comma-separated numbers of at least 0."""
    try:
        found = tuple((int if whole else float)(part) for part in names(text))
    except ValueError:
        found = (-1,)
    if not all(0 <= value < math.inf for value in found):
        kind = "whole numbers" if whole else "numbers"
        raise AssayError(f"cannot read {text!r}", where=where, do=f"give {kind} of at least 0, separated by commas")
    return found


def read_rates(text: str, methods: tuple[str, ...]) -> tuple[float, ...]:
    """Learning rates as multiples of the method's default."""
    rates = read_numbers(text, "--lr")
    if rates and len(methods) > 1:
        raise AssayError(
            "--lr applies to a single method; the methods have different default learning rates",
            where="--lr",
            do="name one method, or leave out --lr",
        )
    if 0.0 in rates:
        raise AssayError("a learning rate of 0 trains nothing", where="--lr", do="use learning rates above 0")
    centre = find_method(methods[0]).lr if rates and methods else 1.0
    return tuple(rate / (centre or 1.0) for rate in rates) or (1.0,)


def read_budget(text: str) -> int:
    found = re.fullmatch(r"tokens=([0-9]+)(k?)", text)
    if found is None or not int(found[1]):
        raise AssayError(f"cannot read the budget {text!r}", do="write it as tokens=2000 or tokens=20k, at least 1")
    return int(found[1]) * (1000 if found[2] else 1)


def read_options(pairs: Iterable[str]) -> dict[str, Any]:
    """rank=8 as a number, targets=q_proj,v_proj as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise AssayError(f"cannot read the option {pair!r}", do="write it as rank=8")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def share_options(options: dict[str, Any], methods: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The options of each method that has them. Raises AssayError for an option that no method has."""
    known = {name: find_method(name) for name in methods}
    for option in options:
        if not any(option in each.options() or each.takes_any_option for each in known.values()):
            there = "; ".join(f"{name} has {', '.join(each.options()) or 'none'}" for name, each in known.items())
            raise AssayError(f"unknown option {option}", where="--set", do=there)
    shared = {name: {o: v for o, v in options.items() if o in each.options() or each.takes_any_option} for name, each in known.items()}
    return {name: found for name, found in shared.items() if found}


def open_model(name: str, place: Surroundings) -> ModelRef:
    path = str(make_toy(place.cache / "models" / "toy")) if name == "toy" else name
    return find_model(path, cache=place.cache, offline=place.offline)


def default_folder(study: Study | TaskSequence, ref: ModelRef, place: Surroundings) -> Path:
    """The output folder, named by model, task, methods and settings, so that the same command resumes the same run."""
    settings = hashlib.sha256(json.dumps(identity(study, ref.digest), sort_keys=True).encode()).hexdigest()[:8]
    return place.results / "tuned" / f"{study.name}-{file_name(','.join(study.methods))}-{settings}"


def run_and_show(study: Study | TaskSequence, model: str, place: Surroundings, root: Path | None, as_json: bool) -> list[Row]:
    """Run a study, print its rows and return them. They are stored as `trials.parquet` in the output folder."""
    refuse_launcher()
    check_methods(study.methods, study.options)
    ref = open_model(model, place)
    root = root or default_folder(study, ref, place)
    with progress_lines() as report:
        scorer = PipelineScorer(place, limit=study.limit, chat=study.chat)
        if isinstance(study, TaskSequence):
            rows = run_sequence(study, ref, place.access(), scorer, root, report)
        else:
            rows = run_study(study, ref, place.access(), scorer, root, report)
    if as_json:
        sys.stdout.write(json.dumps({"study": study.name, "model": {"name": ref.name, "digest": ref.digest}, "rows": rows}) + "\n")
    else:
        show(rows, SEQUENCE_COLUMNS if isinstance(study, TaskSequence) else STUDY_COLUMNS)
    for line in (*overlap_lines(rows), *refusal_lines(rows), f"results: {root}"):
        sys.stderr.write(line + "\n")
    return rows


def overlap_lines(rows: Iterable[Row]) -> list[str]:
    """A line per target whose training rows were excluded because they are scored or choose the learning rate."""
    found = {row["target"]: row for row in rows if row.get("overlap_dropped")}
    return [
        f"{target}: {row['overlap_dropped']} training rows excluded, because they are scored or choose the learning rate: "
        + ", ".join(map(repr, row["overlap_items"][:5])) + (", ..." if row["overlap_dropped"] > 5 else "")
        for target, row in found.items()
    ]  # fmt: skip


def refusal_lines(rows: Iterable[Row]) -> list[str]:
    """The reasons why trials were refused, each once."""
    found = (
        f"refused: {row['method']}{'' if row['mitigation'] == 'none' else ' with ' + row['mitigation']}: {row.get('reason', '')}"
        for row in rows
        if row["status"] == "refused"
    )
    return list(dict.fromkeys(found))


@contextmanager
def progress_lines() -> Any:
    """Prints a line per trial to stderr; on a terminal also a status line with loss, tokens/s and time left."""
    console = Console(stderr=True, highlight=False)
    with console.status("") as status:
        yield trial_reporter(console, status)


def trial_reporter(console: Console, status: Any) -> Callable[[TrialEvent], None]:
    began = time.monotonic()

    def report(now: TrialEvent) -> None:
        trial = now.trial
        if now.progress is None:
            extra = "" if trial.mitigation == "none" else f" {trial.mitigation}"
            console.print(
                f"[{now.number}/{now.planned}] {trial.target} {trial.method}{extra} lr {trial.lr:g} seed {trial.seed} ({trial.role}), "
                f"{duration(time.monotonic() - began)} elapsed",
                markup=False,
            )
        elif console.is_terminal:
            at = now.progress
            status.update(
                f"step {at.step}/{at.steps}  loss {at.loss:.3f}  {at.tokens_per_second:,.0f} tokens/s  {duration(at.seconds_left)} left"
            )

    return report


def show(rows: Iterable[Row], columns: tuple[str, ...]) -> None:
    """Print the rows as a table to stdout. A positive drop is forgetting, and so is a negative backward transfer."""
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(cell(row.get(name)) for name in columns))
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def duration(seconds: float) -> str:
    """Seconds up to 90 s, then minutes, then hours."""
    if seconds <= 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
