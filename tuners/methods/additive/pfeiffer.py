"""Pfeiffer adapters: one bottleneck per layer, after the MLP (Pfeiffer et al. 2020, arXiv 2005.00247)."""

from typing import Any

from assay.tuners.methods.bottleneck import Shape, insert
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, reduction: int = 16) -> Trainable:
    return insert(model, Shape(("mlp",), reduction, "relu"))


METHOD = Method(
    "pfeiffer",
    family="additive",
    prepare=prepare,
    lr=5e-4,
    route="transformers",
    merges=False,
    about="Pfeiffer et al. 2020, arXiv 2005.00247; shape as AdapterHub's seq_bn",
)
