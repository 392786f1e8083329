"""Text as token ids for servers that tokenise themselves: the ids are the text's code points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

NOTHING = 0
"""The id of an empty context: no character is sent for it."""


def text_of(ids: Sequence[int]) -> str:
    return "".join(chr(code) for code in ids if code != NOTHING)


def ids_of(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


class ServerTokenizer:
    """Stands where a transformers tokenizer stands. It has no special tokens and no chat template: both are the server's."""

    chat_template = None
    bos_token_id = None
    eos_token_id = None
    name_or_path = "the server"
    special_tokens_map: Mapping[str, str] = MappingProxyType({})
    added_tokens_decoder: Mapping[int, Any] = MappingProxyType({})

    def __call__(self, texts: str | Sequence[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": list(ids_of(texts)) if isinstance(texts, str) else [list(ids_of(text)) for text in texts]}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return text_of(ids)
