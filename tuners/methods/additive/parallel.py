"""Parallel adapters: a scaled bottleneck beside the MLP (He et al. 2021, arXiv 2110.04366)."""

from typing import Any

from assay.tuners.methods.bottleneck import Shape, insert
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, reduction: int = 2, scale: float = 4.0) -> Trainable:
    return insert(model, Shape(("mlp",), reduction, "relu", parallel=True, scale=scale))


METHOD = Method(
    "parallel",
    family="additive",
    prepare=prepare,
    lr=5e-4,
    route="transformers",
    merges=False,
    about="He et al. 2021, arXiv 2110.04366; shape as AdapterHub's par_bn",
)
