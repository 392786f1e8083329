"""Run several plans in one process (checkpoints, shot counts, protocols) with one engine that swaps weights."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.harness.engines import Engine, Settings
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef, checkpoint_of
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.store.plan import Plan

VARYING_FIELDS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures_version")
"""Fields of config.json that may differ between checkpoints of one training."""


class SharedEngine:
    """An engine whose `close` does nothing: its owner closes it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def close(self) -> None: ...


class EngineReuse:
    """Opens an engine once and swaps weights for every further model of the same architecture.

    Another architecture, other settings or an adapter get a new engine. Use as the `opener` of `evaluate`, and close at the end.
    """

    def __init__(self, opener: OpenEngine = open_engine) -> None:
        self.opener = opener
        self.engine: Engine | None = None
        self.opened_with: tuple[Any, ...] = ()
        self.digest = ""
        self.swaps = 0

    def __call__(self, name: str, model: ModelRef, settings: Settings) -> Engine:
        wanted = (name, settings, architecture(model))
        if self.engine is None or self.opened_with != wanted or model.adapter is not None:
            self.close()
            self.engine = self.opener(name, model, settings)
            self.opened_with = wanted if model.adapter is None else ()
        elif self.digest != model.digest:
            self.engine.swap(model.path)
            self.swaps += 1
        self.digest = model.digest
        return SharedEngine(self.engine)

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def architecture(model: ModelRef) -> str:
    """The configuration that must be equal for an engine to take another checkpoint's weights, as JSON."""
    return json.dumps({key: value for key, value in checkpoint_of(model).config.items() if key not in VARYING_FIELDS}, sort_keys=True)


def expand_models(text: str) -> tuple[str, ...]:
    """`a,b`, or a pattern such as runs/step-* in natural order (step-9 before step-10). Raises AssayError for no match."""
    names: list[str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        if glob.has_magic(part):
            found = sorted(
                (
                    path
                    for path in glob.glob(part)  # noqa: PTH207 (absolute patterns too)
                    if Path(path).is_dir()
                ),
                key=natural,
            )
            if not found:
                raise AssayError(f"no folder matches {part!r}", do="check the pattern")
            names += found
        else:
            names.append(part)
    return tuple(dict.fromkeys(names))


def natural(name: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key that compares numbers in names as numbers."""
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part)


def under_protocols(tasks: Sequence[str], protocols: Sequence[str]) -> list[tuple[str, ...]]:
    """The same tasks under each protocol: glue/rte becomes glue/rte@lm-eval, then glue/rte@helm."""
    return [tuple(f"{task.partition('@')[0]}@{protocol}" for task in tasks) for protocol in protocols] if protocols else [tuple(tasks)]


def plans_of(
    plan: Plan, models: Sequence[str], shots: Sequence[int | None], protocols: Sequence[str], adapters: Sequence[str] = ()
) -> list[Plan]:
    """Every combination, checkpoints innermost, so that one engine scores all of them. Each adapter gets an engine of its own."""
    return [
        replace(plan, model=model, adapter=adapter, tasks=tasks, shots=count)
        for adapter in adapters or (plan.adapter,)
        for tasks in under_protocols(plan.tasks, protocols)
        for count in shots
        for model in models
    ]


def sweep(plans: Sequence[Plan], place: Surroundings, progress: RunProgress | None = None, opener: OpenEngine = open_engine) -> list[Path]:
    """Run all plans, with one engine per architecture; returns the bundles in order."""
    engines = EngineReuse(opener)
    try:
        return [evaluate(plan, place, progress, engines) for plan in plans]
    finally:
        engines.close()
