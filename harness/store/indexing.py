"""The DuckDB index over the bundles of a store: derived, deletable, published whole.

Each update works on a copy that replaces the index by one rename. So readers hold up no writer and no writer holds up
readers, and a kill leaves the old index. (DuckDB itself lets one process write, or several read, but never both.)
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
from assay.harness.files.lock import held
from assay.harness.files.safe_open import read_regular
from assay.harness.store.bundle import DONE, MANIFEST, SAMPLES, STATS, runs_folder
from assay.harness.store.consistency import inconsistencies
from assay.harness.store.queries import INDEX, SCHEMA, open_sandbox, query, schema_version
from assay.harness.store.read import Run, own_name, read_run
from assay.harness.store.read import field as text_of
from assay.harness.store.shapes import evidence_of, weakest
from assay.harness.store.trials import are_newer, load_trials

WAIT_SECONDS = 120.0
TABLES = ("run", "run_task", "score", "sample", "item_stat")


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an update did: run ids added or renewed, found unchanged, removed; and the trouble with bundles that were left out."""

    indexed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    trouble: Mapping[str, str] = field(default_factory=dict)


Verify = Callable[[Run], str]
"""What a run's items do not give of its stored results, empty where all agrees. Raises AssayError where that cannot be told."""
UNVERIFIED = "unverified"


def index(root: Path, bundles: Sequence[Path] | None = None, verify: Verify | None = None) -> IndexReport:
    """Brings the index of a store up to date with these bundles and new complete ones, or with all of its runs and without those gone;
    and with the trials of its tuning studies.

    Idempotent by bundle hash; one transaction per bundle. A damaged bundle is left out and reported, unless it was asked for. With
    `verify`, results of bundles that were not asked for are not believed: one whose items give other scores is left out, and where
    the scorer is not installed its scores have the evidence "unverified", which is never ranked.
    Raises Incomplete naming the process that holds the index after two minutes; AssayError for an index of a newer assay.
    """
    root = Path(root)
    if not root.is_dir():
        raise AssayError("there is no such results folder", where=str(root), do="name it with --results")
    whole = bundles is None
    with held(root / ".index.lock", WAIT_SECONDS):
        known = known_bundles(root)
        fresh = known is None
        known, whole = known or {}, whole or fresh  # made again from all bundles
        # Others that are complete but not in the index come along: who waits for the lock finds its run done.
        others = [path for path in store_bundles(root) if whole or (path.name not in known and (path / DONE).exists())]
        runs, trouble = read_runs(others, bundles or [])
        marks = {run.id: bundle_hash(run) for run in runs}
        todo = [run for run in runs if known.get(run.id) != marks[run.id]]
        gone = tuple(sorted(known.keys() - marks.keys() - trouble.keys())) if whole else ()
        if todo or gone or fresh or are_newer(root, root / INDEX, known_studies(root)):
            trouble |= publish(root, todo, gone, fresh, strict={Path(path).resolve() for path in bundles or ()}, verify=verify)
    done = tuple(run.id for run in todo if run.path.name not in trouble)
    return IndexReport(done, tuple(run.id for run in runs if run not in todo), gone, trouble)


def store_bundles(root: Path) -> list[Path]:
    runs = runs_folder(root)
    return sorted(path for path in runs.iterdir() if path.is_dir() and not path.name.startswith(".")) if runs.is_dir() else []


