"""The training loop: equal to transformers' Trainer, bit-equal after SIGKILL, exact token counts, clear errors."""

from __future__ import annotations

import copy
import errno
import gc
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from assay import AssayError
from assay.tuners.methods import find_method
from assay.tuners.training.batches import Example, Step, pad, plan_steps
from assay.tuners.training.loss import answer_logits, kl_to_base
from assay.tuners.training.sharding import check_launch, uses_fsdp
from assay.tuners.training.train import Extras, Progress, Recipe, split_passes, time_left, train
from tests.tuners.interrupted import run
from tests.tuners.tiny import device, mean_loss, tiny_examples, tiny_llama
from tests.tuners.together import STEPS, together


def trainer_run(model: Any, steps: Sequence[Step], recipe: Recipe, folder: Path) -> list[float]:
    """The same batches through transformers' Trainer; gives its losses."""
    from transformers import Trainer, TrainingArguments

    flat = [example for step in steps for example in step.target]

    def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
        width = max(len(example.ids) for example in examples)
        ids = torch.zeros(len(examples), width, dtype=torch.long)
        labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
        for row, example in enumerate(examples):
            size = len(example.ids)
            ids[row, :size], mask[row, :size] = torch.tensor(example.ids), 1
            labels[row, example.loss_from : size] = torch.tensor(example.ids[example.loss_from :])
        return {"input_ids": ids, "labels": labels, "attention_mask": mask}

    seen: list[float] = []

    class InOrder(Trainer):
        def _get_train_sampler(self, *rest: Any) -> Any:
            return torch.utils.data.SequentialSampler(flat)

        def training_step(self, *rest: Any, **named: Any) -> torch.Tensor:
            loss = super().training_step(*rest, **named)
            seen.append(loss.item())
            return loss

    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=recipe.micro,
        gradient_accumulation_steps=2,
        learning_rate=recipe.lr,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(recipe.warmup * len(steps)),
        max_steps=len(steps),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    InOrder(model, arguments, train_dataset=flat, data_collator=collate).train()
    return [seen[n] + seen[n + 1] for n in range(0, len(seen), 2)]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_twenty_steps_equal_trainers(tmp_path: Path) -> None:
    steps = [step for step in plan_steps(tiny_examples(200), loss_tokens=600, batch=8, seed=0) if len(step.target) == 8][:20]
    recipe = Recipe(lr=3e-3, micro=4, weight_decay=0.01)
    ours = find_method("full").begin(tiny_llama())
    done = train(ours, steps, recipe)
    theirs = tiny_llama()
    losses = trainer_run(theirs, steps, recipe, tmp_path)
    assert len(losses) == done.steps == 20
    assert max(abs(a - b) for a, b in zip(losses, done.losses, strict=True)) < 1e-5
    moved = max((a - b).abs().max().item() for a, b in zip(ours.model.parameters(), theirs.parameters(), strict=True))
    assert moved < 1e-5
    assert max((a - b).abs().max().item() for a, b in zip(theirs.parameters(), tiny_llama().parameters(), strict=True)) > 1e-2


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in some builds of torch, so bit-equality needs the same number everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_resume_after_sigkill_is_bit_equal(tmp_path: Path) -> None:
    methods = ("full", "adalora", "lora")
    command = [sys.executable, "-m", "tests.tuners.interrupted"]
    killed = [subprocess.Popen([*command, name, str(tmp_path / name), "7"], env={**os.environ, "OMP_NUM_THREADS": "1"}) for name in methods]
    assert [process.wait(120) for process in killed] == [-signal.SIGKILL] * 3
    for name in methods:
        unbroken, whole = run(name, None)
        resumed, rest = run(name, tmp_path / name)
        assert rest.losses == whole.losses and rest.steps == whole.steps >= 10
        for key, value in unbroken.trained.items():
            assert torch.equal(value, resumed.trained[key]), f"{name}: {key}"


