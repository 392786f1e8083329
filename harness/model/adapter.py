"""Reads an adapter in the format of peft and checks that it fits its base model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.weights import FETCH_AGAIN, PICKLES, SAVE_SAFETENSORS, Tensor, embedding, read_header, read_json

SOFT_PROMPTS = ("PROMPT_TUNING", "P_TUNING")
"""Adapters that are embeddings before the prompt. For P-tuning, peft saves the output of its network: the same embeddings."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's folder: adapter_config.json and the tensors of adapter_model.safetensors."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def kind(self) -> str:
        """peft's name of the method, such as LORA."""
        return str(self.config.get("peft_type"))

    @property
    def is_soft_prompt(self) -> bool:
        """Whether it is virtual tokens before every sequence and nothing else."""
        return self.kind in SOFT_PROMPTS

    @property
    def files(self) -> dict[str, Path]:
        return {name: self.path / name for name in ("adapter_config.json", "adapter_model.safetensors")}


def read_adapter(folder: Path) -> Adapter:
    """Reads an adapter's configuration and safetensors header. Raises AssayError for missing files, a pickle, or one that needs code."""
    path, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    if not path.is_file():
        raise AssayError(
            "no adapter: adapter_config.json is missing", where=str(folder), do="use the folder that peft's save_pretrained wrote"
        )
    if not weights.is_file():
        if any(file.suffix in PICKLES for file in folder.iterdir()):
            raise AssayError("only pickle weights, which can run code when read: refused", where=str(folder), do=SAVE_SAFETENSORS)
        raise AssayError("no adapter: adapter_model.safetensors is missing", where=str(folder), do=FETCH_AGAIN)
    config = read_json(path)
    if mapping := config.get("auto_mapping"):
        module = str(mapping.get("parent_library", "")) if isinstance(mapping, dict) else "an auto_mapping of another form"
        if not module.startswith("transformers."):
            raise AssayError(
                f"the adapter needs code from {module!r}: refused", where=str(folder), do="use an adapter without auto_mapping"
            )
    return Adapter(folder, config, read_header(weights))


def check_adapter(adapter: Adapter, base: Mapping[str, Tensor], quantized: bool = False) -> None:
    """Compares an adapter with the tensors of its base: every module must exist and every shape must fit.

    Shapes are compared for LoRA, IA3, soft prompts and saved modules; for other methods only module names. Expert modules are skipped,
    since transformers fuses them when it loads. Raises AssayError with the first module that does not fit.
    """
    table = embedding(base)
    for name, tensor in adapter.tensors.items():
        if name == "prompt_embeddings":
            if adapter.is_soft_prompt and table is not None and tensor.shape[-1] != table.shape[1]:
                raise misfit(adapter.path, f"soft prompt of width {tensor.shape[-1]} for a model of width {table.shape[1]}")
            continue
        module, part = split_adapter_name(name)
        if not part or "experts" in module:
            continue
        target = base_tensor(module, base)
        if target is None:
            raise misfit(adapter.path, f"the model has no module {module}")
        if not quantized and not fits(part, tensor.shape, target.shape):
            raise misfit(adapter.path, f"{module}: {part} is {list(tensor.shape)}, the model's weight is {list(target.shape)}")


def misfit(adapter: Path, what: str) -> AssayError:
    return AssayError(f"the adapter does not fit this model: {what}", where=str(adapter), do="use the base model that it was trained on")


PARTS: tuple[str, ...] = (
    "lora_A",
    "lora_B",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "ia3_l",
    "vera_lambda_b",
    "vera_lambda_d",
)
PARTS += ("oft_r", "oft_R", "boft_R", "boft_s", "ln_tuning_layers")


def split_adapter_name(name: str) -> tuple[str, str]:
    """Split peft's name of an adapter tensor into the base's module and the part; the part is empty for tensors of no module."""
    pieces = name.removeprefix("base_model.model.").split(".")
    for part in PARTS:
        if part in pieces:
            return ".".join(pieces[: pieces.index(part)]), part
    if pieces[-1] == "weight" and name.startswith("base_model.model."):
        return ".".join(pieces[:-1]).removesuffix(".modules_to_save"), "weight"
    return "", ""


def base_tensor(module: str, base: Mapping[str, Tensor]) -> Tensor | None:
    """The weight of a module. Checkpoints may omit the outermost names (GPT-2: h.0 for transformer.h.0) and a tied output layer."""
    pieces = module.split(".")
    for start in range(len(pieces)):
        found = base.get(".".join([*pieces[start:], "weight"]))
        if found is not None:
            return found
    return embedding(base) if pieces[-1] in ("lm_head", "embed_out") else None


def fits(part: str, shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a part of an adapter fits a weight [out, in]; GPT-2's layers are stored [in, out], so either side may match."""
    if part == "weight":
        return shape == target
    if part in ("lora_A", "lora_embedding_B"):
        return shape[-1] in target if part == "lora_A" else shape[0] in target
    if part in ("lora_B", "lora_embedding_A"):
        return shape[0] in target if part == "lora_B" else shape[-1] in target
    if part in ("ia3_l", "lora_magnitude_vector"):
        return max(shape) in target
    return True
