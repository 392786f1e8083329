"""IA3: learned vectors that rescale keys, values and the inner activations of the MLP (Liu et al. 2022, arXiv 2205.05638)."""

from typing import Any

from tuners.method import Method, Trainable
from tuners.peft_method import wrap


def prepare(model: Any, targets: tuple[str, ...] = (), feedforward: tuple[str, ...] = ()) -> Trainable:
    """Empty targets: peft's own table by model type. `feedforward` names those targets whose input is rescaled."""
    from peft import IA3Config

    config = IA3Config(task_type="CAUSAL_LM", target_modules=list(targets) or None, feedforward_modules=list(feedforward) or None)
    return wrap(model, config)


METHOD = Method("ia3", family="additive", prepare=prepare, lr=5e-3, route="merged", about="Liu et al. 2022, arXiv 2205.05638")
