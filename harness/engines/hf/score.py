"""Scores groups with a transformers model, packed or plain, and proves at load that both give the numbers of one plain forward."""

from __future__ import annotations

import contextlib
import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from assay.harness.engines import EngineStats
from assay.harness.engines.hf.forward import Branches, Shape, no_branches, out_of_memory, plain_forward, read_off
from assay.harness.engines.hf.packing import Footprint, Ledger, Room, fit, open_ledger, sees
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply

Answer = tuple[int, ScoreReply | Failure]
NOT_FINITE = Failure("non-finite log-probability")
NO_MEMORY = Failure("out of memory")
SMALLEST = 16
"""Tokens of a pack below which running out of memory is the fault of one long request, not of the packs."""


@dataclass(slots=True)  # house: packs and batches shrink when memory runs out
class Runner:
    """A model and what was learnt about running it. `pack` and `batch` shrink when memory runs out."""

    model: Any
    shape: Shape
    stats: EngineStats
    budget: int
    foot: Footprint
    pack: int
    batch: int
    soft: bool = False
    """Whether the model is tuned with a soft prompt or prefix."""
    packed: bool = True
    alone: bool = False
    """Whether plain forwards must not share a batch."""
    seen: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        if text not in self.seen:
            self.seen.append(text)
            self.stats.notes = tuple(self.seen)

    def room(self, deepest: int) -> Room:
        room = fit(self.budget, deepest, self.pack, self.foot)
        if room.tight and self.packed:
            self.note(f"the budget of {self.budget >> 20} MiB is too small for the longest path")
        return room

    def plain(self, sequences: list[Any], rows: Any) -> Any:
        logits = plain_forward(self.model, sequences, rows, self.soft)
        self.stats.forwards += 1
        self.stats.computed += len(sequences) * max(map(len, sequences))
        return logits

    def branches(self) -> Branches:
        branches = no_branches(self.model, self.shape, self.soft)
        self.stats.computed += branches.virtual
        self.stats.forwards += bool(branches.virtual)
        return branches

    def branch(self, branches: Branches, ids: Any, slots: Any, depth: Any, visible: Any, rows: Any) -> Any:
        logits = branches.forward(ids, slots, depth, visible, rows)
        self.stats.forwards += 1
        self.stats.computed += len(ids)
        return logits


