"""Distributes trials over worker processes: each runs unclaimed trials and stores every row, until all are finished."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.harness.run.stages import acquire, release
from assay.tuners.study.design import trial_key
from assay.tuners.study.rows import FILE, POINTS, SCORES, read_rows, write_rows
from assay.tuners.study.trial import Row, Trial, current_names, json_safe
from assay.tuners.training.state import write_atomic
from assay.tuners.training.train import Progress

POLL_SECONDS = 2.0
"""Seconds between checks for trials that other processes are running."""


@dataclass(frozen=True, slots=True)
class TrialEvent:
    """The start of a trial, its training progress, or after the last step of its training its result."""

    number: int
    planned: int
    trial: Trial
    progress: Progress | None = None
    row: Row | None = None


@dataclass(frozen=True, slots=True)
class Workload:
    """The trials of a study or sequence. `trials` lists them in order, as far as the finished rows determine them; `run` runs one in its
    folder and returns its row; `gather` derives the rows of `trials.parquet`."""

    name: str
    planned: int
    trials: Callable[[list[Row]], Iterable[Trial]]
    run: Callable[[Trial, Path, Callable[[Progress], None]], Row]
    gather: Callable[[list[Row]], list[Row]]


def run_trials(work: Workload, root: Path, report: Callable[[TrialEvent], None]) -> list[Row]:
    """Run all unfinished trials; returns their rows, gathered with those of other trials in the folder.

    A finished trial has a folder with its row; after each, `trials.parquet` is rewritten. Rows that only that file holds, as in a published
    study, count as finished and stay in it, like the rows of other studies in the folder. The search for an unclaimed trial always starts
    from the first one, since rows of other workers may add earlier trials.
    """
    while True:
        known = known_rows(root)
        trials = list(work.trials(list(known.values())))
        left = [(number, trial) for number, trial in enumerate(trials, 1) if trial_key(trial) not in known]
        if not left:
            break
        if not any(run_if_unclaimed(work, TrialEvent(number, work.planned, trial), root, report) for number, trial in left):
            time.sleep(POLL_SECONDS)
    own = {trial_key(trial): known[trial_key(trial)] for trial in trials}
    found = work.gather(list((own | known).values()))  # the own trials in their order, then the others
    write_rows(found, root / FILE)
    return [{name: value for name, value in row.items() if name not in (SCORES, POINTS)} for row in found[: len(own)]]


def known_rows(root: Path) -> dict[str, Row]:
    """The rows of finished trials by trial key, from the trials' folders, else from `trials.parquet`."""
    known = {row["trial"]: row for row in read_rows(root / FILE)} if (root / FILE).is_file() else {}
    return known | {path.parent.name: json.loads(current_names(path.read_text())) for path in sorted(root.glob("trials/*/row.json"))}


def run_if_unclaimed(work: Workload, event: TrialEvent, root: Path, report: Callable[[TrialEvent], None]) -> bool:
    """Run a trial unless another worker has claimed it; returns whether it was claimed here."""
    folder = root / "trials" / trial_key(event.trial)
    with claimed(folder) as mine:
        if mine and not (folder / "row.json").is_file():  # else another worker has just finished it
            report(event)
            last: list[Progress] = []

            def tell(progress: Progress) -> None:
                last[:] = [progress]
                report(replace(event, progress=progress))

            row = run_and_store(work, event.trial, folder, tell)
            if last:
                report(replace(event, progress=last[0], row=row))
            write_rows(work.gather(list(known_rows(root).values())), root / FILE)
    return mine


def run_and_store(work: Workload, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    facts = {name: value for name, value in asdict(trial).items() if name != "loss_tokens"}
    found = work.run(trial, folder, report)
    row = json_safe({"study": work.name, "trial": folder.name, **facts, "options": dict(trial.options), **found})
    write_atomic(folder / "row.json", json.dumps(row, indent=1).encode(), "the same command runs this trial again")
    return row


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process claimed the trial in this folder; the claim of a dead process is void."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = not acquire(folder / "lock")
    except OSError as error:
        raise AssayError(f"cannot write the folder: {error}", where=str(folder), do="free disk space or choose another --out") from None
    try:
        yield mine
    finally:
        if mine:
            release(folder / "lock")


def refuse_launcher() -> None:
    """Raises AssayError in a process of a multi-process launcher: the processes would wait for each other's trials."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started not in ("", "1"):
        raise AssayError(
            f"a study cannot run under a launcher, as one of {started} processes (WORLD_SIZE)",
            do="start the same `assay study` command several times instead; to train one model over several processes, "
            "call assay.tuners.training.train.train from Python under the launcher",
        )


def all_equal(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    return wanted, sorted(name for name in held.keys() | wanted.keys() if held.get(name) != wanted.get(name))


def write_study(
    root: Path,
    facts: Mapping[str, Any],
    unite: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[Mapping[str, Any], list[str]]] = all_equal,
) -> None:
    """Store the settings of a study in its folder, with those of the studies that it holds already, as `unite` joins them.

    Raises AssayError if the folder holds a study that `unite` cannot join with this one.
    """
    refuse_launcher()
    path = root / "study.json"
    whole, differ = unite(json.loads(current_names(path.read_text())), facts) if path.is_file() else (facts, [])
    if differ:
        raise AssayError(
            f"the folder holds another study: {', '.join(differ)} differ", where=str(root), do="choose another --out or delete the folder"
        )
    write_atomic(path, json.dumps(whole, indent=1, sort_keys=True).encode(), "no trial was started")
