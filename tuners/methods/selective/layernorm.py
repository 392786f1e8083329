"""LN-tuning: train only the gains (and shifts) of normalisation layers (Zhao et al. 2023, arXiv 2312.11420)."""

from typing import Any

from assay import AssayError
from assay.tuners.methods.peft_method import wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any) -> Trainable:
    from peft import LNTuningConfig

    norms = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if type(module).__name__.endswith("Norm")})
    if not norms:
        raise AssayError("this model has no normalisation layer with parameters", where="layernorm", do="choose another method")
    return wrap(model, LNTuningConfig(task_type="CAUSAL_LM", target_modules=norms))


METHOD = Method("layernorm", family="selective", prepare=prepare, lr=3e-3, route="merged", about="Zhao et al. 2023, arXiv 2312.11420")
