"""Scores groups with a transformers model: packed, plain in batches, or unbatched. A self-test at load chooses the route."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assay.harness.engines import EngineStats
from assay.harness.engines.hf.forward import (
    PADDED,
    Attention,
    BranchCache,
    empty_cache,
    first_line,
    logprobs_at,
    out_of_memory,
    plain_forward,
)
from assay.harness.engines.hf.packing import Capacity, Footprint, ScoreTable, ancestor_mask, fitting, score_table
from assay.harness.engines.hf.unbatched import NO_MEMORY, NOT_FINITE, sequences_of, unbatched_replies
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply
from assay.harness.errors import AssayError

IndexedReply = tuple[int, ScoreReply | Failure]
SMALLEST = 16
"""Smallest pack in tokens; if memory runs out below it, one long request is the cause, not the pack size."""


@dataclass(slots=True)  # house: packs and batches shrink when memory runs out
class Runner:
    """A model and how to run it. `pack` (tokens) and `batch` (sequences) shrink when memory runs out."""

    model: Any
    attention: Attention
    stats: EngineStats
    budget: int
    foot: Footprint
    pack: int
    batch: int
    soft: bool = False
    """Whether the model is tuned with a soft prompt or prefix."""
    packed: bool = True
    cached: bool = True
    """Whether the plain route generates with the model's own cache; off if that fails."""
    one_by_one: bool = False
    """Whether every plain forward takes one sequence, because padding changes the result."""
    unbatched: bool = False
    """Whether every sequence is scored by a forward of its own, without a trie."""

    def note(self, text: str) -> None:
        if text not in self.stats.notes:
            self.stats.notes += (text,)

    def capacity(self, deepest: int) -> Capacity:
        capacity = fitting(self.budget, deepest, self.pack, self.foot)
        if capacity.tight and self.packed:
            self.note(f"the budget of {self.budget >> 20} MiB is too small for the longest path")
        return capacity

    def halve_batch(self, batch: list[int], queue: deque[int]) -> None:
        """After running out of memory: put the requests back and take half as many at a time from now on."""
        self.batch = len(batch) // 2
        self.note(f"out of memory: batches halved to {self.batch}")
        queue.extendleft(reversed(batch))

    def plain(self, sequences: list[Any], rows: Any) -> Any:
        logits = plain_forward(self.model, sequences, rows, self.soft)
        self.stats.forwards += 1
        self.stats.computed += len(sequences) * max(map(len, sequences))
        return logits

    def branches(self) -> BranchCache:
        branches = empty_cache(self.model, self.attention, self.soft)
        self.stats.computed += branches.virtual
        self.stats.forwards += bool(branches.virtual)
        return branches

    def branch(self, branches: BranchCache, ids: Any, slots: Any, depth: Any, visible: Any, rows: Any) -> Any:
        logits = branches.forward(ids, slots, depth, visible, rows)
        self.stats.forwards += 1
        self.stats.computed += len(ids)
        return logits


