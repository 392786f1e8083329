"""Houlsby adapters: a bottleneck after attention and another after the MLP (Houlsby et al. 2019, arXiv 1902.00751)."""

from typing import Any

from assay.tuners.methods.bottleneck import Shape, insert
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, reduction: int = 16) -> Trainable:
    return insert(model, Shape(("attention", "mlp"), reduction, "silu"))


METHOD = Method(
    "houlsby",
    family="additive",
    prepare=prepare,
    lr=5e-4,
    route="transformers",
    merges=False,
    about="Houlsby et al. 2019, arXiv 1902.00751; shape as AdapterHub's double_seq_bn",
)
