"""Runs as values: one, all of a store, or the one that a person means."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.atomic import JSON_BYTES
from assay.harness.files.lock import owner
from assay.harness.files.paths import is_file
from assay.harness.files.safe_open import read_regular
from assay.harness.store.bundle import (
    ITEMS,
    JOURNAL,
    LOCK,
    MANIFEST,
    SAMPLES,
    STATS,
    SUMMARY,
    read_checked,
    read_done,
    read_manifest,
    runs_folder,
)
from assay.harness.store.journal import Key, final, read_records
from assay.harness.store.record import Item, Record
from assay.harness.store.shapes import SummaryShape, fit
from assay.harness.store.tables import StatTable, fitting, from_parquet, items_of, records_of, stat_tables, stats_table

RunStatus = Literal["running", "complete", "damaged"]


@contextmanager
def sound(path: Path) -> Iterator[None]:
    """Whatever is wrong with the content of a file, which a stranger may have made, is an AssayError that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError) as error:
        raise AssayError(f"does not hold what it should: {error!r:.120}", where=str(path), do="restore the run from a copy") from None


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it was when read. Its files are read when asked for, each checked against its SHA-256."""

    path: Path
    manifest: Mapping[str, Any]
    status: RunStatus
    files: Mapping[str, str]
    """SHA-256 by file name; while running only those written at the start."""

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    def read(self, name: str) -> bytes:
        """One of the run's files, checked. Raises Incomplete if the run has not written it yet, AssayError if it is damaged."""
        if name not in self.files:
            raise Incomplete(f"the run is not complete, there is no {name} yet", where=str(self.path), do=f"assay resume {self.path.name}")
        return read_checked(self.path / name, self.files[name])

    def table(self, name: str) -> Any:
        """One of the run's Parquet files as an Arrow table, checked."""
        where = self.path / name
        table = fitting(from_parquet(self.read(name), str(where)), name, str(where))
        if name in (ITEMS, SAMPLES) and table.num_rows != self.manifest["items"]:
            what = f"planned {self.manifest['items']} items, but {name} holds {table.num_rows}"
            raise AssayError(what, where=str(self.path), do="restore the run from a copy")
        return table

    def items(self) -> tuple[Item, ...]:
        """Every planned item, in order."""
        with sound(self.path / ITEMS):
            return items_of(self.table(ITEMS))

    def records(self) -> tuple[Record, ...]:
        """The final record of every item that has one, in planned order; of a running run, those finished so far."""
        if self.status == "complete":
            with sound(self.path / SAMPLES):
                return records_of(self.table(SAMPLES), self.stats())
        try:
            kept = final(read_records(self.path / JOURNAL, self.id, self.files[MANIFEST]))
        except FileNotFoundError:
            kept = {}
        if not kept and (now := read_run(self.path)).status == "complete":  # it was finished meanwhile
            return now.records()
        return tuple(kept[key] for item in self.items() if (key := (item.task, item.id)) in kept)

    def stats(self) -> dict[Key, StatTable]:
        """Per-item statistics by (task, metric), items in planned order; of a running run, those so far."""
        if self.status == "complete":
            with sound(self.path / STATS):
                return stat_tables(self.table(STATS), str(self.path / STATS))
        return stat_tables(stats_table(self.items(), final(self.records())), str(self.path))

    def summary(self) -> Mapping[str, Any]:
        """summary.json of a complete run. Raises Incomplete while it is running."""
        with sound(self.path / SUMMARY):
            value = json.loads(self.read(SUMMARY), parse_constant=float.fromhex)  # refuses NaN
            if not isinstance(value, dict):
                raise ValueError("must hold one JSON object")
        fit(SummaryShape, value, self.path / SUMMARY)
        return value


def read_run(bundle: Path) -> Run:
    """A run by its folder. Raises AssayError if it is none, is damaged, or was written by a newer assay."""
    bundle = Path(bundle)
    manifest = read_manifest(bundle)
    done = read_done(bundle)
    if done is not None:
        read_checked(bundle / MANIFEST, done[MANIFEST])
        return Run(bundle, manifest, "complete", done)
    digest = hashlib.sha256(read_regular(bundle / MANIFEST, JSON_BYTES)).hexdigest()
    return Run(bundle, manifest, "running", {MANIFEST: digest, ITEMS: manifest["items_sha256"]})