def read_runs(found: Sequence[Path], asked: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs of these folders, and the trouble by name of those only found; those asked for must be sound."""
    runs = {(run := read_run(path)).id: run for path in asked}
    trouble: dict[str, str] = {}
    for path in found:
        try:
            run = own_name(read_run(path))
            runs.setdefault(run.id, run)
        except (AssayError, OSError) as error:
            trouble[path.name] = str(error)
    return list(runs.values()), trouble


def bundle_hash(run: Run) -> str:
    """Changes when the index must: hash of DONE, which holds the hash of every file; of the manifest while running."""
    return hashlib.sha256(read_regular(run.path / (DONE if run.status == "complete" else MANIFEST), JSON_BYTES)).hexdigest()


def known_bundles(root: Path) -> dict[str, str] | None:
    """Bundle hashes by run id; None where the index must be made anew: none there, torn by another program, or of an older schema."""
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


def known_studies(root: Path) -> list[str]:
    """Studies in the index; only asked where it is of this schema."""
    return [str(study) for (study,) in query(root, "SELECT DISTINCT study FROM trial")]


def publish(root: Path, todo: Sequence[Run], gone: Sequence[str], fresh: bool, strict: set[Path], verify: Verify | None) -> dict[str, str]:
    """Applies the changes to a copy and puts it in place; returns the trouble by run of what could not be read.

    Raises Incomplete where the disk refuses; the old index then stays.
    """
    import duckdb

    path, copy = root / INDEX, root / f".assay-{os.getpid()}.duckdb"
    try:
        sweep(root)
        if not fresh:
            shutil.copyfile(path, copy)
        trouble = write_copy(copy, root, todo, gone, fresh, strict, verify)
        with copy.open("rb") as file:
            os.fsync(file.fileno())
        path.with_name(INDEX + ".wal").unlink(missing_ok=True)
        copy.replace(path)
        sync_folder(root)
        return trouble
    except (OSError, duckdb.Error) as error:  # DuckDB has its own words for a full disk
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        what = f"the index cannot be written: {reason}; runs are kept"
        raise Incomplete(what, where=str(root), do="mend the cause, then: assay store index") from None
    finally:
        with suppress(OSError):
            sweep(root)


def sweep(root: Path) -> None:
    """Removes the copies of failed or killed updates; we hold the lock, so none is in use."""
    for leftover in root.glob(".assay-*.duckdb*"):
        leftover.unlink()


def write_copy(
    copy: Path, root: Path, todo: Sequence[Run], gone: Sequence[str], fresh: bool, strict: set[Path], verify: Verify | None
) -> dict[str, str]:
    trouble: dict[str, str] = {}
    connection = open_copy(copy, fresh)
    try:
        for run_id in gone:
            transact(connection, run_id, None, root)
        for run in todo:
            try:
                sound = run.path.resolve() in strict or verify is None or verified(run, verify)
                transact(connection, run.id, run, root, sound)
            except AssayError as error:
                if run.path.resolve() in strict:
                    raise
                trouble[run.path.name] = str(error)
        trouble |= load_trials(connection, root)
        connection.execute("CHECKPOINT store")  # all into the one file that is renamed
    finally:
        connection.close()
    return trouble


def open_copy(path: Path, fresh: bool) -> Any:
    """A writing connection. A new file gets a storage version that every supported DuckDB reads."""
    import duckdb

    connection = duckdb.connect()
    quoted = str(path).replace("'", "''")
    connection.execute(f"ATTACH '{quoted}' AS store (STORAGE_VERSION 'v1.5.0')")
    connection.execute("USE store")
    if fresh:
        connection.execute("BEGIN")
        connection.execute(files("assay.harness.store").joinpath("schema.sql").read_text())
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?)", [SCHEMA, utc(datetime.now(UTC))])
        connection.execute("COMMIT")
    return connection


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)


def transact(connection: Any, run_id: str, run: Run | None, root: Path, sound: bool = True) -> None:
    """Replaces all rows of one run, or none. Raises AssayError where the bundle is damaged or its numbers break a rule."""
    import duckdb

    connection.execute("BEGIN")
    try:
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        if run is not None:
            insert_run(connection, run, root, sound)
        connection.execute("COMMIT")
    except BaseException as error:
        with suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        told = (duckdb.DataError, duckdb.IntegrityError, duckdb.ProgrammingError, ValueError, TypeError, KeyError, AttributeError)
        if isinstance(error, told):  # the bundle's fault; others are the disk's
            raise AssayError(f"cannot be indexed: {error!s:.200}", where=run_id, do="see: assay store check") from None
        raise


def verified(run: Run, verify: Verify) -> bool:
    """Whether its items give the run's results; False where that cannot be told here. Raises AssayError where they do not."""
    if run.status != "complete":
        return True
    differing = next(iter(inconsistencies(run)), "")
    try:
        differing = differing or verify(run)
    except AssayError:
        return False
    if differing:
        raise AssayError(differing, where=run.id, do="trust the items: assay store check; score the model anew")
    return True


def insert_run(connection: Any, run: Run, root: Path, sound: bool) -> None:
    facts = run.manifest
    summary = run.summary() if run.status == "complete" else {}
    path = run.path.resolve()
    inside = path.is_relative_to(root.resolve())
    insert(
        connection,
        "run",
        run_id=run.id,
        bundle=bundle_hash(run) + ("" if sound else "?"),  # looked at again by the next whole index
        path=str(path.relative_to(root.resolve()) if inside else path),
        model=text_of(facts, "model", "name"),
        model_digest=text_of(facts, "model", "digest"),
        engine=text_of(facts, "engine", "name"),
        purpose=text_of(facts, "purpose"),
        evidence=evidence_of(facts, summary),
        status=run.status,
        created_at=utc(datetime.fromisoformat(facts["created_at"])),
        items=int(facts["items"]),
        item_set=text_of(facts, "item_set"),
        manifest=run.read(MANIFEST).decode(),
        summary=run.read("summary.json").decode() if summary else None,
    )
    if run.status != "complete":
        return
    for result in summary.get("results", ()):
        insert_score(connection, run, result if sound else {**result, "evidence": UNVERIFIED})
    load(connection, run, SAMPLES, "sample", 'task, item_id, "group", cluster, prompt, output, gold, correct, status, error')
    run.stats()  # refuses what is uneven or not finite
    load(connection, run, STATS, "item_stat", "task, metric, item_id, item_group, item_cluster, stats")
    insert_tasks(connection, run)


def insert(connection: Any, table: str, **values: Any) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def insert_score(connection: Any, run: Run, result: Mapping[str, Any]) -> None:
    if found := nonfinite(result):
        raise AssayError(f"{found} of {result.get('task')} is not a finite number", where=str(run.path), do="see: assay store check")
    if result["value"] is None:  # nothing to score, as where the labels are hidden
        return
    if type(result["value"]) not in (int, float):
        what = f"{result.get('metric')} of {result.get('task')} is {result['value']!r:.40}, not a number"
        raise AssayError(what, where=str(run.path), do="see: assay store check")
    names = ("task", "metric", "value", "low", "high", "n", "shots", "signature")
    values = {name: result.get(name) for name in names}
    facts = next((task for task in run.manifest["tasks"] if task["name"] == result["task"]), result)  # of a total its members decide
    values["evidence"] = weakest((facts["evidence"], result["evidence"]), "complete")
    values["purpose"] = weakest((facts["purpose"], result["purpose"]), "release")
    insert(connection, "score", run_id=run.id, **values, main=bool(result.get("main")), result=json.dumps(result))


def load(connection: Any, run: Run, name: str, table: str, columns: str) -> None:
    """Copies rows from one of the run's checked Parquet files."""
    connection.register("incoming", run.table(name))
    try:
        connection.execute(f"INSERT INTO {table} SELECT ?, {columns} FROM incoming", [run.id])
    finally:
        with suppress(Exception):  # the transaction may be over; what went wrong is told already
            connection.unregister("incoming")


def insert_tasks(connection: Any, run: Run) -> None:
    tasks = run.manifest.get("tasks")
    known = {text_of(task, "name"): task for task in tasks} if isinstance(tasks, list) else {}
    counts = connection.execute(
        "SELECT task, count(*), count(*) FILTER (status = 'error') FROM sample WHERE run_id = ? GROUP BY task ORDER BY task", [run.id]
    ).fetchall()
    for task, items, errors in counts:
        version, fingerprint = (text_of(known.get(task), name) or None for name in ("version", "fingerprint"))
        insert(connection, "run_task", run_id=run.id, task=task, version=version, fingerprint=fingerprint, items=items, errors=errors)
