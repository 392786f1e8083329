"""A checkpoint with its weights rounded to 4 bits: python tests/rounding.py FROM TO"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def rounded(values: Any, bits: int = 4) -> Any:
    """A weight matrix [rows, columns], each row rounded to the nearest of 2^bits - 1 even levels up to its largest value."""
    top = 2 ** (bits - 1) - 1
    scale = (values.abs().amax(dim=1, keepdim=True) / top).clamp(min=1e-12)
    return (values / scale).round().clamp(-top, top) * scale


def round_model(base: Path, folder: Path) -> Path:
    """A copy of a checkpoint whose attention and feed-forward matrices went through 4 bits; the embeddings stay."""
    return changed_model(base, folder, change=rounded)


def changed_model(base: Path, folder: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a checkpoint with `change` of each attention and feed-forward matrix; the embeddings stay."""
    from safetensors.torch import load_file, save_file

    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(base, part)
    for path in part.glob("*.safetensors"):
        tensors = {name: change(value) if name.endswith("_proj.weight") else value for name, value in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    return part.rename(folder)


if __name__ == "__main__":
    round_model(*map(Path, sys.argv[1:]))
