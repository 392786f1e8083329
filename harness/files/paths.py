"""Path checks that return False for texts that are not valid paths: too long, with a NUL, or without permission."""

from __future__ import annotations

from pathlib import Path


def exists(path: str | Path) -> bool:
    """Whether a file or folder exists at this path."""
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def is_file(path: str | Path) -> bool:
    """Whether a file exists at this path."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
