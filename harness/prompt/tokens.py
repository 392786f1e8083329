"""Encode text as token ids. A context and its continuation are encoded as one string, then split."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines.request import TokenIds
from assay.harness.errors import AssayError, redact
from assay.harness.prompt.chat import render_chats
from assay.harness.prompt.render import Message


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer.

    `prefix` is the ids that the tokenizer adds before a text by default (BOS or none); `empty` is the id that replaces an empty
    context. `digest` is the hash of its files.
    """

    prefix: TokenIds
    empty: int
    digest: str
    inner: Any

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each text, without special tokens."""
        if not texts:
            return []
        return [tuple(ids) for ids in self.inner(list(texts), add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(list(ids)))

    def chats(self, chats: Sequence[list[Message]]) -> list[str]:
        """Render each chat, including the generation prompt. Raises AssayError if the chat template is missing or fails."""
        where = str(getattr(self.inner, "name_or_path", ""))
        if not self.inner.chat_template:
            raise AssayError("the tokenizer has no chat template", where=where, do="run without --chat")
        try:
            template = self.inner.get_chat_template()
        except (ValueError, TypeError, KeyError) as error:
            raise AssayError(f"no default chat template: {error}", where=where, do="run without --chat") from None
        return render_chats(str(template), self.inner.special_tokens_map, chats, where)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")


def open_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of a model folder. Raises AssayError if it cannot be read."""
    try:
        import transformers
    except ImportError:
        raise AssayError("transformers is not installed", do="pip install 'assay[hf]'") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inner = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # the library raises many types for a broken file; a panic of its Rust part is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AssayError(f"the tokenizer cannot be read ({reason:.160})", where=str(path), do="check tokenizer.json") from None
    inner.model_max_length = int(1e30)  # the plan checks lengths and raises an error
    inner.deprecation_warnings = {"Asking-to-pad-a-fast-tokenizer": True}
    plain, special = inner("a", add_special_tokens=False)["input_ids"], inner("a")["input_ids"]
    start = next((n for n in range(len(special)) if special[n : n + len(plain)] == plain), 0)
    empty = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
    if empty is None:
        raise AssayError("the tokenizer has neither BOS nor EOS", where=str(path), do="set one in tokenizer_config.json")
    state = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (path / name).is_file():
            state.update(name.encode() + (path / name).read_bytes())
    return Tokenizer(tuple(special[:start]), int(empty), state.hexdigest()[:24], inner)


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A context and its continuations as token ids. `moved`: the number of continuations that changed the context's last tokens."""

    context: TokenIds
    continuations: tuple[TokenIds, ...]
    moved: int = 0


def encode_pairs(tokenizer: Tokenizer, pairs: Sequence[tuple[str, tuple[str, ...]]], special: bool = False) -> list[EncodedPair]:
    """Encode prompts with their continuations by lm-eval's rule (api/model.py `_encode_pair`).

    Trailing spaces of the prompt move to the continuation; ids(prompt + continuation) are split at len(ids(prompt)). If that
    leaves a continuation empty, it is encoded alone. With `special`, no prefix is added, because the prompt already has special
    tokens (from a chat template). Raises AssayError if a continuation has no tokens.
    """
    contexts = [prompt.rstrip() for prompt, _ in pairs]
    wholes = [prompt + continuation for prompt, continuations in pairs for continuation in continuations]
    encoded = dict(zip((texts := list(dict.fromkeys(contexts + wholes))), tokenizer.encode(texts), strict=True))
    encoded_pairs = []
    for context_text, (prompt, continuations) in zip(contexts, pairs, strict=True):
        context, moved, tails = encoded[context_text], 0, []
        for continuation in continuations:
            whole = encoded[prompt + continuation]
            moved += whole[: len(context)] != context
            tail = whole[len(context) :] or tokenizer.encode([continuation])[0]
            if not tail:
                raise AssayError(
                    f"continuation {continuation!r} has no tokens",
                    where=f"after {redact(prompt)[-60:]!r}",
                    do="fix the choice: it is empty for this tokenizer",
                )
            tails.append(tail)
        start = context if special else tokenizer.prefix + context
        encoded_pairs.append(EncodedPair(start or (tokenizer.empty,), tuple(tails), moved))
    return encoded_pairs
