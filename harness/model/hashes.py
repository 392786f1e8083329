"""SHA-256 of files. Hashes of large files are remembered for this user: a checkpoint is read once, not twice in every run."""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

LARGE = 1 << 24
"""Size in bytes from which a hash is remembered; smaller files are hashed in milliseconds."""
SETTLED = 2_000_000_000
"""Nanoseconds for which a file must be unchanged before its hash is remembered: a later change then has another time."""
Stamp = tuple[int, int, int, int, int]


def stamp_of(path: Path) -> Stamp:
    """Device, inode, size, and times of the last change of content and of the inode, in ns. No program can set the last one.

    Raises OSError if the file cannot be read.
    """
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits. Raises OSError if the file cannot be read."""
    stamp = stamp_of(path)
    if stamp[2] < LARGE:
        return read_hash(path)
    if known := remembered(stamp):
        return known
    began = time.time_ns()
    found = read_hash(path)
    if max(stamp[3:]) < began - SETTLED and stamp_of(path) == stamp:
        remember(stamp, found)
    return found


def read_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory_of(stamp: Stamp) -> Path:
    """The file that holds the hash of a device's inode, in assay's cache."""
    return cache_folder("hashes") / f"{stamp[0]:x}-{stamp[1]:x}.json"


def remembered(stamp: Stamp) -> str:
    """The remembered hash of an unchanged file; empty if there is none, or if another user could have written it."""
    with suppress(ValueError, TypeError, KeyError):
        content = recall(memory_of(stamp))
        if tuple(content["stamp"]) == stamp and len(bytes.fromhex(content["sha256"])) == hashlib.sha256().digest_size:
            return str(content["sha256"])
    return ""


def remember(stamp: Stamp, found: str) -> None:
    """Store a hash; where the cache cannot be written, nothing is remembered."""
    keep(memory_of(stamp), {"stamp": stamp, "sha256": found})


def cache_folder(name: str) -> Path:
    """A folder of assay's cache."""
    return Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay") / name


def recall(path: Path) -> Any:
    """The JSON value that this user stored in a file of the cache; None if there is none, or if another user could have written it."""
    with suppress(OSError, ValueError):
        for place in (path, path.parent):
            found = place.lstat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return None
        return json.loads(path.read_bytes())
    return None


def keep(path: Path, value: Any) -> None:
    """Store a JSON value for `recall`; nothing where the cache cannot be written."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.touch(mode=0o600)
        part.write_text(json.dumps(value))
        part.replace(path)
