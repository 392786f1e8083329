"""Reads a model's folder once, without loading a tensor, into one frozen value that engines, doctor and tuners use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.adapter import Adapter, note_of_base, read_adapter
from assay.harness.model.tokenizer_files import TOKENIZER_FILES, matching, token_ids
from assay.harness.model.weights import FETCH_AGAIN, Tensor, not_a_whole_model, read_json, read_tensors, refuse_other_formats

OTHER_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
ENCODER_DECODER = "is an encoder-decoder: its answer does not follow the prompt in one sequence, and assay scores only models where it does"
UNBOUNDED = 1 << 20
"""Positions of a model without a limit of its own, such as a recurrent one."""
POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length", "seq_length", "max_seq_length")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The contents of a model's folder, and of its adapter's folder if it has one."""

    path: Path
    config: Mapping[str, Any]
    """config.json."""
    generation_config: Mapping[str, Any]
    """generation_config.json; empty if there is none."""
    tensors: Mapping[str, Tensor]
    """Every tensor of the weights by name, from the safetensors headers."""
    last_token: tuple[str, int] | None
    """The token with the highest id; None if the vocabulary is not in a JSON file."""
    files: Mapping[str, Path]
    """Every file of the model that can change a score, by its name in the folder."""
    adapter: Adapter | None = None

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The language part of the configuration."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def architectures(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.config.get("architectures") or ())

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer: that of the adapter if it has one of its own, else the model's."""
        return self.adapter.path if self.adapter is not None and self.adapter.has_tokenizer else self.path

    @property
    def layers(self) -> int:
        """Number of layers in config.json; 0 if it is not there."""
        found = self.text_config.get("num_hidden_layers") or self.text_config.get("n_layer")
        return found if isinstance(found, int) else 0

    @property
    def positions(self) -> int:
        """Longest sequence in tokens; 0 if the configuration sets no limit. Raises AssayError if it is not a number."""
        for key in POSITIONS:
            value = self.text_config.get(key)
            if value is None or value in (0, -1):  # transformers saves -1 for XLNet, which has no limit
                continue
            if not isinstance(value, int) or value < 0:
                raise AssayError(f"{key} is {value!r:.60}, not a number of tokens", where=str(self.path / "config.json"), do=FETCH_AGAIN)
            return value
        return 0

    @property
    def parameters(self) -> int:
        """Number of stored values; tied weights count once."""
        return sum(tensor.count for tensor in self.tensors.values())

    @property
    def weights(self) -> tuple[Path, ...]:
        """The safetensors files that hold the tensors."""
        return tuple(self.path / name for name in sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader of a score should know about the folders."""
        return () if self.adapter is None else note_of_base(self.adapter, self.weights)


def read_checkpoint(folder: Path, adapter: Path | None = None) -> Checkpoint:
    """Reads configuration, safetensors headers and tokenizer of a model, and its adapter.

    Raises AssayError for missing or malformed files, for pickle weights, for a model that needs its own code, and for one that is not a
    causal language model; OSError if a file cannot be read.
    """
    config = read_config(folder)
    generation = folder / "generation_config.json"
    tensors = read_tensors(folder)
    files = {name: folder / name for name in sorted({tensor.file for tensor in tensors.values()})}
    files |= matching(folder, (*TOKENIZER_FILES, *OTHER_FILES))
    tuned = None if adapter is None else read_adapter(adapter)
    vocabulary = folder if tuned is None or not tuned.has_tokenizer else tuned.path
    return Checkpoint(
        path=folder,
        config=config,
        generation_config=read_json(generation) if generation.is_file() else {},
        tensors=tensors,
        last_token=max(dict(token_ids(vocabulary)).items(), key=lambda pair: pair[1], default=None),
        files=files,
        adapter=tuned,
    )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a causal language model that needs no code of its own."""
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise not_a_whole_model(folder)
        refuse_other_formats(folder)
        raise AssayError("no model: config.json is missing", where=str(folder), do=suggest_inside(folder))
    config = read_json(path)
    names = config.get("architectures") or []
    if not isinstance(names, list):
        raise AssayError(f"architectures is {names!r:.60}, not a list", where=str(path), do=FETCH_AGAIN)
    if config.get("is_encoder_decoder") and not any(str(name).endswith(CAUSAL[:2]) for name in names):
        raise AssayError(f"{names[0] if names else 'the model'} {ENCODER_DECODER}", where=str(folder), do="give a causal language model")
    tokenizer = folder / "tokenizer_config.json"
    for file, content in ((path, config), (tokenizer, read_json(tokenizer) if tokenizer.is_file() else {})):
        if content.get("auto_map") and not is_native(config):
            raise AssayError(
                "the model needs its own code (auto_map), which assay never runs, and the installed transformers does not have "
                f"{names[0] if names else 'this architecture'}: refused",
                where=str(file),
                do="use a model whose architecture transformers has itself",
            )
    if names and not any(str(name).endswith(CAUSAL) for name in names):
        raise AssayError(
            f"{names[0]} is not a causal language model", where=str(folder), do="give a model whose architecture ends in ForCausalLM"
        )
    return config


def is_native(config: Mapping[str, Any]) -> bool:
    """Whether transformers has the model's type and class itself, so that no code of the model is needed."""
    try:
        from transformers.models.auto import modeling_auto
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    except ImportError:
        return False
    tables = ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")
    kind = config.get("model_type")
    if not isinstance(kind, str):
        return False
    known = [vars(modeling_auto).get(table, {}).get(kind) for table in tables]
    names = config.get("architectures") or known
    return kind in CONFIG_MAPPING_NAMES and any(isinstance(name, str) and name in known for name in names)


def suggest_inside(folder: Path) -> str:
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return f"did you mean {inside[-1]}?" if inside else "give the folder that save_pretrained wrote"
