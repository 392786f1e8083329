"""Trials shared by workers: each takes what no other has, keeps its row at once, and ends when all are done."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import AssayError
from harness.pipeline import release, take
from tuners.design import trial_key
from tuners.rows import FILE, read_rows, write_rows
from tuners.state import write_whole
from tuners.train import Progress
from tuners.trial import Row, Trial, finite

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
    """What there is to do. `trials` are asked for anew as rows come, `do` gives what a trial found (it may use the trial's folder),
    and `gather` makes of the rows what is kept in `trials.parquet`."""

    name: str
    planned: int
    trials: Callable[[list[Row]], Iterator[Trial]]
    do: Callable[[Trial, Path, Callable[[Progress], None]], Row]
    gather: Callable[[list[Row]], list[Row]]


def work_through(work: Work, root: Path, report: Callable[[Happening], None]) -> list[Row]:
    """Do what is not done yet; gives all rows, gathered.

    Each trial is a folder with its row, written when it is done; then `trials.parquet` is written anew. Rows that only that file holds
    (as it is published) count as done.
    """
    earlier = {row["trial"]: row for row in read_rows(root / FILE)} if (root / FILE).is_file() else {}
    while True:
        rows, taken = walk(work, earlier, root, report)
        if not taken:
            break
        time.sleep(LOOK_AGAIN)
    found = work.gather(rows)
    write_rows(found, root / FILE)
    return found


def walk(work: Work, earlier: Mapping[str, Row], root: Path, report: Callable[[Happening], None]) -> tuple[list[Row], list[str]]:
    """Once through the trials, doing every one that no other worker has. Gives the rows, and the trials that others were at."""
    rows: list[Row] = []
    taken: list[str] = []
    for number, trial in enumerate(work.trials(rows), 1):
        key = trial_key(trial)
        row = find_row(root, key, earlier)
        if row is None:
            with claimed(root / "trials" / key) as mine:
                row = find_row(root, key, earlier)  # another worker may have done it just now
                if row is None and mine:
                    happening = Happening(number, work.planned, trial)
                    report(happening)
                    row = do_and_keep(work, trial, root / "trials" / key, partial(relay, report, happening))
                    late = filter(None, (find_row(root, other, earlier) for other in taken))
                    write_rows(work.gather([*rows, row, *late]), root / FILE)
        if row is None:
            taken.append(key)
        else:
            rows.append(row)
    return rows, taken


def do_and_keep(work: Work, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    facts = {name: value for name, value in asdict(trial).items() if name != "loss_tokens"}
    found = work.do(trial, folder, report)
    row = finite({"study": work.name, "trial": folder.name, **facts, "options": dict(trial.options), **found})
    write_whole(folder / "row.json", json.dumps(row, indent=1).encode(), "the study goes on with this trial")
    return row


def relay(report: Callable[[Happening], None], happening: Happening, progress: Progress) -> None:
    report(replace(happening, progress=progress))


def find_row(root: Path, key: str, earlier: Mapping[str, Row]) -> Row | None:
    """The row of a finished trial: from its folder, else from the published rows."""
    path = root / "trials" / key / "row.json"
    if path.is_file():
        row: Row = json.loads(path.read_text())
        return row
    return dict(earlier[key]) if key in earlier else None


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
            "call tuners.train.train from Python under the launcher",
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
