"""The reference engine: one plain fp32 forward of transformers per continuation. No cache, packing, padding or batches; slow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.hf.engine import HfEngine, group_refusal
from assay.harness.engines.hf.engine import open_engine as open_hf
from assay.harness.engines.hf.forward import logprobs_at, plain_forward
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef


@dataclass(slots=True)  # house: shares the counters of the engine inside
class Plain:
    """assay.harness.engines.Engine with plain forwards; it generates with transformers too, one prompt at a time."""

    inner: HfEngine
    limits: Limits
    stats: EngineStats
    name: str = "plain"

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        for index, group in enumerate(groups):
            yield index, group_refusal(group, self.limits) or self.forward(group)

    def forward(self, group: ScoreGroup) -> ScoreReply | Failure:
        logprobs, greedy = [], []
        for ids in group.continuations:
            whole, first = group.context + ids[:-1], len(group.context) - 1
            rows = list(range(first, first + len(ids)))
            logits = plain_forward(self.inner.run.model, [whole], rows, self.inner.run.soft)[0]
            values, best = logprobs_at(logits, list(range(len(ids))), list(ids))
            self.stats.logical += len(whole)
            self.stats.computed += len(whole)
            self.stats.forwards += 1
            logprobs.append(tuple(map(float, values)))
            greedy.append(bool(best.all()))
        if not all(math.isfinite(value) for values in logprobs for value in values):
            return Failure("non-finite log-probability")
        return ScoreReply(tuple(logprobs), tuple(greedy) if group.greedy else ())

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, request in enumerate(requests):
            for _, reply in self.inner.generate([request]):
                yield index, reply

    def swap(self, weights: Path) -> None:
        raise AssayError("the plain engine cannot swap weights", where=str(weights), do="open a new engine")

    def close(self) -> None:
        self.inner.close()

    def describe(self) -> dict[str, str]:
        return {**self.inner.describe(), "engine": self.name, "route": "one forward per continuation"}


def open_engine(model: ModelRef, settings: Settings) -> Plain:
    """The model through transformers in fp32. Raises AssayError if it cannot be used."""
    inner = open_hf(model, replace(settings, dtype="float32", batch=1))
    return Plain(inner, inner.limits, inner.stats)
