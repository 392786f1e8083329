"""What holds forgetting back. A mitigation is a value that goes with any method; its parts add up."""

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
"""Most examples on which an early stop measures its KL, and on which EWC takes its Fisher information."""


@dataclass(frozen=True, slots=True)
class Mitigation:
    """The parts, each at the value that means "not used".

    Written as `replay=0.25+kl=0.1`, or `none`.
    """

    replay: float = 0.0
    """Replayed examples (base text, or other tasks) per target example; their mean loss is added to the target's."""
    kl: float = 0.0
    """Weight of KL(base || tuned) on the target's loss positions, in nats per token."""
    l2_sp: float = 0.0
    """Weight of the squared distance of the trained parameters from their start (Li et al. 2018, arXiv 1802.01483)."""
    ewc: float = 0.0
    """The same, each parameter weighed by its Fisher information on protected examples (Kirkpatrick et al. 2017)."""
    wise_ft: float = 1.0
    """Share of the way from the base's weights to the tuned ones that is kept after training (Wortsman et al. 2021); for LoRA
    the scale of the adapter, which is the same."""
    stop_at_kl: float = math.inf
    """Training ends when KL(base || tuned) on protected examples (else the target's) passes this, in nats per token."""
    lower_lr: float = 1.0
    """Factor of the learning rate."""
    multi_task: float = 0.0
    """Temperature at which further tasks are mixed in by their size; 0: none, 1: proportional, large: equal shares."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise AssayError(f"{field.name} must not be {value}", where="mitigation", do="use a number of at least 0")
        if self.wise_ft > 1:
            raise AssayError(f"wise_ft={self.wise_ft} goes beyond the tuned weights", where="mitigation", do="use 0 to 1")

    def __str__(self) -> str:
        used = [f"{f.name}={getattr(self, f.name):g}" for f in fields(self) if getattr(self, f.name) != f.default]
        return "+".join(used) or "none"


def parse_mitigation(text: str) -> Mitigation:
    """`none`, or parts joined by a plus. Raises AssayError for unknown parts and for what is no number."""
    known = {field.name for field in fields(Mitigation)}
    given: dict[str, float] = {}
    for part in text.split("+") if text not in ("", "none") else ():
        name, _, value = part.strip().partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise AssayError(f"unknown mitigation {name!r}", do=f"there are: {', '.join(sorted(known))}, none")
        try:
            given[name] = float(value)
        except ValueError:
            raise AssayError(f"{part!r} needs a number", where="mitigation", do=f"for example {name}=0.1") from None
    return Mitigation(**given)


def in_training(text: str) -> str:
    """A mitigation as written, without the part that comes after training: runs that share it share the trained weights."""
    return "+".join(part for part in text.split("+") if part.strip().replace("-", "_").partition("=")[0] != "wise_ft") or "none"


def extras_of(
    mitigation: Mitigation, trainable: Trainable, target: Sequence[Example], protected: Sequence[Example], *, every: int = 10, seed: int = 0
) -> Extras:
    """What the loop has to add. Called before the first step: distances are measured from the parameters as they are now.

    Raises AssayError where EWC has nothing to protect.
    """
    penalties: list[Callable[[], Tensor]] = []
    if mitigation.l2_sp:
        penalties.append(distance(trainable.trained, mitigation.l2_sp))
    if mitigation.ewc:
        if not protected:
            raise AssayError("ewc needs examples to protect", where="mitigation", do="name retention tasks with a train split, or a text")
        information = fisher(trainable.model, trainable.trained, protected[:PROBES], seed)
        penalties.append(distance(trainable.trained, mitigation.ewc, information))
    stop = None
    if mitigation.stop_at_kl < math.inf:
        probes = (protected or target)[:PROBES]

        def stop(step: int) -> bool:
            return step % every == 0 and kl_to_base(trainable, probes) > mitigation.stop_at_kl

    penalty = (lambda: sum(term() for term in penalties)) if penalties else None
    return Extras(penalty=penalty, kl=mitigation.kl, replay=1.0, stop=stop)


def distance(trained: Mapping[str, Tensor], weight: float, importance: Mapping[str, Tensor] | None = None) -> Callable[[], Tensor]:
    """weight / 2 * sum of (importance *) squared distance from the values held now; 0 at the start.

    For adapters this pulls towards their own start, the identity.
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
    example at a time, since the square of a batch's mean gradient would be something else. On a fresh LoRA the information
    of the factor that starts at random is zero.
    """
    import torch

    head, was_training = model.get_output_embeddings(), model.training
    device = next(model.parameters()).device
    draw = torch.Generator(device).manual_seed(seed)
    found = {name: torch.zeros_like(value) for name, value in trained.items()}
    model.eval()
    for example in examples:
        logits = answer_logits(model, head, pad([example], device))
        own = torch.multinomial(logits.detach().softmax(-1), 1, generator=draw)[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, own, reduction="sum")
        for name, gradient in zip(trained, torch.autograd.grad(loss, list(trained.values()), allow_unused=True), strict=True):
            if gradient is not None:
                found[name] += gradient.square()
    model.train(was_training)
    tokens = sum(example.loss_tokens for example in examples)
    return {name: value / tokens for name, value in found.items()}


def interpolate(base: Module, tuned: Module, share: float) -> Module:
    """WiSE-FT: `tuned` becomes base + share * (tuned - base), in place; models of one architecture."""
    import torch

    start = dict(base.named_parameters())
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            value.copy_(torch.lerp(start[name].to(value), value, share))
    return tuned


def is_plain_lora(adapter: Path) -> bool:
    """Whether a folder holds an adapter of which scaling B scales the weight change: LoRA and rsLoRA, not DoRA."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return config.get("peft_type") == "LORA" and not config.get("use_dora")


def scale_lora(adapter: Path, share: float) -> None:
    """Scale a saved LoRA in place: its weight change becomes `share` of what it was."""
    from safetensors.torch import load_file, save_file

    file = adapter / "adapter_model.safetensors"
    tensors = {name: value * share if "lora_B" in name else value for name, value in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
