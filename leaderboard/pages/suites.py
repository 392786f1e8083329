"""Suites that a team saved under a name: lists of tasks in `suites.json` of the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from assay.harness.errors import AssayError
from assay.leaderboard.documents.publishing import put

SUITES = "suites.json"
LONGEST, MOST = 60, 200


def saved(root: Path) -> dict[str, tuple[str, ...]]:
    """The tasks of every suite by its name; none if the file is missing or damaged."""
    try:
        found = json.loads((root / SUITES).read_text(encoding="utf-8"))
        return {str(name)[:LONGEST]: tuple(map(str, tasks)) for name, tasks in found.items() if isinstance(tasks, list)}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def save(root: Path, name: str, tasks: Sequence[str]) -> None:
    """Saves a suite, in place of one with the same name. Raises AssayError for an empty or long name, or without tasks."""
    if not name.strip().isprintable() or not 0 < len(name.strip()) <= LONGEST:
        raise AssayError("a suite needs a short printable name", do=f"use up to {LONGEST} characters")
    if not tasks:
        raise AssayError("a suite needs tasks", do="select tasks first")
    suites = {**saved(root), name.strip(): list(tasks)}
    if len(suites) > MOST:
        raise AssayError(f"the store has {MOST} suites", where=str(root / SUITES), do="remove some from this file")
    put(root / SUITES, (json.dumps(suites, indent=1, sort_keys=True) + "\n").encode())
