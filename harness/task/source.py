"""Where a task's rows come from: files beside the task, rows in Python, or a generator. (The hub and its mirror: `hub.py`.)

Only data formats are read (Parquet, JSON lines, CSV); no dataset script ever runs. Every split carries the SHA-256 of what was read.
"""

from __future__ import annotations

import csv as csv_format
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from assay.harness.errors import AssayError, Missing
from assay.harness.files.parquet import read_rows as read_parquet_rows
from assay.harness.files.places import Access
from assay.harness.task.doc import Row


@dataclass(frozen=True, slots=True)
class Rows:
    """One split as read: its rows, where they came from, the hash of their content, and whether the split is whole."""

    rows: tuple[Row, ...]
    origin: str
    digest: str
    complete: bool = True


class Source(Protocol):
    """Rows by split."""

    def splits(self, access: Access) -> tuple[str, ...]:
        """Names of the splits that can be read now, in the source's order."""

    def load(self, split: str, access: Access) -> Rows:
        """All rows of a split. Raises AssayError naming the file or data set that is missing, empty, partial or corrupt."""

    def at(self, home: Path) -> Source:
        """The same source with relative paths resolved against a folder (that of the task's file)."""


def digest_rows(rows: Iterable[Row]) -> str:
    """Hash of rows as canonical JSON, independent of the file format they came in. Raises AssayError for rows that have no such form."""
    state = hashlib.sha256()
    for number, row in enumerate(rows):
        try:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError) as error:
            raise AssayError(
                f"has no JSON form: {error}", where=f"row {number}", do="a row is a mapping from texts to JSON values"
            ) from None
        state.update(line.encode("utf-8", "surrogatepass"))
        state.update(b"\n")
    return state.hexdigest()[:24]


def read_jsonl(path: Path) -> list[Row]:
    rows: list[Row] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise AssayError(f"not JSON: {error}", where=f"{path}:{number}", do="each line must be one JSON object") from None
        if not isinstance(row, dict):
            raise AssayError("is no JSON object", where=f"{path}:{number}", do="each line must be one JSON object")
        rows.append(row)
    return rows


def read_csv(path: Path) -> list[Row]:
    rows: list[Row] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv_format.DictReader(file)
        try:
            for row in reader:
                if None in row or None in row.values():
                    count = len(row) - (None in row)
                    what = f"has {'more' if None in row else 'fewer'} than the header's {count} fields"
                    raise AssayError(what, where=f"{path}:{reader.line_num}", do="quote texts that hold commas")
                rows.append(row)
        except csv_format.Error as error:
            raise AssayError(
                f"not CSV: {error}", where=f"{path}:{reader.line_num}", do="write the file as CSV with a header line"
            ) from None
    return rows


def read_parquet(path: Path) -> list[Row]:
    return [*read_parquet_rows(path, str(path))]


READERS: Mapping[str, Callable[[Path], list[Row]]] = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}


def read_file(path: Path) -> list[Row]:
    """All rows of a data file, by its suffix. Raises AssayError for another format and for whatever is wrong with the file."""
    if path.suffix not in READERS:
        raise AssayError(f"unknown data format {path.suffix!r}", where=str(path), do=f"use one of {', '.join(READERS)}")
    try:
        return READERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise AssayError(f"not UTF-8: {error}", where=str(path), do="save the file as UTF-8") from None
    except OSError as error:
        raise AssayError(f"cannot be read: {error.strerror or error}", where=str(path), do="check the path and its permissions") from None


@dataclass(frozen=True, slots=True)
class Files:
    """Files beside the task; `{split}` in the pattern stands for the split's name. Without it there is one split, "test"."""

    pattern: str

    def at(self, home: Path) -> Files:
        return replace(self, pattern=str(home / self.pattern))

    def splits(self, access: Access) -> tuple[str, ...]:
        if "{split}" not in self.pattern:
            return ("test",) if Path(self.pattern).is_file() else ()
        before, after = Path(self.pattern).name.split("{split}", 1)
        folder = Path(self.pattern).parent
        found = sorted(path.name for path in folder.glob(f"{before}*{after}")) if folder.is_dir() else []
        return tuple(name[len(before) : len(name) - len(after)] for name in found)

    def load(self, split: str, access: Access) -> Rows:
        path = Path(self.pattern.replace("{split}", str(split)))
        if not path.is_file():
            known = ", ".join(self.splits(access)) or "none"
            raise Missing(f"no split {split!r} (there is: {known})", where=str(path), do="check the file name in the task's rows")
        rows = read_file(path)
        return Rows(tuple(rows), str(path), digest_rows(rows))


@dataclass(frozen=True, slots=True)
class Inline:
    """Rows written in the task itself."""

    by_split: Mapping[str, tuple[Row, ...]]

    def at(self, home: Path) -> Inline:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return tuple(self.by_split)

    def load(self, split: str, access: Access) -> Rows:
        if split not in self.by_split:
            raise Missing(f"no split {split!r} (there is: {', '.join(map(str, self.by_split))})", do="choose another split")
        rows = tuple(self.by_split[split])
        return Rows(rows, "inline", digest_rows(rows))


@dataclass(frozen=True, slots=True)
class Made:
    """Rows made by a function of the split's name; it must give the same rows every time."""

    make: Callable[[str], Iterable[Row]]
    names: tuple[str, ...] = ("train", "test")

    def at(self, home: Path) -> Made:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return self.names

    def load(self, split: str, access: Access) -> Rows:
        if split not in self.names:
            raise Missing(f"no split {split!r} (there is: {', '.join(self.names)})", do="choose another split")
        rows = tuple(self.make(split))
        return Rows(rows, "made", digest_rows(rows))


def jsonl(pattern: str) -> Files:
    """JSON lines, one object a row; `{split}` in the name stands for the split. Relative to the task's file."""
    return Files(pattern)


def csv(pattern: str) -> Files:
    """CSV with a header line, all values strings; `{split}` in the name stands for the split. Relative to the task's file."""
    return Files(pattern)


def parquet(pattern: str) -> Files:
    """Parquet files; `{split}` in the name stands for the split. Relative to the task's file."""
    return Files(pattern)


def inline(**by_split: Iterable[Row]) -> Inline:
    """Rows given in Python, by split: `inline(test=[...], train=[...])`."""
    return Inline({name: tuple(rows) for name, rows in by_split.items()})


def made(make: Callable[[str], Iterable[Row]], *names: str) -> Made:
    """Rows from a deterministic generator function of the split's name."""
    return Made(make, names or ("train", "test"))
