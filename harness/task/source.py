"""Sources of a task's rows: files beside the task, rows in Python, or a generator function. (The hub and its mirror: `hub.py`.)

Only data formats are read (Parquet, JSON lines, CSV); dataset scripts never run. Every split carries a hash of its rows.
"""

from __future__ import annotations

import csv as csv_format
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from assay.harness.errors import AssayError, Missing
from assay.harness.files.parquet import read_rows as read_parquet_rows
from assay.harness.files.places import Access
from assay.harness.task.doc import Row


@dataclass(frozen=True, slots=True)
class Rows:
    """One split: its rows, their origin, the hash of their content, and whether the split is complete."""

    rows: tuple[Row, ...]
    origin: str
    digest: str
    complete: bool = True


class Source(Protocol):
    """A source of rows by split."""

    def splits(self, access: Access) -> tuple[str, ...]:
        """Return the names of the splits that can be read, in the source's order."""

    def load(self, split: str, access: Access) -> Rows:
        """Return all rows of a split. Raises AssayError naming the file or data set if it is missing, empty, partial or corrupt."""

    def at(self, home: Path) -> Source:
        """Return the same source with relative paths resolved against `home`, the folder of the task's file."""


@runtime_checkable
class PromptSource(Source, Protocol):
    """A source whose rows hold finished prompts: it draws few-shot examples and builds chats itself (see prompt/finished.py)."""

    shots: int
    """The number of few-shot examples in its prompts."""

    def under(self, shots: int | None, seed: int, chat: bool, system: str, one_turn: bool) -> PromptSource:
        """Return the same source with the prompts of a plan with these settings. `shots` None: as many as the task sets."""

    def facts(self) -> dict[str, Any]:
        """Return what the manifest keeps of the source, from which `from_facts` of its module makes the task again."""


def digest_rows(rows: Iterable[Row]) -> str:
    """Hash rows as canonical JSON, independent of the file format. Raises AssayError for a row that cannot be written as JSON."""
    state = hashlib.sha256()
    for number, row in enumerate(rows):
        try:
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, default=str)
        except (TypeError, ValueError, RecursionError) as error:
            raise AssayError(
                f"cannot be written as JSON: {error}", where=f"row {number}", do="give each row as a dict from strings to JSON values"
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
            raise AssayError(f"not JSON: {error}", where=f"{path}:{number}", do="write one JSON object per line") from None
        if not isinstance(row, dict):
            raise AssayError("not a JSON object", where=f"{path}:{number}", do="write one JSON object per line")
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
                    raise AssayError(what, where=f"{path}:{reader.line_num}", do="quote texts that contain commas")
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
    """Read all rows of a data file, by its suffix. Raises AssayError for an unknown format or an invalid file."""
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
    """Files beside the task; `{split}` in the pattern is replaced by the split's name. Without it there is one split, "test"."""

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
            raise Missing(f"no split {split!r} (there is: {known})", where=str(path), do="fix the file name in the task's rows")
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
class Generated:
    """Rows from a function of the split's name, which must return the same rows every time."""

    make: Callable[[str], Iterable[Row]]
    names: tuple[str, ...] = ("train", "test")

    def at(self, home: Path) -> Generated:
        return self

    def splits(self, access: Access) -> tuple[str, ...]:
        return self.names

    def load(self, split: str, access: Access) -> Rows:
        if split not in self.names:
            raise Missing(f"no split {split!r} (there is: {', '.join(self.names)})", do="choose another split")
        rows = tuple(self.make(split))
        return Rows(rows, "made", digest_rows(rows))


def jsonl(pattern: str) -> Files:
    """Return a source of JSON lines, one object per row; `{split}` in the name is replaced by the split. Relative to the task's file."""
    return Files(pattern)


def csv(pattern: str) -> Files:
    """Return a source of CSV with a header line, all values strings; `{split}` is replaced by the split. Relative to the task's file."""
    return Files(pattern)


def parquet(pattern: str) -> Files:
    """Return a source of Parquet files; `{split}` in the name is replaced by the split. Relative to the task's file."""
    return Files(pattern)


def inline(**by_split: Iterable[Row]) -> Inline:
    """Return a source of rows given in Python, by split: `inline(test=[...], train=[...])`."""
    return Inline({name: tuple(rows) for name, rows in by_split.items()})


def made(make: Callable[[str], Iterable[Row]], *names: str) -> Generated:
    """Return a source of rows from a deterministic function of the split's name."""
    return Generated(make, names or ("train", "test"))