def launch(runs: Sequence[str], folder: Path, **environment: str) -> list[dict[str, dict[str, Any]]]:
    """The results of two processes for these runs: for each process the facts by run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "tests.tuners.together", *runs, str(folder)]
    surroundings = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [{run: json.loads((folder / rank / f"{run}.json").read_text()) for run in runs} for rank in ("0", "1")]


@pytest.mark.parametrize(("cuts", "environment"), [(False, {}), (True, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})])
def test_two_processes_take_the_same_steps_as_one(cuts: bool, environment: dict[str, str], tmp_path: Path) -> None:
    """With DDP and with FSDP: losses, the base's KL, and what is saved. The last step has fewer examples than processes."""
    assert any(len(step.target) < 2 for step in STEPS)
    runs = ("full+kl=1", "full+twice", "lora", "lora+again", "full+l2_sp=1")
    first, second = launch(runs, tmp_path, **environment)
    assert first == second
    for name in ("full+kl=1", "full+twice", "lora", *(() if cuts else ("full+l2_sp=1",))):
        both, alone = first[name], together(name, tmp_path / "alone")
        assert (both["world"], both["cut"], both["status"]) == (2, cuts, "done")
        assert both["losses"] == pytest.approx(list(alone["losses"]), abs=1e-5) and both.get("kl") == pytest.approx(
            alone.get("kl"), abs=1e-5
        )
        (expected,) = (tmp_path / "alone" / "saved" / name).glob("*.safetensors")
        saved = load_file(tmp_path / "0" / "saved" / name / expected.name)
        for key, value in load_file(expected).items():
            assert torch.allclose(saved[key], value, rtol=0, atol=5e-5), f"{name}: {key}"
    assert first["lora+again"]["digest"] == first["lora"]["digest"], "resuming from the checkpoint changed the result"
    assert not cuts or "without --use_fsdp" in first["full+l2_sp=1"]["refused"]


def test_every_process_makes_as_many_passes() -> None:
    """Also a process with fewer examples than others; together they weight each example once."""
    step = Step(tuple(tiny_examples(5)), tuple(tiny_examples(2, seed=1)))
    shares = []
    for rank in range(3):
        accelerator = SimpleNamespace(num_processes=3, process_index=rank)
        shares.append(split_passes(SimpleNamespace(accelerator=accelerator, recipe=Recipe(lr=1.0, micro=1)), step))
    assert [[target for _, _, target in passes] for passes in shares] == [[True, True, False]] * 3
    seen = [example for passes in shares for examples, weight, _ in passes if weight for example in examples]
    assert sorted(example.ids for example in seen) == sorted(example.ids for example in (*step.target, *step.replay))


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "2"}, "one of 2 processes without connection to each other"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "only FSDP version 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "offloading of parameters is not supported"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(AssayError, match=says):
        check_launch(1)
        uses_fsdp()


@pytest.mark.parametrize(("method", "options"), [("full", {}), ("last_k", {"layers": 1})])
def test_the_start_is_copied_only_for_a_mitigation_that_compares_with_it(method: str, options: dict[str, Any]) -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=20, batch=8, seed=0)

    def copies(extras: Extras) -> float:
        """How many tensors there are of a trained parameter's shape for each such parameter, after a step."""
        before, counts = alike(shape), []
        trainable = find_method(method).begin(tiny_llama(layers=1), options=options)
        train(trainable, steps, Recipe(lr=1e-3), extras, report=lambda progress: counts.append(alike(shape) - before))
        return counts[0] / sum(value.shape == shape for value in trainable.trained.values())

    trained = find_method(method).begin(tiny_llama(layers=1), options=options)
    shape = next(value.shape for name, value in trained.trained.items() if "q_proj" in name)
    assert copies(Extras()) == 3, "the values and AdamW's two moments"
    assert copies(Extras(kl=1.0)) == copies(Extras(stop=lambda step: False)) == 4
    train(trained, steps, Recipe(lr=1e-3))
    with pytest.raises(AssayError, match="before training were not stored"):
        kl_to_base(trained, tiny_examples())


def alike(shape: torch.Size) -> int:
    gc.collect()
    held = {value.data_ptr() for value in gc.get_objects() if issubclass(type(value), torch.Tensor) and value.shape == shape}
    return len(held)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=40, batch=4, seed=0)
    train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=1e-3, checkpoint_every=2), directory=tmp_path)
    with pytest.raises(AssayError, match="another recipe"):
        train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=2e-3, checkpoint_every=2), directory=tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"broken")
    with pytest.raises(AssayError, match="not a checkpoint"):
        train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=1e-3), directory=tmp_path)


def test_a_full_disk_is_a_one_line_error_and_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=40, batch=4, seed=0)
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AssayError, match="No space left on device") as caught:
        train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=1e-3, checkpoint_every=1), directory=tmp_path)
    assert "free disk space" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]
    again = train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=1e-3, checkpoint_every=1), directory=tmp_path)
    assert again.status == "done" and again.loss_tokens == 40


def test_divergence_ends_the_run_with_a_status() -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=200, batch=4, seed=0)
    exploded = train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=30.0, clip=0.0, warmup=0.0))
    assert exploded.status == "diverged" and exploded.steps < len(steps) and exploded.loss_tokens < 200
    broken = find_method("full").begin(tiny_llama())
    with torch.no_grad():
        broken.model.lm_head.weight[0, 0] = math.nan
    assert train(broken, steps, Recipe(lr=1e-3)).status == "diverged"


