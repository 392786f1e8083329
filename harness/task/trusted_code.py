"""Task files that a user has trusted on this machine by naming them; a stored run may load only these and installed plugins.

A manifest may be untrusted, and so may a file that it names. So each file that a user names (in a command or in Python) is recorded
with its content, and a file that only a manifest names is refused.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from assay.harness.errors import AssayError
from assay.harness.files.places import Access

LIST_FILE = "named_code.txt"
"""File in the cache with one line per trusted file: its SHA-256 and its path."""
TRUSTED: set[str] = set()
"""Lines recorded by this process, also if the cache cannot be written."""

CodeCheck = Callable[[str, Path, bytes], None]
"""Called with a name, the file and its content before the code runs; raises AssayError if it must not run."""


def entry_of(path: Path, content: bytes) -> str:
    """Return the line for a file. It includes the path, because the same file in another folder may import other code."""
    return f"{hashlib.sha256(content).hexdigest()}  {str(path.resolve())!r}"


def record_trusted(access: Access) -> CodeCheck:
    """Return a check for names that the user gave: it accepts and records every file."""

    def record(name: str, path: Path, content: bytes) -> None:
        line = entry_of(path, content)
        if access.cache is not None and line not in listed_entries(access.cache):
            with suppress(OSError):
                access.cache.mkdir(parents=True, exist_ok=True)
                with (access.cache / LIST_FILE).open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        TRUSTED.add(line)

    return record


def require_trusted(access: Access) -> CodeCheck:
    """Return a check for names from a manifest: it accepts only recorded files with unchanged content."""

    def require(name: str, path: Path, content: bytes) -> None:
        line = entry_of(path, content)
        if line in TRUSTED or (access.cache is not None and line in listed_entries(access.cache)):
            return
        what = "the run uses a task file that is not trusted on this machine, or has changed since it was trusted"
        raise AssayError(what, where=str(path), do=f"read the file, then trust it with: assay check {shlex.quote(name)}")

    return require


def listed_entries(cache: Path) -> frozenset[str]:
    """Return the lines of the list in the cache; empty if it cannot be read."""
    try:
        return frozenset((cache / LIST_FILE).read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return frozenset()
