"""BitFit: train only bias vectors (Ben Zaken et al. 2021, arXiv 2106.10199)."""

from typing import Any

from assay import AssayError
from assay.tuners.training.method import Method, Trainable
from assay.tuners.training.selection import select


def prepare(model: Any) -> Trainable:
    if not any(name.endswith(".bias") for name, _ in model.named_parameters()):
        raise AssayError(
            f"{model.config.model_type} models have no bias vectors to train",
            where="bitfit",
            do="use peft:BeftConfig, which adds some, or layernorm",
        )
    return select(model, lambda name: name.endswith(".bias"))


METHOD = Method("bitfit", family="selective", prepare=prepare, lr=3e-3, route="merged", about="Ben Zaken et al. 2021, arXiv 2106.10199")
