"""Data sets of the Hugging Face hub, read from a local mirror, otherwise from the hub or its cache.

The mirror is `$ASSAY_DATA/<org>__<name>/<config>/<split>.parquet`; a config `all` may contain every config, with its name in a column.
Files are checked against `$ASSAY_DATA/MANIFEST.json` (entries of file, rows, complete, sha256) if it exists.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Missing, redact
from assay.harness.files.columns import number_column
from assay.harness.files.download import Published
from assay.harness.files.parquet import as_rows, read_table
from assay.harness.files.places import Access
from assay.harness.task.doc import Row
from assay.harness.task.source import Rows, digest_rows


@dataclass(frozen=True, slots=True)
class Original:
    """Data that are on no hub, at their publisher: the files of every split, and the function from their contents to rows."""

    files: Mapping[str, tuple[Published, ...]]
    read: Callable[[tuple[bytes, ...]], Iterable[Row]]


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set of the Hugging Face hub, or of its mirror under $ASSAY_DATA.

    `where` keeps only rows with these column values. `names` maps our split names to the data set's (validation ->
    validation_matched). `expand` turns one row into several (one per prompt). `revision` pins the hub's commit. `former` is the id and
    config under which older mirrors hold the data. `original`: the data are on no hub, only `assay fetch` brings them to a mirror.
    """

    repo: str
    config: str = "default"
    where: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    expand: Callable[[Row], Iterable[Row]] | None = None
    revision: str | None = None
    former: tuple[str, str] | None = None
    original: Original | None = None

    def at(self, home: Path) -> Hub:
        return self

    def folder(self, access: Access) -> Path | None:
        """Return the data set's folder in the mirror; None if the mirror does not have it."""
        found = mirror_folder(self.repo, self.config, access)
        return found if found is not None or self.former is None else mirror_folder(*self.former, access)

    def beyond_mirror(self, access: Access) -> Mapping[str, Any]:
        """The splits on the hub or in its cache. Raises Missing where they cannot be had, with what the mirror has instead."""
        if self.original is not None:
            where, fix = f"{self.repo}/{self.config}", "assay fetch TASK --to DIR, then set ASSAY_DATA=DIR"
            raise Missing("is on no hub and not in the data folder", where=where, do=fix)
        base = access.data / self.repo.replace("/", "__") if access.data is not None else None
        configs = sorted(each.name for each in base.iterdir() if each.is_dir()) if base is not None and base.is_dir() else []
        if configs and access.offline:
            has = f"{'config' if len(configs) == 1 else 'configs'} {', '.join(configs[:6])}{', ...' if len(configs) > 6 else ''}"
            fix = f"rename the folder to {self.config}, or: assay fetch TASK --to DIR"
            raise Missing(f"the mirror has {has}, not {self.config}", where=str(base), do=fix)
        return open_hub(self.repo, self.config, self.revision, access.offline)

    def splits(self, access: Access) -> tuple[str, ...]:
        folder = self.folder(access)
        if folder is not None:
            found: Iterable[str] = sorted(path.stem for path in folder.glob("*.parquet"))
        else:
            found = self.beyond_mirror(access)
        renamed = {theirs: ours for ours, theirs in self.names.items()}
        return tuple(renamed.get(name, name) for name in found)

    def load(self, split: str, access: Access) -> Rows:
        theirs = self.names.get(split, split)
        folder = self.folder(access)
        if folder is not None:
            mirrored = mirror_table(access.data or Path(), folder / f"{theirs}.parquet", access.allow_partial)
            kept = rows_with(mirrored, self.where) if self.where else mirrored.rows()
            whole = Rows(kept, mirrored.origin, "", mirrored.complete)
        else:
            self.beyond_mirror(access)
            whole = hub_rows(self.repo, self.config, theirs, self.revision, access.offline)
            kept = tuple(row for row in whole.rows if all(row.get(column) == value for column, value in self.where.items()))
        if self.expand is not None:
            kept = tuple(made for row in kept for made in self.expand(row))
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
    original: Original | None = None,
) -> Hub:
    """Return a data set by its hub id, config and pinned revision; read from $ASSAY_DATA if it is mirrored there."""
    return Hub(repo, config, where or {}, names or {}, expand, revision, former, original)


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


@dataclass(frozen=True, slots=True, eq=False)
class Mirrored:
    """One split of the mirror as an Arrow table: a fraction of the memory of its rows, of which a task needs some."""

    table: Any
    origin: str
    complete: bool

    def rows(self, places: Sequence[int] | None = None) -> tuple[Row, ...]:
        """The rows at these places, all by default."""
        import pyarrow

        part = self.table if places is None else self.table.take(number_column(places, pyarrow.int64()))
        return tuple(as_rows(part, self.origin))


@functools.lru_cache(maxsize=16)
def mirror_table(root: Path, path: Path, allow_partial: bool) -> Mirrored:
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
    table = read_table(path, str(path))
    if entry.get("rows") not in (None, table.num_rows):
        what = f"has {table.num_rows} rows, MANIFEST.json says {entry['rows']!r:.40}"
        raise AssayError(what, where=str(path), do="download the file again, or fix the manifest")
    return Mirrored(table, str(path.relative_to(root)), complete)


def rows_with(mirrored: Mirrored, where: Mapping[str, Any]) -> tuple[Row, ...]:
    """The rows with these values in these columns; a column that is missing has the value None everywhere."""
    places = range(mirrored.table.num_rows)
    for column, value in where.items():
        values = column_values(mirrored, column)
        places = [place for place in places if values[place] == value]  # type: ignore[assignment]
    return mirrored.rows(list(places))


@functools.lru_cache(maxsize=16)
def column_values(mirrored: Mirrored, column: str) -> Sequence[Any]:
    """The values of a column, which select the rows of one task after another."""
    table = mirrored.table
    return list(table[column].to_pylist()) if column in table.column_names else [None] * table.num_rows


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
        what, fix = hub_fault(error, repo, config, revision)
        raise Missing(what, where=f"{repo}/{config}", do=fix) from None


def hub_fault(error: Exception, repo: str, config: str, revision: str | None) -> tuple[str, str]:
    """What went wrong on the hub, and what to do, from the library's error and its causes."""
    causes, cause = [error], error.__cause__ or error.__context__
    while cause is not None and isinstance(cause, Exception):
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    names = {type(each).__name__ for each in causes}
    texts = " ".join(map(str, causes))
    status = next((code for each in causes if (code := getattr(getattr(each, "response", None), "status_code", None))), None)
    if "GatedRepoError" in names or "gated" in texts.lower():
        return "its owner gives access on request", f"accept the terms at huggingface.co/datasets/{repo}, then: hf auth login"
    if "RevisionNotFoundError" in names or (revision is not None and f"'{revision}'" in texts and "exist" in texts):
        return f"has no revision {revision} any more", "install a newer assay, or use a mirror that has it: ASSAY_DATA"
    if status == 429:
        return "the hub answers no more requests for now (429)", "try again in some minutes; hf auth login raises the limit"
    if status == 401 or "DatasetNotFoundError" in names:
        return "is private, or does not exist on the hub", "check its id; for a private data set: hf auth login"
    if found := re.search(r"BuilderConfig .* not found. Available: \[(.*)\]", texts):
        listed = found.group(1).replace("'", "")
        return f"the hub has the configs {listed:.80}, not {config}", "fix the config in the task's hub(...)"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    fix = "set ASSAY_DATA to a folder that mirrors the hub (assay fetch makes one), or go online"
    return f"cannot be read from the hub ({redact(reason):.160})", fix
