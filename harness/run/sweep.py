"""Run several plans in one process (checkpoints, shot counts, protocols) with one engine that swaps weights."""

from __future__ import annotations

import glob
import hashlib
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
from assay.harness.model.served import is_address
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, check_opener, evaluate
from assay.harness.store.plan import Plan

IRRELEVANT = ("_name_or_path", "transformers_version")
"""Fields of config.json and generation_config.json that decide no answer."""
WEIGHTS = (".safetensors", ".safetensors.index.json")


class SharedEngine:
    """An engine whose `close` does nothing: its owner closes it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def close(self) -> None: ...


class EngineReuse:
    """Opens an engine once and swaps weights for every further model that differs in nothing else.

    Another architecture, tokenizer, chat template, generation config, other settings or an adapter get a new engine, and so does a model
    whose weights the open engine refuses. Use as the `opener` of `evaluate`, and close at the end.
    """

    def __init__(self, opener: OpenEngine = open_engine) -> None:
        self.opener = opener
        self.engine: Engine | None = None
        self.opened_with: tuple[Any, ...] = ()
        self.digest = ""
        self.swaps = 0

    def __call__(self, name: str, model: ModelRef, settings: Settings) -> Engine:
        wanted = (name, settings, all_but_weights(model))
        fits = self.engine is not None and self.opened_with == wanted and model.adapter is None and model.server is None
        if self.engine is None or not fits or (self.digest != model.digest and not self.swapped(self.engine, model)):
            self.close()
            self.engine = self.opener(name, model, settings)
            self.opened_with = wanted if model.adapter is None else ()
        self.digest = model.digest
        return SharedEngine(self.engine)

    def swapped(self, engine: Engine, model: ModelRef) -> bool:
        """Whether the engine took the weights; it may hold parts of them where it did not."""
        try:
            engine.swap(model.path)
        except AssayError:
            return False
        self.swaps += 1
        return True

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
            self.engine = None


def all_but_weights(model: ModelRef) -> str:
    """Everything but the weights that decides an answer: configuration, generation config, tokenizer and chat template, as JSON."""
    if model.server is not None:
        return model.digest
    checkpoint = checkpoint_of(model)
    configs = [
        {key: value for key, value in config.items() if key not in IRRELEVANT}
        for config in (checkpoint.config, checkpoint.generation_config)
    ]
    files = {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in checkpoint.files.items()
        if not name.endswith(WEIGHTS) and name not in ("config.json", "generation_config.json")
    }
    return json.dumps([*configs, files], sort_keys=True)


def expand_models(text: str) -> tuple[str, ...]:
    """`a,b`, or a pattern such as runs/step-* in natural order (step-9 before step-10). Raises AssayError for no match."""
    names: list[str] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        if glob.has_magic(part) and not is_address(part):
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
    """Run all plans, with one engine for models that differ in their weights alone; returns the bundles in order."""
    for plan in plans:
        check_opener(plan, opener)
    engines = EngineReuse(opener)
    try:
        return [evaluate(plan, place, progress, engines) for plan in plans]
    finally:
        engines.close()
