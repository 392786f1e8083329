"""Short training runs for one or several processes: `python -m torch.distributed.run ... -m tests.tuners.together RUN... FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor

from assay import AssayError
from assay.tuners.methods import find_method
from assay.tuners.training.batches import plan_steps
from assay.tuners.training.loss import kl_to_base
from assay.tuners.training.method import Trainable
from assay.tuners.training.mitigation import parse_mitigation, training_extras
from assay.tuners.training.train import Recipe, train
from tests.tuners.tiny import digest_tensors, tiny_examples, tiny_llama

OPTIONS: dict[str, dict[str, Any]] = {"adalora": {"rank": 2, "first_rank": 4}, "lora": {"rank": 4}, "pissa": {"rank": 4}}
STEPS = plan_steps(tiny_examples(40), loss_tokens=55, batch=4, seed=0, replay=tiny_examples(8, seed=2), ratio=0.5)


class Broken(Exception):
    """Interrupts a run."""


def together(run: str, folder: Path) -> dict[str, Any]:
    """The result of `METHOD` or `METHOD+MITIGATION`: losses by step and saved weights, or the reason why it is refused.

    Instead of a mitigation, `again`: the run is interrupted after step 5 and resumes from its checkpoint; `twice`: two consecutive runs.
    """
    name, _, text = run.partition("+")
    recipe = Recipe(lr=3e-3 if name == "full" else 1e-2, micro=1, clip=0.5, checkpoint_every=2 if text == "again" else 0)
    mitigation = parse_mitigation("" if text in ("again", "twice") else text)

    cut: list[bool] = []

    def begin() -> Trainable:
        return find_method(name).begin(tiny_llama(), steps=len(STEPS), options=OPTIONS.get(name, {}))

    def attempt(trainable: Trainable, report: Callable[[Any], None] = lambda progress: None) -> Any:
        extras = training_extras(mitigation, trainable, tiny_examples(8, seed=1), tiny_examples(4, seed=3), every=2)
        return train(trainable, STEPS, recipe, extras, folder / "training" / run, report)

    def breaks(progress: Any) -> None:
        if progress.step == 5:
            raise Broken

    try:
        if text == "again":
            with suppress(Broken):
                attempt(begin(), breaks)
        trainable = begin()
        if text == "twice":
            attempt(trainable)
        done = attempt(trainable, lambda progress: cut.append(isinstance(next(trainable.model.parameters()), DTensor)))
    except AssayError as error:
        return {"refused": str(error)}
    trainable.save(folder / "saved" / run)
    facts = {
        "status": done.status,
        "cut": all(cut),
        "losses": done.losses,
        "digest": digest_tensors(dict(trainable.model.named_parameters())),
    }
    return facts | ({"kl": kl_to_base(trainable, tiny_examples(8, seed=1))} if mitigation.kl else {})


if __name__ == "__main__":
    import torch

    *runs, target = sys.argv[1:]
    rank = os.environ["RANK"]
    for one in runs:
        # Every process saves in a folder of its own, so that all can be compared.
        found = together(one, Path(target) / ("0" if one.endswith("again") else rank))
        path = Path(target) / rank / f"{one}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found | {"world": torch.distributed.get_world_size()}))
    torch.distributed.destroy_process_group()
