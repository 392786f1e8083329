"""Whole files or none: written beside, synced, renamed."""

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
"""The most that a JSON file may have."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_all(fd: int, data: bytes) -> None:
    """All of `data`, in one write() wherever the kernel takes it whole."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_file(path: Path, data: bytes) -> str:
    """Writes a whole file or none, also across a power loss; returns its SHA-256. Two writers of one path must exclude each other."""
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
    """Makes renames and new names in a folder last."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def interrupted(error: OSError, bundle: Path) -> Incomplete:
    """The error of a run that could not write: what the system said, and how to go on."""
    reason = error.strerror or str(error)
    cure = "free some space" if error.errno in FULL else "make the folder writable"
    return Incomplete(f"cannot write: {reason}; finished items are kept", where=str(bundle), do=f"{cure}, then: assay resume {bundle.name}")


def nonfinite(value: Any, path: str = "") -> str | None:
    """Where in nested JSON data the first NaN or infinity stands, or None."""
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
    """Strict JSON (no NaN, no infinity, ASCII only). Raises AssayError naming the field that has no JSON form."""
    try:
        text = json.dumps(value, allow_nan=False, indent=indent, separators=None if indent else (",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and (found := nonfinite(value)):
            raise AssayError(f"{found} is not a finite number", where=where, do="mend what gave this number") from None
        raise AssayError(f"has no JSON form: {error}", where=where, do="keep to texts, finite numbers, lists and mappings") from None
    return text.encode()


def read_json(path: Path, follow: bool = True) -> dict[str, Any]:
    """One JSON object from a file, or a link to one unless told not to `follow`. Raises AssayError where it is anything else."""
    try:
        value = json.loads(read_regular(path, JSON_BYTES, follow))
    except FileNotFoundError:
        raise AssayError("there is no such file", where=str(path), do="is this a run's folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise AssayError(f"cannot be read as JSON: {error}", where=str(path), do="restore the run from a copy") from None
    if not isinstance(value, dict):
        raise AssayError("must hold one JSON object", where=str(path), do="restore the run from a copy")
    return value
