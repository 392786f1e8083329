"""Reads an adapter in the format of peft and checks that it fits its base model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.hashes import hash_file
from assay.harness.model.tokenizer_files import TEMPLATES, TOKENIZER_FILES, TOKENIZERS, matching
from assay.harness.model.weights import FETCH_AGAIN, PICKLES, SAVE_SAFETENSORS, Tensor, embedding, read_header, read_json

SOFT_PROMPTS = ("PROMPT_TUNING", "P_TUNING")
"""Adapters that are embeddings before the prompt. For P-tuning, peft saves the output of its network: the same embeddings."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's folder: adapter_config.json and the tensors of adapter_model.safetensors."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer: Mapping[str, Path] = field(default_factory=dict)
    """Files of the tokenizer that was saved beside the adapter, by name; empty if there is none."""

    @property
    def kind(self) -> str:
        """peft's name of the method, such as LORA."""
        return str(self.config.get("peft_type"))

    @property
    def is_soft_prompt(self) -> bool:
        """Whether it is virtual tokens before every sequence and nothing else."""
        return self.kind in SOFT_PROMPTS

    @property
    def has_tokenizer(self) -> bool:
        return bool(self.tokenizer)

    @property
    def files(self) -> dict[str, Path]:
        """Every file that can change a score."""
        return {name: self.path / name for name in ("adapter_config.json", "adapter_model.safetensors")} | dict(self.tokenizer)


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
    return Adapter(folder, config, read_header(weights), own_tokenizer(folder))


def own_tokenizer(folder: Path) -> dict[str, Path]:
    """Files of the tokenizer in an adapter's folder. Raises AssayError for a chat template without a tokenizer."""
    found = matching(folder, TOKENIZER_FILES)
    if not found.keys() & set(TOKENIZERS):
        if template := sorted(matching(folder, TEMPLATES)):
            raise AssayError(
                f"the adapter has a chat template ({template[0]}) but no tokenizer",
                where=str(folder),
                do="save the tokenizer it was trained with beside it: tokenizer.save_pretrained(folder)",
            )
        return {}
    return found


def check_adapter(adapter: Adapter, base: Mapping[str, Tensor], quantized: bool = False, layers: int = 0) -> None:
    """Refuses an adapter that cannot fit its base: names that the library does not find, layers that the model lacks, other shapes.

    Names on disk may differ from those of the loaded model (fused experts, multimodal wrappers), so a module that is not found here is
    left to the engine, which compares every name. Shapes are compared for LoRA, IA3, soft prompts and saved modules. `layers`: number of
    layers in config.json, if known. Raises AssayError with the first tensor that does not fit.
    """
    if not adapter.is_soft_prompt:
        check_names(adapter)
    table = embedding(base)
    rows = resized_rows(adapter, table)
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
            found = re.search(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", module)
            if found and layers and int(found[1]) >= layers and not adapter.config.get("layer_replication"):
                raise misfit(adapter.path, f"the model has no module {module}")
            continue
        shape = target.shape
        if rows and table is not None and len(shape) == 2 and shape[0] == table.shape[0] and module.split(".")[-1] in TABLES:
            shape = (rows, shape[1])
        if not quantized and not fits(part, tensor.shape, shape):
            raise misfit(adapter.path, f"{module}: {part} is {list(tensor.shape)}, the model's weight is {list(shape)}")


def note_of_base(adapter: Adapter, weights: Sequence[Path]) -> tuple[str, ...]:
    """A note if the adapter names another local model as its base than the one with these weight files. Equal shapes hide a wrong base."""
    named = Path(str(adapter.config.get("base_model_name_or_path") or "-"))
    with suppress(OSError):
        own = sorted(named.glob("*.safetensors"))
        if own and (sizes(own) != sizes(weights) or {hash_file(path) for path in own} != {hash_file(path) for path in weights}):
            return (f"the adapter was trained on {named}, whose weight files differ from those of this model",)
    return ()


def sizes(files: Sequence[Path]) -> list[int]:
    return sorted(path.stat().st_size for path in files)


def misfit(adapter: Path, what: str) -> AssayError:
    return AssayError(f"the adapter does not fit this model: {what}", where=str(adapter), do="use the base model that it was trained on")


WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module")
"""What torch.compile, DistributedDataParallel and FSDP put into the names of a wrapped model's tensors."""
ROOT = "base_model.model."


def check_names(adapter: Adapter) -> None:
    """Raises AssayError for LoRA tensors under names that peft does not find in any model: it would score the base model instead."""
    for name in adapter.tensors:
        pieces = name.removeprefix(ROOT).split(".")
        wrapper = next((piece for piece in pieces if piece in WRAPPERS), None)
        if wrapper:
            fault, fix = f"contains {wrapper}, the name of a wrapper", "call save_pretrained on the unwrapped model"
        elif pieces[:2] == ["base_model", "model"]:
            fault, fix = f"begins with {ROOT} twice", "save the adapter from the PeftModel itself, not from a second one around it"
        elif adapter.kind == "LORA" and not name.startswith(ROOT):
            fault, fix = f"does not begin with {ROOT}", "save the adapter with peft's save_pretrained"
        else:
            continue
        raise AssayError(f"peft would not find the adapter's tensors: {name} {fault}", where=str(adapter.path), do=fix)


TABLES = ("embed_tokens", "wte", "embed_in", "word_embeddings", "lm_head", "embed_out")
"""Modules with one row per token: input embeddings and output layer."""


def resized_rows(adapter: Adapter, table: Tensor | None) -> int:
    """Number of rows of the embeddings that an adapter saved, if tokens were added for it; 0 if the base's embeddings fit.

    Raises AssayError if only the output layer has more rows than the base.
    """
    saved = {}
    for name, tensor in adapter.tensors.items():
        module, part = split_adapter_name(name)
        if part == "weight" and module.split(".")[-1] in TABLES and len(tensor.shape) == 2:
            saved[module.split(".")[-1] in ("lm_head", "embed_out")] = tensor.shape[0]
    if table is None or saved.get(False, saved.get(True, 0)) <= table.shape[0]:
        return 0
    if False not in saved:
        raise misfit(adapter.path, f"lm_head: weight has {saved[True]} rows, the model {table.shape[0]}, and no embeddings were saved")
    return saved[False]


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
        return ".".join(pieces[:-1]).removesuffix(".modules_to_save").removesuffix(".base_layer"), "weight"
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
