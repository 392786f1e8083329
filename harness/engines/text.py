"""Generated ids to text: the same text for the same ids and stops in every engine."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from assay.harness.engines.request import GenRequest, TokenIds

HEAD = 4
"""Prompt tokens decoded with the response: some tokenizers drop a leading space, which must not be the response's."""


@dataclass(frozen=True, slots=True)
class TextDecoder:
    """Decodes ids to text. `stops`: the ids that end a text where a request names none."""

    tokenizer: Any
    stops: frozenset[int]

    def ends(self, request: GenRequest) -> Set[int]:
        """The ids that end the response to a request."""
        return frozenset(request.ends) or self.stops

    def decode(self, ids: TokenIds) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def text(self, prompt: TokenIds, ids: TokenIds) -> str:
        """The text of `ids` after `prompt`."""
        head = self.decode(prompt[-HEAD:])
        whole = self.decode(prompt[-HEAD:] + ids)
        return whole[len(head) :] if whole.startswith(head) else self.decode(ids)

    def response(self, request: GenRequest, ids: TokenIds) -> str:
        """The text of a finished response: without the id that ends it, and before the first stop string."""
        kept = ids[:-1] if ids and ids[-1] in self.ends(request) else ids
        text = self.text(request.prompt, kept)
        before = cut(text, request.stop)
        return text if before is None else before


def cut(text: str, stop: tuple[str, ...]) -> str | None:
    """The text before the first stop string; None if there is none."""
    found = [at for at in (text.find(mark) for mark in stop if mark) if at >= 0]
    return text[: min(found)] if found else None
