"""A run's folder (bundle): its files, how it is created atomically, and how its files are read with their hashes checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.atomic import DISK_FULL, read_json, sync_folder, to_json, write_file
from assay.harness.files.safe_open import read_regular
from assay.harness.store.record import Item
from assay.harness.store.shapes import ManifestShape, validate
from assay.harness.store.tables import items_table, portions, portions_to_parquet

SCHEMA = 1
MANIFEST, ITEMS, JOURNAL, LOCK = "manifest.json", "items.parquet", "journal.jsonl", "lock.json"
ITEM_BYTES = 300
"""Minimum size of an item in the journal in bytes."""
FILE_BYTES = 1 << 34
"""Maximum size of a file of a run in bytes."""
STALE_SECONDS = 3600.0
SAMPLES, STATS, SUMMARY, DONE = "samples.parquet", "item_stats.parquet", "summary.json", "DONE"
PROOFS = "proofs.json"
"""Of an unfinished run: the proof of each session, which its summary holds together."""


FIELDS = {
    "run": re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,63}"),
    "created_at": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00"),
    "items_sha256": re.compile(r"[0-9a-f]{64}"),
}
"""Required fields of every manifest, also an untrusted one."""


def runs_folder(root: Path) -> Path:
    return Path(root) / "runs"


def bundle_folders(root: Path) -> list[Path]:
    """Return the folders of all runs of a store, sorted by name."""
    runs = runs_folder(root)
    return sorted(path for path in runs.iterdir() if path.is_dir() and not path.name.startswith(".")) if runs.is_dir() else []


def item_set(items: Sequence[Item]) -> str:
    """Hash the items' gold answers and docs, independent of order, rendering and tokenizer. Equal sets can be compared per item."""
    docs = [json.loads(json.dumps(dict(item.doc))) for item in items]  # as they are read back: keys become strings
    parts = ([i.task, i.id, i.group, i.cluster, i.choices, i.gold, doc] for i, doc in zip(items, docs, strict=True))
    lines = sorted(json.dumps(part, sort_keys=True) for part in parts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def create_bundle(root: Path, manifest: Mapping[str, Any], items: Sequence[Item], created: datetime | None = None) -> Path:
    """Create the folder of a new run atomically: `root/runs/<run id>/` with manifest.json and items.parquet.

    Adds "run" (id: UTC time and a random suffix), "created_at" (ISO, UTC; `created` for an imported run), "items" (count),
    "item_set", "items_sha256" and "schema" to the manifest. Raises AssayError if there are no items, an item is planned twice
    or cannot be written as JSON, or the folder cannot be written.
    """
    if not items:
        raise AssayError("a run needs at least one item", do="check the task's split and --limit")
    if runs_folder(root).is_symlink() and not runs_folder(root).exists():
        raise AssayError("is a broken symbolic link", where=str(runs_folder(root)), do="remove it, or choose another folder with --results")
    refuse_bundled_code(runs_folder(root) / "new", manifest, str(root))
    ((task, item), times), *_ = Counter((item.task, item.id) for item in items).most_common(1)
    if times > 1:
        raise AssayError(f"item {item!r} is planned {times} times", where=task, do="give each item of the task its own id")
    parquet = portions_to_parquet(map(items_table, portions(items)))
    now = datetime.now(UTC)
    facts = {
        **manifest,
        "created_at": (created or now).astimezone(UTC).isoformat(timespec="microseconds"),
        "items": len(items),
        "item_set": item_set(items),
        "items_sha256": hashlib.sha256(parquet).hexdigest(),
        "schema": SCHEMA,
    }
    to_json(facts, MANIFEST)  # a manifest that cannot be written must fail before a folder is created
    runs = runs_folder(root)
    while True:
        run = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        try:
            require_space(runs, 2 * len(parquet) + ITEM_BYTES * len(items))
            if write_folder(runs, run, {MANIFEST: to_json({**facts, "run": run}, MANIFEST, indent=1), ITEMS: parquet}):
                return runs / run
        except OSError as error:
            do = "free disk space" if error.errno in DISK_FULL else "choose a writable folder with --results"
            raise AssayError(f"cannot be written: {error.strerror or error}", where=str(runs), do=do) from None


def require_space(runs: Path, needed: int) -> None:
    """Raise OSError if the disk has no space for a run. Removes temporary folders that killed processes left."""
    runs.mkdir(parents=True, exist_ok=True)
    for leftover in runs.glob(".new-*"):
        with suppress(OSError):  # another process may be creating or removing it
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover)
    free = shutil.disk_usage(runs).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} for this run: needs about {needed:,} bytes, {free:,} are free")


