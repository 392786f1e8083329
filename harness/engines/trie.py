"""Builds one token trie for all requests of a task, in which every distinct prefix occurs once. Pure; independent of engine and weights.

Tokens are in depth-first order, so one array describes ancestry: token k is an ancestor of token i, or i itself, exactly when
k <= i < end[k]. Consecutive tokens can be computed at once, given the keys and values of the ancestors of the first one.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from assay.harness.engines.request import GenRequest, ScoreGroup, TokenIds, raw

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Trie:
    """Distinct tokens [t] in depth-first order, and the output rows that each path needs.

    `ids`, `depth` (the position in the sequence) and `end` (one past the last descendant) have one entry per token. `rows`
    [s] holds, path after path, the tokens whose output is needed; those of path p are rows[offsets[p] : offsets[p + 1]].
    """

    ids: Ints
    depth: Ints
    end: Ints
    rows: Ints
    offsets: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def deepest(self) -> int:
        """Length of the longest path."""
        return int(self.depth.max()) + 1 if len(self.depth) else 0

    def leaves(self) -> list[tuple[Ints, int, int]]:
        """Every path to a leaf: its ids, and the range of its last tokens, which no earlier path contains."""
        stops = np.flatnonzero(self.end == np.arange(1, len(self) + 1)) + 1
        path = np.zeros(self.deepest, np.int64)
        found, begin = [], 0
        for stop in stops.tolist():
            length = int(self.depth[stop - 1]) + 1
            path[int(self.depth[begin]) : length] = self.ids[begin:stop]
            found.append((path[:length].copy(), begin, stop))
            begin = stop
        return found


@dataclass(frozen=True, slots=True)
class Tokens:
    """`logical`: tokens if every continuation were a full prompt of its own. `ideal`: distinct prefixes, each counted once."""

    logical: int
    ideal: int


def sortable(ids: TokenIds) -> bytes:
    """Four big-endian bytes per id. Bytes sort and share prefixes as the ids do, and compare faster than tuples."""
    packed = array("I", raw(ids))
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def shared_length(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> int:
    """Length of the longest common prefix."""
    size = min(len(left), len(right))
    differs = left[:size] != right[:size]
    return int(differs.argmax()) if differs.any() else size


def build_trie(paths: Iterable[tuple[bytes, int]]) -> Trie:
    """The trie of `paths`, each given as sortable ids and the depth of the first row that it needs; later rows are needed too."""
    members: dict[bytes, list[int]] = {}
    firsts: list[int] = []
    for key, first in paths:
        members.setdefault(key, []).append(len(firsts))
        firsts.append(first)
    keys = sorted(members)
    sequences = [np.frombuffer(key, ">u4") for key in keys]
    shares = [0] * bool(keys) + [shared_length(left, right) for left, right in pairwise(sequences)]
    size = sum(len(ids) - share for ids, share in zip(sequences, shares, strict=True))
    ids, depth, end = (np.full(size, size, np.int64) for _ in range(3))
    rows: list[Ints] = [np.empty(0, np.int64)] * len(firsts)
    path = np.zeros(max(map(len, sequences), default=0), np.int64)
    begin = length = 0
    for key, sequence, share in zip(keys, sequences, shares, strict=True):
        end[path[share:length]] = begin
        length = len(sequence)
        stop = begin + length - share
        ids[begin:stop] = sequence[share:]
        depth[begin:stop] = np.arange(share, length)
        path[share:length] = np.arange(begin, stop)
        for member in members[key]:
            rows[member] = path[firsts[member] : length].copy()
        begin = stop
    offsets = np.array([0, *accumulate(map(len, rows))], np.int64)
    return Trie(ids, depth, end, np.concatenate(rows) if rows else np.empty(0, np.int64), offsets)


def paths_of(groups: Iterable[ScoreGroup]) -> Iterator[tuple[bytes, int]]:
    for group in groups:
        stem = sortable(group.context)
        for ids in group.continuations:
            yield stem + sortable(ids[:-1]), len(group.context) - 1


def of_groups(groups: Iterable[ScoreGroup]) -> Trie:
    """One path per continuation, without its last id; its rows predict the continuation's ids."""
    return build_trie(paths_of(groups))


def of_prompts(prompts: Iterable[TokenIds]) -> Trie:
    """One path per prompt; its only row predicts the first generated id."""
    return build_trie((sortable(prompt), len(prompt) - 1) for prompt in prompts)


def logical_tokens(groups: Iterable[ScoreGroup]) -> int:
    """Tokens if every continuation were a full prompt of its own."""
    return sum(len(group.context) + len(ids) for group in groups for ids in group.continuations)


def distinct_prefixes(paths: Iterable[bytes]) -> int:
    """Length of the trie of these sortable ids, without building it."""
    keys = sorted(set(paths))
    shared = sum(shared_length(np.frombuffer(left, ">u4"), np.frombuffer(right, ">u4")) for left, right in pairwise(keys))
    return sum(map(len, keys)) // 4 - shared


def count(groups: Sequence[ScoreGroup], requests: Sequence[GenRequest] = ()) -> Tokens:
    """Token counts of a plan, without a model. Of generation requests only the prompts count."""
    prompts = [request.prompt for request in requests]
    ideal = distinct_prefixes(key for key, _ in paths_of(groups)) + distinct_prefixes(map(sortable, prompts))
    return Tokens(logical_tokens(groups) + sum(map(len, prompts)), ideal)
