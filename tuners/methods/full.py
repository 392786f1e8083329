"""Full fine-tuning: every parameter moves."""

import copy
from pathlib import Path
from typing import Any

from tuners.method import Method, Trainable, swapped


def prepare(model: Any) -> Trainable:
    for value in model.parameters():
        value.requires_grad_(True)
    every = dict(model.named_parameters())
    start = {name: value.detach().clone() for name, value in every.items()}

    def save(directory: Path) -> None:
        model.save_pretrained(directory)

    return Trainable(model, save, swapped(every, start), merged=lambda: copy.deepcopy(model))


METHOD = Method("full", family="full", prepare=prepare, lr=3e-5, route="model", about="every parameter moves")
