"""The reference for every engine: one plain forward of transformers per choice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from assay.harness.engines import Engine
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply, TokenIds

TOLERANCE = 1e-3


def forward(model: Any, group: ScoreGroup) -> ScoreReply:
    """One plain forward per continuation."""
    import torch

    logprobs, greedy = [], []
    for ids in group.continuations:
        whole = torch.tensor([group.context + ids])
        with torch.no_grad():
            rows = model(whole).logits[0, len(group.context) - 1 : -1].float().log_softmax(-1)
        chosen = torch.tensor(ids)
        logprobs.append(tuple(rows.gather(-1, chosen[:, None])[:, 0].tolist()))
        greedy.append(bool((rows.argmax(-1) == chosen).all()))
    return ScoreReply(tuple(logprobs), tuple(greedy) if group.greedy else ())


def worst(reply: ScoreReply | Failure, expected: ScoreReply) -> float:
    assert isinstance(reply, ScoreReply), reply
    assert reply.greedy == expected.greedy
    pairs = zip(reply.logprobs, expected.logprobs, strict=True)
    return max(abs(one - other) for left, right in pairs for one, other in zip(left, right, strict=True))


def check(engine: Engine, model: Any, groups: Sequence[ScoreGroup]) -> None:
    replies = list(engine.score(groups))
    assert sorted(index for index, _ in replies) == list(range(len(groups)))
    for index, reply in replies:
        assert worst(reply, forward(model, groups[index])) < TOLERANCE, groups[index]


def ids(dice: random.Random, count: int, vocabulary: int) -> TokenIds:
    return tuple(dice.randrange(vocabulary) for _ in range(count))
