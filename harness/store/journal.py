"""The append-only journal of finished items: one line `crc32 json` per item, after a header that identifies its manifest.

A line is complete once its newline is written. Text after the last newline was cut off by a kill and is dropped; any other line that
does not match its CRC is corrupt, which is an error.
"""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

from assay.harness.errors import AssayError
from assay.harness.files.atomic import sync_folder, to_json, write_all, write_error
from assay.harness.files.safe_open import open_regular
from assay.harness.store.record import Record, Status

FORMAT = 1
SYNC_SECONDS = 0.5
LINE_BYTES = 1 << 26
"""Maximum size of a line in bytes."""
Key = tuple[str, str]


def without_nonfinite(record: Record) -> Record:
    """Return the record without non-finite numbers: a NaN `logprob` (unknown) becomes null; any other makes it an error record."""
    bad: list[str] = []
    output = _clean(record.output, "output", bad)
    for name, values in record.stats.items():
        bad += [f"{name}[{at}]" for at, value in enumerate(values) if not math.isfinite(value)]
    if record.correct is not None and not math.isfinite(record.correct):
        bad.append("correct")
    if not math.isfinite(record.seconds):
        bad.append("seconds")
        record = replace(record, seconds=0.0)
    if not bad:
        return replace(record, output=output)
    reason = f"nonfinite: {', '.join(bad[:3])}" + (f"; {record.error}" if record.error else "")
    return replace(record, output=output, status="error", stats={}, correct=None, error=reason)


def _clean(value: Any, name: str, bad: list[str]) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        if not (name.endswith(".logprob") and math.isnan(value)):
            bad.append(name)
        return None
    if isinstance(value, Mapping):
        return {str(key): _clean(inner, f"{name}.{key}", bad) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner, name, bad) for inner in value]
    return value


def encode(value: Mapping[str, Any], where: str) -> bytes:
    """Return a journal line: CRC, JSON, newline."""
    payload = to_json(value, where)
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def encode_record(record: Record) -> bytes:
    """Return the journal line of a record. Raises AssayError if the record cannot be written as JSON."""
    return encode({field.name: getattr(record, field.name) for field in fields(record)}, f"{record.task} {record.item}")


def decode(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a line without its newline; None if it does not match its CRC."""
    if line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:]):
        return None
    try:
        value = json.loads(line[9:], parse_constant=float.fromhex)  # raises for NaN and Infinity
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def decode_record(value: Mapping[str, Any]) -> Record:
    """Return the record of a journal line. Raises KeyError, TypeError or ValueError if a field is missing or has the wrong type."""
    if value["status"] not in get_args(Status):
        raise ValueError(f"unknown status {value['status']!r:.40}")
    if not isinstance(value["output"], dict):
        raise TypeError("output must be an object")
    record = Record(
        task=str(value["task"]),
        item=str(value["item"]),
        status=value["status"],
        output=value["output"],
        stats={str(name): tuple(map(float, numbers)) for name, numbers in value["stats"].items()},
        correct=None if value["correct"] is None else float(value["correct"]),
        error=str(value["error"]),
        logical=int(value["logical"]),
        computed=int(value["computed"]),
        cached=int(value["cached"]),
        seconds=float(value["seconds"]),
    )
    numbers = [record.correct or 0.0, record.seconds, *(number for row in record.stats.values() for number in row)]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number is not finite")
    "".join(record.stats).encode()  # raises ValueError for a lone surrogate, which no table can store
    return record


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line numbers from 1 and their objects, without a cut-off last line. Raises AssayError naming the file and the corrupt line."""
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), 1):
            if len(line) == LINE_BYTES:
                raise AssayError(f"line of more than {LINE_BYTES:,} bytes", where=f"{path}:{number}", do="restore the run from a copy")
            whole = line.endswith(b"\n")
            # A cut-off line is a prefix and has no valid CRC. A valid line with another last byte has a damaged newline.
            value = decode(line[:-1])
            if not whole and value is None:
                return
            if not whole or value is None:
                raise AssayError(
                    "corrupt line (its checksum does not match)",
                    where=f"{path}:{number}",
                    do=f"restore the file from a copy, or keep only the {number - 1} lines before it and resume",
                )
            yield number, value


