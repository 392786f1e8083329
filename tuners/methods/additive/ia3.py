"""IA3: learned vectors that rescale keys, values and the inner activations of the MLP (Liu et al. 2022, arXiv 2205.05638)."""

from typing import Any

from assay.tuners.methods.peft_method import target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, targets: str | tuple[str, ...] = (), feedforward: str | tuple[str, ...] = ()) -> Trainable:
    """Empty arguments mean peft's defaults for the model type. `feedforward` lists the targets whose input is rescaled."""
    from peft import IA3Config
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as USUAL

    named = target_modules(targets) or None
    usual = [name for name in USUAL.get(model.config.model_type, ()) if name in named] if named else None
    scaled = target_modules(feedforward) or usual
    config = IA3Config(task_type="CAUSAL_LM", target_modules=named, feedforward_modules=scaled)
    return wrap(model, config)


METHOD = Method("ia3", family="additive", prepare=prepare, lr=5e-3, route="merged", about="Liu et al. 2022, arXiv 2205.05638")
