"""Train only the last k transformer layers."""

from typing import Any

from assay import AssayError
from assay.tuners.training.method import Method, Trainable
from assay.tuners.training.selection import blocks, select


def prepare(model: Any, layers: int = 4) -> Trainable:
    found = blocks(model)
    if not 1 <= layers <= len(found):
        raise AssayError(f"cannot train the last {layers} of {len(found)} layers", where="last_k", do=f"use 1 to {len(found)}")
    prefixes = tuple(f"{name}." for name, _ in found[-layers:])
    return select(model, lambda name: name.startswith(prefixes))


METHOD = Method("last_k", family="selective", prepare=prepare, lr=1e-4, route="merged", about="the last k layers are trained")
