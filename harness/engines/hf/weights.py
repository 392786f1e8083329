"""Reads a checkpoint with transformers: the class that holds its tensors exactly, no tensor missing, and none ignored where it matters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from assay.harness.engines.hf.forward import first_line
from assay.harness.errors import AssayError
from assay.harness.model.adapter import Adapter
from assay.harness.model.checkpoint import ENCODER_DECODER
from assay.harness.model.quantized import plain_names
from assay.harness.model.weights import FETCH_AGAIN, Tensor

FAILURES = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, AssertionError)


def read_weights(
    path: Path, dtype: str, arguments: Mapping[str, Any] = MappingProxyType({}), adapter: Adapter | None = None
) -> tuple[Any, tuple[str, ...]]:
    """The model of a directory, loaded on the CPU unless the user's `arguments` of from_pretrained say otherwise, and notes.

    The model's class is the one that `adapter` was trained on. With device_map="meta", no tensor is read, but every name and shape is
    compared. Raises AssayError for missing, misshapen, unreadable or pickled weights, for tensors that the model should use and does not,
    and for encoder-decoders.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        model, info = auto_class(path, adapter).from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            **arguments,
        )
    except (*FAILURES, SafetensorError) as error:
        raise AssayError(f"the model cannot be loaded: {first_line(error)}", where=str(path), do=remedy(error)) from None
    return model.eval(), check_loaded(model, info, path)


def remedy(error: BaseException) -> str:
    if isinstance(error, ImportError):  # formats of quantisation have libraries of their own
        return "install it, or use --engine vllm, which has most formats itself"
    return "use a directory with config.json and complete safetensors weights; pickle weights and remote code are refused"


def read_names(path: Path, tensors: Mapping[str, Tensor], adapter: Adapter | None = None) -> tuple[Any, tuple[str, ...]]:
    """The model of a quantised checkpoint without its tensors, after its layers were compared with those of the files by name; and notes.

    None if transformers cannot make it, such as for a format that packs several layers into one tensor. Raises AssayError for layers that
    are missing in the files, or that the model should use and does not have.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind = auto_class(path, adapter)
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        made = kind._model_mapping[type(config)]
        state = {name: torch.empty(tensor.shape, device="meta") for name, tensor in plain_names(tensors).items()}
        # The shapes of packed weights differ from those of the layers.
        model, info = (made[0] if isinstance(made, tuple) else made).from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True, device_map="meta"
        )
    except FAILURES as error:
        return None, (f"quantised checkpoint: its tensors could not be compared by name ({first_line(error)})",)
    return model, check_loaded(model, {**info, "mismatched_keys": ()}, path)


def check_loaded(model: Any, info: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Notes on tensors that the model does not use. `info`: what from_pretrained found. Raises AssayError for missing or misshapen
    tensors, and for unused ones that belong to a layer of the model."""
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(problem):
            found = sorted(map(str, info[problem]))
            raise AssayError(f"weights with {problem.replace('_', ' ')}: {len(found)}, first {found[0]}", where=str(path), do=FETCH_AGAIN)
    unused = sorted(info.get("unexpected_keys") or ())
    ignored = [name for name in unused if belongs(name, dict(model.named_modules()))]
    if ignored:
        raise AssayError(
            f"the model would ignore {len(ignored)} tensors of its own layers, first {ignored[0]}",
            where=str(path),
            do="correct config.json (bias, number of layers), or merge adapters and remove these tensors before saving",
        )
    return (f"{len(unused)} tensors of the checkpoint are unused by the language model, first {unused[0]}",) if unused else ()


def auto_class(path: Path, adapter: Adapter | None = None) -> Any:
    """The auto class of transformers whose model holds the checkpoint: causal, or multimodal with a language side.

    Some checkpoints have both, such as Qwen3.5: there the names of the adapter's tensors tell the class that it was trained on. Raises
    AssayError for an encoder-decoder and for an architecture that transformers does not have; whatever from_pretrained raises.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    name = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    if getattr(config, "is_encoder_decoder", False):
        raise AssayError(f"{name} {ENCODER_DECODER}", where=str(path), do="give a causal language model")
    kinds = ["AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"]
    if adapter is not None and any(".language_model." in name for name in adapter.tensors):
        kinds.append(kinds.pop(0))
    for kind in (getattr(transformers, name) for name in kinds if hasattr(transformers, name)):
        if type(config) in kind._model_mapping:
            return kind
    raise AssayError(
        f"transformers {transformers.__version__} has no causal language model of type {config.model_type}",
        where=str(path),
        do="give a causal language model",
    )


def belongs(name: str, modules: Mapping[str, Any]) -> bool:
    """Whether a tensor that the model does not use is part of a module that it has, or of a further one of its layers."""
    import torch

    parts = name.split(".")
    found = next(modules[prefix] for end in range(len(parts) - 1, -1, -1) if (prefix := ".".join(parts[:end])) in modules)
    return isinstance(found, torch.nn.ModuleList) or not list(found.children())
