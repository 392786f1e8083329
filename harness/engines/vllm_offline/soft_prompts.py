"""Soft prompts in vLLM: every request has the embeddings of the virtual tokens before its ids (mixed mode); the prefix cache works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError


@dataclass(frozen=True, slots=True)
class SoftPrompt:
    """Virtual tokens before every sequence: `rows` [longest sequence, hidden] holds their embeddings, then zeros in the places of ids.

    A request uses the first rows without a copy. vLLM keys its prefix cache by the embeddings too.
    """

    rows: Any
    virtual: int

    def prompt(self, ids: list[int]) -> dict[str, Any]:
        size = self.virtual + len(ids)
        real = [False] * self.virtual + [True] * len(ids)
        return {"prompt_token_ids": [0] * self.virtual + ids, "prompt_embeds": self.rows[:size], "prompt_is_token_ids": real}


def soft_prompt(adapter: Path, longest: int, dtype: Any) -> SoftPrompt:
    """The trained rows of a peft prompt-tuning or P-tuning adapter. Raises AssayError if they are missing."""
    import torch
    from safetensors.torch import load_file

    rows = load_file(str(adapter / "adapter_model.safetensors")).get("prompt_embeddings")
    if rows is None or rows.ndim != 2:
        raise AssayError("no prompt_embeddings in the adapter", where=str(adapter), do="use --engine hf")
    table = torch.zeros(longest, rows.shape[1], dtype=dtype)
    table[: len(rows)] = rows
    return SoftPrompt(table, len(rows))