def own_name(run: Run) -> Run:
    """The run, from a store's own folder. Raises AssayError where its id is another's: a copy must not stand for the run that it names."""
    if run.id != run.path.name:
        raise AssayError(f"says that it is the run {run.id}", where=str(run.path), do="give the folder its own name back, or move it away")
    return run


def stats_of(bundle: Path) -> Mapping[Key, StatTable]:
    """Per-item statistics of a run by (task, metric)."""
    return read_run(bundle).stats()


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One line about a run. `owner` names the living process that writes it, empty if none does."""

    id: str
    path: Path
    status: RunStatus
    created_at: str
    model: str
    model_digest: str
    engine: str
    purpose: str
    evidence: str
    tasks: tuple[str, ...]
    items: int
    owner: str = ""
    trouble: str = ""
    """Why it is damaged."""


def field(value: Any, *names: str) -> str:
    """A text deep in JSON data; empty where it is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


def info(bundle: Path) -> RunInfo:
    try:
        run = own_name(read_run(bundle))
    except (AssayError, OSError) as error:
        return RunInfo(bundle.name, bundle, "damaged", "", "", "", "", "", "", (), 0, trouble=str(error))
    facts = run.manifest
    tasks = facts.get("tasks")
    return RunInfo(
        id=run.id,
        path=bundle,
        status=run.status,
        created_at=field(facts, "created_at"),
        model=field(facts, "model", "name"),
        model_digest=field(facts, "model", "digest"),
        engine=field(facts, "engine", "name"),
        purpose=field(facts, "purpose"),
        evidence=field(facts, "evidence"),
        tasks=tuple(field(task, "name") for task in tasks) if isinstance(tasks, list) else (),
        items=int(facts.get("items", 0)),
        owner=owner(bundle / LOCK) if run.status == "running" else "",
    )


def list_runs(root: Path) -> tuple[RunInfo, ...]:
    """Every run of a store, oldest first. A damaged one is listed as such, with its trouble."""
    runs = runs_folder(root)
    folders = [path for path in runs.iterdir() if path.is_dir() and not path.name.startswith(".")] if runs.is_dir() else []
    return tuple(sorted(map(info, folders), key=lambda run: (run.created_at, run.id)))


def find_run(root: Path, text: str) -> Path:
    """The run that is meant: a bundle directory, an id, a unique prefix of one, or a model's name (its latest complete run).

    Raises AssayError with "did you mean" where none or several fit.
    """
    if text and is_file(Path(text) / MANIFEST):
        return Path(text)
    runs = list_runs(root)
    exact = [run for run in runs if run.id == text]
    named = [run for run in runs if text and run.model.rstrip("/") == text.rstrip("/")]
    prefixed = [run for run in runs if text and run.id.startswith(text)]
    if exact or (len(prefixed) == 1 and not named):
        return (exact or prefixed)[0].path
    if named:
        complete = [run for run in named if run.status == "complete"]
        if not complete:
            raise AssayError(f"no run of {text!r} is complete", where=str(root), do=f"assay resume {named[-1].id}")
        return complete[-1].path
    if prefixed:
        ids = ", ".join(run.id for run in prefixed[:4])
        raise AssayError(f"{text!r} fits {len(prefixed)} runs ({ids}{', ...' if len(prefixed) > 4 else ''})", do="give more of the id")
    close = difflib.get_close_matches(text, {name for run in runs for name in (run.id, run.model) if name}, 3, 0.5)
    known = f"did you mean {' or '.join(close)}?" if close else "assay store ls lists the runs"
    raise AssayError(f"there is no run or model {text!r:.120}", where=str(root), do=known)


def answered(run: Run) -> Iterator[tuple[Item, Record]]:
    """Every item with its final record, without those in error."""
    for item, record in zip(run.items(), run.records(), strict=True):
        if record.status != "error":
            yield item, record
