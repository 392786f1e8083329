"""Asks the file system about texts that may be no paths at all: too long, with a NUL, behind a closed door."""

from __future__ import annotations

from pathlib import Path


def is_there(path: str | Path) -> bool:
    """Whether a file or folder of that name can be seen."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """Whether a file of that name can be seen."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
