"""Plans the exact list of optimizer steps from training examples: before any model is loaded, and equal for every method."""

from __future__ import annotations

import hashlib
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


def plan_steps(
    examples: Sequence[Example],
    *,
    loss_tokens: int,
    batch: int,
    seed: int,
    replay: Sequence[Example] = (),
    ratio: float = 0.0,
) -> tuple[Step, ...]:
    """Steps whose target examples have exactly `loss_tokens` loss tokens in total; the last answer is cut to fit.

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
