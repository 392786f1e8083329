"""What an engine is: the only impure stage before the store, and the only place where a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply


@dataclass(frozen=True, slots=True)
class Limits:
    """`positions`: most ids in one sequence, prompt and answer together. `vocabulary`: ids are below it."""

    positions: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine is opened. `device`: "auto", "cpu", "cuda". `budget`: bytes for caches and packed batches; None: chosen.

    `tensor_parallel` and `pipeline_parallel` are vLLM's. `seed` only matters where something is sampled.
    """

    dtype: str = "auto"
    device: str = "auto"
    budget: int | None = None
    batch: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    seed: int = 0


@dataclass(slots=True)
class EngineStats:
    """Counted since the engine was opened.

    `logical`: tokens if every continuation were a full prompt of its own. `computed`: tokens that went through the model.
    `cached`: tokens that a cache answered. `notes`: what the engine decided or had to change (route, threads, halved batch).
    """

    logical: int = 0
    computed: int = 0
    cached: int = 0
    forwards: int = 0
    fallbacks: int = 0
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """Answers requests. Replies stream back in any order, each with the index of its request; every index comes exactly once.

    Log-probabilities are those of one plain forward pass over context and continuation, in fp32 log-softmax.
    """

    name: str
    limits: Limits
    stats: EngineStats

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]: ...

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]: ...

    def swap(self, weights: Path) -> None:
        """Load other weights of the same architecture from a model directory; every cache is emptied."""

    def close(self) -> None: ...

    def describe(self) -> dict[str, str]:
        """Facts for the record: library versions, device, dtype, route, threads."""
