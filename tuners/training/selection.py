"""Trains a selection of the model's own parameters, and saves and loads only those."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

from assay import AssayError
from assay.tuners.training.method import Module, Trainable, from_start

KIND = "SELECTED"


def select(model: Module, train: Callable[[str], bool]) -> Trainable:
    """A Trainable of exactly the parameters whose name `train` accepts.

    Saved as `adapter_config.json` (peft_type SELECTED, ours) and `adapter_model.safetensors` with the chosen parameters.
    """
    for name, value in model.named_parameters():
        value.requires_grad_(train(name))
    chosen = {name: value for name, value in model.named_parameters() if value.requires_grad}
    remember, reference = from_start(model)

    def save(directory: Path) -> None:
        from safetensors.torch import save_file

        config = {"peft_type": KIND, "base_model_name_or_path": model.config.name_or_path, "parameters": sorted(chosen)}
        directory.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().cpu().contiguous() for name, value in chosen.items()}, directory / "adapter_model.safetensors")
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))

    return Trainable(model, save, reference, merged=lambda: copy.deepcopy(model), remember=remember)


def attach_selected(model: Module, directory: Path) -> Module:
    """Load saved parameters into a base model, in place. Raises AssayError for parameters of another base."""
    import torch
    from safetensors.torch import load_file

    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(directory / "adapter_model.safetensors").items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise AssayError(
                    f"the base model has no parameter {name} of shape {tuple(value.shape)}",
                    where=str(directory),
                    do="load it with the base model that it was trained on",
                )
            parameters[name].copy_(value)
    return model


def blocks(model: Module) -> list[tuple[str, Module]]:
    """Names and modules of the transformer layers, first to last."""
    import torch

    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return [(f"{name}.{index}", layer) for index, layer in enumerate(module)]
    raise AssayError(
        f"no list of {count} layers found in this {model.config.model_type} model", do="use a method without layers, for example lora"
    )
