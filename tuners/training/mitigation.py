"""Mitigations of forgetting: a value that combines with any method; its parts add up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from assay import AssayError
from assay.tuners.training.batches import Example, pad
from assay.tuners.training.loss import answer_logits, kl_to_base
from assay.tuners.training.method import Module, Tensor, Trainable
from assay.tuners.training.train import Extras

PROBES = 64
"""Maximum number of examples on which early stopping measures KL and EWC estimates the Fisher information."""


@dataclass(frozen=True, slots=True)
class Mitigation:
    """The parts of a mitigation; the defaults mean "not used".

    Written as `replay=0.25+kl=0.1`, or `none`.
    """

    replay: float = 0.0
    """Replayed examples (neutral text or other tasks) per target example; their mean loss is added to the target's."""
    kl: float = 0.0
    """Weight of KL(base || tuned) on the target's loss positions, in nats per token."""
    l2_sp: float = 0.0
    """Weight of the squared distance of the trained parameters from their start (Li et al. 2018, arXiv 1802.01483)."""
    ewc: float = 0.0
    """As `l2_sp`, with each parameter weighted by its Fisher information on protected examples (Kirkpatrick et al. 2017)."""
    wise_ft: float = 1.0
    """Interpolation after training: 0 gives the base's weights, 1 the tuned ones (Wortsman et al. 2021). For LoRA it scales the
    adapter, which is equivalent."""
    stop_at_kl: float = math.inf
    """Training stops when KL(base || tuned) on protected examples (else the target's) exceeds this, in nats per token."""
    lower_lr: float = 1.0
    """Factor of the learning rate."""
    multi_task: float = 0.0
    """Temperature of the mixture with the other targets; 0: no mixture, 1: proportional to size, large: equal shares."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise AssayError(f"{field.name} must not be {value}", where="mitigation", do=f"set {field.name} to a number of at least 0")
        if self.wise_ft > 1:
            raise AssayError(
                f"wise_ft={self.wise_ft} extrapolates beyond the tuned weights", where="mitigation", do="set wise_ft to 0 to 1"
            )

    def __str__(self) -> str:
        used = [f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name) != f.default]
        return "+".join(used) or "none"


def parse_mitigation(text: str) -> Mitigation:
    """Parse `none` or parts joined by a plus. Raises AssayError for unknown parts and for values that are not numbers."""
    known = {field.name for field in fields(Mitigation)}
    given: dict[str, float] = {}
    for part in text.split("+") if text not in ("", "none") else ():
        name, _, value = part.strip().partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise AssayError(f"unknown mitigation {name!r}", do=f"choose from {', '.join(sorted(known))}, none")
        try:
            given[name] = float(value)
        except ValueError:
            raise AssayError(f"{part!r} needs a number", where="mitigation", do=f"write it as {name}=0.1") from None
    return Mitigation(**given)


def in_training(text: str) -> str:
    """The mitigation's text without `wise_ft`, which applies after training: runs that are equal in it train the same weights."""
    return "+".join(part for part in text.split("+") if part.strip().replace("-", "_").partition("=")[0] != "wise_ft") or "none"


def training_extras(
    mitigation: Mitigation, trainable: Trainable, target: Sequence[Example], protected: Sequence[Example], *, every: int = 10, seed: int = 0
) -> Extras:
    """The terms that a mitigation adds to training. Call it before the first step: distances are measured from the current parameters.

    Raises AssayError if EWC has no examples to protect.
    """
    penalties: list[Callable[[], Tensor]] = []
    if mitigation.l2_sp:
        penalties.append(distance(trainable.trained, mitigation.l2_sp))
    if mitigation.ewc:
        if not protected:
            raise AssayError("ewc needs examples to protect", where="mitigation", do="add a retention task with a train split, or a --text")
        information = fisher(trainable.model, trainable.trained, protected[:PROBES], seed)
        penalties.append(distance(trainable.trained, mitigation.ewc, information))
    stop = None
    if mitigation.stop_at_kl < math.inf:
        probes = (protected or target)[:PROBES]

        def stop(step: int) -> bool:
            return step % every == 0 and kl_to_base(trainable, probes) > mitigation.stop_at_kl

    penalty = (lambda: sum(term() for term in penalties)) if penalties else None
    return Extras(penalty=penalty, kl=mitigation.kl, stop=stop)


def distance(trained: Mapping[str, Tensor], weight: float, importance: Mapping[str, Tensor] | None = None) -> Callable[[], Tensor]:
    """weight / 2 * sum of (importance *) squared distance from the current values; 0 at the start.

    For adapters the start is the identity.
    """
    start = {name: value.detach().clone() for name, value in trained.items()}

    def penalty() -> Tensor:
        terms = ((value - start[name]).square() for name, value in trained.items())
        if importance is not None:
            terms = (importance[name] * term for name, term in zip(trained, terms, strict=True))
        return weight / 2 * sum(term.sum() for term in terms)

    return penalty


def fisher(model: Module, trained: Mapping[str, Tensor], examples: Sequence[Example], seed: int) -> dict[str, Tensor]:
    """Diagonal Fisher information per loss token: mean square of per-example gradients of the model's own samples.

    The labels are drawn from the model at every loss position, given the true text before it; gradients are taken for one
    example at a time, since the square of a batch's mean gradient is another quantity. On an untrained LoRA the information
    of the randomly initialised factor is zero.
    """
    import torch

    head, was_training = model.get_output_embeddings(), model.training
    device = next(model.parameters()).device
    draw = torch.Generator(device).manual_seed(seed)
    found = {name: torch.zeros_like(value) for name, value in trained.items()}
    model.eval()
    for example in examples:
        logits = answer_logits(model, head, pad([example], device))
        sampled = torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, sampled, reduction="sum")
        for name, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True):
            if gradient is not None:
                found[name] += gradient.square()
    model.train(was_training)
    tokens = sum(example.loss_tokens for example in examples)
    return {name: value / tokens for name, value in found.items()}


def interpolate(base: Module, tuned: Module, share: float) -> Module:
    """WiSE-FT: set `tuned` to base + share * (tuned - base), in place; both models have the same architecture."""
    import torch

    start = dict(base.named_parameters())
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            value.copy_(torch.lerp(start[name].to(value), value, share))
    return tuned


def is_plain_lora(adapter: Path) -> bool:
    """Whether a folder holds an adapter whose weight change is linear in B: LoRA and rsLoRA, not DoRA."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return config.get("peft_type") == "LORA" and not config.get("use_dora")


def scale_lora(adapter: Path, share: float) -> None:
    """Multiply the weight change of a saved LoRA by `share`, in place."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    tensors = {name: value * share if "lora_B" in name else value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
