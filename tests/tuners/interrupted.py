"""Trains a tiny model with checkpoints and kills itself after a step: `python -m tests.tuners.interrupted METHOD DIR STEP`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from assay.tuners.methods import find_method
from assay.tuners.training.batches import plan_steps
from assay.tuners.training.method import Trainable
from assay.tuners.training.train import Recipe, Trained, train
from tests.tuners.tiny import tiny_examples, tiny_llama

OPTIONS: dict[str, dict[str, Any]] = {"adalora": {"rank": 2, "first_rank": 4}, "lora": {"rank": 4, "dropout": 0.2}}


def run(method: str, directory: Path | None, kill_at: int = 0) -> tuple[Trainable, Trained]:
    """Twelve steps; with `kill_at` the process dies by SIGKILL after that step."""
    steps = plan_steps(tiny_examples(48), loss_tokens=90, batch=4, seed=0)
    trainable = find_method(method).begin(tiny_llama(), seed=1, steps=len(steps), options=OPTIONS.get(method, {}))

    def report(progress: Any) -> None:
        if progress.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    recipe = Recipe(lr=1e-2, micro=2, checkpoint_every=2, weight_decay=0.1)
    return trainable, train(trainable, steps, recipe, directory=directory, report=report)


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
