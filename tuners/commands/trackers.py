"""Sends the steps and the result of every trial to an experiment tracker, through accelerate's own trackers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.study.design import trial_key
from assay.tuners.study.workers import TrialEvent

TRACKERS = ("tensorboard", "trackio", "wandb")
RESULTS = ("validation_loss", "gain", "average_drop", "kl_text", "kl_target", "kl_base", "delta_bits_per_byte", "final_loss", "peak_memory")


def check_tracker(name: str) -> None:
    """Raises AssayError for a tracker that is unknown or not installed."""
    if name not in TRACKERS:
        raise AssayError(f"no tracker {name!r}", where="--log-to", do=f"use {', '.join(TRACKERS)}")
    if find_spec(name) is None:
        raise AssayError(f"{name} is not installed", where="--log-to", do=f"pip install {name}")


class TrackedTrials:
    """Passes events of trials on to `then`, and logs them: one run of the tracker per trial, with its settings, the loss and learning rate
    of every step, and at its end gain and forgetting. TensorBoard's files lie in `folder`; the others use their own settings."""

    def __init__(self, name: str, project: str, folder: Path, then: Callable[[TrialEvent], None]) -> None:
        check_tracker(name)
        self.name, self.project, self.folder, self.then = name, project, folder, then
        self.open: Any = None

    def __call__(self, now: TrialEvent) -> None:
        self.then(now)
        if now.progress is None:
            self.close()
            self.open = self.begin(now) if now.trial.lr else None
        elif self.open is not None and now.row is None:
            at = now.progress
            self.open.log({"loss": at.loss, "learning_rate": at.lr, "tokens_per_second": at.tokens_per_second}, step=at.step)
        elif self.open is not None and now.row is not None:
            self.open.log({name: value for name in RESULTS if isinstance(value := now.row.get(name), int | float)}, step=now.progress.steps)
            self.close()

    def begin(self, now: TrialEvent) -> Any:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers ask it which process writes
        key = trial_key(now.trial)
        kind = LOGGER_TYPE_TO_CLASS[self.name]
        found = kind(key, logging_dir=str(self.folder)) if kind.requires_logging_directory else kind(self.project, name=key)
        found.start()
        found.store_init_configuration(
            {name: str(value) if isinstance(value, tuple) else value for name, value in asdict(now.trial).items()}
        )
        return found

    def close(self) -> None:
        if self.open is not None:
            self.open.finish()
            self.open = None
