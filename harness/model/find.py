"""Which model, exactly: found by name, checked without loading it, identified by the digest of its weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.builtin import MODELS, PREFIX, builtin_model
from assay.harness.model.checkpoint import (
    AGAIN,
    Tensor,
    adapter_files,
    check_adapter,
    digest_files,
    embedding,
    read_json,
    read_tensors,
    weight_files,
)

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
"""Files of which a model has at least one: its vocabulary."""
BESIDE: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
BESIDE += ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja", "*.tiktoken", "model.safetensors.index.json")
HUB_FILES = [*TOKENIZERS, *BESIDE, "*.safetensors"]
"""What is fetched from the hub: no pickle, no code."""
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length", "max_seq_length")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on disk. Its identity is the digest of its files, never its name.

    `digest` covers weights, configuration, tokenizer and chat template, and the adapter's files where there is one.
    """

    name: str
    """As the user wrote it; with an adapter, base+adapter: a model of its own, which the base's name never means."""
    path: Path
    """Directory with config.json, safetensors and tokenizer files."""
    digest: str
    revision: str = ""
    adapter: Path | None = None
    parameters: int = 0
    positions: int = 0
    """Longest sequence that the model is made for; 0 where its configuration sets no limit."""


def find_model(
    name: str, *, adapter: str | Path | None = None, revision: str | None = None, cache: Path, offline: bool = False
) -> ModelRef:
    """The model called `name`: a local directory, `builtin:...`, or a hub id (at a revision), checked without loading a tensor.

    `cache` is assay's own folder, used for built-in models; hub models lie in the hub's cache. `parameters` counts values as stored (tied
    weights once). Raises AssayError for whatever would end in a wrong number or a traceback later: no such model, no or broken or pickled
    weights, code to be run, no tokenizer or one that does not match, an adapter that does not fit.
    """
    try:
        folder, commit = locate(name, revision, cache, offline)
        side = None if adapter is None else Path(adapter).expanduser()
        ref = inspect(name, folder, commit, side)
    except OSError as error:
        where = str(error.filename or name)
        raise AssayError(f"cannot be read: {error.strerror or error}", where=where, do="check the path and its permissions") from None
    expected = MODELS[name].digest if name in MODELS and adapter is None else ""
    if expected and ref.digest != expected:
        raise AssayError("the built-in model in the cache was changed or damaged", where=str(folder), do="delete that folder and try again")
    return ref


def inspect(name: str, folder: Path, revision: str = "", adapter: Path | None = None) -> ModelRef:
    """The model in a folder, checked: configuration, weights, tokenizer, adapter; then hashed."""
    config = check_config(folder)
    tensors = read_tensors(folder)
    check_sizes(folder, config, tensors)
    check_tokenizer(folder, tensors)
    files = model_files(folder)
    if adapter is not None:
        if not adapter.is_dir():
            raise AssayError("no such adapter folder", where=str(adapter), do=suggest(str(adapter)))
        check_adapter(adapter, tensors, quantized="quantization_config" in config)
        files |= {f"adapter/{file}": path for file, path in adapter_files(adapter).items()}
    return ModelRef(
        name=name if adapter is None else f"{name}+{adapter}",
        path=folder,
        digest=digest_files(files),
        revision=revision,
        adapter=adapter,
        parameters=sum(tensor.count for tensor in tensors.values()),
        positions=positions_of(folder, text_config(config)),
    )


def positions_of(folder: Path, config: Mapping[str, Any]) -> int:
    """The longest sequence that a configuration tells; 0 where it sets no limit."""
    for key in POSITIONS:
        value = config.get(key)
        if value is None or value == 0:
            continue
        if not isinstance(value, int) or value < 0:
            raise AssayError(f"{key} is {value!r:.60}, not a number of tokens", where=str(folder / "config.json"), do=AGAIN)
        return value
    return 0


