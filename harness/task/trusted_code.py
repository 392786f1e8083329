"""Which code a person named on this machine: all that a stored run may load beside installed plugins.

A manifest may come from a stranger, together with a file that it names. So what a person names (in a command or in Python) is
remembered, each file with its content, and what only a manifest names is refused.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from assay.harness.errors import AssayError
from assay.harness.files.places import Access

LIST = "named_code.txt"
"""In the cache: a line for each file, its SHA-256 and its place."""
NAMED: set[str] = set()
"""The same of this process, also where no cache can be written."""

Gate = Callable[[str, Path, bytes], None]
"""Hears of a name, and of the file with its content, before any of it is run; raises AssayError where it must not be."""


def mark(path: Path, content: bytes) -> str:
    """Place and content: the same file with other files beside it may be another program."""
    return f"{hashlib.sha256(content).hexdigest()}  {str(path.resolve())!r}"


def remembering(access: Access) -> Gate:
    """For names that a person gave: all are remembered."""

    def remember(name: str, path: Path, content: bytes) -> None:
        line = mark(path, content)
        if access.cache is not None and line not in listed(access.cache):
            with suppress(OSError):
                access.cache.mkdir(parents=True, exist_ok=True)
                with (access.cache / LIST).open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        NAMED.add(line)

    return remember


def refusing(access: Access) -> Gate:
    """For names from a manifest: only what a person named, as it was then."""

    def refuse(name: str, path: Path, content: bytes) -> None:
        line = mark(path, content)
        if line in NAMED or (access.cache is not None and line in listed(access.cache)):
            return
        what = "the run names a task file that nobody named here, or that has changed since: its code is not run"
        raise AssayError(what, where=str(path), do=f"read it, then: assay check {shlex.quote(name)}")

    return refuse


def listed(cache: Path) -> frozenset[str]:
    try:
        return frozenset((cache / LIST).read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError:
        return frozenset()
