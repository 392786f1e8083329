"""A model that the library loads beside another engine's, as the yardstick of a proof."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from assay.harness.engines.hf.load import free_memory, load, pick_device
from assay.harness.engines.hf.unbatched import unbatched_replies
from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply
from assay.harness.model.find import ModelRef, checkpoint_of

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ROOM = 1.3
"""Memory that a model needs beside its weights, as a factor: activations and logits of one sequence."""


@dataclass(slots=True)  # house: a loaded model
class Library:
    """The loaded model. `soft`: it is tuned with a soft prompt or prefix."""

    model: Any
    soft: bool

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        yield from unbatched_replies(self.model, groups, self.soft)

    def close(self) -> None:
        import torch

        self.model = None
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def can_hold(model: ModelRef, dtype: str, device: str) -> bool:
    """Whether the free memory of the device holds the model's weights in `dtype`, with room to run it."""
    needed = ROOM * checkpoint_of(model).parameters * BYTES.get(dtype, 4)
    place = pick_device(device)
    # On a CPU, loading copies every tensor once.
    return free_memory(place) > (needed if place.startswith("cuda") else 2 * needed)


def open_library(model: ModelRef, dtype: str, device: str) -> Library:
    """Load the model and its adapter with the library. Raises AssayError where it cannot be loaded."""
    loaded = load(model, dtype, device)
    return Library(loaded.model, loaded.soft)
