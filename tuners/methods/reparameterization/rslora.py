"""rsLoRA: LoRA scaled by alpha / sqrt(rank), stable at high rank (Kalajdzievski 2023, arXiv 2312.03732)."""

from typing import Any

from assay.tuners.methods.peft_method import check_rank, target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, rank: int = 16, alpha: float = 8, targets: str | tuple[str, ...] = "all-linear") -> Trainable:
    """The default alpha gives the same scale, 2, as LoRA's default at rank 16."""
    from peft import LoraConfig

    check_rank(model, rank, target_modules(targets))
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=target_modules(targets), use_rslora=True)
    return wrap(model, config)


METHOD = Method("rslora", family="reparameterization", prepare=prepare, lr=3e-4, route="lora", about="Kalajdzievski 2023, arXiv 2312.03732")