def score_packed(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[Answer]:
    """Walk the trie depth first, a pack at a time, holding the keys and values of one path. Every token is computed once."""
    import torch

    ledger = open_ledger(groups)
    trie, device = ledger.trie, run.model.device
    ids, depth, end = (torch.as_tensor(part, device=device) for part in (trie.ids, trie.depth, trie.end))
    last = ledger.last_rows()
    waiting = deque(np.argsort(last, kind="stable").tolist())
    branches = run.branches()
    begin = 0
    lost = np.zeros(len(trie), np.bool_)
    while begin < len(trie):
        stop = ledger.pack_end(begin, run.room(trie.deepest))
        wanted = ledger.wanted(begin, stop)
        span = torch.arange(begin, stop, device=device)
        visible = sees(span, torch.cat([branches.slots, span]), end)
        rows = torch.as_tensor(wanted.rows - begin if len(wanted.rows) else [0], device=device)
        try:
            logits = run.branch(branches, ids[begin:stop], span, depth[begin:stop], visible, rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            begin = shrink(run, stop - begin, begin, trie.end, lost)
        else:
            if len(wanted.rows):
                ledger.write(wanted, *read_off(logits, wanted.which, ledger.targets[wanted.slots]))
            begin = stop
        branches.keep((branches.slots <= begin) & (end[branches.slots] > begin))
        while waiting and last[waiting[0]] < begin:
            group = waiting.popleft()
            yield group, answer(ledger, group, lost)


def shrink(run: Runner, size: int, begin: int, end: Any, lost: Any) -> int:
    """After running out of memory: smaller packs from now on. Where not even one token fits, give up the branch at `begin`."""
    if size > 1:
        run.pack = size // 2
        run.note(f"out of memory: packs halved to {max(SMALLEST, run.pack)} tokens")
        return begin
    run.pack = SMALLEST
    lost[begin : end[begin]] = True
    return int(end[begin])


def answer(ledger: Ledger, group: int, lost: Any) -> ScoreReply | Failure:
    first = int(ledger.starts[group])
    if lost[ledger.trie.rows[first : int(ledger.starts[group + 1])]].any():
        return NO_MEMORY
    return ledger.reply(group) if ledger.finite(group) else NOT_FINITE


def score_plain(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[Answer]:
    """Padded forwards over whole sequences, longest first; a sequence that is the start of another rides along with it."""
    ledger = open_ledger(groups)
    leaves = ledger.trie.leaves()
    stops = np.array([stop for _, _, stop in leaves])
    leaf_of_entry = np.searchsorted(stops, ledger.trie.rows, side="right")
    users: list[list[int]] = [[] for _ in leaves]
    pending: Counter[int] = Counter()
    for group in range(len(groups)):
        for leaf in np.unique(leaf_of_entry[ledger.starts[group] : ledger.starts[group + 1]]).tolist():
            users[leaf].append(group)
            pending[group] += 1
    lost = np.zeros(len(ledger.trie), np.bool_)
    queue, most = deque(sorted(range(len(leaves)), key=lambda leaf: -len(leaves[leaf][0]))), run.batch
    while queue:
        batch = next_batch(run, queue, leaves)
        try:
            plain_rows(run, ledger, [leaves[leaf] for leaf in batch])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(batch) > 1:
                run.batch = len(batch) // 2
                run.note(f"out of memory: batches halved to {run.batch}")
                queue.extendleft(reversed(batch))
                continue
            lost[leaves[batch[0]][1] : leaves[batch[0]][2]] = True
            run.batch = most
        for leaf in batch:
            for group in users[leaf]:
                pending[group] -= 1
                if not pending[group]:
                    yield group, answer(ledger, group, lost)


def next_batch(run: Runner, queue: deque[int], leaves: list[Any]) -> list[int]:
    """The next sequences that fit: in number, in padded tokens, and in rows of logits (their last tokens, as a union)."""
    batch: list[int] = []
    width = rows = 0
    room = run.room(0)
    while queue and len(batch) < (1 if run.alone else run.batch):
        ids, begin, stop = leaves[queue[0]]
        width, rows = max(width, len(ids)), max(rows, width - len(ids) + stop - begin)
        if batch and ((len(batch) + 1) * width > run.pack or (len(batch) + 1) * rows > room.rows):
            break
        batch.append(queue.popleft())
    return batch


def plain_rows(run: Runner, ledger: Ledger, leaves: list[Any]) -> None:
    """One forward over whole sequences; what their own last tokens owe goes to the ledger."""
    owed = [ledger.wanted(begin, stop) for _, begin, stop in leaves]
    depths = [ledger.trie.depth[wanted.rows] for wanted in owed]
    rows = np.unique(np.concatenate(depths))
    logits = run.plain([ids for ids, _, _ in leaves], rows)
    for number, (wanted, depth) in enumerate(zip(owed, depths, strict=True)):
        which = np.searchsorted(rows, depth)[wanted.which]
        ledger.write(wanted, *read_off(logits[number], which, ledger.targets[wanted.slots]))


def score(run: Runner, groups: tuple[ScoreGroup, ...]) -> Iterator[Answer]:
    """The chosen route. What comes out of a pack non-finite is asked again alone: a neighbour may have spoilt it."""
    if not groups:
        return
    if not run.packed:
        yield from score_plain(run, groups)
        return
    spoilt = []
    for group, reply in score_packed(run, groups):
        if reply is NOT_FINITE:
            spoilt.append(group)
        else:
            yield group, reply
    hopeless = 0
    for group in spoilt:
        # After eight in a row the model itself is broken; asking it for the rest would cost hours and change nothing.
        reply = NOT_FINITE if hopeless >= 8 else next(iter(score_plain(run, (groups[group],))))[1]
        hopeless = hopeless + 1 if reply is NOT_FINITE else 0
        run.stats.fallbacks += 1
        yield group, reply


TOLERANCE = {"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5}
"""Largest difference per token between two routes on random text; a wrong mask costs far more in a trained model."""


def probe(vocabulary: int) -> tuple[ScoreGroup, ...]:
    """Two small random groups that share a prefix, with continuations of one to three tokens."""
    draw = random.Random(0)
    stem, left, right, tail = (tuple(draw.randrange(vocabulary) for _ in range(size)) for size in (7, 4, 3, 3))
    ends = (tail[:1], tail[:2], tail, (tail[0], stem[0], stem[1]), stem[2:4])
    return ScoreGroup(stem + left, ends), ScoreGroup(stem + right, ends)


def reference(run: Runner, groups: tuple[ScoreGroup, ...]) -> list[ScoreReply | Failure]:
    """One plain forward per continuation."""
    replies: list[ScoreReply | Failure] = []
    for group in groups:
        parts = [next(iter(score_plain(run, (ScoreGroup(group.context, (ids,)),))))[1] for ids in group.continuations]
        whole = all(isinstance(part, ScoreReply) for part in parts)
        replies.append(ScoreReply(tuple(part.logprobs[0] for part in parts if isinstance(part, ScoreReply))) if whole else NOT_FINITE)
    return replies


def distance(left: list[ScoreReply | Failure], right: list[ScoreReply | Failure]) -> float:
    """Largest difference of a token's log-probability; infinite where one side failed."""
    if not all(isinstance(reply, ScoreReply) for reply in left + right):
        return float("inf")
    values = [np.concatenate([np.array(part) for reply in side for part in reply.logprobs]) for side in (left, right)]  # type: ignore[union-attr]
    return float(np.abs(values[0] - values[1]).max())


@contextlib.contextmanager
def narrow_window(run: Runner) -> Iterator[None]:
    """Shrink a sliding window so that the probe crosses it; restored afterwards."""
    config = run.model.config.get_text_config()
    if run.shape.window is None:
        yield
        return
    kept, config.sliding_window = run.shape, 5
    run.shape = Shape(kept.kinds, 5, kept.obstacle)
    try:
        yield
    finally:
        run.shape, config.sliding_window = kept, kept.window


def self_test(run: Runner, vocabulary: int, dtype: str) -> None:
    """Choose the route: packed where it agrees with plain forwards, else plain in batches, else plain one by one."""
    groups = probe(vocabulary)
    pack, run.pack = run.pack, 6
    with narrow_window(run):
        alone = reference(run, groups)
        if run.shape.obstacle:
            run.packed = False
            run.note(f"plain route: {run.shape.obstacle}")
        else:
            try:
                off = distance([reply for _, reply in sorted(score_packed(run, groups), key=lambda pair: pair[0])], alone)
                problem = f"packed and plain differ by {off:.2g}" if off > TOLERANCE[dtype] else ""
            except Exception as error:  # whatever a model's code raises on a 4D mask only means: not this way
                problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
            run.packed = not problem
            run.note(f"plain route: the self-test of packing failed ({problem})" if problem else "packed route")
    run.pack = 256
    if not run.packed and not run.soft:
        off = distance([reply for _, reply in sorted(score_plain(run, groups), key=lambda pair: pair[0])], alone)
        if off > TOLERANCE[dtype]:
            run.alone = True
            run.note(f"batches of one: padding changes the result by {off:.2g}")
    run.pack = pack
    run.stats.computed = run.stats.forwards = 0
