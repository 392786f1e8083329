"""Bottleneck adapters (peft has none): h + up(act(down(h))) parallel to or after a sub-layer, attached by forward hooks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from assay import AssayError
from assay.tuners.training.method import Module, Trainable
from assay.tuners.training.selection import blocks

KIND = "BOTTLENECK"
NAME = "bottleneck"
ATTENTION = ("self_attn", "attn", "attention", "self_attention")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")


@dataclass(frozen=True, slots=True)
class Shape:
    """`places`: which sub-layers get an adapter. `reduction`: hidden size divided by bottleneck size. `act`: relu or silu.

    A sequential adapter reads the sub-layer's output, before the residual is added; a parallel one reads the sub-layer's input.
    """

    places: tuple[Literal["attention", "mlp"], ...]
    reduction: int
    act: Literal["relu", "silu"]
    parallel: bool = False
    scale: float = 1.0


def insert(model: Module, shape: Shape) -> Trainable:
    """The frozen model with new adapters. `up` starts at zero, so the logits are exactly the base's.

    Saved as `adapter_config.json` (peft_type BOTTLENECK, ours) and `adapter_model.safetensors`.
    """
    model.requires_grad_(False)
    added = attach(model, shape)

    @contextmanager
    def reference() -> Iterator[None]:
        for adapter in added.values():
            adapter.on = False
        try:
            yield
        finally:
            for adapter in added.values():
                adapter.on = True

    def save(directory: Path) -> None:
        from safetensors.torch import save_file

        config = {"peft_type": KIND, "base_model_name_or_path": model.config.name_or_path, "shape": asdict(shape)}
        tensors = {f"{at}.{name}": value.detach().cpu() for at, adapter in added.items() for name, value in adapter.state_dict().items()}
        directory.mkdir(parents=True, exist_ok=True)
        save_file(tensors, directory / "adapter_model.safetensors")
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))

    return Trainable(model, save, reference)


def attach_bottleneck(model: Module, directory: Path) -> Module:
    """Load saved adapters into a base model, in place. Raises AssayError for an adapter of another base."""
    from safetensors.torch import load_file

    fields = json.loads((directory / "adapter_config.json").read_text())["shape"]
    added = attach(model, Shape(**(fields | {"places": tuple(fields["places"])})))
    saved = load_file(directory / "adapter_model.safetensors")
    for at, adapter in added.items():
        wanted = {f"{at}.{name}": value for name, value in adapter.state_dict().items()}
        if any(name not in saved or saved[name].shape != value.shape for name, value in wanted.items()):
            raise AssayError(
                f"the adapter does not fit {at}", where=str(directory), do="load it with the base model that it was trained on"
            )
        adapter.load_state_dict({name.removeprefix(f"{at}."): saved[name] for name in wanted})
    model.requires_grad_(False)
    return model


def attach(model: Module, shape: Shape) -> dict[str, Module]:
    """Add adapters and hooks to a model, in place; gives the adapters by the name of their sub-layer."""
    width = model.config.get_text_config().hidden_size
    if not 1 <= shape.reduction <= width:
        raise AssayError(
            f"a hidden size of {width} cannot be reduced {shape.reduction} times", where=NAME, do=f"set reduction to 1 to {width}"
        )
    added = {}
    for prefix, layer in blocks(model):
        for place in shape.places:
            name, sublayer = find_child(layer, ATTENTION if place == "attention" else MLP, model.config.model_type)
            weight = next(sublayer.parameters())
            if shape.parallel and getattr(sublayer, "in_features", width) != width:
                raise AssayError(
                    f"{model.config.model_type} models have no MLP module to attach a parallel adapter to",
                    where=NAME,
                    do="use pfeiffer or houlsby",
                )
            adapter = build(width, max(1, width // shape.reduction), shape).to(weight.device)
            sublayer.add_module(NAME, adapter)
            sublayer.register_forward_hook(partial(add_adapter_output, parallel=shape.parallel))
            added[f"{prefix}.{name}"] = adapter
    return added


def find_child(layer: Module, names: tuple[str, ...], model_type: str) -> tuple[str, Module]:
    children = dict(layer.named_children())
    for name in names:
        if name in children:
            return name, children[name]
    raise AssayError(
        f"layers of {model_type} have none of {', '.join(names)}, only {', '.join(children)}",
        where=NAME,
        do="use a peft method, for example lora",
    )


def build(width: int, inner: int, shape: Shape) -> Module:
    """A new adapter module. The class is defined in here because torch is imported only when needed."""
    import torch

    class Bottleneck(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.down = torch.nn.Linear(width, inner)
            self.up = torch.nn.Linear(inner, width)
            torch.nn.init.zeros_(self.up.weight)
            torch.nn.init.zeros_(self.up.bias)
            self.on = True

        def forward(self, hidden: Any) -> Any:
            inside = torch.nn.functional.relu if shape.act == "relu" else torch.nn.functional.silu
            return shape.scale * self.up(inside(self.down(hidden.to(self.down.weight.dtype)))).to(hidden.dtype)

    return Bottleneck()


def add_adapter_output(sublayer: Module, inputs: tuple[Any, ...], output: Any, parallel: bool) -> Any:
    """Forward hook that adds the adapter's output. Sub-layers return a tensor, or a tuple that starts with it."""
    adapter = sublayer.get_submodule(NAME)
    if not adapter.on:
        return output
    first = output[0] if isinstance(output, tuple) else output
    adapted = first + adapter(inputs[0] if parallel else first)
    return (adapted, *output[1:]) if isinstance(output, tuple) else adapted
