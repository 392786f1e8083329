"""Steps are exact, deterministic and independent of any model."""

from __future__ import annotations

import pytest

from assay import AssayError
from assay.tuners.training.batches import Example, digest_steps, pad, plan_steps
from assay.tuners.training.mix import apportion, mix, mixture
from tests.tuners.tiny import tiny_examples


@pytest.mark.parametrize("budget", [1, 7, 100, 333])
def test_budget_is_exact_to_the_token(budget: int) -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=budget, batch=4, seed=0)
    assert sum(example.loss_tokens for step in steps for example in step.target) == budget


def test_every_example_once_an_epoch() -> None:
    examples = tiny_examples(16)
    total = sum(example.loss_tokens for example in examples)
    steps = plan_steps(examples, loss_tokens=2 * total, batch=4, seed=0)
    first, second = steps[:4], steps[4:]
    for epoch in (first, second):
        assert sorted(example.ids for step in epoch for example in step.target) == sorted(example.ids for example in examples)
    assert [step.target for step in first] != [step.target for step in second]


def test_seed_decides_and_nothing_else() -> None:
    def digest(seed: int) -> str:
        return digest_steps(plan_steps(tiny_examples(), loss_tokens=50, batch=4, seed=seed))

    assert digest(1) == digest(1) != digest(2)


def test_batches_hold_examples_of_like_length() -> None:
    examples = tiny_examples(200)
    steps = plan_steps(examples, loss_tokens=sum(example.loss_tokens for example in examples), batch=8, seed=0)
    spread = max(max(len(e.ids) for e in s.target) - min(len(e.ids) for e in s.target) for s in steps)
    assert spread <= 2


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.3, 1.0])
def test_replay_ratio_is_exact_and_costs_no_budget(ratio: float) -> None:
    other = [Example((60, 61, 62, 63), 1)] * 5
    steps = plan_steps(tiny_examples(), loss_tokens=200, batch=5, seed=0, replay=other, ratio=ratio)
    targets, replayed = sum(len(step.target) for step in steps), sum(len(step.replay) for step in steps)
    assert replayed == int(ratio * targets + 1e-9)
    assert sum(example.loss_tokens for step in steps for example in step.target) == 200


@pytest.mark.parametrize(("ids", "start"), [((1, 2, 3), 3), ((1, 2, 3), 0), ((), 0)])
def test_an_example_without_loss_tokens_is_refused(ids: tuple[int, ...], start: int) -> None:
    with pytest.raises(AssayError, match="no loss tokens"):
        Example(ids, start)


def test_an_empty_plan_is_refused() -> None:
    with pytest.raises(AssayError, match="no training examples"):
        plan_steps([], loss_tokens=10, batch=4, seed=0)
    with pytest.raises(AssayError, match="no examples to replay"):
        plan_steps(tiny_examples(), loss_tokens=10, batch=4, seed=0, ratio=0.5)
    with pytest.raises(AssayError, match="budget of 0"):
        plan_steps(tiny_examples(), loss_tokens=0, batch=4, seed=0)


def test_padding_marks_the_positions_before_the_answer() -> None:
    batch = pad([Example((5, 6, 7, 8), 2), Example((9, 10), 1)], "cpu")
    assert batch.ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert batch.predicts.tolist() == [[False, True, True, False], [True, False, False, False]]
    assert batch.targets.tolist() == [7, 8, 10]


def test_mixture_by_temperature() -> None:
    sizes = {"big": 900, "small": 100}
    assert mixture(sizes, 1.0) == pytest.approx({"big": 0.9, "small": 0.1})
    assert mixture(sizes, 2.0) == pytest.approx({"big": 0.75, "small": 0.25})
    assert mixture(sizes, 1e9)["small"] == pytest.approx(0.5)
    assert apportion({"a": 0.5, "b": 0.3, "c": 0.2}, 7) == {"a": 4, "b": 2, "c": 1}
    with pytest.raises(AssayError):
        mixture(sizes, 0)


def test_mix_draws_exact_shares_and_repeats_small_tasks_evenly() -> None:
    pools = {"big": [Example((1, n + 1), 1) for n in range(30)], "small": [Example((2, n + 1), 1) for n in range(5)]}
    chosen = mix(pools, 1e9, 40, seed=0)
    small = [example for example in chosen if example.ids[0] == 2]
    assert len(chosen) == 40 and len(small) == 20
    assert {small.count(example) for example in pools["small"]} == {4}
    assert mix(pools, 1e9, 40, seed=0) == chosen != mix(pools, 1e9, 40, seed=1)
