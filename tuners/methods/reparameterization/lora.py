"""LoRA: a low-rank update beside every linear layer (Hu et al. 2021, arXiv 2106.09685)."""

from typing import Any

from assay.tuners.methods.peft_method import check_rank, target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(
    model: Any, rank: int = 16, alpha: float = 32, targets: str | tuple[str, ...] = "all-linear", dropout: float = 0.0
) -> Trainable:
    from peft import LoraConfig

    check_rank(model, rank, target_modules(targets))
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=target_modules(targets), lora_dropout=dropout)
    return wrap(model, config)


METHOD = Method("lora", family="reparameterization", prepare=prepare, lr=3e-4, route="lora", about="Hu et al. 2021, arXiv 2106.09685")
