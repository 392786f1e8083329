"""Read runs: one bundle, all runs of a store, or the run that a user names."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.atomic import JSON_BYTES
from assay.harness.files.lock import owner
from assay.harness.files.parquet import read_portions, read_table
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
    bundle_folders,
    read_checked,
    read_done,
    read_manifest,
)
from assay.harness.store.journal import Key, final_records, read_records
from assay.harness.store.record import UNMEASURED, Item, Record
from assay.harness.store.shapes import SummaryShape, validate
from assay.harness.store.tables import StatTable, items_of, json_object, records_of, stat_tables, stats_table, validate_table

BATCHES = 8
"""Batches of rows that a portion of a table has."""
RunStatus = Literal["running", "complete", "damaged"]


@contextmanager
def content_errors(path: Path) -> Iterator[None]:
    """Convert errors about the content of an untrusted file into an AssayError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, ArithmeticError) as error:
        raise AssayError(f"has invalid content: {error!r:.120}", where=str(path), do="restore the run from a copy") from None


@dataclass(frozen=True, slots=True)
class Run:
    """A run at the time of reading. Its files are read on access, each checked against its SHA-256."""

    path: Path
    manifest: Mapping[str, Any]
    status: RunStatus
    files: Mapping[str, str]
    """SHA-256 by file name; of a running run only the files written at its start."""

    @property
    def id(self) -> str:
        return str(self.manifest["run"])

    def read(self, name: str) -> bytes:
        """Read one of the run's files and check its hash. Raises Incomplete if it is not written yet, AssayError if it is damaged."""
        if name not in self.files:
            raise Incomplete(f"the run is not complete and has no {name} yet", where=str(self.path), do=f"assay resume {self.path.name}")
        return read_checked(self.path / name, self.files[name])

    def table(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """Read columns of one of the run's Parquet files, all by default, as an Arrow table and check them."""
        where = self.path / name
        table = validate_table(read_table(self.read(name), str(where), columns), name, str(where), columns)
        if name in (ITEMS, SAMPLES) and table.num_rows != self.manifest["items"]:
            what = f"planned {self.manifest['items']} items, but {name} has {table.num_rows}"
            raise AssayError(what, where=str(self.path), do="restore the run from a copy")
        return table

    def portions(self, name: str) -> Iterator[Any]:
        """Read one of the run's Parquet files as tables of some of its rows, whose texts are not in memory together, and check them."""
        where, rows = self.path / name, 0
        for table in read_portions(self.read(name), str(where), batches=BATCHES):
            rows += table.num_rows
            yield validate_table(table, name, str(where))
        if name in (ITEMS, SAMPLES) and rows != self.manifest["items"]:
            what = f"planned {self.manifest['items']} items, but {name} has {rows}"
            raise AssayError(what, where=str(self.path), do="restore the run from a copy")

    def items(self) -> tuple[Item, ...]:
        """Return every planned item, in order."""
        with content_errors(self.path / ITEMS):
            return items_of(self.table(ITEMS))

    def keys(self) -> tuple[Key, ...]:
        """Return (task, id) of every planned item, in order."""
        with content_errors(self.path / ITEMS):
            table = self.table(ITEMS, ("task", "id"))
            return tuple(zip(table["task"].to_pylist(), table["id"].to_pylist(), strict=True))

    def items_by_task(self) -> dict[str, list[Item]]:
        """Return every planned item by the name of its task, in order."""
        found: dict[str, list[Item]] = {}
        for item in self.items():
            found.setdefault(item.task, []).append(item)
        return found

    def records(self) -> tuple[Record, ...]:
        """Return the final record of every finished item, in planned order."""
        if self.status == "complete":
            with content_errors(self.path / SAMPLES):
                return records_of(self.table(SAMPLES), self.stats())
        try:
            kept = final_records(read_records(self.path / JOURNAL, self.id, self.files[MANIFEST]))
        except FileNotFoundError:
            kept = {}
        if not kept and (now := read_run(self.path)).status == "complete":  # it was completed meanwhile
            return now.records()
        return tuple(kept[key] for key in self.keys() if key in kept)

    def stats(self) -> dict[Key, StatTable]:
        """Return per-item statistics by (task, metric), items in planned order; of a running run, those of the finished items."""
        if self.status == "complete":
            with content_errors(self.path / STATS):
                return stat_tables(self.table(STATS), str(self.path / STATS))
        return stat_tables(stats_table(self.items(), final_records(self.records())), str(self.path))

    def summary(self) -> Mapping[str, Any]:
        """Return summary.json of a complete run. Raises Incomplete if the run is not complete."""
        with content_errors(self.path / SUMMARY):
            value = json_object(self.read(SUMMARY))
        validate(SummaryShape, value, self.path / SUMMARY)
        return value


def read_run(bundle: Path) -> Run:
    """Read a run from its folder. Raises AssayError if it is not a run, is damaged, or was written by a newer assay."""
    bundle = Path(bundle)
    manifest = read_manifest(bundle)
    done = read_done(bundle)
    if done is not None:
        read_checked(bundle / MANIFEST, done[MANIFEST])
        return Run(bundle, manifest, "complete", done)
    digest = hashlib.sha256(read_regular(bundle / MANIFEST, JSON_BYTES)).hexdigest()
    return Run(bundle, manifest, "running", {MANIFEST: digest, ITEMS: manifest["items_sha256"]})


def check_own_id(run: Run) -> Run:
    """Return the run if its id is its folder's name. Raises AssayError otherwise: a copy must not replace the run whose id it has."""
    if run.id != run.path.name:
        raise AssayError(
            f"contains the run {run.id}, whose id differs from the folder's name",
            where=str(run.path),
            do="rename the folder to the run's id, or move it away",
        )
    return run


def stats_of(bundle: Path) -> Mapping[Key, StatTable]:
    """Return the per-item statistics of a run by (task, metric)."""
    return read_run(bundle).stats()


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Summary of a run for lists. `owner` names the running process that writes it, empty if there is none."""

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
    """The error of a damaged run."""


def text_at(value: Any, *names: str) -> str:
    """Return the value at a path in JSON data as text; empty if it is missing."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return "" if value is None else str(value)


def run_info(bundle: Path) -> RunInfo:
    """Return the summary of a run; of a damaged one, with its error."""
    try:
        run = check_own_id(read_run(bundle))
    except (AssayError, OSError) as error:
        return RunInfo(bundle.name, bundle, "damaged", "", "", "", "", "", "", (), 0, trouble=str(error))
    facts = run.manifest
    tasks = facts.get("tasks")
    return RunInfo(
        id=run.id,
        path=bundle,
        status=run.status,
        created_at=text_at(facts, "created_at"),
        model=text_at(facts, "model", "name"),
        model_digest=text_at(facts, "model", "digest"),
        engine=text_at(facts, "engine", "name"),
        purpose=text_at(facts, "purpose"),
        evidence=text_at(facts, "evidence"),
        tasks=tuple(text_at(task, "name") for task in tasks) if isinstance(tasks, list) else (),
        items=int(facts.get("items", 0)),
        owner=owner(bundle / LOCK) if run.status == "running" else "",
    )


def list_runs(root: Path) -> tuple[RunInfo, ...]:
    """Return every run of a store, oldest first, damaged ones included."""
    return tuple(sorted(map(run_info, bundle_folders(root)), key=lambda run: (run.created_at, run.id)))


def find_run(root: Path, text: str) -> Path:
    """Find a run by its folder, its id, a unique prefix of the id, or its model's name (the latest complete run; a release run on all items
    is preferred to a smoke, limited or partial one).

    Raises AssayError with suggestions if none or several match.
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
        whole = [run for run in complete if (run.purpose, run.evidence) == ("release", "complete")]
        return (whole or complete)[-1].path
    if prefixed:
        ids = ", ".join(run.id for run in prefixed[:4])
        raise AssayError(
            f"{text!r} matches {len(prefixed)} runs ({ids}{', ...' if len(prefixed) > 4 else ''})", do="give a longer prefix of the id"
        )
    close = difflib.get_close_matches(text, {name for run in runs for name in (run.id, run.model) if name}, 3, 0.5)
    known = f"did you mean {' or '.join(close)}?" if close else "assay store ls lists the runs"
    raise AssayError(f"there is no run or model {text!r:.120}", where=str(root), do=known)


def scored_items(run: Run) -> Iterator[tuple[Item, Record]]:
    """Yield every measured item with its final record."""
    for item, record in zip(run.items(), run.records(), strict=True):
        if record.status not in UNMEASURED:
            yield item, record
