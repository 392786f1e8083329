"""How vLLM is started on a CPU and on a GPU; no vLLM is needed. Run: pytest tests/harness/engines/test_vllm_options.py"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, save_lora

from assay.harness.engines import Settings
from assay.harness.engines.vllm_offline.checks import rope_length
from assay.harness.engines.vllm_offline.process import llm_options, prepare_environment
from assay.harness.errors import AssayError
from assay.harness.model.checkpoint import UNBOUNDED, read_checkpoint
from assay.harness.model.find import checkpoint_of, find_model

OWN = ("block_size", "max_num_batched_tokens", "gpu_memory_utilization")
"""What vLLM chooses itself on a GPU."""


def options(folder: Path, cpu: bool = False, **settings: Any) -> dict[str, Any]:
    path = make_model(folder / "model")
    return llm_options(read_checkpoint(path), Settings(**settings), cpu, str(path))


def test_on_a_gpu_sizes_are_vllms_own_and_graphs_are_recorded_for_text_only(tmp_path: Path) -> None:
    found = options(tmp_path)
    assert not found.keys() & {*OWN, "enforce_eager"}
    assert options(tmp_path, scores_only=True)["enforce_eager"] is True
    on_cpu = options(tmp_path, cpu=True)
    assert on_cpu["enforce_eager"] is True and on_cpu["block_size"] == 32


def test_the_output_layer_computes_in_fp32_unless_all_does_or_it_is_adapted(tmp_path: Path) -> None:
    assert options(tmp_path)["hf_overrides"] == options(tmp_path, dtype="bf16")["hf_overrides"] == {"head_dtype": "float32"}
    assert "hf_overrides" not in options(tmp_path, dtype="fp32") and "hf_overrides" not in options(tmp_path, cpu=True)
    save_lora(tmp_path / "adapter")
    adapted = find_model(str(make_model(tmp_path / "model")), adapter=tmp_path / "adapter", cache=tmp_path, offline=True)
    assert "hf_overrides" not in llm_options(checkpoint_of(adapted), Settings(), False, "x")


@pytest.mark.parametrize(("cpu", "parallel", "expected"), [(True, 1, "0"), (True, 2, None), (False, 1, None)])
def test_vllm_keeps_its_own_processes_on_a_gpu(monkeypatch: pytest.MonkeyPatch, cpu: bool, parallel: int, expected: str | None) -> None:
    kept = dict(os.environ)
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    try:
        prepare_environment(cpu, Settings(tensor_parallel=parallel))
        assert os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == expected
    finally:
        os.environ.clear()
        os.environ.update(kept)


def test_lora_in_fp32_on_a_gpu_is_refused_before_vllm_starts(tmp_path: Path) -> None:
    """vLLM's LoRA kernels assert 16 bits; their assertion has no text."""
    save_lora(tmp_path / "adapter")
    ref = find_model(str(make_model(tmp_path / "model")), adapter=tmp_path / "adapter", cache=tmp_path, offline=True)
    with pytest.raises(AssayError, match="16 bits only"):
        llm_options(checkpoint_of(ref), Settings(dtype="fp32"), False, "x")
    assert llm_options(checkpoint_of(ref), Settings(dtype="fp32"), True, "x")["enable_lora"]
    assert llm_options(checkpoint_of(ref), Settings(), False, "x")["enable_lora"]


def test_vllms_yarn_ends_at_the_first_length_times_the_factor() -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert rope_length({"rope_scaling": yarn}) == 512
    layers = {"full_attention": {**yarn, "rope_type": "yarn"}, "sliding_attention": {"rope_type": "default"}}
    assert rope_length({"rope_parameters": layers}) == 512
    assert rope_length({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}) == UNBOUNDED
    assert rope_length({"rope_scaling": {**yarn, "type": "linear"}}) == rope_length({}) == UNBOUNDED
