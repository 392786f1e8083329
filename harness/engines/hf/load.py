"""Loads a transformers model from a directory: every weight must be present and fit, and no code of the checkpoint is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from assay.harness.engines import DTYPES
from assay.harness.engines.hf.adapters import add_adapter
from assay.harness.engines.hf.forward import first_line
from assay.harness.engines.hf.weights import read_weights
from assay.harness.errors import AssayError
from assay.harness.model.checkpoint import UNBOUNDED
from assay.harness.model.find import ModelRef, checkpoint_of


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory and the facts that an engine needs of it."""

    model: Any
    device: str
    dtype: str
    positions: int
    vocabulary: int
    stop_ids: frozenset[int]
    soft: bool = False
    """Whether an adapter puts virtual tokens before every sequence."""
    notes: tuple[str, ...] = ()


def pick_device(wanted: str) -> str:
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise AssayError("no CUDA device is available", where=f"--device {wanted}", do="use --device cpu")
    return wanted


def free_memory(device: str) -> int:
    """Bytes of free memory of a device; 0 if they are not known."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info()[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return 0


def pick_dtype(wanted: str, device: str) -> str:
    """fp32 on a CPU; on CUDA bf16 if the hardware supports it, else fp16."""
    import torch

    name = DTYPES.get(wanted, wanted)
    if name == "auto":
        if not device.startswith("cuda"):
            return "float32"
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if name not in {"float32", "bfloat16", "float16"}:
        raise AssayError(f"unknown dtype {wanted!r}", do="use auto, float32, bfloat16 or float16")
    return name


def stop_ids(model: Any) -> frozenset[int]:
    """End-of-text ids from the generation config and the config."""
    found: set[int] = set()
    for config in (model.generation_config, model.config.get_text_config()):
        value = getattr(config, "eos_token_id", None)
        found.update([value] if isinstance(value, int) else value or ())
    return frozenset(found)


def load(ref: ModelRef, dtype: str, device: str, arguments: Mapping[str, Any] = MappingProxyType({})) -> Loaded:
    """Open `ref` with its adapter on a device. Raises AssayError."""
    import transformers

    device = pick_device(device)
    dtype = pick_dtype(dtype, device)
    adapter = checkpoint_of(ref).adapter
    model, notes = read_weights(ref.path, dtype, arguments, adapter)
    stops = stop_ids(model)
    soft = False
    if adapter is not None:
        model, soft = add_adapter(model, adapter)
    try:
        placed = {"device_map", "quantization_config"} & set(arguments)  # then transformers has chosen the devices
        model = model if placed else model.to(device)
    except RuntimeError as error:
        raise AssayError(
            f"the model does not fit on {device}: {first_line(error)}",
            where=ref.name,
            do="use a smaller dtype, a larger device, or --device cpu",
        ) from None
    model.requires_grad_(False)
    for tensor in (*model.parameters(), *model.buffers()):
        # Loaded weights may be memory-mapped: without a copy, overwriting the checkpoint file would change the loaded model.
        tensor.data = tensor.data.clone()
    # The checkpoint's own sampling settings (temperature, repetition penalty) must not be used in a benchmark.
    model.generation_config = transformers.GenerationConfig()
    config = model.config.get_text_config()
    found = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    longest = next((value for value in found if isinstance(value, int) and value > 0), UNBOUNDED)
    positions = min(ref.positions or longest, longest)
    if soft:
        positions -= int(model.active_peft_config.num_virtual_tokens)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    return Loaded(model, device, dtype, positions, vocabulary, stops, soft, notes)


def swap_weights(model: Any, dtype: str, path: Path) -> None:
    """Copy the weights of another checkpoint of the same architecture into the live model. Raises AssayError if they do not fit."""
    import torch
    import transformers

    mine = model.config.to_dict()
    try:
        other = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False).to_dict()
    except (OSError, ValueError, KeyError) as error:
        raise AssayError(
            f"the configuration cannot be read: {first_line(error)}", where=str(path), do="use a complete model saved by save_pretrained"
        ) from None
    irrelevant = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "use_cache"}
    irrelevant.add("_attn_implementation_autoset")
    differing = sorted(key for key in (mine.keys() | other.keys()) - irrelevant if mine.get(key) != other.get(key))
    if differing:
        key = differing[0]
        raise AssayError(
            f"not the same architecture: {key} is {other.get(key)!r}, the open model has {mine.get(key)!r}",
            where=str(path),
            do="open a new engine for it",
        )
    fresh, notes = read_weights(path, dtype)
    if notes:
        raise AssayError(notes[0], where=str(path), do="use a complete model saved by save_pretrained")
    with torch.inference_mode():
        source, target = fresh.state_dict(), model.state_dict()
        if source.keys() != target.keys():
            raise AssayError(
                f"the tensor names differ: {sorted(source.keys() ^ target.keys())[:3]}", where=str(path), do="open a new engine for it"
            )
        for name, tensor in target.items():
            if tensor.shape != source[name].shape:
                raise AssayError(
                    f"{name} has shape {tuple(source[name].shape)}, not {tuple(tensor.shape)}",
                    where=str(path),
                    do="open a new engine for it",
                )
        for name, tensor in target.items():
            tensor.copy_(source[name])
