"""Build an offline mirror: bring the data sets of tasks to a folder in the form that $ASSAY_DATA has, with its manifest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.atomic import sync_folder, write_file
from assay.harness.files.download import Published, download, sha256_of
from assay.harness.files.lock import file_lock
from assay.harness.task.hub import Hub, open_hub

Report = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are there and the bytes of the whole file (0: unknown)."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of the mirror. `new`: it was not there before."""

    file: str
    rows: int
    new: bool


def hubs_in(rows: object) -> Iterator[Hub]:
    """The data sets in a task's source of rows, also those that it joins or wraps."""
    if isinstance(rows, Hub):
        yield rows
    elif dataclasses.is_dataclass(rows):
        for field in dataclasses.fields(rows):
            yield from hubs_in(getattr(rows, field.name))
    elif isinstance(rows, Mapping):
        for value in rows.values():
            yield from hubs_in(value)
    elif isinstance(rows, tuple | list):
        for value in rows:
            yield from hubs_in(value)


def data_sets(sources: Iterable[object]) -> list[Hub]:
    """The distinct data sets of some sources, each once, in order."""
    found = {(hub.repo, hub.config, hub.revision): hub for rows in sources for hub in hubs_in(rows)}
    return list(found.values())


def fetch_file(path: str, source: Published, to: Path, report: Report) -> Fetched:
    """Bring one file of a family as it is."""
    new = download(source, to / path, lambda done, whole: report(path, done, whole))
    return Fetched(path, 0, new)


def fetch_data_set(hub: Hub, to: Path, report: Report) -> list[Fetched]:
    """Bring all splits of a data set to the mirror `to`. Splits that the manifest lists and whose hash is right are left alone.

    Raises AssayError where it cannot be read, with the remedy.
    """
    folder = f"{hub.repo.replace('/', '__')}/{hub.config}"
    known = read_manifest(to)
    listed = [entry for name, entry in known.items() if name.startswith(f"{folder}/") and source_of(hub) in entry.get("sources", ())]
    if listed and all(len(listed) == entry.get("splits") and is_there(to, entry) for entry in listed):
        return [Fetched(entry["file"], entry["rows"], False) for entry in listed]
    made = []
    tables = of_original(hub, to, report) if hub.original is not None else of_hub(hub)
    for split, write in tables.items():
        name = f"{folder}/{split}.parquet"
        report(name, 0, 0)
        path = to / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        count, columns = write(part)
        entry = entry_of(hub, name, split, count, columns, len(tables), sha256_of(part))
        part.replace(path)
        sync_folder(path.parent)
        add_to_manifest(to, entry)
        made.append(Fetched(name, count, True))
    return made


Write = Callable[[Path], tuple[int, list[str]]]
"""Writes a split as Parquet; returns its rows and columns."""


def of_hub(hub: Hub) -> dict[str, Write]:
    def writer(table: Any) -> Write:
        def write(path: Path) -> tuple[int, list[str]]:
            table.to_parquet(str(path))
            return len(table), list(table.column_names)

        return write

    return {str(split): writer(table) for split, table in open_hub(hub.repo, hub.config, hub.revision, False).items()}


def of_original(hub: Hub, to: Path, report: Report) -> dict[str, Write]:
    original = hub.original
    assert original is not None

    def writer(sources: tuple[Published, ...]) -> Write:
        def write(path: Path) -> tuple[int, list[str]]:
            import pyarrow as pa
            import pyarrow.parquet as pq

            places = [to / ".originals" / each.sha256 for each in sources]
            for source, place in zip(sources, places, strict=True):
                name = source.url.rpartition("/")[2]
                download(source, place, lambda done, whole, name=name: report(name, done, whole))  # type: ignore[misc]
            rows = list(original.read(tuple(place.read_bytes() for place in places)))
            table = pa.Table.from_pylist(rows)
            pq.write_table(table, path)
            return table.num_rows, list(table.column_names)

        return write

    return {split: writer(sources) for split, sources in original.files.items()}


def source_of(hub: Hub) -> dict[str, Any]:
    """Where a data set comes from, as the manifest has it."""
    if hub.original is None:
        return {"repo": hub.repo, "commit": hub.revision or "main"}
    return {"files": [each.url for sources in hub.original.files.values() for each in sources]}


def entry_of(hub: Hub, file: str, split: str, rows: int, columns: list[str], splits: int, sha256: str) -> dict[str, Any]:
    return {
        "file": file,
        "hub_id": hub.repo if hub.original is None else None,
        "config": hub.config,
        "split": split,
        "splits": splits,
        "rows": rows,
        "rows_on_hub": rows,
        "complete": True,
        "columns": columns,
        "sources": [source_of(hub)],
        "sha256": sha256,
    }


def read_manifest(to: Path) -> dict[str, dict[str, Any]]:
    """The entries of a mirror's manifest by file. Raises AssayError for a file that is none."""
    path = to / "MANIFEST.json"
    try:
        return {entry["file"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise AssayError(f"not a manifest: {error!r}", where=str(path), do="choose another folder, or remove the file") from None


def is_there(to: Path, entry: Mapping[str, Any]) -> bool:
    path = to / str(entry["file"])
    return path.is_file() and sha256_of(path) == entry.get("sha256")


def add_to_manifest(to: Path, entry: Mapping[str, Any]) -> None:
    """Write the entry into the manifest, which other processes may be writing too."""
    with file_lock(to / ".manifest.lock"):
        entries = {**read_manifest(to), entry["file"]: dict(entry)}
        text = json.dumps([entries[name] for name in sorted(entries)], indent=1, ensure_ascii=False)
        write_file(to / "MANIFEST.json", f"{text}\n".encode())
