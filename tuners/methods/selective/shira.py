"""SHiRA: train a random sparse mask of the weights (Bhardwaj et al. 2024, arXiv 2406.13175)."""

from typing import Any

from assay.tuners.methods.peft_method import check_rank, target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, rank: int = 16, targets: str | tuple[str, ...] = "all-linear", *, seed: int = 0) -> Trainable:
    """Trains rank * (rows + columns) entries of every target weight, as many as LoRA of that rank."""
    from peft import ShiraConfig

    check_rank(model, 2 * rank, target_modules(targets))  # above half the dimension the mask would cover every weight
    return wrap(model, ShiraConfig(task_type="CAUSAL_LM", r=rank, random_seed=seed, target_modules=target_modules(targets)))


METHOD = Method("shira", family="selective", prepare=prepare, lr=3e-4, route="merged", about="Bhardwaj et al. 2024, arXiv 2406.13175")
