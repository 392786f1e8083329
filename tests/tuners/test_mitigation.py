"""Each mitigation does what its name says."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from assay import AssayError
from assay.tuners.methods import find_method
from assay.tuners.methods.saved import attach
from assay.tuners.training.batches import plan_steps
from assay.tuners.training.loss import kl_to_base
from assay.tuners.training.method import Trainable
from assay.tuners.training.mitigation import (
    Mitigation,
    distance,
    fisher,
    in_training,
    interpolate,
    is_plain_lora,
    parse_mitigation,
    scale_lora,
    training_extras,
)
from assay.tuners.training.train import Recipe, Trained, train
from tests.tuners.tiny import device, mean_loss, tiny_examples, tiny_llama

TARGET, PROTECTED = tiny_examples(24, seed=0), tiny_examples(24, seed=9)


def trained(text: str, method: str = "full", lr: float = 3e-3) -> tuple[Trainable, Trained]:
    mitigation = parse_mitigation(text)
    trainable = find_method(method).begin(tiny_llama(), options={"rank": 4} if method == "lora" else {})
    steps = plan_steps(TARGET, loss_tokens=200, batch=8, seed=0, replay=PROTECTED, ratio=mitigation.replay)
    trainable.remember()
    extras = training_extras(mitigation, trainable, TARGET, PROTECTED, every=1)
    return trainable, train(trainable, steps, Recipe(lr=lr * mitigation.lower_lr), extras)


def test_names_read_back() -> None:
    mixed = parse_mitigation("replay=0.25+kl=0.1")
    assert mixed == Mitigation(replay=0.25, kl=0.1) == parse_mitigation(str(mixed))
    assert str(Mitigation()) == "none" and parse_mitigation("none") == Mitigation()
    assert in_training("wise-ft=0.5") == in_training("none") == "none"
    assert in_training("kl=0.1+wise_ft=0.5+replay=0.25") == "kl=0.1+replay=0.25"


@pytest.mark.parametrize(
    ("text", "says"), [("reply=1", "unknown mitigation"), ("kl", "needs a number"), ("kl=-1", "must not be"), ("wise_ft=2", "beyond")]
)
def test_bad_mitigations_are_refused(text: str, says: str) -> None:
    with pytest.raises(AssayError, match=says):
        parse_mitigation(text)


@pytest.mark.parametrize("text", ["kl=5", "l2_sp=1", "ewc=1000", "lower_lr=0.1", "l2_sp=1+kl=1"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_pull_to_the_base_lowers_the_kl(text: str, method: str) -> None:
    lr = 3e-3 if method == "full" else 1e-2
    free, held = trained("none", method, lr)[0], trained(text, method, lr)[0]
    assert 0 < kl_to_base(held, PROTECTED) < kl_to_base(free, PROTECTED)


def test_replay_keeps_what_is_replayed() -> None:
    free, held = trained("none")[0], trained("replay=1")[0]
    assert mean_loss(held.model, PROTECTED) < mean_loss(free.model, PROTECTED) - 0.1


def test_penalties_are_zero_at_the_start_and_right_off_it() -> None:
    trainable = find_method("full").begin(tiny_llama())
    information = fisher(trainable.model, trainable.trained, PROTECTED[:4], seed=0)
    pulls = [distance(trainable.trained, 2.0), distance(trainable.trained, 2.0, information)]
    assert [pull().item() for pull in pulls] == [0.0, 0.0]
    with torch.no_grad():
        for value in trainable.trained.values():
            value.add_(0.5)
    assert pulls[0]().item() == pytest.approx(0.25 * trainable.count, rel=1e-5)
    assert pulls[1]().item() == pytest.approx(0.25 * float(sum(value.sum() for value in information.values())), rel=1e-4)


def test_fisher_of_a_bigram_table_is_p_minus_p_squared() -> None:
    """For logits that are parameters themselves the information is known: p_i - p_i ** 2, on the diagonal."""

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(1, 3, bias=False)
            with torch.no_grad():
                self.head.weight[:, 0] = torch.tensor([0.0, 1.0, 2.0])

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.head

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
            hidden = torch.ones(*input_ids.shape, 1)
            return type("Out", (), {"logits": self.head(hidden)})

    from assay.tuners.training.batches import Example

    table = Table()
    found = fisher(table, dict(table.named_parameters()), [Example((0, 0), 1)] * 4000, seed=0)["head.weight"][:, 0]
    p = torch.softmax(torch.tensor([0.0, 1.0, 2.0]), -1)
    assert torch.allclose(found, p - p**2, atol=0.02)


def test_ewc_needs_something_to_protect() -> None:
    with pytest.raises(AssayError, match="to protect"):
        training_extras(Mitigation(ewc=1.0), find_method("full").begin(tiny_llama()), TARGET, [])


def test_early_stop_ends_soon_after_the_bound() -> None:
    trainable, done = trained("stop_at_kl=0.02")
    free = trained("none")[1]
    assert done.status == "stopped" and done.steps < free.steps and done.loss_tokens < 200
    assert kl_to_base(trainable, PROTECTED) > 0.02
    assert trained(f"stop_at_kl={math.inf}")[1].status == "done"


def test_interpolation_walks_from_base_to_tuned() -> None:
    tuned = trained("none")[0].model
    ends = [interpolate(tiny_llama(), copy_of(tuned), share) for share in (0.0, 1.0)]
    assert all(torch.equal(a, b) for a, b in zip(ends[0].parameters(), tiny_llama().parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(ends[1].parameters(), tuned.parameters(), strict=True))
    half = interpolate(tiny_llama(), copy_of(tuned), 0.5)
    for a, b, c in zip(half.parameters(), tiny_llama().parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(a, (b + c) / 2, atol=1e-7)


def copy_of(model: torch.nn.Module) -> torch.nn.Module:
    import copy

    return copy.deepcopy(model)


def test_scaled_lora_is_interpolated_weights(tmp_path: Path) -> None:
    trainable = trained("none", "lora", 1e-2)[0]
    trainable.save(tmp_path)
    assert is_plain_lora(tmp_path) and trainable.merged is not None
    scale_lora(tmp_path, 0.25)
    ids = torch.arange(12, device=device()).reshape(1, 12)
    with torch.no_grad():
        scaled = attach(tiny_llama(), tmp_path)(ids).logits
        walked = interpolate(tiny_llama(), trainable.merged(), 0.25).eval()(ids).logits
    assert (scaled - walked).abs().max() < 1e-5
