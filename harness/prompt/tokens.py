"""Encode text as token ids. A context and its continuation are encoded as one string, then split."""

from __future__ import annotations

import hashlib
import importlib
import itertools
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.harness.engines.request import TokenIds, packed_alike
from assay.harness.errors import AssayError, redact
from assay.harness.model.hashes import cache_folder, keep, recall
from assay.harness.model.weights import read_json
from assay.harness.prompt.chat import CALL, TemplateCall, render_chats
from assay.harness.prompt.render import Message
from assay.harness.prompt.shared_prefixes import as_ids, cut_margin, encode_shared


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer.

    `prefix` is the ids that the tokenizer adds before a text by default (BOS or none); `empty` is the id that replaces an empty
    context: BOS, else EOS, None if the tokenizer has neither. `digest` is the hash of its files. `ends` are the ids that end a text: those
    of generation_config.json and config.json, and EOS.
    """

    prefix: TokenIds
    empty: int | None
    digest: str
    inner: Any
    ends: TokenIds = ()
    margin: int | None = None
    """Characters that must follow where a text is cut to encode its parts; None if it must be encoded whole (shared_prefixes.py)."""

    def start(self) -> TokenIds:
        """The context of a text without a prompt: `prefix`, else `empty`. Raises AssayError if the tokenizer has neither BOS nor EOS."""
        if self.prefix or self.empty is not None:
            return self.prefix or (self.empty,)  # type: ignore[return-value]
        raise AssayError("an empty prompt needs a BOS or EOS token, the tokenizer has neither", do="set bos_token in tokenizer_config.json")

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Return the ids of each text, without special tokens."""
        if not texts:
            return []
        return [as_ids(ids) for ids in self.inner(list(texts), add_special_tokens=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.inner.decode(list(ids)))

    def chats(self, chats: Sequence[list[Message]], call: TemplateCall = CALL) -> list[str]:
        """Render each chat, including the generation prompt. Raises AssayError if the chat template is missing or fails."""
        return render_chats(self.template(), self.inner.special_tokens_map, chats, str(self.inner.name_or_path), call=call)

    def template(self) -> str:
        """The default chat template. Raises AssayError if there is none."""
        where = str(getattr(self.inner, "name_or_path", ""))
        if not self.inner.chat_template:
            raise AssayError("the tokenizer has no chat template", where=where, do="run without --chat")
        try:
            return str(self.inner.get_chat_template())
        except (ValueError, TypeError, KeyError) as error:
            raise AssayError(f"no default chat template: {error}", where=where, do="run without --chat") from None

    def special_ids(self, texts: Sequence[str]) -> TokenIds:
        """The ids of those texts that are special tokens, without white space around them: decoding drops such tokens."""
        added = self.inner.added_tokens_decoder
        ids = {str(token): id for id, token in added.items() if token.special}
        return tuple(sorted({ids[text.strip()] for text in texts if text.strip() in ids}))

    def added_ids(self) -> frozenset[int]:
        """The ids of all tokens that were added to the vocabulary, special or not."""
        return frozenset(self.inner.added_tokens_decoder)

    def added_texts(self) -> frozenset[str]:
        """The texts of all tokens that were added to the vocabulary, special or not."""
        return frozenset(map(str, self.inner.added_tokens_decoder.values()))

    def turn_end(self, call: TemplateCall = CALL) -> str:
        """The text with which the chat template ends an assistant's turn, such as "<|im_end|>", without white space after it.

        Empty if the template shows none. Raises AssayError if the chat template is missing or fails.
        """
        chat = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
        (text,) = self.chats([chat], replace(call, prompt=False))
        return text.rpartition(PROBE)[2].rstrip() if text.count(PROBE) > 1 else ""


PROBE = "probe"
"""A text whose place in a rendered chat shows what surrounds it."""
PORTION = 512
"""Prompts encoded together."""
PROCESSOR_TEMPLATE = "chat_template.json"
"""File with the chat template of some multimodal models, which transformers reads for their processors only."""
SAMPLE = 1000
"""Vocabulary entries that are tried as a text when the prefix is looked for."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")


def open_tokenizer(path: Path, model: Path | None = None) -> Tokenizer:
    """Load the tokenizer of a folder; `model` is the model's folder if it is another one. Raises AssayError if it cannot be read."""
    try:
        import transformers
    except ImportError:
        raise AssayError("transformers is not installed", do="pip install 'assay[hf]'") from None
    digest = tokenizer_digest(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inner = load_tokenizer(path, f"{digest} {transformers.__version__}")
    except BaseException as error:  # the library raises many types for a broken file; a panic of its Rust part is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AssayError(f"the tokenizer cannot be read ({reason:.160})", where=str(path), do="check tokenizer.json") from None
    if inner.chat_template is None and (path / PROCESSOR_TEMPLATE).is_file():
        inner.chat_template = read_json(path / PROCESSOR_TEMPLATE).get("chat_template")
    inner.model_max_length = int(1e30)  # the plan checks lengths and raises an error
    inner.deprecation_warnings = {"Asking-to-pad-a-fast-tokenizer": True}
    empty = inner.bos_token_id if inner.bos_token_id is not None else inner.eos_token_id
    ends, margin = ends_of(model or path, inner), cut_margin(inner)
    return Tokenizer(prefix_of(inner), None if empty is None else int(empty), digest, inner, ends, margin)


def load_tokenizer(path: Path, key: str) -> Any:
    """The library's tokenizer of a folder. Its class is remembered: AutoTokenizer imports torch to find out which one it is.

    `key`: what the class depends on beside the folder and its configuration.
    """
    import transformers

    if "torch" in sys.modules:
        return transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    config = path / "config.json"
    state = [key, str(path), sorted(each.name for each in path.iterdir()), config.read_text() if config.is_file() else ""]
    memory = cache_folder("tokenizers") / f"{hashlib.sha256(repr(state).encode()).hexdigest()[:32]}.json"
    with suppress(Exception):  # AutoTokenizer then says what is wrong
        module, name = recall(memory)
        if module.partition(".")[0] == "transformers":
            return getattr(importlib.import_module(module), name).from_pretrained(str(path), local_files_only=True)
    inner = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    keep(memory, [type(inner).__module__, type(inner).__qualname__])
    return inner


def tokenizer_digest(path: Path) -> str:
    """The hash of a tokenizer's files."""
    state = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (path / name).is_file():
            state.update(name.encode() + (path / name).read_bytes())
    return state.hexdigest()[:24]


def ends_of(path: Path, inner: Any) -> TokenIds:
    """The ids that end a text, by the model's files and its tokenizer, in ascending order."""
    found = {inner.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        whole = read_json(path / name) if (path / name).is_file() else {}
        text = whole.get("text_config")
        for part in (whole, text if isinstance(text, dict) else {}):
            ids = part.get("eos_token_id")
            found.update(ids if isinstance(ids, list) else [ids])
    return tuple(sorted(id for id in found if isinstance(id, int)))


def prefix_of(inner: Any) -> TokenIds:
    """The ids that a tokenizer adds before a text, found by encoding a text that it has tokens for with and without special tokens."""
    special = set(inner.all_special_ids)
    ids = (number for number in range(len(inner)) if number not in special)
    for text in itertools.chain(("a", "A", "1"), (inner.decode([number]) for number in itertools.islice(ids, SAMPLE))):
        plain = inner(text, add_special_tokens=False)["input_ids"]
        if plain and not special & set(plain):
            whole = inner(text)["input_ids"]
            return tuple(whole[: next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)])
    return tuple(inner.build_inputs_with_special_tokens([]))


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """A context and its continuations as token ids. `moved`: the number of continuations that changed the context's last tokens."""

    context: TokenIds
    continuations: tuple[TokenIds, ...]
    moved: int = 0


def encode_pairs(
    tokenizer: Tokenizer, pairs: Sequence[tuple[str, tuple[str, ...]]], special: bool = False, exact: bool = False
) -> list[EncodedPair]:
    """Encode prompts with their continuations.

    A plain prompt with continuations follows lm-eval's rule (api/model.py `_encode_pair`): its trailing whitespace moves to the
    continuation, and ids(prompt + continuation) are split at len(ids(prompt)). If that leaves a continuation empty, it is encoded alone.

    The context is exactly ids(prompt) for a prompt without continuations (to be generated), with `exact`, and with `special`. Then a
    continuation that would change the prompt's last tokens is encoded alone. With `special`, no prefix is added, because the prompt
    already has special tokens (from a chat template).

    Raises AssayError if a continuation has no tokens, or if a prompt is empty and the tokenizer has neither BOS nor EOS.
    """
    portions = (pairs[begin : begin + PORTION] for begin in range(0, len(pairs), PORTION))
    return [each for portion in portions for each in encode_portion(tokenizer, portion, special, exact or special)]


def encode_portion(tokenizer: Tokenizer, pairs: Sequence[tuple[str, tuple[str, ...]]], special: bool, exact: bool) -> list[EncodedPair]:
    """Some of the pairs of `encode_pairs`: what is needed to encode them takes more memory than their ids."""
    contexts = [prompt if exact or not continuations else prompt.rstrip() for prompt, continuations in pairs]
    wholes = [(text, prompt + each) for text, (prompt, continuations) in zip(contexts, pairs, strict=True) for each in continuations]
    encoded, ended = encode_shared(tokenizer.encode, tokenizer.inner, tokenizer.margin, contexts, wholes)
    encoded_pairs = []
    for context_text, (prompt, continuations) in zip(contexts, pairs, strict=True):
        context, moved, tails = encoded[context_text], 0, []
        for continuation in continuations:
            whole = ended[context_text, prompt + continuation]
            rest = context[whole.kept :]
            changed = whole.ids[: len(rest)] != rest
            moved += changed and not exact
            tail = () if changed and exact else whole.ids[len(rest) :]
            tail = tail or tokenizer.encode([continuation])[0]
            if not tail:
                raise AssayError(
                    f"continuation {continuation!r} has no tokens",
                    where=f"after {redact(prompt)[-60:]!r}",
                    do="fix the choice: it is empty for this tokenizer",
                )
            tails.append(tail)
        start = context if special else tokenizer.prefix + context
        encoded_pairs.append((start or tokenizer.start(), tuple(tails), moved))
    starts = packed_alike(start for start, _, _ in encoded_pairs)
    return [EncodedPair(start, tails, moved) for start, (_, tails, moved) in zip(starts, encoded_pairs, strict=True)]