def read_records(path: Path, run: str, manifest: str) -> Iterator[Record]:
    """Yield every record of all attempts in the order of writing; none if there is no journal yet.

    `run` and `manifest` (SHA-256 of manifest.json) must match the header. Raises AssayError if they differ, or for a corrupt line.
    """
    if not path.exists():
        return
    for number, value in read_lines(path):
        where = f"{path}:{number}"
        if number == 1:
            if (value.get("journal"), value.get("run"), value.get("manifest")) != (FORMAT, run, manifest):
                raise AssayError("belongs to another run, or manifest.json was changed", where=where, do="start a new run")
            continue
        try:
            yield decode_record(value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise AssayError(f"not a record: {error!r}", where=where, do="restore the run from a copy") from None


def whole_bytes(path: Path) -> int:
    """Return the size of all complete lines in bytes."""
    if not path.exists():
        return 0
    with open_regular(path) as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


def count_lines(path: Path, most: int) -> int:
    """Count the complete lines of a journal, up to `most`; 0 if it cannot be read."""
    found, since = 0, 0
    try:
        with open_regular(path) as file:
            while found < most and since < LINE_BYTES and (chunk := file.read(1 << 20)):
                lines = chunk.count(b"\n")
                found, since = found + lines, 0 if lines else since + len(chunk)
    except (OSError, AssayError):
        return 0
    return min(found, most)


def final_records(records: Iterable[Record]) -> dict[Key, Record]:
    """Return one record per item: the last without an error, otherwise the last. Tokens and seconds are summed over all attempts."""
    kept: dict[Key, Record] = {}
    for record in records:
        key = (record.task, record.item)
        before = kept.get(key)
        if before is not None:
            worse = record.status == "error" and before.status != "error"
            best = before if worse else record
            computed, cached = before.computed + record.computed, before.cached + record.cached
            record = replace(best, computed=computed, cached=cached, seconds=before.seconds + record.seconds)
        kept[key] = record
    return kept


class Journal:
    """Appends to a journal. The caller holds the run's lock and has read the journal."""

    def __init__(self, path: Path, run: str, manifest: str) -> None:
        self._path = path
        self._header = encode({"journal": FORMAT, "run": run, "manifest": manifest}, str(path))
        self._size = whole_bytes(path)
        self._fd: int | None = None
        self._synced = time.monotonic()
        self._dirty = False

    def append(self, lines: bytes) -> None:
        """Append lines in one write(), synced at most every half second. Raises Incomplete, and keeps no line, if the disk is full."""
        try:
            fd = self._open()
            data = lines if self._size else self._header + lines
            try:
                write_all(fd, data)
            except OSError:
                self._fd = None  # the next append opens and truncates it again if this fails
                try:
                    os.ftruncate(fd, self._size)
                finally:
                    os.close(fd)
                raise
            self._size += len(data)
            self._dirty = True
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                self.sync()
        except OSError as error:
            raise write_error(error, self._path.parent) from None

    def _open(self) -> int:
        if self._fd is None:
            new = not self._path.exists()
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
            os.ftruncate(self._fd, self._size)
            if new:
                sync_folder(self._path.parent)
        return self._fd

    def sync(self) -> None:
        if self._fd is not None and self._dirty:
            os.fsync(self._fd)
            self._dirty = False
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close the journal. Raises Incomplete if it cannot be written."""
        if self._fd is None:
            return
        try:
            self.sync()
        except OSError as error:
            raise write_error(error, self._path.parent) from None
        finally:
            os.close(self._fd)
            self._fd = None
