"""DoRA: LoRA on the direction of each weight, with a separately trained magnitude (Liu et al. 2024, arXiv 2402.09353)."""

from typing import Any

from assay.tuners.methods.peft_method import check_rank, target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, rank: int = 16, alpha: float = 32, targets: str | tuple[str, ...] = "all-linear") -> Trainable:
    from peft import LoraConfig

    check_rank(model, rank, target_modules(targets))
    return wrap(model, LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules=target_modules(targets), use_dora=True))


METHOD = Method(
    "dora",
    family="reparameterization",
    prepare=prepare,
    lr=3e-4,
    route="merged",
    tolerance=1e-4,  # direction times norm is the weight up to rounding
    about="Liu et al. 2024, arXiv 2402.09353",
)
