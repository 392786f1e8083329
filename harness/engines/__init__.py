"""The engine protocol: engines load models and answer requests. No other room loads a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "float": "float32", "half": "float16"}
"""Short names of types that users may write, and torch's names."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`positions`: most ids in one sequence, prompt and response together. `vocabulary`: number of ids; each id is smaller."""

    positions: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine is opened. `device`: "auto", "cpu", "cuda". `budget`: bytes for caches and packed batches; None: by free memory.

    `tensor_parallel` and `pipeline_parallel` are for vLLM only. `seed` is for sampling only. `data_parallel`: number of processes that each
    load the model. `arguments`: `key=value` arguments of the library (see assay.harness.engines.arguments).
    """

    dtype: str = "auto"
    device: str = "auto"
    budget: int | None = None
    batch: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    seed: int = 0
    data_parallel: int = 1
    arguments: tuple[str, ...] = ()
    scores_only: bool = False
    """Nothing is generated: vLLM compiles nothing and records no CUDA graphs, which cost minutes at its start and serve single tokens."""
    plain: bool = False
    """Score one sequence at a time, without caches and packing: for audits, and for a model whose fast scores were found wrong."""


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was opened.

    `logical`: tokens if every continuation were a full prompt of its own. `computed`: tokens that went through the model.
    `cached`: tokens whose keys and values came from a cache. `notes`: decisions of the engine (route, threads, halved batch).
    """

    logical: int = 0
    computed: int = 0
    cached: int = 0
    forwards: int = 0
    fallbacks: int = 0
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """Replies to requests. Replies stream back in any order, each with the index of its request; every index occurs exactly once.

    Log-probabilities are those of one plain forward pass over context and continuation, in fp32 log-softmax.
    """

    name: str
    limits: Limits
    stats: EngineStats

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]: ...

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]: ...

    def swap(self, weights: Path) -> None:
        """Load other weights of the same architecture from a directory and empty all caches. Raises AssayError if they do not fit."""

    def close(self) -> None: ...

    def describe(self) -> dict[str, str]:
        """Facts for the record: library versions, device, dtype, route, threads."""
