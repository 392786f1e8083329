"""Data sets of the Hugging Face hub, read from a local mirror, otherwise from the hub or its cache.

The mirror is `$ASSAY_DATA/<org>__<name>/<config>/<split>.parquet`; a config `all` may contain every config, with its name in a column.
Files are checked against `$ASSAY_DATA/MANIFEST.json` (entries of file, rows, complete, sha256) if it exists.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Missing, redact
from assay.harness.files.places import Access
from assay.harness.task.doc import Row
from assay.harness.task.source import Rows, digest_rows, read_parquet


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set of the Hugging Face hub, or of its mirror under $ASSAY_DATA.

    `where` keeps only rows with these column values. `names` maps our split names to the data set's (validation ->
    validation_matched). `expand` turns one row into several (one per prompt). `revision` pins the hub's commit. `former` is the id and
    config under which older mirrors hold the data.
    """

    repo: str
    config: str = "default"
    where: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    expand: Callable[[Row], Iterable[Row]] | None = None
    revision: str | None = None
    former: tuple[str, str] | None = None

    def at(self, home: Path) -> Hub:
        return self

    def folder(self, access: Access) -> Path | None:
        """Return the data set's folder in the mirror; None if the mirror does not have it."""
        found = mirror_folder(self.repo, self.config, access)
        return found if found is not None or self.former is None else mirror_folder(*self.former, access)

    def splits(self, access: Access) -> tuple[str, ...]:
        folder = self.folder(access)
        if folder is not None:
            found: Iterable[str] = sorted(path.stem for path in folder.glob("*.parquet"))
        else:
            found = open_hub(self.repo, self.config, self.revision, access.offline)
        renamed = {theirs: ours for ours, theirs in self.names.items()}
        return tuple(renamed.get(name, name) for name in found)

    def load(self, split: str, access: Access) -> Rows:
        theirs = self.names.get(split, split)
        folder = self.folder(access)
        if folder is not None:
            whole = mirror_rows(access.data or Path(), folder / f"{theirs}.parquet", access.allow_partial)
        else:
            whole = hub_rows(self.repo, self.config, theirs, self.revision, access.offline)
        if not self.where and self.expand is None:
            return whole
        rows: Iterable[Row] = (row for row in whole.rows if all(row.get(column) == value for column, value in self.where.items()))
        if self.expand is not None:
            rows = (made for row in rows for made in self.expand(row))
        kept = tuple(rows)
        return Rows(kept, whole.origin, digest_rows(kept), whole.complete)


def hub(
    repo: str,
    config: str = "default",
    *,
    where: Mapping[str, Any] | None = None,
    names: Mapping[str, str] | None = None,
    expand: Callable[[Row], Iterable[Row]] | None = None,
    revision: str | None = None,
    former: tuple[str, str] | None = None,
) -> Hub:
    """Return a data set by its hub id, config and pinned revision; read from $ASSAY_DATA if it is mirrored there."""
    return Hub(repo, config, where or {}, names or {}, expand, revision, former)


def mirror_folder(repo: str, config: str, access: Access) -> Path | None:
    """Return the data set's folder in the mirror: its config, or `all`; None if the mirror does not have it."""
    if access.data is None:
        return None
    base = access.data / repo.replace("/", "__")
    return next((base / name for name in (config, "all") if Path(name).name == name and (base / name).is_dir()), None)


@functools.lru_cache(maxsize=4)
def manifest(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Return the entries of a mirror's manifest by file name; empty if there is no manifest."""
    if not path.is_file():
        return {}
    try:
        return {row["file"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AssayError(
            f"not a manifest: {error!r}", where=str(path), do="write a JSON list of objects with `file` and `sha256`"
        ) from None


@functools.lru_cache(maxsize=16)
def mirror_rows(root: Path, path: Path, allow_partial: bool) -> Rows:
    """Return one split of the mirror, after checking its hash and its number of rows against the manifest."""
    if not path.is_file() or ".." in path.parts:
        known = ", ".join(sorted(other.stem for other in path.parent.glob("*.parquet"))) or "none"
        raise Missing(f"no split {path.stem!r} (there is: {known})", where=str(path.parent), do="choose another split")
    entry = manifest(root / "MANIFEST.json").get(str(path.relative_to(root)), {})
    if "sha256" in entry and hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
        raise AssayError("differs from the hash in MANIFEST.json", where=str(path), do="download the file again")
    complete = entry.get("complete") is not False
    if not complete and not allow_partial:
        raise Missing(
            f"has {entry.get('rows')} of the data set's {entry.get('rows_on_hub')} rows",
            where=str(path),
            do="download the whole file, or add --allow-partial (scores are then marked as partial)",
        )
    rows = read_parquet(path)
    if entry.get("rows") not in (None, len(rows)):
        what = f"has {len(rows)} rows, MANIFEST.json says {entry['rows']!r:.40}"
        raise AssayError(what, where=str(path), do="download the file again, or fix the manifest")
    return Rows(tuple(rows), str(path.relative_to(root)), digest_rows(rows), complete)


@functools.lru_cache(maxsize=16)
def hub_rows(repo: str, config: str, split: str, revision: str | None, offline: bool) -> Rows:
    """Return one split from the hub or its cache."""
    found = open_hub(repo, config, revision, offline)
    if split not in found:
        raise Missing(f"no split {split!r} (there is: {', '.join(found)})", where=f"{repo}/{config}", do="choose another split")
    rows = found[split].to_list()
    return Rows(tuple(rows), f"hub:{repo}/{config}/{split}@{revision or 'main'}", digest_rows(rows))


@functools.lru_cache(maxsize=16)
def open_hub(repo: str, config: str, revision: str | None, offline: bool) -> Mapping[str, Any]:
    """Return the splits of a data set by name, from the hub or its cache. Raises Missing if it cannot be read."""
    try:
        import datasets
    except ImportError:
        raise Missing(
            "not in the data folder, and `datasets` is not installed",
            where=f"{repo}/{config}",
            do="set ASSAY_DATA to a folder that mirrors the hub, or pip install 'assay[hf]'",
        ) from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    settings = datasets.DownloadConfig(local_files_only=offline, max_retries=2)
    try:
        found: Mapping[str, Any] = datasets.load_dataset(repo, config, revision=revision, download_config=settings)
        return found
    except Exception as error:  # the library raises many types: connection, 404, script, config
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Missing(
            f"cannot be read from the hub ({redact(reason):.160})",
            where=f"{repo}/{config}",
            do="set ASSAY_DATA to a folder that mirrors the hub, or go online",
        ) from None
