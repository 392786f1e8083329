"""The names of lm-eval's tasks, groups and tags, from an index in assay's cache: reading its 14,000 YAML files takes many seconds.

The index is of one version of lm-eval, or of one folder of a user in one state; it is made when it is first needed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from assay import Access, AssayError

INSTALL = "pip install 'assay[lm-eval]'"
OWN = "index-{}.json"
"""File of the index of one version of lm-eval, in the cache's folder lm-eval."""


@dataclass(frozen=True, slots=True)
class Name:
    """A task, group or tag. `file` is its YAML file; a tag has none, and the `members` that carry it."""

    name: str
    kind: str
    file: str = ""
    members: tuple[str, ...] = ()


def version() -> str:
    """The installed version of lm-eval; empty if there is none."""
    try:
        return metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        return ""


def folder() -> Path | None:
    """The folder of lm-eval's own tasks, found without importing lm-eval; None if it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    return Path(spec.origin).parent / "tasks" if spec is not None and spec.origin else None


def require() -> Path:
    """The folder of lm-eval's own tasks. Raises AssayError if lm-eval is not installed."""
    found = folder()
    if found is None:
        raise AssayError("lm-eval is not installed", where="lm-eval:...", do=INSTALL)
    return found


def own_names(access: Access) -> Mapping[str, Name]:
    """All names of the installed lm-eval. Raises AssayError if it is not installed."""
    return indexed(require(), OWN.format(version()), access)


def is_indexed(access: Access) -> bool:
    """Whether the index of the installed lm-eval is in the cache."""
    return access.cache is not None and (access.cache / "lm-eval" / OWN.format(version())).is_file()


def names_in(home: Path, access: Access) -> Mapping[str, Name]:
    """The names that the YAML files of a user's folder define."""
    state = [(str(path.relative_to(home)), path.stat().st_mtime_ns) for path in sorted(home.rglob("*.yaml"))]
    digest = hashlib.sha256(json.dumps([str(home), state, version()]).encode()).hexdigest()[:16]
    return indexed(home, f"folder-{digest}.json", access)


@functools.lru_cache(maxsize=8)
def indexed(home: Path, file: str, access: Access) -> Mapping[str, Name]:
    """The names in a folder, from the cache or by reading all of its YAML files."""
    path = access.cache / "lm-eval" / file if access.cache is not None else None
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path is not None else None
    except (OSError, ValueError):
        rows = None
    if rows is None:
        rows = read_names(home)
        if path is not None:
            keep(path, rows)
    return {name: Name(name, kind, f"{home}/{yaml}" if yaml else "", tuple(members)) for name, kind, yaml, members in rows}


def read_names(home: Path) -> list[list[Any]]:
    """(name, kind, file, members) of everything that the YAML files of a folder define, as lm-eval reads them."""
    require()
    from lm_eval.tasks import TaskManager

    entries = TaskManager(include_defaults=False, include_path=str(home)).task_index.values()
    rows = []
    for entry in entries:
        kind = entry.kind.name.lower().replace("py_task", "task")
        yaml = os.path.relpath(entry.yaml_path, home) if entry.yaml_path else ""
        rows.append([entry.name, kind, yaml, sorted(entry.tags) if kind == "tag" else []])
    return sorted(rows)


def keep(path: Path, rows: list[list[Any]]) -> None:
    """Write an index, atomically; a cache that cannot be written is left alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump(rows, file)
        Path(file.name).replace(path)
    except OSError:
        return