def write_folder(runs: Path, run: str, files: Mapping[str, bytes]) -> bool:
    """Write a folder under a temporary name and rename it. Returns False if the name is taken."""
    temporary, final = runs / f".new-{run}", runs / run
    try:
        temporary.mkdir()
    except FileExistsError:
        return False
    try:
        if final.exists():
            return False
        for name, data in files.items():
            write_file(temporary / name, data)
        temporary.rename(final)
        sync_folder(runs)
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    finally:
        if temporary.exists():
            shutil.rmtree(temporary, ignore_errors=True)


def refuse_bundled_code(bundle: Path, manifest: Mapping[str, Any], where: str) -> None:
    """Raise AssayError if the plan uses a task file inside the results folder: copied results must never run code."""
    plan = manifest.get("plan")
    names = plan.get("tasks") if isinstance(plan, Mapping) else None
    for name in names if isinstance(names, list | tuple) else ():
        if not isinstance(name, str) or not name.endswith(".py"):
            continue
        try:
            path, home = Path(name).resolve(), bundle.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            what = f"the task file {name!r:.80} is not a valid path: {error}"
            raise AssayError(what, where=where, do="restore the run from a copy") from None
        store = {home.parent, home.parent.parent} - {Path.cwd()} if home.parent.name == "runs" else set()
        if any(path.is_relative_to(place) for place in (home, *store)):
            what = f"the task file {name!r} is inside the results folder, so its code is not run"
            raise AssayError(what, where=where, do="if you trust the file, move it out of the results folder and score the model again")


def read_manifest(bundle: Path) -> dict[str, Any]:
    """Read a run's manifest. Raises AssayError if the folder is not a run or was written by a newer assay."""
    if not (bundle / MANIFEST).is_file():
        raise AssayError(
            "is not a run's folder (no manifest.json)",
            where=str(bundle),
            do="give a run id or the folder of a run; assay store ls lists the runs",
        )
    manifest = read_json(bundle / MANIFEST, follow=False)
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise AssayError(f"has schema {schema!r}, this assay knows {SCHEMA}", where=str(bundle), do="upgrade assay")
    for name, fits in FIELDS.items():
        value = manifest.get(name)
        if not isinstance(value, str) or not fits.fullmatch(value) or (name == "created_at" and not is_timestamp(value)):
            raise AssayError(f"{name} is invalid: {value!r:.60}", where=str(bundle / MANIFEST), do="restore the run from a copy")
    if type(manifest.get("items")) is not int:
        raise AssayError(
            f"items is {manifest.get('items')!r:.60}, not a number", where=str(bundle / MANIFEST), do="restore the run from a copy"
        )
    refuse_bundled_code(bundle, manifest, str(bundle))
    validate(ManifestShape, manifest, bundle / MANIFEST)
    return manifest


def is_timestamp(text: str) -> bool:
    """Whether an ISO time is valid; the pattern alone allows a month 13."""
    try:
        return bool(datetime.fromisoformat(text))
    except ValueError:
        return False


def read_done(bundle: Path) -> dict[str, str] | None:
    """Return the SHA-256 of each file of a complete run; None if it is not complete."""
    try:
        files = read_json(bundle / DONE, follow=False)["files"] if os.path.lexists(bundle / DONE) else None
        if files is None:
            return None
        if set(files) == {MANIFEST, ITEMS, SAMPLES, STATS, SUMMARY} and all(isinstance(value, str) for value in files.values()):
            return dict(files)
    except (KeyError, TypeError):
        pass
    raise AssayError("does not list the run's files", where=str(bundle / DONE), do="restore the run from a copy")


def read_checked(path: Path, digest: str) -> bytes:
    """Read a file. Raises AssayError if its SHA-256 differs from `digest`."""
    try:
        data = read_regular(path, FILE_BYTES)
    except OSError as error:
        raise AssayError(f"cannot be read: {error.strerror}", where=str(path), do="restore the run from a copy") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise AssayError("was changed or is damaged (SHA-256 differs)", where=str(path), do="restore the run from a copy")
    return data
