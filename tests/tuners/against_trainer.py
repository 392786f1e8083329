"""Speed of the loop against transformers' Trainer on equal batches, in turns: `python -m tests.tuners.against_trainer [MODEL] [ROUNDS]`.

Both train LoRA on the same examples, in an order that alternates; the ratio of each round is of wall time and of processor time, so that a
busy machine does not decide. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from assay.harness.files.places import surroundings
from assay.harness.model.find import find_model
from assay.tuners.methods import find_method
from assay.tuners.study.trial import open_base
from assay.tuners.training.batches import Example, plan_steps
from assay.tuners.training.train import Recipe, train
from tests.tuners.test_train import trainer_run

STEPS, BATCH, RECIPE = 4, 8, Recipe(lr=1e-4, micro=4)


def examples(vocabulary: int) -> list[Example]:
    """Prompts of 20 to 40 ids with an answer of 1 to 3: the shape of short instruction data."""
    shapes = [(20 + 7 * n % 21, 1 + n % 3) for n in range(STEPS * BATCH)]
    return [
        Example(tuple((31 * n + at) % (vocabulary - 9) + 5 for at in range(size + more)), size) for n, (size, more) in enumerate(shapes)
    ]


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def main(name: str = "builtin:smollm2-135m", rounds: int = 3) -> dict[str, Any]:
    place = surroundings()
    path = find_model(name, cache=place.cache, offline=place.offline).path
    vocabulary = int(open_base(path).get_input_embeddings().weight.shape[0])
    flat = examples(vocabulary)
    steps = plan_steps(flat, loss_tokens=sum(example.loss_tokens for example in flat), batch=BATCH, seed=0)
    tokens = sum(len(example.ids) for step in steps for example in step.target)
    found: dict[str, list[tuple[float, float]]] = {"assay": [], "Trainer": []}
    for turn in range(rounds + 1):
        for which in ("assay", "Trainer") if turn % 2 else ("Trainer", "assay"):
            trainable = find_method("lora").begin(open_base(path), seed=0, steps=len(steps))
            with tempfile.TemporaryDirectory() as folder:
                if which == "assay":
                    spent = timed(lambda ready=trainable: train(ready, steps, RECIPE))  # type: ignore[misc]
                else:
                    spent = timed(lambda ready=trainable, at=folder: trainer_run(ready.model, steps, RECIPE, Path(at)))  # type: ignore[misc]
            if turn:  # the first round warms up
                found[which].append(spent)
    ratios = {
        kind: [theirs[at] / ours[at] for ours, theirs in zip(found["assay"], found["Trainer"], strict=True)]
        for at, kind in enumerate(("wall", "processor"))
    }
    return {
        "tokens": tokens,
        "seconds": found,
        "tokens_per_second_ratio": {kind: {"median": statistics.median(values), "rounds": values} for kind, values in ratios.items()},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:2], *map(int, sys.argv[2:3]))) + "\n")
