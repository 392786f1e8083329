"""Score each new checkpoint of a running training as it appears, with one engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.model.find import find_model
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.run.sweep import EngineReuse, natural
from assay.harness.store.plan import Plan

Sizes = tuple[tuple[str, int, int], ...]


def sizes(folder: Path) -> Sizes:
    """Path, size and modification time of every file; a checkpoint is written when these no longer change."""
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
    """Whether a checkpoint is complete: unchanged since the last check, and readable as a model."""
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
    progress: RunProgress | None = None,
    *,
    pause: float = 5.0,
    until: int | None = None,
    opener: OpenEngine = open_engine,
) -> int:
    """Score each complete checkpoint in `folder` once, in natural order of names, and call `scored(checkpoint, bundle)` after each.

    Checks the folder every `pause` seconds; ends after `until` checkpoints (None: never). Returns the number scored. Raises AssayError
    where the folder does not exist.
    """
    if not folder.is_dir():
        raise AssayError("no such folder", where=str(folder), do="name the folder that the training writes its checkpoints to")
    engines, done, earlier = EngineReuse(opener), set[str](), dict[str, Sizes]()
    try:
        while until is None or len(done) < until:
            for checkpoint in sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural(path.name)):
                name = checkpoint.name
                if name in done:
                    continue
                if ready(checkpoint, earlier.get(name), place):
                    scored(checkpoint, evaluate(replace(plan, model=str(checkpoint)), place, progress, engines))
                    done.add(name)
                    if until is not None and len(done) >= until:
                        break
                else:
                    earlier[name] = sizes(checkpoint)
            else:
                time.sleep(pause)
        return len(done)
    finally:
        engines.close()
