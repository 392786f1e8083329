"""Trials shared by workers: each takes what no other has, keeps its row at once, and ends when all are done."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.harness.run.stages import release, take
from assay.tuners.study.design import trial_key
from assay.tuners.study.rows import FILE, read_rows, write_rows
from assay.tuners.study.trial import Row, Trial, finite
from assay.tuners.training.state import write_whole
from assay.tuners.training.train import Progress

LOOK_AGAIN = 2.0
"""Seconds between looks at trials that other processes are at."""


@dataclass(frozen=True, slots=True)
class Happening:
    """A trial that begins, for a progress bar."""

    number: int
    planned: int
    trial: Trial
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to do. `trials` gives the trials in their order, as far as the rows that are there decide them; `do` gives what a trial
    found (it may use the trial's folder), and `gather` makes of the rows what is kept in `trials.parquet`."""

    name: str
    planned: int
    trials: Callable[[list[Row]], Iterable[Trial]]
    do: Callable[[Trial, Path, Callable[[Progress], None]], Row]
    gather: Callable[[list[Row]], list[Row]]


def work_through(work: Work, root: Path, report: Callable[[Happening], None]) -> list[Row]:
    """Do what is not done yet; gives all rows, gathered.

    Each trial is a folder with its row, written when it is done; then `trials.parquet` is written anew. Rows that only that file holds
    (as it is published) count as done, and stay in it. Every trial is the first that is free, from the beginning: what other workers
    found meanwhile may have decided earlier ones.
    """
    while True:
        known = known_rows(root)
        trials = list(work.trials(list(known.values())))
        left = [(number, trial) for number, trial in enumerate(trials, 1) if trial_key(trial) not in known]
        if not left:
            break
        if not any(do_if_free(work, Happening(number, work.planned, trial), root, report) for number, trial in left):
            time.sleep(LOOK_AGAIN)
    found = work.gather([known[trial_key(trial)] for trial in trials])
    write_rows(found, root / FILE)
    return found


def known_rows(root: Path) -> dict[str, Row]:
    """The rows of finished trials by their keys: from the trials' folders, else from the published file."""
    known = {row["trial"]: row for row in read_rows(root / FILE)} if (root / FILE).is_file() else {}
    return known | {path.parent.name: json.loads(path.read_text()) for path in sorted(root.glob("trials/*/row.json"))}


def do_if_free(work: Work, happening: Happening, root: Path, report: Callable[[Happening], None]) -> bool:
    """Do a trial that no other worker is at. Whether there may be more to do now."""
    folder = root / "trials" / trial_key(happening.trial)
    with claimed(folder) as mine:
        if mine and not (folder / "row.json").is_file():  # else another worker has done it just now
            report(happening)
            do_and_keep(work, happening.trial, folder, partial(relay, report, happening))
            write_rows(work.gather(list(known_rows(root).values())), root / FILE)
    return mine


def do_and_keep(work: Work, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> None:
    facts = {name: value for name, value in asdict(trial).items() if name != "loss_tokens"}
    found = work.do(trial, folder, report)
    row = finite({"study": work.name, "trial": folder.name, **facts, "options": dict(trial.options), **found})
    write_whole(folder / "row.json", json.dumps(row, indent=1).encode(), "the study goes on with this trial")


def relay(report: Callable[[Happening], None], happening: Happening, progress: Progress) -> None:
    report(replace(happening, progress=progress))


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the trial of this folder for itself; what a dead process had is free again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        mine = not take(folder / "lock")
    except OSError as error:
        raise AssayError(f"cannot be written: {error}", where=str(folder), do="make room, or choose another --out") from None
    try:
        yield mine
    finally:
        if mine:
            release(folder / "lock")


def refuse_launcher() -> None:
    """Raises AssayError in one of several processes that a launcher started as one: they would wait for each other's trials."""
    started = os.environ.get("WORLD_SIZE", "1")
    if started not in ("", "1"):
        raise AssayError(
            f"a study runs in plain processes, not as one of {started} (WORLD_SIZE)",
            do="start the same `assay study` several times side by side; to train one model over several processes, "
            "call assay.tuners.training.train.train from Python under the launcher",
        )


def write_study(root: Path, facts: Mapping[str, Any]) -> None:
    """Pin what the folder is a study of. Raises AssayError where it holds another."""
    refuse_launcher()
    path, text = root / "study.json", json.dumps(facts, indent=1, sort_keys=True)
    if path.is_file() and json.loads(path.read_text()) != json.loads(text):
        held = json.loads(path.read_text())
        differ = sorted(name for name in held.keys() | facts.keys() if held.get(name) != json.loads(text).get(name))
        raise AssayError(f"holds another study: {', '.join(differ)} differ", where=str(root), do="choose another --out, or remove it")
    write_whole(path, text.encode(), "nothing was started")
