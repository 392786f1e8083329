"""Plans the exact list of optimizer steps from training examples: before any model is loaded, and equal for every method."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay import AssayError

WINDOW = 50
"""Number of batches that are sorted by length together. A larger window means less padding and less shuffling."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, BOS included. The ids from `loss_from` on are the answer, on which the loss is computed.

    Raises AssayError if no id is in the loss, or if the first id is.
    """

    ids: tuple[int, ...]
    loss_from: int

    def __post_init__(self) -> None:
        if not 1 <= self.loss_from < len(self.ids):
            raise AssayError(
                f"an example of {len(self.ids)} tokens has no loss tokens from {self.loss_from} on",
                do="give every training example a prompt of at least one token and an answer",
            )

    @property
    def loss_tokens(self) -> int:
        return len(self.ids) - self.loss_from


@dataclass(frozen=True, slots=True)
class Step:
    """The examples of one optimizer step: target examples and replayed examples."""

    target: tuple[Example, ...]
    replay: tuple[Example, ...] = ()


UNLIMITED = 2**50
"""More loss tokens than any run has: the budget is a `Limit` alone."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most optimizer steps and epochs of a run; 0: no limit. Raises AssayError for a negative number."""

    steps: int = 0
    epochs: float = 0.0

    def __post_init__(self) -> None:
        if not (self.steps >= 0 and 0 <= self.epochs < math.inf):
            raise AssayError(f"{self.steps} steps, {self.epochs} epochs", where="budget", do="use numbers above 0")

    def examples(self, count: int) -> float:
        """The most examples that are trained on, of `count` different ones."""
        return max(1, round(self.epochs * count)) if self.epochs else math.inf


def plan_steps(
    examples: Sequence[Example],
    *,
    loss_tokens: int,
    batch: int,
    seed: int,
    replay: Sequence[Example] = (),
    ratio: float = 0.0,
    limit: Limit = Limit(),
) -> tuple[Step, ...]:
    """Steps whose target examples have exactly `loss_tokens` loss tokens in total (the last answer is cut to fit), or fewer if `limit` ends
    them before.

    Epochs are shuffled by `seed`, and batches hold examples of similar length. `ratio` is the number of replayed examples per target
    example, exact over the whole run; their tokens are not part of the budget.
    """
    if not examples:
        raise AssayError("no training examples", do="use a task with a train split")
    if loss_tokens < 1 or batch < 1:
        raise AssayError(f"a budget of {loss_tokens} loss tokens in batches of {batch} trains nothing", do="use at least 1 of each")
    if ratio and not replay:
        raise AssayError(
            "replay is requested, but there are no examples to replay", do="add a retention task with a train split, or a longer --text"
        )
    again = cycle_examples(replay, batch, seed + 1) if replay else iter(())
    steps: list[Step] = []
    left, seen, replayed = loss_tokens, 0, 0
    most = limit.examples(len(examples))
    for group in endless_batches(examples, batch, seed):
        kept: list[Example] = []
        for example in group:
            if left and seen + len(kept) < most:
                kept.append(cut(example, left))
                left -= kept[-1].loss_tokens
        seen += len(kept)
        due = int(ratio * seen + 1e-9) - replayed
        replayed += due
        steps.append(Step(tuple(kept), tuple(next(again) for _ in range(due))))
        if not left or seen >= most or len(steps) == limit.steps:
            break
    return tuple(steps)


def cut(example: Example, most: int) -> Example:
    """The example with at most that many loss tokens."""
    excess = example.loss_tokens - most
    return example if excess <= 0 else Example(example.ids[:-excess], example.loss_from)


def endless_batches(examples: Sequence[Example], batch: int, seed: int) -> Iterator[tuple[Example, ...]]:
    """Endless batches of examples of similar length; every example appears once per epoch."""
    draw = np.random.default_rng(seed)
    while True:
        order = draw.permutation(len(examples))
        groups = []
        for start in range(0, len(order), batch * WINDOW):
            window = sorted(order[start : start + batch * WINDOW], key=lambda index: len(examples[index].ids))
            groups += [window[at : at + batch] for at in range(0, len(window), batch)]
        for index in draw.permutation(len(groups)):
            yield tuple(examples[at] for at in groups[index])


def cycle_examples(examples: Sequence[Example], batch: int, seed: int) -> Iterator[Example]:
    for group in endless_batches(examples, batch, seed):
        yield from group


def digest_steps(steps: Sequence[Step]) -> str:
    """Hash of the content of all steps."""
    state = hashlib.sha256()
    for step in steps:
        for part in (step.target, step.replay):
            state.update(array("q", [len(part)]).tobytes())
            for example in part:
                state.update(array("q", [len(example.ids), example.loss_from, *example.ids]).tobytes())
    return state.hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Padded:
    """Examples as tensors, padded on the right. Causal attention never reads the padding, so no attention mask is needed.

    `ids` [n, width]; `predicts` [n, width] marks the positions whose next token is in the loss; `targets` [loss tokens].
    """

    ids: Any
    predicts: Any
    targets: Any


def pad(examples: Sequence[Example], device: Any) -> Padded:
    import torch

    width = max(len(example.ids) for example in examples)
    ids = np.zeros((len(examples), width), dtype=np.int64)
    predicts = np.zeros((len(examples), width), dtype=bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        predicts[row, example.loss_from - 1 : len(example.ids) - 1] = True
    targets = np.concatenate([example.ids[example.loss_from :] for example in examples])
    return Padded(*(torch.from_numpy(values).to(device) for values in (ids, predicts, targets)))
