"""AdaLoRA: LoRA as P Lambda Q, with ranks allocated by importance (Zhang et al. 2023, arXiv 2303.10512)."""

from typing import Any

from assay import AssayError
from assay.tuners.methods.peft_method import check_rank, target_modules, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(
    model: Any, rank: int = 8, first_rank: int = 12, alpha: float = 32, targets: str | tuple[str, ...] = "all-linear", *, steps: int = 1
) -> Trainable:
    """From rank `first_rank` to a mean rank of `rank`: no pruning in the first tenth of the steps, fixed ranks in the last three tenths."""
    from peft import AdaLoraConfig

    if not 1 <= rank < first_rank:
        raise AssayError(
            f"rank {rank} is not below first_rank {first_rank}", where="adalora", do=f"use 1 to {first_rank - 1}, or raise both"
        )
    check_rank(model, first_rank, target_modules(targets))
    steps = max(steps, 2)
    config = AdaLoraConfig(
        task_type="CAUSAL_LM",
        target_r=rank,
        init_r=first_rank,
        lora_alpha=alpha,
        target_modules=target_modules(targets),
        total_step=steps,
        tinit=steps // 10,
        tfinal=steps * 3 // 10,
    )
    trainable = wrap(model, config)
    tuner, weight = trainable.model.base_model, config.orth_reg_weight
    trainable.penalty = lambda: weight * orthogonality(trainable.model)
    trainable.after_step = tuner.update_and_allocate
    trainable.state = lambda: allocator_state(tuner)
    trainable.restore = lambda saved: restore_allocator(tuner, saved)
    return trainable


def orthogonality(model: Any) -> Any:
    """Mean Frobenius distance of P^T P and Q Q^T from the identity: the penalty that peft adds to a loss of its own."""
    import torch

    terms = []
    for name, value in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            square = value @ value.T if "lora_A" in name else value.T @ value
            terms.append(torch.norm(square - torch.eye(square.shape[0], device=square.device), p="fro"))
    return torch.stack(terms).mean()


PARTS = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def allocator_state(tuner: Any) -> dict[str, Any]:
    """The importance averages and the rank pattern as tensors."""
    import torch

    found = {f"{part}/{name}": value for part in PARTS for name, value in getattr(tuner.rankallocator, part).items()}
    pattern = tuner.peft_config["default"].rank_pattern or {}
    return found | {f"pattern/{name}": torch.tensor(kept) for name, kept in pattern.items()}


def restore_allocator(tuner: Any, saved: dict[str, Any]) -> None:
    for part in PARTS:
        setattr(tuner.rankallocator, part, {name.split("/", 1)[1]: value for name, value in saved.items() if name.startswith(f"{part}/")})
    pattern = {name.split("/", 1)[1]: value.tolist() for name, value in saved.items() if name.startswith("pattern/")}
    tuner.peft_config["default"].rank_pattern = pattern or None


METHOD = Method(
    "adalora", family="reparameterization", prepare=prepare, lr=1e-3, route="merged", about="Zhang et al. 2023, arXiv 2303.10512"
)
