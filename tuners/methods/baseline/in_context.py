"""In-context learning: k few-shot examples in the prompt, no training (Brown et al. 2020)."""

from typing import Any

from assay import AssayError
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, shots: int = 4) -> Trainable:
    raise AssayError("in-context learning trains nothing", where="in_context", do="run assay run --shots K with the base model")


METHOD = Method(
    "in_context", family="in_context", prepare=prepare, lr=0.0, route="base", about="k examples in the prompt (Brown et al. 2020)"
)
