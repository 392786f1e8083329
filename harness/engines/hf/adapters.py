"""Puts an adapter on a loaded model, as peft itself does; every tensor of the adapter must be used, and none may be missing."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from importlib import metadata
from typing import Any

from assay.harness.engines.hf.forward import first_line
from assay.harness.errors import AssayError
from assay.harness.model.adapter import Adapter, misfit, resized_rows
from assay.harness.model.weights import Tensor

ADAPTERS = "assay.adapters"
"""Entry points for adapter formats other than peft's: by `peft_type`, a function (model, folder) that returns the adapted model."""
COPY = re.compile(r"\.(modules_to_save|original_module)\b")
SHARED = "vblora_vector_bank"
"""Parameter that VB-LoRA shares between modules: peft saves it once, and calls it missing in each of them."""


def add_adapter(model: Any, adapter: Adapter) -> tuple[Any, bool]:
    """The model with an adapter on it, and whether that adapter is a soft prompt or prefix.

    If tokens were added for the adapter, the model's embeddings grow to the number of rows that it saved. Raises AssayError for an
    adapter that peft cannot load whole, and for aLoRA.
    """
    for point in metadata.entry_points(group=ADAPTERS, name=adapter.kind):
        return point.load()(model, adapter.path).eval(), False
    try:
        from peft import PeftModel
        from safetensors import SafetensorError
    except ImportError:
        raise AssayError("an adapter needs peft", where=str(adapter.path), do="pip install 'assay[tune]'") from None
    if adapter.config.get("alora_invocation_tokens"):
        raise AssayError(
            "activated LoRA (aLoRA) is not supported: it applies to the tokens after its invocation tokens only",
            where=str(adapter.path),
            do="use an adapter trained without alora_invocation_tokens",
        )
    rows, width = model.get_input_embeddings().weight.shape
    grown = resized_rows(adapter, Tensor("F32", (rows, width), ""))
    if grown:
        model.resize_token_embeddings(grown, mean_resizing=False)
    results: list[Any] = []
    try:
        # from_pretrained does not return which keys were missing and unexpected: the hook keeps torch's lists, in which peft leaves those
        # of the adapter.
        with warnings.catch_warnings(), model.register_load_state_dict_post_hook(lambda _, keys: results.append(keys)):
            # peft warns of layer types and of AdaLoRA's ranks, which it wrote itself; its warning of missing keys is an error below.
            warnings.simplefilter("ignore")
            tuned = PeftModel.from_pretrained(model, str(adapter.path), torch_device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        lost = isinstance(error, KeyError)
        raise AssayError(
            f"the adapter cannot be loaded: {'no tensor ' if lost else ''}{first_line(error)}",
            where=str(adapter.path),
            do="save the adapter again with peft's save_pretrained",
        ) from None
    if tuned.active_peft_config.is_prompt_learning:
        return tuned.eval(), True  # peft loads its embeddings by itself and fails if they are missing or do not fit
    check_keys(adapter, results[-1].missing_keys, results[-1].unexpected_keys)
    # The adapter's modules live inside the base model, whose forward has the plain signature.
    return tuned.get_base_model().eval(), False


def check_keys(adapter: Adapter, missing: Collection[str], unexpected: Collection[str]) -> None:
    """Raises AssayError unless peft found a place for each tensor of the adapter and a tensor for each module that it targets."""
    lost = sorted(name for name in missing if SHARED not in name)
    # With resized embeddings, peft saves each saved module again under names that it does not read.
    copies = {name for name in unexpected if COPY.search(name) and COPY.sub("", name) in adapter.tensors}
    unused = sorted(set(unexpected) - copies)
    if unused:
        what = f"{len(unused)} of its {len(adapter.tensors)} tensors belong to no module of the model, first {unused[0]}"
        raise misfit(adapter.path, what)
    if lost:
        raise AssayError(
            f"the adapter is incomplete: {len(lost)} tensors of the modules that it targets are missing, first {lost[0]}",
            where=str(adapter.path),
            do="save the adapter again with peft's save_pretrained",
        )
