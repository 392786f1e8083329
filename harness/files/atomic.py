"""Atomic file writing (write to a temporary file, fsync, rename) and strict JSON."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.safe_open import read_regular

JSON_BYTES = 1 << 30
"""Maximum size of a JSON file in bytes."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, in one write() call where the kernel accepts it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: bytes) -> str:
    """Write a file atomically, durable across a power loss, and return its SHA-256. The caller must exclude other writers of `path`."""
    part = path.with_name(f".{path.name}.part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    part.replace(path)
    sync_folder(path.parent)
    return hashlib.sha256(data).hexdigest()


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that new and renamed files in it survive a power loss."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_error(error: OSError, bundle: Path) -> Incomplete:
    """Return the error for a run whose files could not be written, with the command that resumes it."""
    reason = error.strerror or str(error)
    fix = "free disk space" if error.errno in DISK_FULL else "make the folder writable"
    return Incomplete(f"cannot write: {reason}; finished items are kept", where=str(bundle), do=f"{fix}, then: assay resume {bundle.name}")


def nonfinite(value: Any, path: str = "") -> str | None:
    """Return the path of the first NaN or infinity in nested JSON data, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path or "."
    if isinstance(value, Mapping):
        pairs = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(f"{path}[{at}]", inner) for at, inner in enumerate(value)]
    else:
        return None
    return next((found for name, inner in pairs if (found := nonfinite(inner, name))), None)


def to_json(value: Any, where: str, indent: int | None = None) -> bytes:
    """Return strict JSON: no NaN, no infinity, ASCII only. Raises AssayError naming what cannot be written."""
    try:
        text = json.dumps(value, allow_nan=False, indent=indent, separators=None if indent else (",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and (found := nonfinite(value)):
            raise AssayError(f"{found} is not a finite number", where=where, do="fix the code that computes it") from None
        raise AssayError(
            f"cannot be written as JSON: {error}", where=where, do="use only strings, finite numbers, booleans, None, lists and dicts"
        ) from None
    return text.encode()


def read_json(path: Path, follow: bool = True) -> dict[str, Any]:
    """Read one JSON object from a regular file; `follow` also allows a symbolic link to one. Raises AssayError for anything else."""
    try:
        value = json.loads(read_regular(path, JSON_BYTES, follow))
    except FileNotFoundError:
        raise AssayError("no such file", where=str(path), do="check the path; assay store ls lists the runs") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AssayError(f"cannot be read as JSON: {error}", where=str(path), do="restore the run from a copy") from None
    if not isinstance(value, dict):
        raise AssayError("does not contain one JSON object", where=str(path), do="restore the run from a copy")
    return value
