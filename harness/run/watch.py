"""Score each new checkpoint of a running training as it appears, with one engine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError, Missing
from assay.harness.files.places import Surroundings
from assay.harness.model.find import find_model
from assay.harness.run.dispatch import NoProgress, RunProgress
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.run.selection import select_planned
from assay.harness.run.sweep import EngineReuse, natural
from assay.harness.store.plan import Plan

Sizes = tuple[tuple[str, int, int], ...]
STAGING = re.compile(r"^[._]|^tmp-|[.-](tmp|temp|partial|incomplete)(-\d+)?$")
"""Names of folders that a trainer writes into before it renames them, such as tmp-checkpoint-500."""
SHARDS = {
    "*.distcp": "sharded weights of FSDP. Merge them: accelerate merge-weights SHARDS OUTPUT",
    "*_model_states.pt": "sharded weights of DeepSpeed. Merge them: python zero_to_fp32.py . OUTPUT --safe_serialization",
}
"""Files of checkpoints that hold no whole model, and what to do."""
SETTLED, OLD = 12, 60.0
"""A folder that cannot be scored is reported when it has not changed for this many checks or seconds: trainers pause between files."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Called for each checkpoint: `scored` with its run's bundle, or `skipped`, once, with the reason why it cannot be scored."""

    scored: Callable[[Path, Path], None]
    skipped: Callable[[Path, str], None] = lambda checkpoint, reason: None


def sizes(folder: Path) -> Sizes:
    """Path, size and modification time of every file; a checkpoint is written when these no longer change. Empty for a deleted folder."""
    found = []
    try:
        for path in sorted(folder.rglob("*")):
            status = path.stat()
            if path.is_file():
                found.append((str(path), status.st_size, status.st_mtime_ns))
    except FileNotFoundError:  # deleted meanwhile, or renamed
        return ()
    return tuple(found)


def is_adapter(checkpoint: Path) -> bool:
    """Whether a checkpoint holds an adapter instead of a whole model."""
    return (checkpoint / "adapter_config.json").is_file() and not any(checkpoint.glob("model*.safetensors"))


def why_not(checkpoint: Path, base: str, place: Surroundings) -> str:
    """Why this checkpoint cannot be scored, with a fix; empty if it can."""
    for pattern, reason in SHARDS.items():
        if not (checkpoint / "config.json").is_file() and next(checkpoint.rglob(pattern), None) is not None:
            return reason
    adapter = is_adapter(checkpoint)
    if adapter and not base:
        return "an adapter; name its base model: assay watch --base MODEL"
    try:
        find_model(base if adapter else str(checkpoint), adapter=checkpoint if adapter else None, cache=place.cache, offline=place.offline)
    except AssayError as error:
        return str(error)
    return ""


@dataclass(slots=True)  # house: what was seen of the folder so far
class Watcher:
    """Scores the checkpoints of one folder."""

    plan: Plan
    place: Surroundings
    listener: Listener
    progress: RunProgress
    engines: EngineReuse
    done: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    failed: dict[str, Sizes] = field(default_factory=dict)
    """Files of a checkpoint that failed; it is tried again only if they change."""
    seen: dict[str, tuple[Sizes, int]] = field(default_factory=dict)
    """Files of a folder, and for how many checks in a row they have not changed."""

    def visit(self, checkpoint: Path) -> bool:
        """Look at one folder; whether it was scored now."""
        name, now = checkpoint.name, sizes(checkpoint)
        if name in self.done or STAGING.search(name) or not now or self.failed.get(name) == now:
            return False
        before, checks = self.seen.get(name, ((), 0))
        self.seen[name] = now, checks + 1 if now == before else 0
        if now != before:
            return False
        if reason := why_not(checkpoint, self.plan.model, self.place):
            if checks + 1 >= SETTLED or time.time() - max(changed for _, _, changed in now) / 1e9 > OLD:
                self.skip(checkpoint, reason)
            return False
        adapter = is_adapter(checkpoint)
        plan = replace(self.plan, adapter=str(checkpoint)) if adapter else replace(self.plan, model=str(checkpoint))
        try:
            bundle = evaluate(plan, self.place, self.progress, self.engines)
        except Missing:
            raise  # the task's data are missing: no checkpoint can be scored
        except (AssayError, OSError) as error:
            if interrupted(error):
                raise
            self.failed[name] = now
            self.skip(checkpoint, str(error) if checkpoint.is_dir() else "deleted while it was scored")
            return False
        self.done.add(name)
        self.listener.scored(checkpoint, bundle)
        return True

    def skip(self, checkpoint: Path, reason: str) -> None:
        if checkpoint.name not in self.reported:
            self.reported.add(checkpoint.name)
            self.listener.skipped(checkpoint, reason)


def interrupted(error: BaseException) -> bool:
    """Whether a run ended because the user or the system ended this process."""
    return str(getattr(error, "what", "")) in ("interrupted", "terminated")


def watch_folder(
    folder: Path,
    plan: Plan,
    place: Surroundings,
    listener: Listener,
    progress: RunProgress | None = None,
    *,
    pause: float = 5.0,
    until: int | None = None,
    opener: OpenEngine = open_engine,
) -> int:
    """Score each complete checkpoint in `folder` once, in natural order of names. Returns the number scored.

    Checkpoints that are adapters are scored on the plan's model, their base; it may be empty. Folders that a trainer has not renamed yet
    and deleted ones are skipped without a report. Checks the folder every `pause` seconds; ends after `until` scored checkpoints (None:
    never). Raises AssayError where the folder, a task or the base does not exist.
    """
    if not folder.is_dir():
        raise AssayError("no such folder", where=str(folder), do="name the folder that the training writes its checkpoints to")
    select_planned(plan, place.access(plan.allow_partial))
    if plan.model:
        find_model(plan.model, cache=place.cache, offline=place.offline)
    watcher = Watcher(plan, place, listener, progress or NoProgress(), EngineReuse(opener))
    try:
        while until is None or len(watcher.done) < until:
            folders = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: natural(path.name))
            for checkpoint in folders:
                if watcher.visit(checkpoint) and until is not None and len(watcher.done) >= until:
                    break
            else:
                time.sleep(pause)
        return len(watcher.done)
    finally:
        watcher.engines.close()
