"""PiSSA: LoRA that starts from the principal singular vectors of each weight (Meng et al. 2024, arXiv 2404.02948)."""

import copy
from pathlib import Path
from typing import Any

from assay.tuners.methods.peft_method import check_rank, merge_copy, target_modules, wrap
from assay.tuners.training.method import Method, Trainable, with_parameters


def prepare(model: Any, rank: int = 16, targets: str | tuple[str, ...] = "all-linear") -> Trainable:
    """Saved as a plain LoRA of twice the rank that holds the change since the start, so that it applies to the unmodified base.

    PiSSA replaces the base's weights by their residual, so the base model is the one with the initial adapter, not the one without.
    """
    from peft import LoraConfig

    check_rank(model, rank, target_modules(targets))
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=rank, target_modules=target_modules(targets), init_lora_weights="pissa")
    wrapped = wrap(model, config).model
    trained = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    start = {name: value.detach().clone() for name, value in trained.items()}
    return Trainable(
        wrapped,
        save=lambda directory: save_difference(wrapped, start, directory),
        reference=with_parameters(wrapped, start),
        merged=lambda: merge_copy(wrapped),
    )


def save_difference(wrapped: Any, start: dict[str, Any], directory: Path) -> None:
    """B A - B0 A0 = [B, -B0] [A; A0]: a LoRA of rank 2r with the same scale."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    initial = get_peft_model_state_dict(wrapped, state_dict=start)
    joined = {}
    for name, value in get_peft_model_state_dict(wrapped).items():
        first = initial[name].cpu()
        pair = (value.detach().cpu(), -first if "lora_B" in name else first)
        joined[name] = torch.cat(pair, dim=1 if "lora_B" in name else 0).contiguous()
    config = copy.deepcopy(wrapped.peft_config["default"])
    config.r, config.lora_alpha, config.init_lora_weights, config.inference_mode = 2 * config.r, 2 * config.lora_alpha, True, True
    directory.mkdir(parents=True, exist_ok=True)
    save_file(joined, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(directory))


METHOD = Method(
    "pissa",
    family="reparameterization",
    prepare=prepare,
    lr=3e-4,
    route="lora",
    tolerance=1e-3,  # the residual plus its principal part is the weight up to rounding
    about="Meng et al. 2024, arXiv 2404.02948",
)
