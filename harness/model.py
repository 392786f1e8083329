"""Which model, exactly: found by name, checked without loading it, identified by the digest of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on disk. Its identity is the digest of its files, never its name.

    `digest` covers weights, configuration, tokenizer and chat template, and the adapter's files where there is one.
    """

    name: str
    """As the user wrote it."""
    path: Path
    """Directory with config.json, safetensors and tokenizer files."""
    digest: str
    revision: str = ""
    adapter: Path | None = None
    parameters: int = 0
    positions: int = 0
    """Longest sequence that the model is made for."""
