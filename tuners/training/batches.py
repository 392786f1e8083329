"""From training examples to the exact list of optimizer steps. Pure: known before any model is loaded, equal for every method."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay import AssayError

WINDOW = 50
"""Batches that are sorted by length together; larger pads less and shuffles less."""


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, BOS included; the ids from `loss_from` on are the answer and carry the loss.

    Raises AssayError where no id would carry loss, or the first id would.
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
    """What one optimizer step sees: target examples, and replayed ones beside them."""

    target: tuple[Example, ...]
    replay: tuple[Example, ...] = ()


def plan_steps(
    examples: Sequence[Example],
    *,
    loss_tokens: int,
    batch: int,
    seed: int,
    replay: Sequence[Example] = (),
    ratio: float = 0.0,
) -> tuple[Step, ...]:
    """Steps whose target examples hold exactly `loss_tokens` tokens of loss; the last answer is cut to fit.

    Epochs are shuffled by `seed`, and batches hold examples of like length. `ratio` replayed examples go with every target
    example, exactly on the whole; their tokens are not part of the budget.
    """
    if not examples:
        raise AssayError("no training examples", do="name a task with a train split")
    if loss_tokens < 1 or batch < 1:
        raise AssayError(f"a budget of {loss_tokens} loss tokens in batches of {batch} trains nothing", do="use at least 1 of each")
    if ratio and not replay:
        raise AssayError(
            "replay was asked for, but there is nothing to replay", do="retain a task with a train split, or name a longer text"
        )
    again = endless(replay, batch, seed + 1) if replay else iter(())
    steps: list[Step] = []
    left, seen, replayed = loss_tokens, 0, 0
    for group in endless_batches(examples, batch, seed):
        kept = []
        for example in group:
            if left:
                kept.append(cut(example, left))
                left -= kept[-1].loss_tokens
        seen += len(kept)
        due = int(ratio * seen + 1e-9) - replayed
        replayed += due
        steps.append(Step(tuple(kept), tuple(next(again) for _ in range(due))))
        if not left:
            break
    return tuple(steps)


def cut(example: Example, most: int) -> Example:
    """The example with at most that many loss tokens."""
    excess = example.loss_tokens - most
    return example if excess <= 0 else Example(example.ids[:-excess], example.loss_from)


def endless_batches(examples: Sequence[Example], batch: int, seed: int) -> Iterator[tuple[Example, ...]]:
    """Batches of like length, epoch after epoch; every example once an epoch."""
    draw = np.random.default_rng(seed)
    while True:
        order = draw.permutation(len(examples))
        groups = []
        for start in range(0, len(order), batch * WINDOW):
            window = sorted(order[start : start + batch * WINDOW], key=lambda index: len(examples[index].ids))
            groups += [window[at : at + batch] for at in range(0, len(window), batch)]
        for index in draw.permutation(len(groups)):
            yield tuple(examples[at] for at in groups[index])


def endless(examples: Sequence[Example], batch: int, seed: int) -> Iterator[Example]:
    for group in endless_batches(examples, batch, seed):
        yield from group


def digest_steps(steps: Sequence[Step]) -> str:
    """Hash of everything that the steps hold."""
    state = hashlib.sha256()
    for step in steps:
        for part in (step.target, step.replay):
            state.update(array("q", [len(part)]).tobytes())
            for example in part:
                state.update(array("q", [len(example.ids), example.loss_from, *example.ids]).tobytes())
    return state.hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Padded:
    """Examples as tensors, padded on the right: causal attention never looks there, so no attention mask is needed.

    `ids` [n, width]; `predicts` [n, width] marks the positions whose next token carries loss; `targets` [loss tokens].
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
