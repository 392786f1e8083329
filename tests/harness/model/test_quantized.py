"""Quantised checkpoints whose files lack a tensor are refused. Run: pytest tests/harness/model/test_quantized.py"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import make_model

from assay import AssayError
from assay.harness.engines.vllm_offline.checks import check_tensors
from assay.harness.model.find import find_model

Tensors = dict[str, Any]
FORMATS: dict[str, Callable[[int, int], Tensors]] = {
    "gptq": lambda out, width: {
        "qweight": np.ones((width // 8, out), np.int32),
        "qzeros": np.ones((1, out // 8), np.int32),
        "scales": np.ones((1, out), np.float16),
        "g_idx": np.zeros(width, np.int32),
    },
    "awq": lambda out, width: {
        "qweight": np.ones((width, out // 8), np.int32),
        "qzeros": np.ones((1, out // 8), np.int32),
        "scales": np.ones((1, out), np.float16),
    },
    "compressed-tensors": lambda out, width: {"weight": np.ones((out, width), np.int8), "weight_scale": np.ones((out, 1), np.float32)},
    "bitsandbytes": lambda out, width: {
        "weight": np.ones((out * width // 2, 1), np.uint8),
        "weight.absmax": np.ones(4, np.float32),
        "weight.quant_state.bitsandbytes__nf4": np.ones(8, np.uint8),
    },
}
"""The tensors of one layer of shape [out, width], by format."""


def quantized(folder: Path, method: str, change: Callable[[Tensors], None] = lambda _: None) -> Path:
    """A tiny Llama whose linear layers are stored in a format, with its tensors changed."""
    from safetensors.numpy import load_file, save_file

    make_model(folder)
    found: Tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "_proj" not in name:
            found[name] = tensor
            continue
        parts = FORMATS[method](*tensor.shape)
        found |= {f"{name.removesuffix('weight')}{part}": value for part, value in parts.items()}
    change(found)
    save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method, "bits": 4}}))
    return folder


def checked(folder: Path) -> tuple[str, ...]:
    return check_tensors(find_model(str(folder), cache=folder, offline=True).checkpoint)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", FORMATS)
def test_a_whole_quantised_checkpoint_is_accepted(method: str, tmp_path: Path) -> None:
    assert checked(quantized(tmp_path, method)) == ()


@pytest.mark.parametrize(
    ("method", "part", "problem"),
    [
        ("gptq", "k_proj.scales", "self_attn.k_proj has no scale"),
        ("awq", "qzeros", "has no qzeros"),
        ("compressed-tensors", "weight_scale", "has no scale"),
        ("bitsandbytes", "absmax", "has no scale"),
        ("gptq", "v_proj.qweight", "missing keys: 1, first model.layers.0.self_attn.v_proj.weight"),
        ("compressed-tensors", "norm.weight", "missing keys: 3, first"),
    ],
)
def test_a_tensor_that_the_files_lack_is_named(method: str, part: str, problem: str, tmp_path: Path) -> None:
    def drop(tensors: Tensors) -> None:
        if part == "qzeros":  # it may be missing in all layers, but not in one of two
            tensors |= {name.replace("layers.0", "layers.1"): value for name, value in tensors.items() if "layers.0" in name}
        for name in [name for name in sorted(tensors) if name.endswith(part)][: 1 if part == "qzeros" else None]:
            del tensors[name]

    with pytest.raises(AssayError, match=problem):
        checked(quantized(tmp_path, method, drop))


def test_a_layer_that_the_model_does_not_have_is_named(tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        tensors |= {f"model.layers.1.self_attn.q_proj.{part}": value for part, value in FORMATS["gptq"](16, 16).items()}

    with pytest.raises(AssayError, match=r"would ignore 1 tensors of its own layers, first model.layers.1.self_attn.q_proj.weight"):
        checked(quantized(tmp_path, "gptq", add))
