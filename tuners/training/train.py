"""The training loop: AdamW, cosine schedule with warm-up, clipping, accumulation normalised by loss tokens, exact budgets."""

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
from assay.tuners.training.memory import peak_memory, reset_peak
from assay.tuners.training.method import Module, Tensor, Trainable, do_nothing
from assay.tuners.training.selection import blocks
from assay.tuners.training.sharding import check_launch, full_tensor, shard, uses_fsdp
from assay.tuners.training.state import Position, read_checkpoint, write_checkpoint

Status = Literal["done", "diverged", "stopped"]
"""done: the full budget. diverged: a loss or gradient that is not finite, or an exploded loss. stopped: early stopping."""

PATIENCE = 3
"""Number of consecutive steps with an exploded loss that ends a run."""
TELLING = 5
"""Steps after which a time left is told: the first one also allocates memory, and a few differ too much in length."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training settings. `warmup` is a fraction of the steps; the schedule is transformers' cosine_with_warmup.

    `micro` examples form one forward pass; gradients are summed over a step and divided by its loss tokens.
    """

    lr: float
    micro: int = 8
    warmup: float = 0.1
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    seed: int = 0
    checkpoint_every: int = 0
    """Steps between checkpoints; 0: no checkpoints."""
    gradient_checkpointing: bool = False
    precision: Literal["no", "bf16"] = "no"

    def __post_init__(self) -> None:
        for name in ("lr", "warmup", "clip", "weight_decay", "checkpoint_every"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (name == "warmup" and value > 1):
                wanted = "a share of the steps, 0 to 1" if name == "warmup" else "a number of at least 0"
                raise AssayError(f"{name} cannot be {value:g}", where="training recipe", do=f"use {wanted}")


@dataclass(frozen=True, slots=True)
class Extras:
    """The terms of a mitigation. `penalty()`: a loss on the parameters, once per step. `kl`: weight of KL(base || tuned) on the target's
    loss positions. `stop(step)`: whether to stop after that step.
    """

    penalty: Callable[[], Tensor] | None = None
    kl: float = 0.0
    stop: Callable[[int], bool] | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """Calls `measure(step)` after these steps, 0 being before the first, and after the last one; not after a run that diverged.

    The model is in evaluation mode meanwhile, and the call's time and memory do not count as the run's.
    """

    steps: frozenset[int] = frozenset()
    measure: Callable[[int], None] = do_nothing

    def due(self, step: int, last: bool) -> bool:
        return step in self.steps or (last and bool(self.steps))

    def call(self, step: int, model: Module, peak: int) -> tuple[float, int]:
        """Measure; returns the seconds that it took, and the peak memory of the training so far."""
        began, peak = time.monotonic(), max(peak, peak_memory())
        model.eval()
        self.measure(step)
        model.train()
        reset_peak()
        return time.monotonic() - began, peak


@dataclass(frozen=True, slots=True)
class Progress:
    """The state after a step. `loss`: mean over its target tokens, in nats. `tokens_per_second`: processed tokens."""

    step: int
    steps: int
    loss: float
    lr: float
    tokens_per_second: float
    seconds_left: float | None
    """None until TELLING steps of this process are known."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The result of a run. `losses` by step, in nats; `loss_tokens` and `processed_tokens` of the steps that were taken."""

    status: Status
    steps: int
    losses: tuple[float, ...]
    loss_tokens: int
    processed_tokens: int
    seconds: float
    peak_memory: int
    """In bytes: of the GPU if there is one, else the process's resident set."""


@dataclass(frozen=True, slots=True)
class Loop:
    """The objects that every step of a run shares."""

    accelerator: Any
    model: Module
    head: Module
    values: Sequence[Tensor]
    optimizer: Any
    trainable: Trainable
    recipe: Recipe
    extras: Extras
    join: Callable[[], None] | None = None
    """Restores a sharded model; None if it is not sharded."""


def train(
    trainable: Trainable,
    steps: Sequence[Step],
    recipe: Recipe,
    extras: Extras = Extras(),
    directory: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    watch: Watch = Watch(),
) -> Trained:
    """Train in place. With a `directory`, checkpoints are written there and an interrupted run resumes, on a CPU to the bit-identical
    result. A run that diverges ends with that status; its parameters must not be used.

    Under `accelerate launch` every process calls this with the same arguments and ends with the same full parameters; the first
    writes the checkpoints, which all must be able to read. The model is copied (DDP), or sharded with FSDP version 2.
    """
    loop = open_loop(trainable, recipe, extras)
    plan = digest_plan(steps, recipe, trainable)
    position = read_checkpoint(directory, plan, trainable, loop.optimizer) if directory else Position(0, plan)
    check_position(loop, position)
    sizes = [sum(len(example.ids) for example in (*step.target, *step.replay)) for step in steps]
    ceiling = 2 * math.log(trainable.model.config.get_text_config().vocab_size)
    first, before, began, opening = position.step, position.seconds, time.monotonic(), 0.0
    reset_peak()
    status: Status = "done"
    paused, peak = watch.call(0, loop.model, 0) if first == 0 and watch.due(0, not steps) else (0.0, 0)
    began += paused
    while position.step < len(steps) and status == "done":
        lr = recipe.lr * schedule(position.step, len(steps), recipe.warmup)
        loss, norm = take_step(loop, steps[position.step], lr, position.step + 1)
        position = advance(position, loss, lr, before + time.monotonic() - began, ceiling)
        seconds, done, left = time.monotonic() - began, sizes[first : position.step], sizes[position.step :]
        opening = opening or seconds  # of the first step
        report(Progress(position.step, len(steps), loss, lr, sum(done) / seconds, time_left(seconds - opening, done[1:], left)))
        if not math.isfinite(loss + norm) or position.high >= PATIENCE:
            status = "diverged"
        elif extras.stop is not None and any_process(loop, extras.stop(position.step)):
            status = "stopped"
        elif directory and recipe.checkpoint_every and position.step % recipe.checkpoint_every == 0:
            write_checkpoint(directory, position, trainable, loop.optimizer, loop.accelerator.is_main_process)
        if status != "diverged" and watch.due(position.step, position.step == len(steps) or status == "stopped"):
            paused, peak = watch.call(position.step, loop.model, peak)
            began += paused
    peak, loss_tokens = max(peak, peak_memory()), sum(example.loss_tokens for step in steps[: position.step] for example in step.target)
    if loop.join is not None:
        loop.join()
    return Trained(status, position.step, position.losses, loss_tokens, sum(sizes[: position.step]), position.seconds, peak)


def time_left(seconds: float, done: Sequence[int], left: Sequence[int]) -> float | None:
    """Seconds for steps of the sizes `left`, from the seconds of the steps after the first; None until TELLING steps are done."""
    if not left:
        return 0.0
    return seconds / sum(done) * sum(left) if len(done) + 1 >= TELLING else None


def advance(position: Position, loss: float, lr: float, seconds: float, ceiling: float) -> Position:
    """The next position. A loss has exploded above both `ceiling`, twice the loss of a uniform guess, and three times the first loss."""
    high = position.high + 1 if loss > ceiling and loss > 3 * (*position.losses, loss)[0] else 0
    losses, rates = (*position.losses, loss), (*position.rates, lr)
    return replace(position, step=position.step + 1, losses=losses, rates=rates, seconds=seconds, high=high)


def schedule(step: int, steps: int, warmup: float) -> float:
    """The factor of the learning rate at a step, from 0: linear warm-up, then half a cosine.

    Source: transformers.optimization.get_cosine_schedule_with_warmup, whose first step with warm-up has learning rate 0.
    """
    rising = math.ceil(warmup * steps)
    if step < rising:
        return step / max(1, rising)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))))


