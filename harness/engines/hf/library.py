"""The yardstick of a proof: one plain forward of the library's own model per request. No cache, no packing, no padding, no batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines.hf.forward import logprobs_at, out_of_memory, plain_forward
from assay.harness.engines.hf.load import load, pick_device
from assay.harness.engines.hf.score import NO_MEMORY
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply, TokenIds
from assay.harness.model.find import ModelRef, checkpoint_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ROOM = 1.3
"""Memory that a model needs beside its weights, as a factor: activations and logits of one sequence."""


def library_replies(model: Any, groups: Sequence[ScoreGroup], soft: bool = False) -> Iterator[tuple[int, ScoreReply | Failure]]:
    """Score each group with `model`, as transformers or peft loaded it: one forward per distinct sequence, which nothing else shares: a
    longer sequence may change every position of its prefix (LongRoPE). `soft`: the model is tuned with a soft prompt or prefix."""
    for index, group in enumerate(groups):
        try:
            yield index, library_reply(model, group, soft)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            yield index, NO_MEMORY


def sequences_of(group: ScoreGroup) -> tuple[TokenIds, ...]:
    """The distinct sequences that a group is scored with."""
    return tuple(dict.fromkeys(group.context + ids[:-1] for ids in group.continuations))


def library_reply(model: Any, group: ScoreGroup, soft: bool) -> ScoreReply | Failure:
    first = len(group.context) - 1
    logits = {whole: plain_forward(model, [whole], list(range(first, len(whole))), soft)[0] for whole in sequences_of(group)}
    replies = [logprobs_at(logits[group.context + ids[:-1]], list(range(len(ids))), list(ids)) for ids in group.continuations]
    logprobs = tuple(tuple(map(float, values)) for values, _ in replies)
    if not all(math.isfinite(value) for values in logprobs for value in values):
        return Failure("non-finite log-probability")
    return ScoreReply(logprobs, tuple(bool(best.all()) for _, best in replies) if group.greedy else ())


@dataclass(slots=True)  # house: a loaded model
class Library:
    """A model that the library loaded beside another engine's."""

    model: Any
    soft: bool
    device: str
    name: str = "transformers"

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        yield from library_replies(self.model, groups, self.soft)

    def close(self) -> None:
        import torch

        self.model = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def can_hold(model: ModelRef, dtype: str, device: str) -> bool:
    """Whether the free memory of the device holds the model's weights in `dtype`, with room to run it."""
    import torch

    needed = ROOM * sum(tensor.count for tensor in checkpoint_of(model).tensors.values()) * BYTES.get(dtype, 4)
    if pick_device(device).startswith("cuda"):
        return bool(torch.cuda.mem_get_info()[0] > needed)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return False
    return free > 2 * needed  # loading copies every tensor once


def open_library(model: ModelRef, dtype: str, device: str) -> Library:
    """Load the model and its adapter with the library. Raises AssayError where it cannot be loaded."""
    loaded = load(model, dtype, device)
    return Library(loaded.model, loaded.soft, loaded.device)
