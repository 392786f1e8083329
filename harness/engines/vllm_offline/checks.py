"""What is checked before vLLM loads a model: that it can run the adapter as peft does, and that no tensor is missing from the files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay.harness.engines.hf.adapters import add_adapter
from assay.harness.engines.hf.weights import read_names, read_weights
from assay.harness.errors import AssayError
from assay.harness.model.adapter import Adapter
from assay.harness.model.checkpoint import UNBOUNDED, Checkpoint
from assay.harness.model.quantized import METHODS, quantization_method

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Maximum ranks that vLLM offers."""
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of init_lora_weights that set only the adapter's first weights; others (PiSSA, OLoRA, ...) change the base when peft loads it."""
FEATURES = {
    "use_dora": "DoRA",
    "modules_to_save": "saved modules",
    "lora_bias": "LoRA with biases",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "replicated layers",
    "trainable_token_indices": "trained tokens",
    "target_parameters": "LoRA on parameters",
    "use_qalora": "QALoRA",
    "use_bdlora": "block-diagonal LoRA",
}
"""Fields of adapter_config.json whose features vLLM lacks, or that assay has not proved there."""


def adapter_options(adapter: Adapter, gpu_fp32: bool = False) -> dict[str, Any]:
    """vLLM's arguments for an adapter. Raises AssayError if vLLM does not support it (LoRA in fp32 on a GPU, for one)."""
    if adapter.is_soft_prompt:
        return {"enable_prompt_embeds": True}
    if gpu_fp32:
        raise AssayError("vLLM's LoRA on a GPU takes 16 bits only", where="--dtype float32", do="use --dtype bfloat16, or --engine hf")
    if fault := adapter_fault(adapter):
        raise AssayError(f"vLLM does not support {fault}", where=str(adapter.path), do="use --engine hf, or merge the adapter")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(size for size in RANKS if size >= rank_of(adapter))}


def rank_of(adapter: Adapter) -> int:
    """The largest rank of a LoRA."""
    return max([int(adapter.config.get("r") or 8), *map(int, (adapter.config.get("rank_pattern") or {}).values())])


def adapter_fault(adapter: Adapter) -> str:
    """What vLLM would not compute as peft does; empty if there is nothing."""
    config, start = adapter.config, adapter.config.get("init_lora_weights")
    if adapter.kind != "LORA":
        return f"adapters of type {adapter.kind}"
    for name, feature in FEATURES.items():
        if config.get(name):
            return f"{feature} ({name} in adapter_config.json)"
    if config.get("bias") not in (None, "none"):
        return f"trained biases (bias={config['bias']})"
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        return f"LoRA started with {start}, which changes the base model's weights"
    if rank_of(adapter) > RANKS[-1]:
        return f"LoRA above rank {RANKS[-1]}; this adapter has {rank_of(adapter)}"
    other = next((name for name in adapter.tensors if not name.endswith(("lora_A.weight", "lora_B.weight"))), "")
    return f"the adapter's tensor {other}" if other else ""


def on_output_layer(adapter: Adapter) -> bool:
    """Whether a LoRA adapts the output layer, whose change vLLM leaves out of the prompt's log-probabilities."""
    return any("lm_head" in name or "embed_out" in name for name in adapter.tensors)


def rope_length(config: Mapping[str, Any]) -> int:
    """Positions in vLLM's table of a YaRN rope: the first length times the factor, also where the model's own limit is higher.

    Later positions would be read from beyond the table. UNBOUNDED for other ropes. `config`: of the text model, as in config.json.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    lengths = [UNBOUNDED]
    for each in (rope, *(inner for inner in rope.values() if isinstance(inner, Mapping))):
        first = each.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        if "yarn" in str(each.get("rope_type") or each.get("type")) and first and each.get("factor"):
            lengths.append(int(first * each["factor"]))
    return min(lengths)


def check_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Compare the files' tensors with the model's parameters, and the adapter's with the modules that it targets, by name and shape.

    transformers and peft build the model without memory for its weights and read no tensor. vLLM itself leaves a parameter that the
    files lack as whatever its memory holds. Returns notes. Raises AssayError for what is missing or would be ignored.
    """
    method = quantization_method(checkpoint.config)
    if method and method not in METHODS:
        return (f"quantised checkpoint ({method}): tensor names are checked by vLLM only",)
    if method:
        model, notes = read_names(checkpoint.path, checkpoint.tensors, checkpoint.adapter)
    else:
        model, notes = read_weights(checkpoint.path, "float32", {"device_map": "meta"}, checkpoint.adapter)
    if checkpoint.adapter is not None and not checkpoint.adapter.is_soft_prompt and model is not None:
        add_adapter(model, checkpoint.adapter)
    return notes
