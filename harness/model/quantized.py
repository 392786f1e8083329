"""Quantised checkpoints: which tensors make up each quantised layer, and whether all of them are in the files.

Libraries leave a scale that the files lack at 1, or as whatever memory holds, and the model is scored without an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.weights import FETCH_AGAIN, Tensor

METHODS = ("gptq", "awq", "compressed-tensors", "fp8", "fbgemm_fp8", "modelopt", "bitsandbytes")
"""Formats, by their `quant_method` in config.json, that store each layer's weight as one tensor of few bits and its scales beside it."""
WEIGHTS = ("weight", "qweight", "weight_packed")
"""Names of that tensor in its layer."""
FEW_BITS = ("I", "U", "F4", "F6", "F8")
"""How the safetensors types of such tensors begin."""
SCALES = ("scale", "absmax", "SCB")


def quantization_method(config: Mapping[str, Any]) -> str:
    """`quant_method` of a quantised checkpoint, "unknown" if it names none; empty for one that is not quantised."""
    found = config.get("quantization_config")
    if not found:
        return ""
    return str(found.get("quant_method") or "unknown") if isinstance(found, Mapping) else "unknown"


def split_name(name: str) -> tuple[str, str]:
    """Layer and part of a tensor's name: ("q_proj", "qweight"), or bitsandbytes' ("q_proj", "weight.absmax")."""
    layer, inside, part = name.partition(".weight.")
    if inside:
        return layer, f"weight.{part}"
    layer, _, part = name.rpartition(".")
    return layer, part


def quantized_layers(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The parts of each quantised layer, by the layer's name."""
    layers: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        layer, part = split_name(name)
        layers[layer][part] = tensor
    return {layer: parts for layer, parts in layers.items() if weight_of(parts)}


def weight_of(parts: Mapping[str, Tensor]) -> str:
    """The name of the tensor that holds a layer's quantised weight; empty for a layer that is not quantised."""
    return next((name for name in WEIGHTS if name in parts and parts[name].dtype.startswith(FEW_BITS)), "")


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that they have in a checkpoint that is not quantised: one weight per layer, no scales."""
    layers = quantized_layers(tensors)
    found = {}
    for name, tensor in tensors.items():
        layer, part = split_name(name)
        if layer not in layers or part == "bias":
            found[name] = tensor
        elif part == weight_of(layers[layer]):
            found[f"{layer}.weight"] = tensor
    return found


def check_quantized(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raises AssayError if a quantised layer lacks a tensor that its like in other layers have, or if it has no scale."""
    if quantization_method(config) not in METHODS:
        return
    alike: dict[tuple[str, str, str], dict[str, frozenset[str]]] = defaultdict(dict)
    for layer, parts in quantized_layers(tensors).items():
        weight = weight_of(parts)
        # Scales of activations depend on the scheme of each layer, which may differ.
        needed = frozenset(part for part in parts if part != "bias" and not part.startswith(("input", "output")))
        alike[layer.rpartition(".")[2], weight, parts[weight].dtype][layer] = needed
    for layers in alike.values():
        every = frozenset().union(*layers.values())
        if not any(mark in part for part in every for mark in SCALES):
            raise incomplete(f"{min(layers)} has no scale", where)
        for layer, parts_here in layers.items():
            if missing := sorted(every - parts_here):
                raise incomplete(f"{layer} has no {missing[0]}, which other layers have", where)


def incomplete(what: str, where: Path) -> AssayError:
    return AssayError(f"the quantised weights are incomplete: {what}", where=str(where), do=FETCH_AGAIN)
