"""Full fine-tuning: train every parameter."""

import copy
from pathlib import Path
from typing import Any

from assay.tuners.training.method import Method, Trainable, from_start


def prepare(model: Any) -> Trainable:
    for value in model.parameters():
        value.requires_grad_(True)
    remember, reference = from_start(model)

    def save(directory: Path) -> None:
        model.save_pretrained(directory)

    return Trainable(model, save, reference, merged=lambda: copy.deepcopy(model), remember=remember)


METHOD = Method("full", family="full", prepare=prepare, lr=3e-5, route="model", about="every parameter is trained")
