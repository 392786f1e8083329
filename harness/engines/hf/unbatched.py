"""Scores by one plain forward per distinct sequence: no cache, no packing, no padding, no batches. Faster ways are compared with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from assay.harness.engines.hf.forward import logprobs_at, out_of_memory, plain_forward
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply, TokenIds

NOT_FINITE = Failure("non-finite log-probability")
NO_MEMORY = Failure("out of memory")


def sequences_of(group: ScoreGroup) -> tuple[TokenIds, ...]:
    """The distinct sequences that a group is scored with."""
    return tuple(dict.fromkeys(group.context + ids[:-1] for ids in group.continuations))


def unbatched_replies(model: Any, groups: Sequence[ScoreGroup], soft: bool = False) -> Iterator[tuple[int, ScoreReply | Failure]]:
    """Score each group with `model`, as transformers or peft loaded it. Forwards share nothing, not even prefixes: a longer sequence may
    change every position of its prefix (LongRoPE). `soft`: the model is tuned with a soft prompt or prefix."""
    for index, group in enumerate(groups):
        try:
            yield index, unbatched_reply(model, group, soft)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            yield index, NO_MEMORY


def unbatched_reply(model: Any, group: ScoreGroup, soft: bool) -> ScoreReply | Failure:
    first = len(group.context) - 1
    logits = {whole: plain_forward(model, [whole], list(range(first, len(whole))), soft)[0] for whole in sequences_of(group)}
    replies = [logprobs_at(logits[group.context + ids[:-1]], list(range(len(ids))), list(ids)) for ids in group.continuations]
    logprobs = tuple(tuple(map(float, values)) for values, _ in replies)
    if not all(math.isfinite(value) for values in logprobs for value in values):
        return NOT_FINITE
    return ScoreReply(logprobs, tuple(bool(best.all()) for _, best in replies) if group.greedy else ())
