"""Requests to an engine and its replies: token ids in, log-probabilities and text out, identified by a hash of the content.

An engine never sees a Doc or a Task.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

TokenIds = tuple[int, ...]


class PackedIds(Sequence[int]):
    """Token ids in four bytes each, where a tuple takes eight; it equals the tuple, and gives tuples when it is sliced or added to.

    Ids of which at least half are the first of `like`, as in prompts with the same few-shot examples, hold only the others themselves.
    """

    __slots__ = ("kept", "own", "trunk")

    def __init__(self, ids: Sequence[int], like: PackedIds | None = None) -> None:
        whole, trunk = array("i", ids), array("i") if like is None else like.ids
        kept = common_length(trunk, whole)
        self.kept, self.trunk = (kept, trunk) if 2 * kept >= len(whole) else (0, array("i"))
        self.own = whole[self.kept :]

    @property
    def ids(self) -> array[int]:
        return self.trunk[: self.kept] + self.own if self.kept else self.own

    def __len__(self) -> int:
        return self.kept + len(self.own)

    def __getitem__(self, place: Any) -> Any:
        found = self.ids[place]
        return tuple(found) if isinstance(place, slice) else found

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __add__(self, other: Sequence[int]) -> TokenIds:
        return (*self.ids, *other)

    def __radd__(self, other: Sequence[int]) -> TokenIds:
        return (*other, *self.ids)

    def __eq__(self, other: object) -> bool:
        return tuple(self.ids) == tuple(other) if isinstance(other, tuple | PackedIds) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.ids))

    def __repr__(self) -> str:
        return repr(tuple(self.ids))


def packed_alike(sequences: Iterable[TokenIds]) -> Iterator[TokenIds]:
    """The ids of prompts in less memory: those that begin alike, one after another, hold that part once."""
    root: PackedIds | None = None
    for ids in sequences:
        found = PackedIds(ids, root)
        root = root if found.kept else found
        yield cast(TokenIds, found)


def common_length(left: array[int], right: array[int]) -> int:
    """Length of the longest common prefix."""
    size = min(len(left), len(right))
    if not size:
        return 0
    differs = np.frombuffer(left, np.int32, size) != np.frombuffer(right, np.int32, size)
    return int(differs.argmax()) if differs.any() else size


def raw(ids: TokenIds) -> Sequence[int]:
    """The array or tuple that holds the ids, which is faster to copy than PackedIds."""
    return ids.ids if isinstance(ids, PackedIds) else ids


def digest_ids(*sequences: TokenIds) -> str:
    """Hash of several token sequences and of the boundaries between them."""
    state = hashlib.sha256()
    for ids in sequences:
        state.update(len(ids).to_bytes(8, "little"))
        state.update(array("q", raw(ids)).tobytes())
    return state.hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class ScoreGroup:
    """One context and all continuations to be scored after it.

    `context` holds all ids before the continuations, BOS included, and is never empty; every continuation has at least one id. With
    `greedy`, the reply also contains whether greedy decoding would generate each continuation.
    """

    context: TokenIds
    continuations: tuple[TokenIds, ...]
    greedy: bool = False

    def __post_init__(self) -> None:
        if not self.context or not self.continuations or not all(self.continuations):
            raise ValueError("a score group needs a context and non-empty continuations")

    @property
    def key(self) -> str:
        return digest_ids(self.context, *self.continuations, (int(self.greedy),))


@dataclass(frozen=True, slots=True)
class Thinking:
    """How the thinking part of a response is found and limited.

    It begins with the text `opening`, or at once if the prompt ends inside of it (`begun`), and ends with `closing`; `ends`: the id of
    `closing` if it is a special token. `budget`: its most tokens, after which the ids `close` are appended; None: the response's
    `max_tokens` limit both parts. `decode` gives the text of ids with special tokens.
    """

    opening: str
    closing: str
    close: TokenIds
    ends: TokenIds = ()
    decode: Callable[[TokenIds], str] = field(default=str, repr=False, compare=False)
    begun: bool = False
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class GenRequest:
    """Continue `prompt` (ids, BOS included) until a stop string, one of the ids `ends` or `max_tokens`.

    Without `ends`, the response ends at the end-of-text ids of the engine's model. `top_p`: sample from the likeliest tokens that have
    this probability together. `thinking` is for thinking.py; engines get requests without it.
    """

    prompt: TokenIds
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0
    """Random seed; differs between the samples of one prompt. Ignored at temperature 0."""
    ends: TokenIds = ()
    top_p: float = 1.0
    thinking: Thinking | None = None
    logprob: bool = True
    """Whether the log-probability of the text is read; not part of `key`, since the text is the same. Without, engines may give NaN."""

    @property
    def key(self) -> str:
        settings = f"{self.max_tokens}|{self.stop!r}|{self.temperature!r}|{self.seed if self.temperature else 0}"
        if self.temperature and self.top_p != 1:
            settings += f"|top_p {self.top_p!r}"
        if self.thinking is not None:
            settings += f"|{self.thinking!r}"
        return digest_ids(self.prompt, tuple(settings.encode()))


@dataclass(frozen=True, slots=True)
class ScoreReply:
    """Natural-log probability of every token of every continuation, in the order of the group."""

    logprobs: tuple[tuple[float, ...], ...]
    greedy: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class GenReply:
    """`text` ends before the stop string. `finish`: "stop" (stop string or end of text) or "length".

    `thought` is the thinking part, which `text` does not include, `thought_tokens` its length; `thought_cut`: it ran into its limit;
    `thought_seconds`: its share of the engine's time, 0 if that was not measured.
    `tokens` are all generated ids, and `logprob` is their summed natural-log probability, NaN if the engine does not compute it.
    """

    text: str
    tokens: TokenIds
    finish: str
    logprob: float = float("nan")
    thought: str = ""
    thought_tokens: int = 0
    thought_cut: bool = False
    thought_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a reply; its item becomes an error, never a zero."""

    reason: str


def refusal(ids: Sequence[int], length: int, positions: int, vocabulary: int) -> Failure | None:
    """A Failure for a sequence of `length` tokens with these ids that does not fit the model; None if it fits."""
    if not ids:
        return Failure("the prompt is empty")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        return Failure(f"token id outside the vocabulary of {vocabulary}")
    if length > positions:
        return Failure(f"{length} tokens, but the model has {positions} positions")
    return None
