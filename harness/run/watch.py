"""Scores each new checkpoint of a running training as it appears, in one engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.model.find import find_model
from assay.harness.run.evaluate import OpenEngine, Watch, evaluate
from assay.harness.run.sweep import Keeper, natural
from assay.harness.store.plan import Plan

Sizes = tuple[tuple[str, int, int], ...]


def sizes(folder: Path) -> Sizes:
    """Name, length and time of every file: what must stand still before a checkpoint counts as written."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        if path.is_file():
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


def ready(folder: Path, before: Sizes | None, place: Surroundings) -> bool:
    """Whether a checkpoint is whole: unchanged since the last look, and its headers fit its files."""
    now = sizes(folder)
    if before is None or now != before:
        return False
    try:
        find_model(str(folder), adapter=None, revision=None, cache=place.cache, offline=True)
    except AssayError:
        return False
    return True


def watch_folder(
    folder: Path,
    plan: Plan,
    place: Surroundings,
    scored: Callable[[Path, Path], None],
    watch: Watch | None = None,
    *,
    pause: float = 5.0,
    until: int | None = None,
    opener: OpenEngine = open_engine,
) -> int:
    """Score each whole checkpoint below `folder` once, oldest name first; `scored(checkpoint, bundle)` hears of each.

    Ends after `until` checkpoints (None: never). Gives the number scored. Raises AssayError for a folder that is not there.
    """
    if not folder.is_dir():
        raise AssayError("no such folder", where=str(folder), do="name the folder that the training writes its checkpoints to")
    keeper, seen, looks = Keeper(opener), set[str](), dict[str, Sizes]()
    try:
        while until is None or len(seen) < until:
            for checkpoint in sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural(path.name)):
                name = checkpoint.name
                if name in seen:
                    continue
                if ready(checkpoint, looks.get(name), place):
                    scored(checkpoint, evaluate(replace(plan, model=str(checkpoint)), place, watch, keeper))
                    seen.add(name)
                    if until is not None and len(seen) >= until:
                        break
                else:
                    looks[name] = sizes(checkpoint)
            else:
                time.sleep(pause)
        return len(seen)
    finally:
        keeper.close()
