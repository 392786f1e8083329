"""The DuckDB index of a store: derived from the bundles, safe to delete, replaced atomically.

Each update works on a copy that replaces the index by one rename. So readers and writers never wait for each other, and a
killed update leaves the old index. (DuckDB itself lets one process write, or several read, but never both.)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.atomic import JSON_BYTES, nonfinite, sync_folder
from assay.harness.files.lock import file_lock
from assay.harness.files.safe_open import read_regular
from assay.harness.store.bundle import DONE, MANIFEST, SAMPLES, STATS, bundle_folders
from assay.harness.store.consistency import inconsistencies
from assay.harness.store.queries import INDEX, SCHEMA, open_sandbox, query, quoted, schema_version
from assay.harness.store.read import Run, check_own_id, read_run, text_at
from assay.harness.store.shapes import evidence_of, weakest
from assay.harness.store.trials import are_newer, load_trials

WAIT_SECONDS = 120.0
ROWS = 2048
"""Rows that DuckDB holds in memory before it compresses them; its default is 122,880, whose prompts may take gigabytes."""
TABLES = ("run", "run_task", "score", "sample", "item_stat")


@dataclass(frozen=True, slots=True)
class IndexReport:
    """Result of an update: ids of runs indexed, unchanged and removed; `trouble` is the error of each bundle that was left out."""

    indexed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    trouble: Mapping[str, str] = field(default_factory=dict)


Verify = Callable[[Run], str]
"""Returns how a run's stored results differ from those of its items, empty if they agree. Raises AssayError if this cannot be checked."""
UNVERIFIED = "unverified"


def index(root: Path, bundles: Sequence[Path] | None = None, verify: Verify | None = None) -> IndexReport:
    """Update the index of a store: with `bundles` and new complete runs, or (None) with all runs, and with the trials of tuning studies.

    Idempotent by bundle hash; one transaction per bundle. A damaged bundle is left out and reported, unless it is in `bundles`, then
    its error is raised. With `verify`, the results of all other bundles are checked: a bundle whose items give other scores is left
    out, and one whose scorer is not installed gets the evidence "unverified", which is never ranked.
    Raises Incomplete naming the process that locks the index after two minutes; AssayError for an index of a newer assay.
    """
    root = Path(root)
    if not root.is_dir():
        raise AssayError("there is no such results folder", where=str(root), do="give the folder with --results")
    full = bundles is None
    with file_lock(root / ".index.lock", WAIT_SECONDS):
        known = indexed_bundles(root)
        fresh = known is None
        known, full = known or {}, full or fresh  # a new index needs all bundles
        # Other complete runs are indexed too, so a process that waits for the lock may find its run already indexed.
        others = [path for path in bundle_folders(root) if full or (path.name not in known and (path / DONE).exists())]
        runs, trouble = read_runs(others, bundles or [])
        changed = [run for run in runs if known.get(run.id) != bundle_hash(run)]
        removed = tuple(sorted(known.keys() - {run.id for run in runs} - trouble.keys())) if full else ()
        if changed or removed or fresh or are_newer(root, root / INDEX, indexed_studies(root)):
            trouble |= publish(root, changed, removed, fresh, strict={Path(path).resolve() for path in bundles or ()}, verify=verify)
    indexed = tuple(run.id for run in changed if run.path.name not in trouble)
    return IndexReport(indexed, tuple(run.id for run in runs if run not in changed), removed, trouble)


