"""The one training loop: AdamW, cosine with warm-up, clipping, accumulation normalised by loss tokens, exact budgets."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from assay import AssayError
from assay.tuners.training.batches import Example, Step, digest_steps, pad
from assay.tuners.training.loss import answer_logits, in_batches, summed_kl, summed_loss
from assay.tuners.training.memory import forget_peak, peak_memory
from assay.tuners.training.method import Module, Tensor, Trainable
from assay.tuners.training.selection import blocks
from assay.tuners.training.sharding import check_together, shard, wants_shards, whole
from assay.tuners.training.state import Position, read_checkpoint, write_checkpoint

Status = Literal["done", "diverged", "stopped"]
"""done: the whole budget. diverged: a loss or gradient that is no number, or an exploded loss. stopped: a bound was reached."""

PATIENCE = 3
"""Steps in a row with an exploded loss that end a run."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `warmup` is a fraction of the steps; the schedule is that of transformers' cosine_with_warmup.

    `micro` examples go through the model at once; gradients add up over a step and are divided by its loss tokens.
    """

    lr: float
    micro: int = 8
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: none."""
    gradient_checkpointing: bool = False
    precision: Literal["no", "bf16"] = "no"


@dataclass(frozen=True, slots=True)
class Extras:
    """What mitigations add. `penalty()`: once a step, on the parameters. `kl`: weight of KL(base || tuned) on the target's loss
    positions. `replay`: weight of the replayed examples' mean loss. `stop(step)`: whether to end after that step.
    """

    penalty: Callable[[], Tensor] | None = None
    kl: float = 0.0
    replay: float = 1.0
    stop: Callable[[int], bool] | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """After a step: mean loss of its target tokens (nats), learning rate, tokens processed a second, seconds left."""

    step: int
    steps: int
    loss: float
    lr: float
    rate: float
    left: float


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run did. `losses` and `rates` by step; `loss_tokens` and `processed_tokens` of the steps that were taken."""

    status: Status
    steps: int
    losses: tuple[float, ...]
    rates: tuple[float, ...]
    loss_tokens: int
    processed_tokens: int
    seconds: float
    peak_memory: int
    """Bytes: of the GPU where there is one, else the process's resident set."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What stays the same from step to step."""

    accelerator: Any
    model: Module
    head: Module
    values: Sequence[Tensor]
    optimizer: Any
    trainable: Trainable
    recipe: Recipe
    extras: Extras
    join: Callable[[], None] | None = None
    """Makes a model that is cut over the processes whole again."""


