"""Encodes texts that begin alike: few-shot examples are encoded once, and a prompt's continuations without the prompt.

A byte-level BPE tokenizer splits a text into words from left to right and encodes each word by itself. A text can therefore be cut between
two words, if enough text follows in which both sides agree. What cannot be cut is encoded whole: with other kinds of tokenizers, where the
ids after a cut differ, and everything, should a text that is encoded whole as a check differ.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay.harness.engines.request import TokenIds

MARGIN = 32
"""Characters after a cut that both texts must share, beside the length of the longest added token."""
OVERLAP = 2
"""Words after a cut whose ids must be equal in both texts."""
PORTION = 256
"""Texts encoded at a time: what a tokenizer says of a text takes far more memory than its ids."""
Encode = Callable[[Sequence[str]], list[TokenIds]]
DEPENDS_ON_TEXT_BEFORE = re.compile(r"\(\?<|\^|\\[bBAGK]")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's ids, and where it can be cut: (characters, ids) before each boundary between two words, in ascending order."""

    text: str
    ids: TokenIds
    cuts: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Tail:
    """A text's ids: the first `kept` of the text that it begins with, then `ids`."""

    kept: int
    ids: TokenIds
    cuts: Sequence[tuple[int, int]] = ()
    """As in Encoded, of the whole text."""


def cut_margin(inner: Any) -> int | None:
    """Characters that must follow a cut, for a tokenizer of transformers that encodes every word by itself; None for others."""
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None or type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return None
    normalizer = None if backend.normalizer is None else type(backend.normalizer).__name__
    steps = None if backend.pre_tokenizer is None else json.loads(backend.pre_tokenizer.__getstate__())
    added = inner.added_tokens_decoder.values()
    if normalizer not in (None, "NFC") or not splits_words(steps) or any(token.single_word for token in added):
        return None
    return MARGIN + max((len(token.content) for token in added), default=0)