def read_runs(found: Sequence[Path], requested: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """Return the runs of these folders, and by folder name the error of each found one. Raises AssayError for a damaged requested one."""
    runs = {(run := read_run(path)).id: run for path in requested}
    trouble: dict[str, str] = {}
    for path in found:
        try:
            run = check_own_id(read_run(path))
            runs.setdefault(run.id, run)
        except (AssayError, OSError) as error:
            trouble[path.name] = str(error)
    return list(runs.values()), trouble


def bundle_hash(run: Run) -> str:
    """Return a hash that changes with the run: of DONE, which has the hash of every file, or of the manifest while the run is running."""
    return hashlib.sha256(read_regular(run.path / (DONE if run.status == "complete" else MANIFEST), JSON_BYTES)).hexdigest()


def indexed_bundles(root: Path) -> dict[str, str] | None:
    """Return bundle hashes by run id; None if a new index is needed: missing, half-written by another program, or of an older schema."""
    path = root / INDEX
    if not path.exists() or path.with_name(INDEX + ".wal").exists():
        return None
    import duckdb

    try:
        connection = open_sandbox(path)
    except duckdb.Error:
        return None
    try:
        version = schema_version(connection)
        if version is not None and version > SCHEMA:
            raise AssayError(f"has schema {version}, this assay knows {SCHEMA}", where=str(path), do="upgrade assay")
        return dict(connection.execute("SELECT run_id, bundle FROM run").fetchall()) if version == SCHEMA else None
    finally:
        connection.close()


def indexed_studies(root: Path) -> list[str]:
    """Return the studies in the index, which must have the current schema."""
    return [str(study) for (study,) in query(root, "SELECT DISTINCT study FROM trial")]


def publish(
    root: Path, changed: Sequence[Run], removed: Sequence[str], fresh: bool, strict: set[Path], verify: Verify | None
) -> dict[str, str]:
    """Apply the changes to a copy and replace the index by it. Returns the error of each run that was left out.

    Raises Incomplete if the disk cannot be written; the old index then stays.
    """
    import duckdb

    path, copy = root / INDEX, root / f".assay-{os.getpid()}.duckdb"
    try:
        remove_copies(root)
        if not fresh:
            shutil.copyfile(path, copy)
        trouble = write_copy(copy, root, changed, removed, fresh, strict, verify)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        path.with_name(INDEX + ".wal").unlink(missing_ok=True)
        copy.replace(path)
        sync_folder(root)
        return trouble
    except (OSError, duckdb.Error) as error:  # DuckDB has its own messages for a full disk
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        what = f"the index cannot be written: {reason}; runs are kept"
        raise Incomplete(what, where=str(root), do="fix the cause, then: assay store index") from None
    finally:
        with suppress(OSError):
            remove_copies(root)


def remove_copies(root: Path) -> None:
    """Remove the copies of failed or killed updates. The caller holds the lock, so none is in use."""
    for leftover in root.glob(".assay-*.duckdb*"):
        leftover.unlink()


def write_copy(
    copy: Path, root: Path, changed: Sequence[Run], removed: Sequence[str], fresh: bool, strict: set[Path], verify: Verify | None
) -> dict[str, str]:
    """Apply the changes to the copy. Returns the error of each run that was left out; raises it for a run in `strict`."""
    trouble: dict[str, str] = {}
    connection = open_copy(copy, fresh)
    try:
        for run_id in removed:
            replace_rows(connection, run_id, None, root)
        for run in changed:
            try:
                verified = run.path.resolve() in strict or verify is None or matches_items(run, verify)
                replace_rows(connection, run.id, run, root, verified)
            except AssayError as error:
                if run.path.resolve() in strict:
                    raise
                trouble[run.path.name] = str(error)
        trouble |= load_trials(connection, root)
        connection.execute("CHECKPOINT store")  # writes everything into the one file that is renamed
    finally:
        connection.close()
    return trouble


def open_copy(path: Path, fresh: bool) -> Any:
    """Open a writable connection. A new file gets a storage version that every supported DuckDB can read."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"ATTACH {quoted(path)} AS store (STORAGE_VERSION 'v1.5.0', ROW_GROUP_SIZE {ROWS})")
    connection.execute("USE store")
    if fresh:
        connection.execute("BEGIN")
        connection.execute(files("assay.harness.store").joinpath("schema.sql").read_text())
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", [SCHEMA, utc(datetime.now(UTC))])
        connection.execute("COMMIT")
    return connection


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def replace_rows(connection: Any, run_id: str, run: Run | None, root: Path, verified: bool = True) -> None:
    """Replace all rows of a run in one transaction; None deletes them. Raises AssayError if the bundle is damaged."""
    import duckdb

    connection.execute("BEGIN")
    try:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        if run is not None:
            insert_run(connection, run, root, verified)
        connection.execute("COMMIT")
    except BaseException as error:
        with suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        bundle_errors = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError, ValueError, TypeError, KeyError, AttributeError)
        if isinstance(error, bundle_errors):  # others are errors of the disk
            raise AssayError(f"cannot be indexed: {error!s:.200}", where=run_id, do="see: assay store check") from None
        raise


def matches_items(run: Run, verify: Verify) -> bool:
    """Whether a run's results follow from its items; False if this cannot be checked here. Raises AssayError if they do not."""
    if run.status != "complete":
        return True
    differing = next(iter(inconsistencies(run)), "")
    try:
        differing = differing or verify(run)
    except AssayError:
        return False
    if differing:
        raise AssayError(differing, where=run.id, do="see: assay store check; then restore the run from a copy, or score the model again")
    return True


def insert_run(connection: Any, run: Run, root: Path, verified: bool) -> None:
    """Insert all rows of a run."""
    facts = run.manifest
    summary = run.summary() if run.status == "complete" else {}
    path = run.path.resolve()
    inside = path.is_relative_to(root.resolve())
    insert(
        connection,
        "run",
        run_id=run.id,
        bundle=bundle_hash(run) + ("" if verified else "?"),  # the next full update checks it again
        path=str(path.relative_to(root.resolve()) if inside else path),
        model=text_at(facts, "model", "name"),
        model_digest=text_at(facts, "model", "digest"),
        engine=text_at(facts, "engine", "name"),
        purpose=text_at(facts, "purpose"),
        evidence=evidence_of(facts, summary),
        status=run.status,
        created_at=utc(datetime.fromisoformat(facts["created_at"])),
        items=int(facts["items"]),
        item_set=text_at(facts, "item_set"),
        manifest=run.read(MANIFEST).decode(),
        summary=run.read("summary.json").decode() if summary else None,
    )
    if run.status != "complete":
        return
    for result in summary.get("results", ()):
        insert_score(connection, run, result if verified else {**result, "evidence": UNVERIFIED})
    load(connection, run, SAMPLES, "sample", 'task, item_id, "group", cluster, prompt, output, gold, correct, status, error')
    run.stats()  # raises for statistics that are uneven or not finite
    load(connection, run, STATS, "item_stat", "task, metric, item_id, item_group, item_cluster, stats")
    insert_tasks(connection, run)


def insert(connection: Any, table: str, **values: Any) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def insert_score(connection: Any, run: Run, result: Mapping[str, Any]) -> None:
    """Insert one result. Raises AssayError for a value that is not a finite number."""
    if found := nonfinite(result):
        raise AssayError(f"{found} of {result.get('task')} is not a finite number", where=str(run.path), do="see: assay store check")
    if result["value"] is not None and type(result["value"]) not in (int, float):
        what = f"{result.get('metric')} of {result.get('task')} is {result['value']!r:.40}, not a number"
        raise AssayError(what, where=str(run.path), do="see: assay store check")
    names = ("task", "metric", "value", "low", "high", "n", "shots", "signature")
    values = {name: result.get(name) for name in names}
    facts = next((task for task in run.manifest["tasks"] if task["name"] == result["task"]), result)  # a total has no task facts of its own
    values["evidence"] = weakest((facts["evidence"], result["evidence"]), "complete")
    values["purpose"] = weakest((facts["purpose"], result["purpose"]), "release")
    values["reason"] = unranked(result)
    insert(connection, "score", run_id=run.id, **values, main=bool(result.get("main")), result=json.dumps(result))


def unranked(result: Mapping[str, Any]) -> str | None:
    """Why a score is never ranked; None if it may be."""
    if result["value"] is None:
        return f"undefined: {result.get('reason') or 'no value was stored'}"
    return "too few items" if result.get("method") == "too few items" else None


def load(connection: Any, run: Run, name: str, table: str, columns: str) -> None:
    """Copy rows from one of the run's checked Parquet files."""
    for portion in run.portions(name):  # noqa: B007 - DuckDB finds the variable; a registered name would hold every portion until the commit
        connection.execute(f"INSERT INTO {table} SELECT ?, {columns} FROM portion", [run.id])


def insert_tasks(connection: Any, run: Run) -> None:
    """Insert one row per task, with its numbers of items and errors."""
    tasks = run.manifest.get("tasks")
    known = {text_at(task, "name"): task for task in tasks} if isinstance(tasks, list) else {}
    counts = connection.execute(
        "SELECT task, count(*), count(*) FILTER (status = 'error') FROM sample WHERE run_id = ? GROUP BY task ORDER BY task", [run.id]
    ).fetchall()
    for task, items, errors in counts:
        version, fingerprint = (text_at(known.get(task), name) or None for name in ("version", "fingerprint"))
        insert(connection, "run_task", run_id=run.id, task=task, version=version, fingerprint=fingerprint, items=items, errors=errors)