def train(
    trainable: Trainable,
    steps: Sequence[Step],
    recipe: Recipe,
    extras: Extras = Extras(),
    directory: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train in place. With a `directory`, checkpoints are written there and a broken run goes on where it stood, to the same
    result bit for bit on a CPU. A run that diverges ends with that status; its parameters are not to be used.

    Under `accelerate launch` every process calls this with the same arguments and ends with the same whole parameters; the first
    writes the checkpoints, which all must be able to read. The model is copied (DDP), or with FSDP version 2 cut over them.
    """
    loop = open_loop(trainable, recipe, extras)
    plan = digest_plan(steps, recipe, trainable)
    position = read_checkpoint(directory, plan, trainable, loop.optimizer) if directory else Position(0, plan)
    check_position(loop, position)
    sizes = [sum(len(example.ids) for example in (*step.target, *step.replay)) for step in steps]
    ceiling = 2 * math.log(trainable.model.config.get_text_config().vocab_size)
    first, before, began = position.step, position.seconds, time.monotonic()
    forget_peak()
    status: Status = "done"
    while position.step < len(steps) and status == "done":
        lr = recipe.lr * schedule(position.step, len(steps), recipe.warmup)
        loss, norm = take_step(loop, steps[position.step], lr, position.step + 1)
        position = advance(position, loss, lr, before + time.monotonic() - began, ceiling)
        pace = (time.monotonic() - began) / sum(sizes[first : position.step])
        report(Progress(position.step, len(steps), loss, lr, 1 / pace, pace * sum(sizes[position.step :])))
        if not math.isfinite(loss + norm) or position.high >= PATIENCE:
            status = "diverged"
        elif extras.stop is not None and agreed(loop, extras.stop(position.step)):
            status = "stopped"
        elif directory and recipe.checkpoint_every and position.step % recipe.checkpoint_every == 0:
            write_checkpoint(directory, position, trainable, loop.optimizer, loop.accelerator.is_main_process)
    loss_tokens, peak = sum(example.loss_tokens for step in steps[: position.step] for example in step.target), peak_memory()
    if loop.join is not None:
        loop.join()
    return Trained(status, position.step, position.losses, position.rates, loss_tokens, sum(sizes[: position.step]), position.seconds, peak)


def advance(position: Position, loss: float, lr: float, seconds: float, ceiling: float) -> Position:
    """One step further. A loss is high above `ceiling`, twice that of a uniform guess, and three times the first loss."""
    high = position.high + 1 if loss > ceiling and loss > 3 * (*position.losses, loss)[0] else 0
    losses, rates = (*position.losses, loss), (*position.rates, lr)
    return replace(position, step=position.step + 1, losses=losses, rates=rates, seconds=seconds, high=high)


def schedule(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at a step, from 0: linear warm-up, then half a cosine.

    Source: transformers.optimization.get_cosine_schedule_with_warmup, whose first step with warm-up has rate 0.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return step / max(1, rising)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))))


def digest_plan(steps: Sequence[Step], recipe: Recipe, trainable: Trainable) -> str:
    """Hash of what a checkpoint must agree with: the steps, the recipe, and what is trained."""
    parts = [digest_steps(steps), asdict(recipe), {name: list(value.shape) for name, value in trainable.trained.items()}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def open_loop(trainable: Trainable, recipe: Recipe, extras: Extras) -> Loop:
    """The model on its device, copied or cut over the processes where `accelerate launch` says so, with its optimizer."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check_recipe(trainable, recipe)
    if recipe.gradient_checkpointing:
        trainable.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    head = trainable.model.get_output_embeddings()
    torch.manual_seed(recipe.seed)
    AcceleratorState._reset_state()  # it would refuse a second precision in one process, and a recipe has its own
    accelerator = Accelerator(mixed_precision=recipe.precision)
    check_together(accelerator.num_processes)
    cut = wants_shards()
    if cut and (extras.penalty is not None or trainable.penalty is not None):
        raise AssayError(
            "l2_sp, ewc and adalora need every parameter whole, and FSDP cuts them",
            do="train without --use_fsdp (one process, or several with a copy of the model each)",
        )
    # Without evaluation_mode accelerate would wrap a model that is cut, and only if it also had its optimizer.
    model = accelerator.prepare_model(trainable.model, device_placement=cut or None, evaluation_mode=cut)
    join = shard(model, [layer for _, layer in blocks(model)], accelerator.device) if cut else None
    if extras.kl or extras.stop is not None:
        trainable.remember()
    model.train()
    values = list(trainable.trained.values())
    # As Trainer does: gains and biases do not decay; fused is the fastest on CPU and GPU alike.
    groups = [
        {"params": [value for value in values if value.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [value for value in values if value.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, betas=recipe.betas, fused=True)
    return Loop(accelerator, model, head, values, optimizer, trainable, recipe, extras, join)


def check_position(loop: Loop, position: Position) -> None:
    """Raises AssayError where processes would go on from different steps: they would wait for each other for ever."""
    import torch

    here = torch.tensor([position.step], device=loop.accelerator.device)
    if loop.accelerator.num_processes > 1 and len(set(loop.accelerator.gather(here).tolist())) > 1:
        raise AssayError("not every process reads the same checkpoint", do="use a folder that all of them see")


def agreed(loop: Loop, flag: bool) -> bool:
    """Whether any process says so: all of them must end at the same step."""
    import torch

    if loop.accelerator.num_processes == 1:
        return flag
    return bool(loop.accelerator.reduce(torch.tensor(float(flag), device=loop.accelerator.device), reduction="sum"))


def check_recipe(trainable: Trainable, recipe: Recipe) -> None:
    """Raises AssayError where this model cannot be trained so."""
    if recipe.gradient_checkpointing and "PREFIX_TUNING" in str(getattr(trainable.model, "peft_type", "")):
        raise AssayError("prefix tuning keeps a cache, which gradient checkpointing drops", do="train without gradient checkpointing")
    if recipe.gradient_checkpointing and not getattr(trainable.model, "supports_gradient_checkpointing", True):
        raise AssayError("this architecture has no gradient checkpointing", do="train without gradient checkpointing")


def take_step(loop: Loop, step: Step, lr: float, number: int) -> tuple[float, float]:
    """One optimizer step. Gives the mean loss of the target tokens and the norm of the gradient before clipping.

    Nothing moves where either is no finite number.
    """
    import torch

    for group in loop.optimizer.param_groups:
        group["lr"] = lr
    passes = share(loop, step)
    total = torch.zeros((), device=loop.accelerator.device)
    for index, (examples, weight, is_target) in enumerate(passes):
        last = index == len(passes) - 1
        with nullcontext() if last or loop.join else loop.accelerator.no_sync(loop.model):
            loss, extra = forward(loop, examples, is_target)
            full = weight * (loss + extra)
            if last:
                full = full + own_terms(loop)
            loop.accelerator.backward(full)
        if is_target:
            total += weight * loss.detach()
    mean = float(loop.accelerator.reduce(total, reduction="mean"))
    norm = float(whole(loop.accelerator.clip_grad_norm_(loop.values, loop.recipe.clip or math.inf)))
    if math.isfinite(mean + norm):
        loop.optimizer.step()
        loop.trainable.after_step(number)
    loop.optimizer.zero_grad(set_to_none=True)
    return mean, norm


def share(loop: Loop, step: Step) -> list[tuple[Sequence[Example], float, bool]]:
    """This process's forward passes: examples, the weight of their summed loss, and whether they are the target's.

    Gradients are averaged over processes, hence the factor. All make the same number of passes, since with FSDP each pass is a
    collective: one with fewer examples fills up with passes of weight 0.
    """
    world, rank = loop.accelerator.num_processes, loop.accelerator.process_index
    passes: list[tuple[Sequence[Example], float, bool]] = []
    for examples, scale, is_target in ((step.target, 1.0, True), (step.replay, loop.extras.replay, False)):
        if not examples:
            continue
        weight = scale * world / sum(example.loss_tokens for example in examples)
        mine = [(group, weight, is_target) for group in in_batches(examples[rank::world], loop.recipe.micro)]
        most = math.ceil(len(examples[::world]) / loop.recipe.micro)
        passes += [*mine, *[(examples[:1], 0.0, is_target)] * (most - len(mine))]
    return passes


def forward(loop: Loop, examples: Sequence[Example], is_target: bool) -> tuple[Tensor, Tensor | float]:
    """Summed loss, and summed KL from the base where it is asked for."""
    import torch

    batch = pad(examples, loop.accelerator.device)
    base = None
    if is_target and loop.extras.kl:
        loop.model.eval()  # the base answers without dropout
        with torch.no_grad(), loop.trainable.reference():
            base = answer_logits(loop.model, loop.head, batch)
        loop.model.train()
    logits = answer_logits(loop.model, loop.head, batch)
    extra = loop.extras.kl * summed_kl(base, logits) if base is not None else 0.0
    return summed_loss(logits, batch.targets), extra


def own_terms(loop: Loop) -> Tensor | float:
    """Loss terms on the parameters themselves: the mitigation's and the method's."""
    terms = (loop.extras.penalty, loop.trainable.penalty)
    return sum((term() for term in terms if term is not None), 0.0)
