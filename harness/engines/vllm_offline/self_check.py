"""Checks an opened vLLM engine: scores with the prefix cache must equal those without."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

from assay.harness.engines import EngineStats
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply


def self_check(engine: Any) -> None:
    """Score a few random groups without the prefix cache, with it, and again from a warm cache; if the scores differ, stop reading it."""
    rng = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(engine.limits.vocabulary) for _ in range(count))

    stem, common = ids(engine.block), ids(2)
    groups = [ScoreGroup(stem, (ids(1), ids(2), common + ids(2), common + ids(2))), ScoreGroup(stem + ids(3), (ids(3),))]
    if any(engine.refuse(group) for group in groups):
        return
    precise = str(engine.llm.llm_engine.vllm_config.model_config.dtype) == "torch.float32"
    engine.use_cache = False
    plain = dict(engine.score(groups))
    engine.use_cache = True
    for order in (groups, groups[::-1]):
        replies = dict(engine.score(order))
        shared = [replies[index] for index in range(len(groups))]
        if not agree([plain[0], plain[1]], shared if order is groups else shared[::-1], 1e-3 if precise else 0.5):
            engine.use_cache = False
            engine.stats.notes += ("scores with the prefix cache differ from those without: the prefix cache is off",)
            break
    engine.llm.reset_prefix_cache()
    engine.stats = EngineStats(notes=engine.stats.notes)


def agree(left: Sequence[ScoreReply | Failure], right: Sequence[ScoreReply | Failure], tolerance: float) -> bool:
    """Whether all log-probabilities are within a tolerance; False if there is a failure."""
    for one, other in zip(left, right, strict=True):
        if isinstance(one, Failure) or isinstance(other, Failure):
            return False
        pairs = zip(itertools.chain(*one.logprobs), itertools.chain(*other.logprobs), strict=True)
        if not all(abs(first - second) <= tolerance for first, second in pairs):
            return False
    return True
