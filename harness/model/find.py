"""Finds a model by name, checks it without loading it, and identifies it by the digest of its files."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from assay.harness.errors import AssayError
from assay.harness.model.adapter import check_adapter
from assay.harness.model.builtin import MODELS, PREFIX, builtin_model
from assay.harness.model.checkpoint import OTHER_FILES, UNBOUNDED, Checkpoint, read_checkpoint
from assay.harness.model.quantized import check_quantized
from assay.harness.model.served import Server
from assay.harness.model.tokenizer_files import TOKENIZER_FILES, TOKENIZERS
from assay.harness.model.weights import FETCH_AGAIN, digest_files, embedding

HUB_FILES = [*TOKENIZER_FILES, *OTHER_FILES, "*.safetensors"]
"""What is fetched from the hub: no pickle, no code."""


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on disk. Its identity is the digest of its files, never its name.

    `digest` covers weights, configuration, tokenizer and chat template, and the files of the adapter, if any.
    """

    name: str
    """As the user wrote it; base+adapter for an adapted model, so that it is never confused with its base."""
    path: Path
    """Directory with config.json, safetensors and tokenizer files."""
    digest: str
    revision: str = ""
    adapter: Path | None = None
    parameters: int = 0
    positions: int = 0
    """Longest sequence in tokens; UNBOUNDED if the configuration sets no limit."""
    checkpoint: Checkpoint | None = field(default=None, repr=False, compare=False)
    """The contents of the folder; None for a reference that came from another process, and for a served model."""
    server: Server | None = None
    """Where the model is served; then `path` is the folder of its tokenizer, if there is one, and `digest` is not of weights."""


def checkpoint_of(model: ModelRef) -> Checkpoint:
    """The contents of the model's folder, read now if finding the model did not read it in this process. Raises AssayError, OSError."""
    return model.checkpoint or read_checkpoint(model.path, model.adapter)


def tokenizer_folder(model: ModelRef) -> Path:
    """The folder of the model's tokenizer and chat template: the adapter's, if it was saved with its own, else the model's."""
    return model.path if model.adapter is None else checkpoint_of(model).tokenizer


def find_model(
    name: str, *, adapter: str | Path | None = None, revision: str | None = None, cache: Path, offline: bool = False
) -> ModelRef:
    """The model called `name`: a local directory, `builtin:...`, or a hub id (at a revision), checked without loading a tensor.

    `cache` is assay's own folder, used for built-in models; hub models are in the hub's cache. `parameters` counts values as stored (tied
    weights once). Raises AssayError for an unknown model, missing, corrupt or pickled weights, a model that needs its own code, a missing
    tokenizer, and an adapter that does not fit.
    """
    try:
        folder, commit = locate(name, revision, cache, offline)
        ref = inspect(name, folder, commit, None if adapter is None else locate_adapter(str(adapter), offline))
    except OSError as error:
        where = str(error.filename or name)
        raise AssayError(
            f"the model cannot be read: {error.strerror or error}", where=where, do="check the path and its permissions"
        ) from None
    if adapter is not None:  # as the user wrote it, not where the hub's cache has it
        ref = replace(ref, name=f"{name}+{adapter}")
    expected = MODELS[name].digest if name in MODELS and adapter is None else ""
    if expected and ref.digest != expected:
        raise AssayError("the built-in model in the cache was changed or damaged", where=str(folder), do=f"rm -r {folder}, then try again")
    return ref


def inspect(name: str, folder: Path, revision: str = "", adapter: Path | None = None) -> ModelRef:
    """The model in a folder: read, checked, then hashed."""
    if adapter is not None and not adapter.is_dir():
        raise AssayError("no such adapter folder", where=str(adapter), do=suggest(str(adapter)))
    checkpoint = read_checkpoint(folder, adapter)
    check_sizes(checkpoint)
    check_quantized(checkpoint.config, checkpoint.tensors, checkpoint.path)
    check_tokenizer(checkpoint)
    files = dict(checkpoint.files)
    if checkpoint.adapter is not None:
        check_adapter(checkpoint.adapter, checkpoint.tensors, "quantization_config" in checkpoint.config, checkpoint.layers)
        files |= {f"adapter/{file}": path for file, path in checkpoint.adapter.files.items()}
    return ModelRef(
        name=name if adapter is None else f"{name}+{adapter}",
        path=folder,
        digest=digest_files(files),
        revision=revision,
        adapter=adapter,
        parameters=checkpoint.parameters,
        positions=checkpoint.positions or UNBOUNDED,
        checkpoint=checkpoint,
    )


