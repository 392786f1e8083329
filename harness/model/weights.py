"""Reads safetensors headers and shard indexes without loading a tensor, and hashes files by content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.hashes import hash_file

# Bits per value, from the safetensors format description.
BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}
BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}
BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
LONGEST_HEADER = 100_000_000  # the format's own limit
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FETCH_AGAIN = "fetch or save the file again"
SAVE_SAFETENSORS = (
    'save it as safetensors: model.save_pretrained(folder) in a place where you trust the file, or the hub\'s "convert to safetensors"'
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """The header entry of one tensor, and the name of its file."""

    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object from a file. Raises AssayError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise AssayError(f"invalid JSON: {error}", where=str(path), do=FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise AssayError("expected one JSON object", where=str(path), do=FETCH_AGAIN)
    return value


def read_header(path: Path) -> dict[str, Tensor]:
    """Names, types and shapes of the tensors in a safetensors file, from its header.

    Raises AssayError if the file is truncated or corrupt: a wrong header length, invalid JSON, or offsets that overlap, leave gaps,
    contradict the shapes or do not reach the end of the file. Source: the format description of safetensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise corrupt(path, f"header length {length}, file size {size} bytes", size)
        text = file.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        spans = sorted((*entry["data_offsets"], name) for name, entry in entries.items())
        tensors = {name: Tensor(entry["dtype"], tuple(entry["shape"]), path.name) for name, entry in entries.items()}
        end = 0
        for start, stop, name in spans:
            bits = BITS[tensors[name].dtype] * tensors[name].count
            if start != end or stop < start or 8 * (stop - start) != bits:
                raise corrupt(path, f"the offsets of tensor {name} are wrong", size)
            end = stop
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise corrupt(path, "the header is not readable", size) from None
    if end != size - 8 - length:
        raise corrupt(path, f"the tensors end at byte {8 + length + end}", size)
    if not tensors:
        raise AssayError("no tensor in the safetensors file", where=str(path), do=FETCH_AGAIN)
    return tensors


def corrupt(path: Path, what: str, size: int) -> AssayError:
    return AssayError(f"truncated or corrupt safetensors file of {size} bytes: {what}", where=str(path), do=FETCH_AGAIN)


def weight_files(folder: Path, shards: Collection[str]) -> tuple[Path, ...]:
    """The safetensors files that make up the model: model.safetensors, or the `shards` that its index names.

    Raises AssayError if there are none, only pickles, or both kinds (engines would not agree on which to read).
    """
    single = folder / "model.safetensors"
    if shards:
        if single.is_file():
            raise AssayError("both model.safetensors and an index of shards", where=str(folder), do="remove the stale one")
        return tuple(folder / name for name in sorted(shards))
    if single.is_file():
        return (single,)
    if any(folder.glob("model-*-of-*.safetensors")):
        raise AssayError("shards without model.safetensors.index.json", where=str(folder), do="fetch the index too")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise AssayError(
            f"only pickle weights ({pickles[0]}), which can run code when read: refused", where=str(folder), do=SAVE_SAFETENSORS
        )
    if (folder / "adapter_config.json").is_file():
        raise not_a_whole_model(folder)
    refuse_other_formats(folder)
    raise AssayError(
        "no weights: no model.safetensors and no index of shards", where=str(folder), do="use a folder with safetensors weights"
    )


def refuse_other_formats(folder: Path) -> None:
    """Raises AssayError, with the way to convert them, for weights in a format that assay does not read."""
    names = sorted(path.name for path in folder.iterdir())
    if gguf := [name for name in names if name.endswith(".gguf")]:
        convert = (
            f"AutoModelForCausalLM.from_pretrained(folder, gguf_file={gguf[0]!r}).save_pretrained(new_folder), and the tokenizer likewise"
        )
        raise AssayError(
            f"the weights are in GGUF format ({gguf[0]}), which assay does not read", where=str(folder), do=f"convert: {convert}"
        )
    if variants := [name for name in names if re.fullmatch(r"model\.[^.]+(-\d+-of-\d+|\.index)?\.(safetensors|json)", name)]:
        what, name = f"the folder has only a variant of the weights ({variants[0]})", re.split("[.-]", variants[0])[1]
        raise AssayError(what, where=str(folder), do=f"load it with variant={name!r} and save it with save_pretrained")
    if "params.json" in names or "consolidated.safetensors" in names:
        raise AssayError(
            "the model is in Mistral's own format (params.json, consolidated.safetensors), which assay does not read",
            where=str(folder),
            do="use the model in the format of transformers: config.json and model*.safetensors",
        )


def not_a_whole_model(folder: Path) -> AssayError:
    return AssayError(
        "the folder is an adapter, not a whole model", where=str(folder), do="give its base as the model and this folder as the adapter"
    )


def weight_map(index: Path) -> dict[str, str]:
    """Tensor to file name, from an index of shards."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise AssayError("no weight_map in the index of shards", where=str(index), do=FETCH_AGAIN)
    for name in names.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise AssayError(
                f"the index of shards lists {name!r}, which is not a safetensors file of this folder", where=str(index), do=SAVE_SAFETENSORS
            )
    return names


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model by name, from the headers. Raises AssayError for missing shards and for missing tensors of the index."""
    tensors: dict[str, Tensor] = {}
    index = folder / "model.safetensors.index.json"
    listed = weight_map(index) if index.is_file() else {}
    files = weight_files(folder, set(listed.values()))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise AssayError(f"{len(missing)} of {len(files)} shards are missing, first {missing[0]}", where=str(folder), do="fetch them")
    for path in files:
        found = read_header(path)
        lost = [name for name, file in listed.items() if file == path.name and name not in found]
        if lost:
            raise AssayError(f"tensor {lost[0]} is missing, which the index lists in this file", where=str(path), do=FETCH_AGAIN)
        tensors |= {name: tensor for name, tensor in found.items() if listed.get(name, path.name) == path.name}
    return tensors


EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "embeddings.weight", "embedding.weight")


def embedding(tensors: Mapping[str, Tensor]) -> Tensor | None:
    """The table of input embeddings [rows, width], found by its usual names; None if it has another name."""
    for ending in EMBEDDINGS:
        for name, tensor in tensors.items():
            if (name == ending or name.endswith(f".{ending}")) and len(tensor.shape) == 2 and "vision" not in name:
                return tensor
    return None


def digest_files(files: Mapping[str, Path]) -> str:
    """SHA-256 over the sorted names and SHA-256 of files, read in threads. Paths and times do not count."""
    names = sorted(files)
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        hashes = list(pool.map(hash_file, [files[name] for name in names]))
    lines = "".join(f"{name} {value}\n" for name, value in zip(names, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()
