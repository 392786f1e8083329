"""Loads a saved adapter into its base model."""

from __future__ import annotations

import json
from pathlib import Path

from assay import AssayError
from assay.tuners.methods import bottleneck
from assay.tuners.methods.peft_method import one_line, skip_sparse_checks, without_peft_warnings
from assay.tuners.training import selection
from assay.tuners.training.method import Module


def attach(model: Module, directory: Path) -> Module:
    """The base model with a saved adapter: PEFT's format, or ours for selected parameters and bottleneck adapters.

    Raises AssayError where the folder holds no adapter or one that does not fit this model.
    """
    config = directory / "adapter_config.json"
    if not config.is_file():
        raise AssayError("no adapter_config.json", where=str(directory), do="give the folder that tuning wrote")
    try:
        kind = json.loads(config.read_text(encoding="utf-8"))["peft_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AssayError(f"not an adapter configuration: {error!r:.80}", where=str(config), do="save the adapter again") from None
    if kind == selection.KIND:
        return selection.attach_selected(model, directory)
    if kind == bottleneck.KIND:
        return bottleneck.attach_bottleneck(model, directory)
    if not (directory / "adapter_model.safetensors").is_file():  # peft would fall back to a pickle
        raise AssayError("no adapter_model.safetensors", where=str(directory), do="save the adapter again as safetensors")
    import peft

    skip_sparse_checks()
    try:
        with without_peft_warnings():
            return peft.PeftModel.from_pretrained(model, str(directory)).eval()
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise AssayError(
            f"the adapter does not fit this model: {one_line(error)}",
            where=str(directory),
            do="load it with the base model that it was trained on",
        ) from None


def saved_bytes(directory: Path) -> int:
    """Size in bytes of all files in a folder."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