def locate(name: str, revision: str | None, cache: Path, offline: bool) -> tuple[Path, str]:
    """Folder and commit of a model; the commit is empty for models that are not from the hub."""
    path = Path(name).expanduser()
    if name.startswith(PREFIX) or path.is_dir():
        if revision is not None:
            raise AssayError(f"only hub models have revisions, got revision {revision!r}", where=name, do="run without --revision")
        if path.is_dir():
            return path, ""
        if name not in MODELS:
            raise AssayError("unknown built-in model", where=name, do=suggest(name))
        return builtin_model(name, cache, offline=offline), ""
    if path.is_file():
        raise AssayError("expected a model folder (config.json, *.safetensors, tokenizer), got a file", where=name, do=f"try {path.parent}")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", name) or ".." in name:
        raise AssayError("no such model folder", where=name, do=suggest(name))
    return from_hub(name, revision, offline)


def locate_adapter(name: str, offline: bool) -> Path:
    """Folder of an adapter: a local one, or the snapshot of a hub id such as `org/name` or `org/name@revision`."""
    path = Path(name).expanduser()
    repository, _, revision = name.partition("@")
    if path.is_dir() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", repository) or ".." in repository:
        return path
    return from_hub(repository, revision or None, offline, "adapter")[0]


def from_hub(name: str, revision: str | None, offline: bool, what: str = "model") -> tuple[Path, str]:
    """Snapshot folder of a hub model or adapter, from the hub's cache if it is there, and its commit (the folder's name)."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise AssayError(f"no such {what} folder", where=name, do=suggest(name) + "; hub models need: pip install 'assay[hf]'") from None
    try:
        files = [*HUB_FILES, "adapter_config.json"] if what == "adapter" else HUB_FILES
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=files, local_files_only=offline)
    except errors.GatedRepoError:
        raise AssayError(f"the hub {what} is gated", where=name, do="accept its terms on the hub, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise AssayError(
            f"the hub {what} has no revision {revision!r}", where=name, do="use a branch, tag or commit of the model as --revision"
        ) from None
    except errors.RepositoryNotFoundError:
        raise AssayError(f"unknown {what}: no such folder, and no such {what} on the hub", where=name, do=suggest(name)) from None
    except errors.LocalEntryNotFoundError:
        reach = "the network is off" if offline else "the hub cannot be reached"
        raise AssayError(f"unknown {what}: no such folder, not in the hub's cache, and {reach}", where=name, do=suggest(name)) from None
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise AssayError(f"the hub refused: {str(error).splitlines()[0]}", where=name, do=suggest(name)) from None
    return Path(folder), Path(folder).name


def suggest(name: str) -> str:
    """The fix for an unknown name: similar built-in names and model folders, else the accepted forms."""
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


def check_sizes(checkpoint: Checkpoint) -> None:
    """Compare the weights' number of layers and of embedding rows with config.json. Missing layers would be initialised at random."""
    text, table, where = checkpoint.text_config, embedding(checkpoint.tensors), str(checkpoint.path)
    layers = checkpoint.layers
    found = [int(number) for name in checkpoint.tensors for number in re.findall(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.", name)]
    if found and max(found) + 1 < layers:
        raise AssayError(f"config.json has {layers} layers, the weights have {max(found) + 1}", where=where, do="fetch the model again")
    rows = text.get("vocab_size")
    if isinstance(rows, int) and table is not None and "quantization_config" not in checkpoint.config and table.shape[0] != rows:
        raise AssayError(f"config.json has vocab_size {rows}, the embeddings have {table.shape[0]} rows", where=where, do=FETCH_AGAIN)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Check that there is a tokenizer. A token without a row in the embeddings is refused where a prompt contains it."""
    where = str(checkpoint.path)
    if not any(name in checkpoint.files for name in TOKENIZERS):
        raise AssayError(
            "no tokenizer: tokenizer.json is missing", where=where, do="copy the tokenizer files of the base model into this folder"
        )