def test_accumulation_is_normalised_by_loss_tokens() -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=60, batch=8, seed=0)
    whole, parts = (find_method("full").begin(tiny_llama()) for _ in range(2))
    a, b = train(whole, steps, Recipe(lr=1e-3, micro=8)), train(parts, steps, Recipe(lr=1e-3, micro=3))
    assert a.losses == pytest.approx(b.losses, abs=1e-6)
    assert max((x - y).abs().max().item() for x, y in zip(whole.trained.values(), parts.trained.values(), strict=True)) < 1e-5


def test_one_process_may_train_in_one_precision_after_another() -> None:
    """bf16 arithmetic is near fp32 and not it; the weights stay fp32."""
    steps = plan_steps(tiny_examples(), loss_tokens=16, batch=8, seed=0)
    found = {}
    for precision in ("no", "bf16"):
        trainable = find_method("full").begin(tiny_llama())
        found[precision] = train(trainable, steps, Recipe(lr=1e-3, precision=precision)).losses
        assert {value.dtype for value in trainable.trained.values()} == {torch.float32}
    assert found["no"] != found["bf16"]
    assert found["no"] == pytest.approx(found["bf16"], abs=0.05)


def test_gradient_checkpointing_changes_nothing() -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=30, batch=8, seed=0)
    plain, saving = (find_method("lora").begin(tiny_llama(), options={"rank": 4}) for _ in range(2))
    a, b = train(plain, steps, Recipe(lr=1e-2)), train(saving, steps, Recipe(lr=1e-2, gradient_checkpointing=True))
    assert a.losses == pytest.approx(b.losses, abs=1e-6)
    prefix = find_method("prefix_tuning").begin(tiny_llama(), options={"tokens": 3})
    with pytest.raises(AssayError, match="remove --gradient-checkpointing"):
        train(prefix, steps, Recipe(lr=1e-2, gradient_checkpointing=True))


@pytest.mark.parametrize("name", ["full", "prompt_tuning", "prefix_tuning", "p_tuning", "lora"])
def test_logits_at_the_answer_equal_those_of_a_plain_forward(name: str) -> None:
    model = find_method(name).begin(tiny_llama()).model.eval()
    examples = tiny_examples(6)
    with torch.no_grad():
        batch = pad(examples, device())
        at_answer = answer_logits(model, model.get_output_embeddings(), batch)
        sent = [torch.tensor([example.ids], device=device()) for example in examples]
        alone = [model(ids).logits[0, -ids.shape[1] :][example.loss_from - 1 : -1] for ids, example in zip(sent, examples, strict=True)]
    assert (at_answer - torch.cat(alone)).abs().max() < 1e-5


def test_prompt_tokens_carry_no_loss() -> None:
    """The loss is the mean over the answer's tokens alone."""
    model = tiny_llama()
    ids = (1, 2, 3, 4, 5, 6)
    log = torch.log_softmax(model(torch.tensor([ids], device=device())).logits[0].float().cpu(), -1)
    expected = -log[torch.arange(3, 5), torch.tensor(ids[4:6])].mean().item()
    assert mean_loss(model, [Example(ids, 4)]) == pytest.approx(expected, abs=1e-6)


def test_kl_to_base_is_zero_for_the_base_and_positive_after_training() -> None:
    trainable = find_method("lora").begin(tiny_llama(), options={"rank": 4})
    assert kl_to_base(trainable, tiny_examples()) == 0.0
    train(trainable, plan_steps(tiny_examples(), loss_tokens=60, batch=8, seed=0), Recipe(lr=1e-2))
    assert kl_to_base(trainable, tiny_examples()) > 1e-3


def test_the_time_left_leaves_out_the_slow_first_step() -> None:
    assert time_left(8.0, [10, 10, 10, 10], [20, 20]) == 8.0
    assert time_left(6.0, [10, 10, 10], [20, 20]) is None and time_left(1.0, [], []) == 0


def test_progress_has_loss_tokens_per_second_and_time_left() -> None:
    seen: list[Progress] = []
    steps = plan_steps(tiny_examples(), loss_tokens=100, batch=8, seed=0)
    done = train(find_method("full").begin(tiny_llama()), steps, Recipe(lr=1e-3), report=seen.append)
    assert [progress.step for progress in seen] == list(range(1, len(steps) + 1))
    told = [progress.seconds_left for progress in seen]
    assert told[:4] == [None] * 4 and all(left is not None and left > 0 for left in told[4:-1]) and told[-1] == 0
    assert all(progress.tokens_per_second > 0 for progress in seen)
    assert tuple(progress.loss for progress in seen) == done.losses
    assert done.processed_tokens == sum(len(example.ids) for step in steps for example in step.target)
    assert done.peak_memory > 1e6 and copy.copy(done) == done
