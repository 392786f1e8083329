"""Cuts a trie into packs and computes attention masks: pure functions on arrays (NumPy or torch), no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.harness.engines.request import ScoreGroup, ScoreReply
from assay.harness.engines.trie import Ints, Trie, of_groups


def ancestor_mask(queries: Any, keys: Any, end: Any) -> Any:
    """Ancestor mask [q, k]: whether each query token descends from (or is) each key token. Arguments index the trie's tokens."""
    return (keys[None, :] <= queries[:, None]) & (queries[:, None] < end[keys][None, :])


def window_mask(query_depth: Any, key_depth: Any, window: int) -> Any:
    """Sliding-window mask [q, k]: the last `window` positions, the query's own included."""
    return query_depth[:, None] - key_depth[None, :] < window


@dataclass(frozen=True, slots=True)
class Capacity:
    """What fits into the memory budget: tokens in one pack, rows of logits in one forward, keys in the cache."""

    tokens: int
    rows: int
    keys: int
    tight: bool = False


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of one token: `kv` in the cache, `activation` inside a forward, `row` of logits; `score` per query and key."""

    kv: int
    activation: int
    row: int
    score: int


def fitting(budget: int, deepest: int, most: int, foot: Footprint) -> Capacity:
    """The largest pack (a power of two times 16, at most `most` tokens) that fits beside the KV of the deepest path.

    A quarter of the budget is for logits. If not even the smallest pack fits, it is used anyway, because the whole path must be in
    memory to be scored; `tight` is then set.
    """
    budget -= budget // 10  # reserve for the allocator's fragmentation
    rows = max(1, budget // 4 // foot.row)
    rest = budget - budget // 4

    def needs(tokens: int) -> int:
        keys = deepest + tokens
        # Growing and pruning the cache copy one layer at a time; two copies of all layers is an upper bound.
        return 2 * foot.kv * keys + foot.activation * tokens + foot.score * tokens * keys

    tokens = most
    while tokens > 16 and needs(tokens) > rest:
        tokens = max(16, tokens // 2)
    keys = max(1, (rest - foot.activation * tokens) // (2 * foot.kv))
    return Capacity(tokens, rows, keys, tight=needs(min(tokens, 16)) > rest)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The logits that some scored tokens need: distinct `rows`; the score of entry `slots[j]` is read from row `which[j]`."""

    rows: Ints
    which: Ints
    slots: Ints


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scored tokens of all groups [s]: the row that predicts each, its id, and its log-probability (NaN until computed)."""

    groups: tuple[ScoreGroup, ...]
    trie: Trie
    targets: Ints
    starts: Ints
    """Entries of group g are starts[g] : starts[g + 1]."""
    order: Ints
    ordered_rows: Ints
    needed_before: Ints
    """Number of distinct rows before each token [t + 1]."""
    logprobs: NDArray[np.float64]
    greedy: NDArray[np.bool_]

    def wanted(self, begin: int, stop: int) -> Wanted:
        """The logits that are read from tokens begin..stop."""
        low, high = np.searchsorted(self.ordered_rows, (begin, stop))
        rows, which = np.unique(self.ordered_rows[low:high], return_inverse=True)
        return Wanted(rows, which, self.order[low:high])

    def pack_end(self, begin: int, capacity: Capacity) -> int:
        """The end of a pack that starts at token `begin`, limited in tokens and in rows of logits."""
        stop = min(begin + capacity.tokens, len(self.trie))
        by_rows = int(np.searchsorted(self.needed_before, self.needed_before[begin] + capacity.rows, side="right")) - 1
        return max(begin + 1, min(stop, by_rows))

    def write(self, wanted: Wanted, logprobs: NDArray[np.float64], greedy: NDArray[np.bool_]) -> None:
        self.logprobs[wanted.slots] = logprobs
        self.greedy[wanted.slots] = greedy

    def finite(self, group: int) -> bool:
        return bool(np.isfinite(self.logprobs[self.starts[group] : self.starts[group + 1]]).all())

    def reply(self, group: int) -> ScoreReply:
        """The reply to one group, after all its entries are written."""
        request = self.groups[group]
        sizes = np.cumsum([len(ids) for ids in request.continuations])[:-1]
        span = slice(int(self.starts[group]), int(self.starts[group + 1]))
        logprobs = tuple(tuple(part.tolist()) for part in np.split(self.logprobs[span], sizes))
        greedy = tuple(bool(part.all()) for part in np.split(self.greedy[span], sizes)) if request.greedy else ()
        return ScoreReply(logprobs, greedy)

    def last_rows(self) -> Ints:
        """For every group, the last token in depth-first order that it needs."""
        return np.maximum.reduceat(self.trie.rows, self.starts[:-1])


def score_table(groups: tuple[ScoreGroup, ...]) -> ScoreTable:
    """The trie of non-empty `groups` and the table of their scored tokens."""
    trie = of_groups(groups)
    sizes = [sum(map(len, group.continuations)) for group in groups]
    targets = np.fromiter((token for group in groups for ids in group.continuations for token in ids), np.int64, sum(sizes))
    order = np.argsort(trie.rows, kind="stable")
    needed = np.zeros(len(trie), np.int64)
    needed[trie.rows] = 1
    return ScoreTable(
        groups=groups,
        trie=trie,
        targets=targets,
        starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        order=order,
        ordered_rows=trie.rows[order],
        needed_before=np.concatenate([[0], np.cumsum(needed)]).astype(np.int64),
        logprobs=np.full(len(targets), np.nan),
        greedy=np.zeros(len(targets), np.bool_),
    )