def score_packed(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[IndexedReply]:
    """Compute the trie depth first, one pack at a time, with the keys and values of one path in memory. Every token is computed once."""
    import torch

    table = score_table(groups)
    trie, device = table.trie, run.model.device
    ids, depth, end = (torch.as_tensor(part, device=device) for part in (trie.ids, trie.depth, trie.end))
    last = table.last_rows()
    waiting = deque(np.argsort(last, kind="stable").tolist())
    branches = run.branches()
    begin = 0
    skipped = np.zeros(len(trie), np.bool_)
    while begin < len(trie):
        stop = table.pack_end(begin, run.capacity(trie.deepest))
        wanted = table.wanted(begin, stop)
        span = torch.arange(begin, stop, device=device)
        visible = ancestor_mask(span, torch.cat([branches.slots, span]), end)
        rows = torch.as_tensor(wanted.rows - begin if len(wanted.rows) else [0], device=device)
        try:
            logits = run.branch(branches, ids[begin:stop], span, depth[begin:stop], visible, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            begin = halve_packs(run, stop - begin, begin, trie.end, skipped)
        else:
            if len(wanted.rows):
                table.write(wanted, *logprobs_at(logits, wanted.which, table.targets[wanted.slots]))
            begin = stop
        branches.keep((branches.slots <= begin) & (end[branches.slots] > begin))
        while waiting and last[waiting[0]] < begin:
            group = waiting.popleft()
            yield group, reply_to(table, group, skipped)


def halve_packs(run: Runner, size: int, begin: int, end: Any, skipped: Any) -> int:
    """Halve the packs after running out of memory; if not even one token fits, skip the branch at `begin`. Returns the next token."""
    if size > 1:
        run.pack = size // 2
        run.note(f"out of memory: packs halved to {max(SMALLEST, run.pack)} tokens")
        return begin
    run.pack = SMALLEST
    skipped[begin : end[begin]] = True
    return int(end[begin])


def reply_to(table: ScoreTable, group: int, skipped: Any) -> ScoreReply | Failure:
    first = int(table.starts[group])
    if skipped[table.trie.rows[first : int(table.starts[group + 1])]].any():
        return NO_MEMORY
    return table.reply(group) if table.finite(group) else NOT_FINITE


def score_plain(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[IndexedReply]:
    """Padded forwards over whole sequences, longest first; a sequence that is a prefix of another is read from the other's forward."""
    table = score_table(groups)
    leaves = table.trie.leaves()
    stops = np.array([stop for _, _, stop in leaves])
    leaf_of_entry = np.searchsorted(stops, table.trie.rows, side="right")
    users: list[list[int]] = [[] for _ in leaves]
    pending: Counter[int] = Counter()
    for group in range(len(groups)):
        for leaf in np.unique(leaf_of_entry[table.starts[group] : table.starts[group + 1]]).tolist():
            users[leaf].append(group)
            pending[group] += 1
    skipped = np.zeros(len(table.trie), np.bool_)
    queue, full_batch = deque(sorted(range(len(leaves)), key=lambda leaf: -len(leaves[leaf][0]))), run.batch
    while queue:
        batch = next_batch(run, queue, leaves)
        try:
            score_batch(run, table, [leaves[leaf] for leaf in batch])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) > 1:
                run.halve_batch(batch, queue)
                continue
            skipped[leaves[batch[0]][1] : leaves[batch[0]][2]] = True
            run.batch = full_batch
        for leaf in batch:
            for group in users[leaf]:
                pending[group] -= 1
                if not pending[group]:
                    yield group, reply_to(table, group, skipped)


def next_batch(run: Runner, queue: deque[int], leaves: list[Any]) -> list[int]:
    """The next sequences that fit: in number, in padded tokens, and in rows of logits (their last tokens, as a union)."""
    batch: list[int] = []
    width = rows = 0
    capacity = run.capacity(0)
    while queue and len(batch) < (1 if run.one_by_one else run.batch):
        ids, begin, stop = leaves[queue[0]]
        width, rows = max(width, len(ids)), max(rows, width - len(ids) + stop - begin)
        if batch and ((len(batch) + 1) * width > run.pack or (len(batch) + 1) * rows > capacity.rows):
            break
        batch.append(queue.popleft())
    return batch


def score_batch(run: Runner, table: ScoreTable, leaves: list[Any]) -> None:
    """One forward over whole sequences; writes the scores that their last tokens predict."""
    needed = [table.wanted(begin, stop) for _, begin, stop in leaves]
    depths = [table.trie.depth[wanted.rows] for wanted in needed]
    rows = np.unique(np.concatenate(depths))
    logits = run.plain([ids for ids, _, _ in leaves], rows)
    for number, (wanted, depth) in enumerate(zip(needed, depths, strict=True)):
        which = np.searchsorted(rows, depth)[wanted.which]
        table.write(wanted, *logprobs_at(logits[number], which, table.targets[wanted.slots]))


def score(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[IndexedReply]:
    """Score on the chosen route; sequences at which LongRoPE takes its long factors are scored unbatched.

    A group with a non-finite result is scored again alone: another one in its pack may be the cause.
    """
    switch = run.attention.switch
    alone = [index for index, group in enumerate(groups) if run.unbatched or (switch and longest(group) > switch)]
    if alone and not run.unbatched:
        run.note(f"sequences above {switch} tokens are scored one at a time: LongRoPE changes every position there")
    for number, reply in score_unbatched(run, tuple(groups[index] for index in alone)):
        yield alone[number], reply
    left = set(alone)
    together = tuple(index for index in range(len(groups)) if index not in left)
    non_finite = []
    for number, reply in score_together(run, tuple(groups[index] for index in together)):
        if reply is NOT_FINITE and run.packed:
            non_finite.append(together[number])
        else:
            yield together[number], reply
    in_a_row = 0
    for index in non_finite:
        # After eight in a row the model itself is broken; scoring the rest would take hours and give no finite number.
        reply = NOT_FINITE if in_a_row >= 8 else next(iter(score_plain(run, (groups[index],))))[1]
        in_a_row = in_a_row + 1 if reply is NOT_FINITE else 0
        run.stats.fallbacks += 1
        yield index, reply


def longest(group: ScoreGroup) -> int:
    """Tokens of the longest sequence that a group sends."""
    return len(group.context) + max(map(len, group.continuations)) - 1


def score_unbatched(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[IndexedReply]:
    for index, reply in unbatched_replies(run.model, groups, run.soft):
        sequences = sequences_of(groups[index])
        run.stats.forwards += len(sequences)
        run.stats.computed += sum(map(len, sequences))
        yield index, reply


FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a model may raise where it cannot run packed, such as at a length that the self-test did not reach."""


def score_together(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[IndexedReply]:
    """Score on the packed route if it is chosen, else on the plain one. If packing fails, the rest is scored plainly."""
    waiting = dict.fromkeys(range(len(groups)))
    if run.packed and groups:
        try:
            for index, reply in score_packed(run, groups):
                del waiting[index]
                yield index, reply
        except FAILURES as error:
            run.packed = False
            run.note(f"plain route: packing failed ({type(error).__name__}: {first_line(error)})")
    left = tuple(waiting)
    if left:
        yield from ((left[number], reply) for number, reply in score_plain(run, tuple(groups[index] for index in left)))


TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest accepted difference per token between two routes on random text; with a wrong mask it is far larger in a trained model."""


def self_test_groups(vocabulary: int) -> tuple[ScoreGroup, ScoreGroup]:
    """Two small random groups that share a prefix, with continuations of one to three tokens."""
    draw = random.Random(0)
    stem, left, right, tail = (tuple(draw.randrange(vocabulary) for _ in range(size)) for size in (7, 4, 3, 3))
    ends = (tail[:1], tail[:2], tail, (tail[0], left[0], left[1]), right[:2])
    return ScoreGroup(stem + left, ends), ScoreGroup(stem + right, ends)


def check_causal(run: Runner, vocabulary: int, dtype: str) -> None:
    """Raises AssayError if later tokens change the predictions of earlier ones: it would read the answer that it is to predict."""
    left, right = self_test_groups(vocabulary)
    size = len(right.context)
    shared = list(range(size - 3))
    one, other = (
        plain_forward(run.model, [context[:size]], shared, run.soft)[0].float().log_softmax(-1) for context in (left.context, right.context)
    )
    off = float((one - other).abs().nan_to_num(0.0).max())
    if off > TOLERANCE[dtype]:
        raise AssayError(
            f"the model is not causal: later tokens change its predictions of earlier ones (by {off:.2g} nats)",
            where=type(run.model).__name__,
            do="give a causal language model; for a BERT-like decoder, set is_decoder to true in config.json if it was trained so",
        )


def largest_difference(left: list[ScoreReply | Failure], right: list[ScoreReply | Failure]) -> float:
    """Largest difference of a token's log-probability; infinite if one side failed."""
    if not all(isinstance(reply, ScoreReply) for reply in left + right):
        return float("inf")
    values = [np.concatenate([np.array(part) for reply in side for part in reply.logprobs]) for side in (left, right)]  # type: ignore[union-attr]
    return float(np.abs(values[0] - values[1]).max())


@contextlib.contextmanager
def narrow_window(run: Runner) -> Iterator[None]:
    """Shorten a sliding window so that the test groups are longer than it; restored afterwards."""
    config = run.model.config.get_text_config()
    if run.attention.window is None:
        yield
        return
    kept, config.sliding_window = run.attention, 5
    run.attention = replace(kept, window=5)
    try:
        yield
    finally:
        run.attention, config.sliding_window = kept, kept.window


def self_test(run: Runner, vocabulary: int, dtype: str) -> None:
    """Choose the route: packed if it agrees with plain forwards, else plain in batches, else plain one by one."""
    check_causal(run, vocabulary, dtype)
    groups = self_test_groups(vocabulary)
    pack, run.pack = run.pack, 6  # several packs
    with narrow_window(run):
        expected = [reply for _, reply in unbatched_replies(run.model, groups, run.soft)]
        if run.attention.obstacle:
            run.packed = False
            run.note(f"plain route: {run.attention.obstacle}")
        else:
            try:
                off = largest_difference([reply for _, reply in sorted(score_packed(run, groups), key=lambda pair: pair[0])], expected)
                problem = f"packed and plain differ by {off:.2g}" if off > TOLERANCE[dtype] else ""
            except Exception as error:  # any exception on a 4D mask means that this model cannot be packed
                problem = f"{type(error).__name__}: {first_line(error)}"[:120]
            run.packed = not problem
            run.note(f"plain route: the self-test of packing failed ({problem})" if problem else "packed route")
    run.pack = pack
    if not run.packed and run.attention.kinds - PADDED:
        run.one_by_one = True
        run.note(f"batches of one: {', '.join(sorted(run.attention.kinds - PADDED))} layers are not known to ignore padding")
    elif not run.packed and not run.soft:
        off = largest_difference([reply for _, reply in sorted(score_plain(run, groups), key=lambda pair: pair[0])], expected)
        if off > TOLERANCE[dtype]:
            run.one_by_one = True
            run.note(f"batches of one: padding changes the result by {off:.2g}")
    run.stats.computed = run.stats.forwards = 0