def splits_words(step: Mapping[str, Any] | None) -> bool:
    """Whether a pre-tokenizer, as tokenizer.json describes it, splits a text into words that do not depend on the text before them."""
    match step:
        case {"type": "Sequence", "pretokenizers": [_, *_] as steps}:
            return all(map(splits_words, steps))
        case {"type": "ByteLevel", "add_prefix_space": False} | {"type": "Digits"}:
            return True
        case {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": str(pattern)}}:
            return not DEPENDS_ON_TEXT_BEFORE.search(pattern.replace("[^", "["))
    return False


def encode_shared(
    encode: Encode, inner: Any, margin: int | None, contexts: Sequence[str], wholes: Sequence[tuple[str, str]]
) -> tuple[dict[str, TokenIds], dict[tuple[str, str], Tail]]:
    """The ids, without special tokens, of `contexts` and of `wholes`, each a (context, text that begins with it).

    `encode` gives the ids of whole texts with the tokenizer `inner`; `margin` is cut_margin(inner).
    """
    contexts, wholes = list(dict.fromkeys(contexts)), list(dict.fromkeys(wholes))
    if margin is None:
        return encode_whole(encode, contexts, wholes)
    roots = roots_of(contexts)
    distinct = list(dict.fromkeys(roots))
    known = dict(zip(distinct, mark(inner, distinct), strict=True))
    begun = [(known[root], text) for text, root in zip(contexts, roots, strict=True) if text not in known]
    for (root, text), tail in zip(begun, encode_tails(inner, margin, begun, marked=True), strict=True):
        known[text] = Encoded(text, root.ids[: tail.kept] + tail.ids, tail.cuts)
    tails = encode_tails(inner, margin, [(known[context], whole) for context, whole in wholes])
    ids = {text: known[text].ids for text in contexts}
    found = dict(zip(wholes, tails, strict=True))
    checks = {text: ids[text] for _, text in begun[-1:]}
    checks |= {whole: ids[context][: found[context, whole].kept] + found[context, whole].ids for context, whole in wholes[-1:]}
    if encode(list(checks)) != list(checks.values()):
        return encode_whole(encode, contexts, wholes)
    return ids, found


def encode_whole(
    encode: Encode, contexts: Sequence[str], wholes: Sequence[tuple[str, str]]
) -> tuple[dict[str, TokenIds], dict[tuple[str, str], Tail]]:
    texts = list(dict.fromkeys([*contexts, *(whole for _, whole in wholes)]))
    ids = dict(zip(texts, encode(texts), strict=True))
    return {text: ids[text] for text in contexts}, {pair: Tail(0, ids[pair[1]]) for pair in wholes}


def mark(inner: Any, texts: Sequence[str], marked: bool = True) -> list[Encoded]:
    """Texts encoded whole, with their cuts if they are wanted (`marked`). A cut follows a visible character, since offsets may leave out
    white space."""
    found: list[Encoded] = []
    for begin in range(0, len(texts), PORTION):
        part = texts[begin : begin + PORTION]
        encodings = inner.backend_tokenizer.encode_batch(part, add_special_tokens=False)
        found += [
            Encoded(text, as_ids(each.ids), cuts_of(text, each) if marked else ()) for text, each in zip(part, encodings, strict=True)
        ]
    return found


def as_ids(ids: Iterable[int]) -> TokenIds:
    """The ids as a tuple with one object per distinct id: a tokenizer makes a new one for every token, four times a tuple's own memory."""
    return tuple(map(same, ids))


@functools.cache
def same(id: int) -> int:
    return id


def cuts_of(text: str, encoding: Any) -> list[tuple[int, int]]:
    words, ends = encoding.word_ids, [end for _, end in encoding.offsets]
    places = (at for at in range(1, len(words)) if words[at] != words[at - 1])
    return [(ends[at - 1], at) for at in places if ends[at - 1] and not text[ends[at - 1] - 1].isspace()]


def encode_tails(inner: Any, margin: int, pairs: Sequence[tuple[Encoded, str]], marked: bool = False) -> list[Tail]:
    """For each text, the ids after those that it has in common with the text before it; with the text's cuts if they are wanted."""
    cuts = [last_cut(known, shared_length(known.text, text) - margin) for known, text in pairs]
    ends = [text if cut is None else text[known.cuts[cut][0] :] for (known, text), cut in zip(pairs, cuts, strict=True)]
    distinct = list(dict.fromkeys(ends))
    encoded = dict(zip(distinct, mark(inner, distinct, marked), strict=True))
    found, differing = [], []
    for number, ((known, _), cut, end) in enumerate(zip(pairs, cuts, ends, strict=True)):
        tail = encoded[end]
        (start, kept), (_, stop) = ((0, 0), (0, 0)) if cut is None else (known.cuts[cut], known.cuts[cut + OVERLAP])
        if tail.ids[: stop - kept] != known.ids[kept:stop]:
            differing.append(number)
        found.append(Tail(kept, tail.ids, [(place + start, ids + kept) for place, ids in tail.cuts]))
    for number, each in zip(differing, mark(inner, [pairs[number][1] for number in differing], marked), strict=True):
        found[number] = Tail(0, each.ids, each.cuts)
    return found


def last_cut(known: Encoded, most: int) -> int | None:
    """The last cut of a text that OVERLAP others follow before `most` characters; None if there is none."""
    low, high = 0, len(known.cuts)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if known.cuts[middle][0] <= most else (low, middle)
    return low - 1 - OVERLAP if low > OVERLAP else None


def roots_of(texts: Sequence[str]) -> list[str]:
    """For every text, the earlier one that at least half of it is equal to; a text itself where there is none."""
    found: list[str] = []
    root = ""
    for text in texts:
        if 2 * shared_length(root, text) < len(text):
            root = text
        found.append(root)
    return found


def shared_length(left: str, right: str) -> int:
    """Length of the longest common prefix of two texts."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (middle, high) if left[low:middle] == right[low:middle] else (low, middle)
    return low