def digest_plan(steps: Sequence[Step], recipe: Recipe, trainable: Trainable) -> str:
    """Hash of the steps, the recipe and the shapes of the trained parameters; a checkpoint is valid only for an equal hash."""
    parts = [digest_steps(steps), asdict(recipe), {name: list(value.shape) for name, value in trainable.trained.items()}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def open_loop(trainable: Trainable, recipe: Recipe, extras: Extras) -> Loop:
    """The model on its device, copied or sharded as `accelerate launch` configures, with its optimizer."""
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    check_recipe(trainable, recipe)
    if recipe.gradient_checkpointing:
        trainable.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    head = trainable.model.get_output_embeddings()
    torch.manual_seed(recipe.seed)
    AcceleratorState._reset_state()  # else it refuses a second precision in one process; each recipe has its own
    accelerator = Accelerator(mixed_precision=recipe.precision)
    check_launch(accelerator.num_processes)
    sharded = uses_fsdp()
    if sharded and (extras.penalty is not None or trainable.penalty is not None):
        raise AssayError(
            "l2_sp, ewc and adalora do not work with FSDP, which shards the parameters",
            do="train without --use_fsdp (one process, or several with a copy of the model each)",
        )
    # Without evaluation_mode accelerate would wrap the model for FSDP itself, and only together with its optimizer.
    model = accelerator.prepare_model(trainable.model, device_placement=sharded or None, evaluation_mode=sharded)
    join = shard(model, [layer for _, layer in blocks(model)], accelerator.device) if sharded else None
    if extras.kl or extras.stop is not None:
        trainable.remember()
    model.train()
    values = list(trainable.trained.values())
    # As in Trainer, gains and biases do not decay. Fused AdamW is the fastest on both CPU and GPU.
    groups = [
        {"params": [value for value in values if value.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [value for value in values if value.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, betas=recipe.betas, fused=True)
    return Loop(accelerator, model, head, values, optimizer, trainable, recipe, extras, join)


def check_position(loop: Loop, position: Position) -> None:
    """Raises AssayError if the processes would resume from different steps and wait for each other forever."""
    import torch

    here = torch.tensor([position.step], device=loop.accelerator.device)
    if loop.accelerator.num_processes > 1 and len(set(loop.accelerator.gather(here).tolist())) > 1:
        raise AssayError("the processes read different checkpoints", do="use a folder that all of them share")


def any_process(loop: Loop, flag: bool) -> bool:
    """Whether the flag is set in any process: all of them must stop at the same step."""
    import torch

    if loop.accelerator.num_processes == 1:
        return flag
    return bool(loop.accelerator.reduce(torch.tensor(float(flag), device=loop.accelerator.device), reduction="sum"))


def check_recipe(trainable: Trainable, recipe: Recipe) -> None:
    """Raises AssayError if the model does not support gradient checkpointing and the recipe needs it."""
    if recipe.gradient_checkpointing and "PREFIX_TUNING" in str(getattr(trainable.model, "peft_type", "")):
        raise AssayError("prefix tuning needs a key-value cache, which gradient checkpointing drops", do="remove --gradient-checkpointing")
    if recipe.gradient_checkpointing and not getattr(trainable.model, "supports_gradient_checkpointing", True):
        raise AssayError("this architecture does not support gradient checkpointing", do="remove --gradient-checkpointing")


def take_step(loop: Loop, step: Step, lr: float, number: int) -> tuple[float, float]:
    """Take one optimizer step. Returns the mean loss of the target tokens in nats and the gradient norm before clipping.

    No parameter changes if either is not finite.
    """
    import torch

    for group in loop.optimizer.param_groups:
        group["lr"] = lr
    passes = split_passes(loop, step)
    total = torch.zeros((), device=loop.accelerator.device)
    for index, (examples, weight, is_target) in enumerate(passes):
        last = index == len(passes) - 1
        with nullcontext() if last or loop.join else loop.accelerator.no_sync(loop.model):
            loss, extra = forward(loop, examples, is_target)
            full = weight * (loss + extra)
            if last:
                full = full + parameter_terms(loop)
            loop.accelerator.backward(full)
        if is_target:
            total += weight * loss.detach()
    mean = float(loop.accelerator.reduce(total, reduction="mean"))
    norm = float(full_tensor(loop.accelerator.clip_grad_norm_(loop.values, loop.recipe.clip or math.inf)))
    if math.isfinite(mean + norm):
        loop.optimizer.step()
        loop.trainable.after_step(number)
    loop.optimizer.zero_grad(set_to_none=True)
    return mean, norm


def split_passes(loop: Loop, step: Step) -> list[tuple[Sequence[Example], float, bool]]:
    """This process's forward passes: examples, the weight of their summed loss, and whether they are target examples.

    Gradients are averaged over processes, hence the factor `world`. Every process makes the same number of passes, since with FSDP a pass
    is a collective; missing passes have weight 0.
    """
    world, rank = loop.accelerator.num_processes, loop.accelerator.process_index
    passes: list[tuple[Sequence[Example], float, bool]] = []
    for examples, is_target in ((step.target, True), (step.replay, False)):
        if not examples:
            continue
        weight = world / sum(example.loss_tokens for example in examples)
        mine = [(group, weight, is_target) for group in in_batches(examples[rank::world], loop.recipe.micro)]
        most = math.ceil(len(examples[::world]) / loop.recipe.micro)
        passes += [*mine, *[(examples[:1], 0.0, is_target)] * (most - len(mine))]
    return passes


def forward(loop: Loop, examples: Sequence[Example], is_target: bool) -> tuple[Tensor, Tensor | float]:
    """Summed loss, and the weighted summed KL from the base (0 if it has no weight)."""
    import torch

    batch = pad(examples, loop.accelerator.device)
    base = None
    if is_target and loop.extras.kl:
        loop.model.eval()  # no dropout in the base's logits
        with torch.no_grad(), loop.trainable.reference():
            base = answer_logits(loop.model, loop.head, batch)
        loop.model.train()
    logits = answer_logits(loop.model, loop.head, batch)
    extra = loop.extras.kl * summed_kl(base, logits) if base is not None else 0.0
    return summed_loss(logits, batch.targets), extra


def parameter_terms(loop: Loop) -> Tensor | float:
    """Sum of the loss terms on the parameters: the mitigation's and the method's."""
    terms = (loop.extras.penalty, loop.trainable.penalty)
    return sum((term() for term in terms if term is not None), 0.0)
