"""A trial: its values, what all trials of a study share, its exact steps, and the model made ready for it."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay import AssayError, Doc, Metric, Task
from assay.harness.run.stages import Tokenizer
from assay.tuners.methods import find_method
from assay.tuners.methods.peft_method import rehearse
from assay.tuners.study.scoring import Score, Scorer
from assay.tuners.training.batches import Example, Step, plan_steps
from assay.tuners.training.data import longest_scored, task_examples
from assay.tuners.training.method import Module, Trainable
from assay.tuners.training.mitigation import Mitigation
from assay.tuners.training.mix import mix
from assay.tuners.training.train import Recipe, check_recipe

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run of a study. `lr` is absolute; `labels` is "true" or "random" (a control); `role` says why it is run."""

    target: str
    method: str
    lr: float
    seed: int
    mitigation: str = "none"
    role: str = "grid"
    labels: str = "true"
    loss_tokens: int = 0
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials of a study share. `protected` and `probes`: training and validation examples of the retention tasks."""

    base: Path
    positions: int
    tokenizer: Tokenizer
    tasks: Mapping[str, Task]
    training: Mapping[str, Sequence[Doc]]
    choosing: Mapping[str, tuple[str, int]]
    """By target the split on which rates are chosen, and how many of its first rows; none of them is trained on or scored."""
    validation: Mapping[str, Sequence[Example]]
    protected: Sequence[Example]
    probes: Sequence[Example]
    retain: tuple[str, ...]
    before: Mapping[str, Score]
    scorer: Scorer
    recipe: Recipe
    batch: int = 8
    text: Sequence[Example] = ()
    bytes_per_token: float = 0.0
    """UTF-8 bytes of the text that a token with loss stands for."""
    chooses: tuple[str, ...] = ("grid",)
    """Roles of the trials that the rate is chosen from: only they are scored on validation."""
    retain_limit: int | None = None
    retain_shots: int = 0
    shown: tuple[str, ...] = ()
    """Retention tasks that are also scored with so many examples in the prompt."""
    keep_models: bool = True
    chat: bool = False
    spare: Sequence[Example] = ()
    """Text that nothing is measured on: what is replayed and protected where no retention task has training examples."""
    scored: Mapping[str, Sequence[Doc]] = field(default_factory=dict)
    """By full name the items that the pipeline scores."""
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By target the training rows that were left out, because they are scored or chosen on."""
    references: dict[str, Any] = field(default_factory=dict)
    """The base's log-probabilities on the probes, once computed; the only part that changes."""

    def metric(self, score: Score) -> Metric[Any] | None:
        """The metric that a score is of."""
        metrics = (metric for task in self.tasks.values() if task.full_name == score.task for metric in task.metrics)
        return next((metric for metric in metrics if metric.name == score.metric), None)


def open_base(path: Path) -> Module:
    """The base model in fp32, on this process's GPU where there is one: in bf16 weights the small steps of full tuning would round away."""
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    if not torch.cuda.is_available():
        return model
    return model.to(f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}")


def plan_trial(bench: Bench, trial: Trial, mitigation: Mitigation) -> tuple[Step, ...]:
    """The steps; equal for every method of equal target, seed, labels and mitigation."""
    if not trial.loss_tokens:
        return ()
    task = bench.tasks[trial.target]
    docs = bench.training[trial.target]
    if trial.labels == "random":
        docs = random_labels(docs, trial.seed)
    examples = task_examples(task, docs, bench.tokenizer, bench.positions, bench.chat)
    if mitigation.multi_task:
        others = {
            name: task_examples(bench.tasks[name], rows, bench.tokenizer, bench.positions, bench.chat)
            for name, rows in bench.training.items()
        }
        examples = mix(others | {trial.target: examples}, mitigation.multi_task, sum(map(len, others.values())), trial.seed)
    return plan_steps(
        examples, loss_tokens=trial.loss_tokens, batch=bench.batch, seed=trial.seed, replay=to_keep(bench, mitigation),
        ratio=mitigation.replay,
    )  # fmt: skip


def to_keep(bench: Bench, mitigation: Mitigation) -> Sequence[Example]:
    """What is replayed and protected: examples of the retention tasks, else text, which early stopping does not look at."""
    return bench.protected or (bench.spare if mitigation.replay or mitigation.ewc else ())


def make_ready(bench: Bench, trial: Trial, mitigation: Mitigation, steps: Sequence[Step]) -> Trainable:
    """The base as the trial's method changes it. Raises AssayError for what method, mitigation and model cannot do together."""
    method = find_method(trial.method)
    trainable = method.begin(open_base(bench.base), seed=trial.seed, steps=len(steps), options=dict(trial.options))
    if mitigation.wise_ft < 1 and trainable.merged is None:
        raise AssayError("cannot be interpolated: it does not fold into the weights", where=method.name, do="use another mitigation")
    check_recipe(trainable, bench.recipe)
    check_context(bench, virtual_tokens(trainable), steps)
    if method.merges is None:  # a configuration of peft that nobody here has tried
        rehearse(trainable, next(iter(bench.validation.values()))[0], merging=mitigation.wise_ft < 1)
    return trainable


def virtual_tokens(trainable: Trainable) -> int:
    """How many tokens a method puts before every prompt."""
    return int(getattr(getattr(trainable.model, "active_peft_config", None), "num_virtual_tokens", None) or 0)


def check_context(bench: Bench, virtual: int, steps: Sequence[Step]) -> None:
    """Raises AssayError where virtual tokens leave too little of the model's context for what is trained on, measured and scored."""
    if not virtual:
        return
    if "longest" not in bench.references:
        measured = [*bench.probes, *bench.text, *(example for examples in bench.validation.values() for example in examples)]
        scored = (longest_scored(task, bench.scored.get(task.full_name, ()), bench.tokenizer, bench.chat) for task in bench.tasks.values())
        bench.references["longest"] = max((*(len(example.ids) for example in measured), *scored), default=0)
    trained = (len(example.ids) for step in steps for example in (*step.target, *step.replay))
    longest = max((bench.references["longest"], *trained))
    if longest + virtual > bench.positions:
        raise AssayError(
            f"{virtual} virtual tokens and items of up to {longest} are more than the model's context of {bench.positions}",
            do="use fewer tokens or tasks with shorter prompts",
        )


def random_labels(docs: Sequence[Doc], seed: int) -> list[Doc]:
    """The same questions with answers that say nothing: a random choice, or another doc's reference. What is gained is format."""
    draw = random.Random(f"labels:{seed}")
    if all(doc.choices for doc in docs):
        return [replace(doc, gold=draw.randrange(len(doc.choices)), targets=()) for doc in docs]
    return [replace(doc, references=(draw.choice(docs).answer,)) for doc in docs]


def finite(row: Row) -> Row:
    """A row as JSON can hold it: numbers that are none become null."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}


def is_separable(row: Mapping[str, Any]) -> bool:
    """Whether the base stays as it was beside the adapter: detached, nothing is forgotten."""
    return row.get("route") in ("lora", "prompt", "transformers", "base") or row.get("family") in ("additive", "reparameterization")