def locate(name: str, revision: str | None, cache: Path, offline: bool) -> tuple[Path, str]:
    """Folder and commit of a model; the commit is empty for what is not from the hub."""
    path = Path(name).expanduser()
    if name.startswith(PREFIX) or path.is_dir():
        if revision is not None:
            raise AssayError(f"revision {revision!r} was asked for, but only hub models have revisions", where=name, do="leave it out")
        if path.is_dir():
            return path, ""
        if name not in MODELS:
            raise AssayError("unknown built-in model", where=name, do=suggest(name))
        return builtin_model(name, cache, offline=offline), ""
    if path.is_file():
        raise AssayError("is a file; a model is a folder with config.json, safetensors and tokenizer", where=name, do=f"try {path.parent}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) or ".." in name:
        raise AssayError("no such model folder", where=name, do=suggest(name))
    return from_hub(name, revision, offline)


def from_hub(name: str, revision: str | None, offline: bool) -> tuple[Path, str]:
    """Snapshot of a hub model, from the hub's cache where it is there; the commit is the snapshot folder's name."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise AssayError("no such model folder", where=name, do=suggest(name) + "; hub models need: pip install 'assay[hf]'") from None
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=HUB_FILES, local_files_only=offline)
    except errors.GatedRepoError:
        raise AssayError("this hub model is gated", where=name, do="accept its terms on the hub, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise AssayError(f"the hub model has no revision {revision!r}", where=name, do="give a branch, tag or commit that exists") from None
    except errors.RepositoryNotFoundError:
        raise AssayError("unknown model: no such folder, and no such model on the hub", where=name, do=suggest(name)) from None
    except errors.LocalEntryNotFoundError:
        reach = "the network is off" if offline else "the hub cannot be reached"
        raise AssayError(f"unknown model: no such folder, not in the hub's cache, and {reach}", where=name, do=suggest(name)) from None
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise AssayError(f"the hub refused: {str(error).splitlines()[0]}", where=name, do=suggest(name)) from None
    return Path(folder), Path(folder).name


def suggest(name: str) -> str:
    """What to do about an unknown name: near built-in names and near model folders, else what a name may be."""
    parent = Path(name).expanduser().parent
    folders: dict[str, str] = {}
    if parent.is_dir():
        near = (path for path in parent.iterdir() if any((path / file).is_file() for file in ("config.json", "adapter_config.json")))
        folders = {path.name: str(path) for path in near}
    known = {builtin.removeprefix(PREFIX): builtin for builtin in MODELS} | {builtin: builtin for builtin in MODELS} | folders
    lower = {key.lower(): value for key, value in known.items()}
    wanted = [name.lower(), Path(name).name.lower()]
    close = [lower[key] for text in wanted for key in difflib.get_close_matches(text, lower, n=3, cutoff=0.6)]
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(close))}?"
    return f"give a model folder, a hub id, or {', '.join(MODELS)}"


def check_config(folder: Path) -> dict[str, Any]:
    """config.json of a causal language model that needs no code of its own."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise AssayError(
                "is an adapter, not a whole model", where=str(folder), do="give its base as the model and this folder as the adapter"
            )
        raise AssayError("no model: config.json is missing", where=str(folder), do=suggest_inside(folder))
    config = read_json(folder / "config.json")
    for file in ("config.json", "tokenizer_config.json"):
        if (folder / file).is_file() and read_json(folder / file).get("auto_map"):
            raise AssayError(
                "the model brings its own code (auto_map), which assay never runs: refused",
                where=str(folder / file),
                do="if transformers has this architecture itself, use a copy of the model without auto_map",
            )
    names = config.get("architectures") or []
    if not isinstance(names, list):
        raise AssayError(f"architectures is {names!r:.60}, not a list", where=str(folder / "config.json"), do=AGAIN)
    if names and not any(str(name).endswith(CAUSAL) for name in names):
        raise AssayError(
            f"{names[0]} is no causal language model", where=str(folder), do="give a model whose architecture ends in ForCausalLM"
        )
    return config


def suggest_inside(folder: Path) -> str:
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return f"did you mean {inside[-1]}?" if inside else "give the folder that save_pretrained wrote"


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language part of a configuration."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def check_sizes(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Weights and configuration agree on the number of layers and rows of embeddings; missing layers would be random ones."""
    text, table = text_config(config), embedding(tensors)
    layers = text.get("num_hidden_layers") or text.get("n_layer")
    found = [int(number) for name in tensors for number in re.findall(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", name)]
    if isinstance(layers, int) and found and max(found) + 1 < layers:
        raise AssayError(
            f"config.json says {layers} layers, the weights hold {max(found) + 1}", where=str(folder), do="fetch the model again"
        )
    rows = text.get("vocab_size")
    if isinstance(rows, int) and table is not None and "quantization_config" not in config and table.shape[0] != rows:
        raise AssayError(f"config.json says vocab_size {rows}, the embeddings have {table.shape[0]} rows", where=str(folder), do=AGAIN)


def check_tokenizer(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """There is a tokenizer, and the embeddings have a row for every id that it can give."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise AssayError(
            "no tokenizer: tokenizer.json is missing", where=str(folder), do="copy the tokenizer files of the base model there"
        )
    table = embedding(tensors)
    tokens = dict(token_ids(folder))
    if table is None or not tokens:
        return
    worst = max(tokens, key=tokens.__getitem__)
    if tokens[worst] >= table.shape[0]:
        raise AssayError(
            f"the tokenizer does not match: token {worst!r} has id {tokens[worst]}, the embeddings have {table.shape[0]} rows",
            where=str(folder),
            do="put the tokenizer there that the model was trained with",
        )


def token_ids(folder: Path) -> Iterator[tuple[str, int]]:
    """Every token and its id, from the JSON files of a tokenizer (a SentencePiece file alone tells none)."""
    for file in ("vocab.json", "added_tokens.json"):
        if (folder / file).is_file() and not (folder / "tokenizer.json").is_file():
            yield from ((token, id) for token, id in read_json(folder / file).items() if isinstance(id, int))
    if (folder / "tokenizer.json").is_file():
        whole = read_json(folder / "tokenizer.json")
        model = whole.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if not vocab:
            raise AssayError("has no vocabulary", where=str(folder / "tokenizer.json"), do="fetch the tokenizer again")
        # A Unigram vocabulary is a list of [token, score], the others map token to id.
        try:
            yield from (
                ((str(token), int(id)) for token, id in vocab.items())
                if isinstance(vocab, dict)
                else ((str(pair[0]), i) for i, pair in enumerate(vocab))
            )
            yield from ((str(added["content"]), int(added["id"])) for added in whole.get("added_tokens") or ())
        except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
            raise AssayError(f"holds a token without its id: {error!r:.80}", where=str(folder / "tokenizer.json"), do=AGAIN) from None


def model_files(folder: Path) -> dict[str, Path]:
    """Every file that can change a score, by its name in the folder."""
    found = {path.name: path for path in weight_files(folder)}
    for pattern in (*TOKENIZERS, *BESIDE):
        found |= {path.relative_to(folder).as_posix(): path for path in folder.glob(pattern) if path.is_file()}
    return found
