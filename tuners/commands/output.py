"""What the tuning commands share: they run a plan with progress on stderr and print its rows."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from assay import AssayError, ModelRef
from assay.harness.run.stages import Surroundings, find_model
from assay.tuners.commands.trackers import TrackedTrials, check_tracker
from assay.tuners.study.design import Study, check_methods
from assay.tuners.study.scoring import PipelineScorer
from assay.tuners.study.sequence import TaskSequence, run_sequence
from assay.tuners.study.study import run_study
from assay.tuners.study.trial import Row
from assay.tuners.study.workers import TrialEvent, refuse_launcher
from assay.tuners.toy import make_toy
from assay.tuners.training.train import Progress

PLAIN_SECONDS = 10.0
"""Seconds between lines of progress where stderr is no terminal."""
MEASURED = {"validation_loss": "validation loss", "kl_text": "KL on text"}
SEQUENCE_COLUMNS = (
    *("task", "method", "mitigation", "seed", "average_accuracy", "learning_accuracy", "backward_transfer", "forward_transfer"),
    *("forgetting_measure", "average_drop", "status"),
)
STUDY_COLUMNS = (
    *("method", "role", "mitigation", "lr", "seed", "gain", "average_drop", "kl_base", "trainable_parameters", "saved_bytes", "status"),
)


def check_installed() -> None:
    """Raises AssayError without the libraries that training needs."""
    if missing := [name for name in ("torch", "transformers", "accelerate", "peft") if find_spec(name) is None]:
        raise AssayError(f"{missing[0]} is not installed", do="pip install 'assay[tune]'")


def open_model(name: str, place: Surroundings) -> ModelRef:
    path = str(make_toy(place.cache / "models" / "toy")) if name == "toy" else name
    return find_model(path, cache=place.cache, offline=place.offline)


def run_plan(plan: Study | TaskSequence, ref: ModelRef, place: Surroundings, root: Path, log_to: str = "") -> list[Row]:
    """Run a study or sequence and return its rows. They are stored as `trials.parquet` in `root`; `log_to`: an experiment tracker."""
    refuse_launcher()
    if log_to:
        check_tracker(log_to)
    check_methods(plan.methods, plan.options)
    scorer = PipelineScorer(place, limit=plan.limit, chat=plan.chat)
    with progress_lines() as lines:
        report = TrackedTrials(log_to, plan.name, root / log_to, lines) if log_to else lines
        if isinstance(plan, TaskSequence):
            return run_sequence(plan, ref, place.access(), scorer, root, report)
        return run_study(plan, ref, place.access(), scorer, root, report)


def print_rows(
    plan: Study | TaskSequence, ref: ModelRef, rows: list[Row], root: Path, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    """Print the rows to stdout, as a table or as one JSON object with `more` fields; what is left out and refused to stderr."""
    if as_json:
        model = {"name": ref.name, "digest": ref.digest}
        sys.stdout.write(json.dumps({"study": plan.name, "model": model, "rows": rows, **(more or {})}) + "\n")
    else:
        show(rows, SEQUENCE_COLUMNS if isinstance(plan, TaskSequence) else STUDY_COLUMNS)
    tell(*overlap_lines(rows), *refusal_lines(rows), f"results: {root}")


def tell(*lines: str) -> None:
    """Write lines to stderr."""
    for line in lines:
        sys.stderr.write(line + "\n")


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
def progress_lines() -> Iterator[Callable[[TrialEvent], None]]:
    """Prints a line per trial to stderr, and its progress: a status line on a terminal, else a line every ten seconds."""
    console = Console(stderr=True, highlight=False)
    with console.status("") as status:
        yield trial_reporter(console, status)


def trial_reporter(console: Console, status: Any) -> Callable[[TrialEvent], None]:
    began = last = time.monotonic()

    def report(now: TrialEvent) -> None:
        nonlocal last
        trial, at = now.trial, now.progress
        if at is None:
            extra = "" if trial.mitigation == "none" else f" {trial.mitigation}"
            console.print(
                f"[{now.number}/{now.planned}] {shown_name(trial.target)} "
                f"{trial.method}{extra} lr {trial.lr:g} seed {trial.seed} ({trial.role}), "
                f"{duration(time.monotonic() - began)} elapsed",
                markup=False,
                soft_wrap=True,
            )
        elif now.row is not None:
            console.print(result_line(now.row), markup=False, soft_wrap=True)
        elif console.is_terminal:
            status.update(progress_line(at))
        elif time.monotonic() - last >= PLAIN_SECONDS or at.step == at.steps:
            last = time.monotonic()
            console.print(progress_line(at), markup=False, soft_wrap=True)

    return report


def shown_name(task: str) -> str:
    """A task's name; of the task file of a user's examples its folder."""
    return Path(task).parent.name if task.endswith("/task.py") else task


def progress_line(at: Progress) -> str:
    return f"step {at.step}/{at.steps}  loss {at.loss:.3f}  learning rate {at.lr:.2g}  {at.tokens_per_second:,.0f} tokens/s  " + (
        "measuring speed" if at.seconds_left is None else f"{duration(at.seconds_left)} left"
    )


def result_line(row: Row) -> str:
    """A finished trial in short."""
    parts = [f"gain {100 * row['gain']:+.1f} points"] if row.get("gain") is not None else []
    parts += [f"average drop {100 * row['average_drop']:+.1f} points"] if row.get("average_drop") is not None else []
    parts += [f"{name} {row[key]:.3g} nats" for key, name in MEASURED.items() if row.get(key) is not None]
    return f"{row['status']}: {', '.join(parts)}" if parts else str(row["status"])


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
