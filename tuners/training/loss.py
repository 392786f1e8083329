"""Losses and KL divergence at the answer's positions; the vocabulary projection is computed only there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from assay import AssayError
from assay.tuners.training.batches import Example, Padded, pad
from assay.tuners.training.method import Module, Tensor, Trainable

FORWARD_BATCH = 16
"""Examples per forward pass when nothing is trained."""


def answer_logits(model: Module, head: Module, batch: Padded) -> Tensor:
    """Logits [loss tokens, vocabulary] in fp32, in the order of `batch.targets`.

    A hook on the output projection `head` selects the positions, so it works for every causal model and adapter. Virtual tokens come
    before the first id. Raises AssayError for a model that does not use its output projection.
    """

    def pick(module: Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        return (hidden[:, hidden.shape[1] - batch.ids.shape[1] :][batch.predicts],)

    handle = head.register_forward_pre_hook(pick)
    try:
        logits = model(input_ids=batch.ids, use_cache=False).logits
    finally:
        handle.remove()
    if logits.dim() != 2 or logits.shape[0] != batch.targets.shape[0]:
        raise AssayError("this model does not compute its logits with its output projection", do="use a model of another architecture")
    return logits.float()


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed negative log-likelihood, in nats."""
    import torch

    return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")


def summed_kl(base: Tensor, tuned: Tensor) -> Tensor:
    """Sum over positions of KL(base || tuned), in nats."""
    import torch

    log = torch.nn.functional.log_softmax
    return torch.nn.functional.kl_div(log(tuned, -1), log(base, -1), log_target=True, reduction="sum")


def in_batches(examples: Sequence[Example], size: int) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), size):
        yield examples[start : start + size]


def kl_to_base(trainable: Trainable, examples: Sequence[Example]) -> float:
    """Mean over loss positions of KL(base || tuned) over the whole vocabulary, in nats. Zero before the first step of a
    method that starts as the identity."""
    import torch

    model, head = trainable.model, trainable.model.get_output_embeddings()
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total = 0.0
    with torch.no_grad():
        for group in in_batches(by_length(examples), FORWARD_BATCH):
            batch = pad(group, device)
            with trainable.reference():
                base = answer_logits(model, head, batch)
            total += float(summed_kl(base, answer_logits(model, head, batch)))
    model.train(was_training)
    return total / sum(example.loss_tokens for example in examples)


def log_probabilities(model: Module, examples: Sequence[Example]) -> Tensor:
    """Log-probabilities [loss positions, vocabulary] in fp32 on the CPU, in the order of the examples sorted by length."""
    import torch

    model.eval()
    parts = []
    with torch.no_grad():
        for group in in_batches(by_length(examples), FORWARD_BATCH):
            batch = pad(group, next(model.parameters()).device)
            parts.append(answer_logits(model, model.get_output_embeddings(), batch).log_softmax(-1).cpu())
    return torch.cat(parts)


def by_length(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: len(example.ids))


def kl_of(base: Tensor, tuned: Tensor) -> float:
    """Mean over positions of KL(base || tuned) in nats, from log-probabilities of the same examples."""
    import torch

    return float(torch.nn.functional.kl_div(tuned, base, log_target=True, reduction="sum")) / len(base)


def kl_by_position(base: Tensor, tuned: Tensor) -> Tensor:
    """KL(base || tuned) in nats at each position, from log-probabilities of the same examples."""
    import torch

    return torch.nn.functional.kl_div(tuned, base, log_target=True, reduction="none").sum(-1)


def loss_of(logs: Tensor, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood per loss token in nats, from log-probabilities of these examples."""
    return float(loss_by_position(logs, examples).mean())


def loss_by_position(logs: Tensor, examples: Sequence[Example]) -> Tensor:
    """Negative log-likelihood of each loss token in nats, in the order of `log_probabilities`."""
    import torch

    targets = torch.tensor([token for example in by_length(examples) for token in example.ids[example.loss_from :]])
    return -logs.gather(1, targets[:, None])[:, 0].double()


def largest_difference(one: Module, other: Module, examples: Sequence[Example]) -> float:
    """Largest absolute difference of two models' log-probabilities at loss positions, in nats."""
    import torch

    one.eval(), other.eval()
    with torch.no_grad():
        batch = pad(examples, next(one.parameters()).device)
        logs = [answer_logits(model, model.get_output_embeddings(), batch).log_softmax(-1) for model in (one, other)]
    return float((logs[0] - logs[1]).abs().max())
