"""A trial, the setup that all trials of a study share, and the steps and the model of a trial."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay import AssayError, Doc, Metric, ModelRef, Task
from assay.harness.run.stages import PreparedTask, Tokenizer
from assay.tuners.methods import find_method
from assay.tuners.methods.peft_method import try_forward
from assay.tuners.methods.saved import attach
from assay.tuners.study.scoring import Score, Scorer
from assay.tuners.training.batches import UNLIMITED, Example, Limit, Step, plan_steps
from assay.tuners.training.data import cut_examples, longest_scored, task_examples
from assay.tuners.training.loss import log_probabilities
from assay.tuners.training.method import Module, Trainable
from assay.tuners.training.mitigation import Mitigation
from assay.tuners.training.mix import mix
from assay.tuners.training.train import Recipe, check_recipe

Row = dict[str, Any]
OWN_MODULES = "tuners[.](?:toy|retention):"


def current_names(text: str) -> str:
    """Stored text with the task names of this package in their current form: early studies stored `tuners.toy:MAX`."""
    return re.sub(rf"(?<![\w.])({OWN_MODULES})", r"assay.\1", text)


def early_names(text: str) -> str:
    """The inverse of `current_names`; trial keys hash the early form, so that rows of early studies keep their keys."""
    return re.sub(rf"\bassay[.]({OWN_MODULES})", r"\1", text)


@dataclass(frozen=True, slots=True)
class Trial:
    """One training run of a study. `lr` is the learning rate; `labels` is "true" or "random" (a control); `role` is its purpose."""

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
class StudySetup:
    """The data and settings that all trials of a study share.

    `protected` and `probes`: training examples of the retention tasks, to replay or protect, and to measure KL on.
    """

    base: Path
    positions: int
    tokenizer: Tokenizer
    tasks: Mapping[str, Task]
    training: Mapping[str, Sequence[Doc]]
    rate_splits: Mapping[str, tuple[str, int]]
    """By target the split on which the learning rate is chosen, and how many of its first rows; these are not trained on or scored."""
    validation: Mapping[str, Sequence[Example]]
    protected: Sequence[Example]
    probes: Sequence[Example]
    retain: tuple[str, ...]
    before: Mapping[str, Score]
    scorer: Scorer
    recipe: Recipe
    batch: int = 8
    limit: Limit = field(default_factory=Limit)
    max_length: int = 0
    """As in `Study`."""
    text: Sequence[Example] = ()
    bytes_per_token: float = 0.0
    """UTF-8 bytes of the text per loss token."""
    rate_role: str = "grid"
    """Role of the trials from which the learning rate is chosen; only they are scored on the validation split."""
    retain_limit: int | None = None
    retain_shots: int = 0
    few_shot: tuple[str, ...] = ()
    """Retention tasks that are also scored with `retain_shots` few-shot examples."""
    keep_models: bool = True
    chat: bool = False
    spare_text: Sequence[Example] = ()
    """Text that is not measured on, to replay and protect if no retention task has training examples."""
    scored: Mapping[str, Sequence[Doc]] = field(default_factory=dict)
    """Scored items by the task's full name."""
    excluded: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By target the labels of training rows that are excluded because they are scored or choose the learning rate."""
    model: ModelRef | None = None
    points: tuple[int, ...] = ()
    """As in `Study`."""
    live: Mapping[str, PreparedTask] = field(default_factory=dict)
    """By the task's full name the encoded items that are scored along a run."""
    more_text: Mapping[str, tuple[Sequence[Example], float]] = field(default_factory=dict)
    """Further neutral texts by name, each with its UTF-8 bytes per loss token."""
    references: dict[str, Any] = field(default_factory=dict)
    """Cache of the base's log-probabilities and of encoded examples; the only field whose content changes."""

    def metric(self, score: Score) -> Metric[Any] | None:
        """The metric of a score; None if its task is not part of the study."""
        metrics = (metric for task in self.tasks.values() if task.full_name == score.task for metric in task.metrics)
        return next((metric for metric in metrics if metric.name == score.metric), None)


def open_base(path: Path) -> Module:
    """The base model in fp32, on this process's GPU if there is one. bf16 weights would round away the small updates of full tuning."""
    import torch
    from transformers import AutoModelForCausalLM, logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        str(path), dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    if not torch.cuda.is_available():
        return model
    return model.to(f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}")


def reference(setup: StudySetup, name: str, examples: Sequence[Example]) -> Any:
    """The base's log-probabilities, computed once for all trials, from the base as it is on disk."""
    if name not in setup.references:
        setup.references[name] = log_probabilities(open_base(setup.base), examples)
    return setup.references[name]


Served = tuple[Path, Path | None]
"""Model directory and adapter, as engines load a result."""


def open_served(served: Served) -> Module:
    """Load the served model from disk into this process."""
    model, adapter = served
    return open_base(model) if adapter is None else attach(open_base(model), adapter)


def plan_trial(setup: StudySetup, trial: Trial, mitigation: Mitigation) -> tuple[Step, ...]:
    """The steps of a trial; equal for all methods with equal target, seed, labels and mitigation."""
    if not trial.loss_tokens:
        return ()
    task = setup.tasks[trial.target]
    if trial.labels == "random":
        docs = random_labels(setup.training[trial.target], trial.seed)
        examples = task_examples(task, docs, setup.tokenizer, setup.positions, setup.chat, setup.max_length)
    else:
        examples = training_examples(setup, trial.target, trial.seed)
    if mitigation.multi_task:
        others = {name: training_examples(setup, name, trial.seed) for name in setup.training}
        examples = mix(others | {trial.target: examples}, mitigation.multi_task, sum(map(len, others.values())), trial.seed)
    return plan_steps(
        examples, loss_tokens=trial.loss_tokens, batch=setup.batch, seed=trial.seed, replay=protected_examples(setup, mitigation),
        ratio=mitigation.replay, limit=setup.limit,
    )  # fmt: skip


def training_examples(setup: StudySetup, target: str, seed: int) -> list[Example]:
    """The training examples of a target, encoded once for all trials: of all rows, or of as many rows, drawn by the seed, as the limit of
    steps can use."""
    docs, needed = setup.training[target], setup.limit.steps * setup.batch
    draws = 0 < needed < len(docs)
    key = examples_key(target, seed if draws else 0)
    if key not in setup.references:
        used, most = random.Random(f"rows:{seed}").sample(docs, needed) if draws else docs, setup.max_length
        whole = task_examples(setup.tasks[target], used, setup.tokenizer, setup.positions, setup.chat, UNLIMITED if most else 0)
        kept = cut_examples(whole, most) if most else whole
        cut = sum(example.loss_from < most < len(example.ids) for example in whole)
        setup.references[key] = kept
        setup.references[f"lengths {key}"] = {"rows_left_out": len(whole) - len(kept), "answers_cut": cut}
    return list(setup.references[key])


def examples_key(target: str, seed: int) -> str:
    return f"training examples of {target}, drawn by {seed}"


def data_row(setup: StudySetup, trial: Trial, steps: Sequence[Step]) -> Row:
    """The columns about training data: rows of the target, epochs trained, and rows left out or cut because they are too long (of the rows
    that are drawn for a limited number of steps)."""
    rows = len(setup.training[trial.target])
    training_examples(setup, trial.target, trial.seed)
    draws = 0 < setup.limit.steps * setup.batch < rows
    lengths = setup.references[f"lengths {examples_key(trial.target, trial.seed if draws else 0)}"]
    used = rows if draws else rows - lengths["rows_left_out"]
    return {"training_rows": rows, **lengths, "epochs": sum(len(step.target) for step in steps) / max(1, used)}


def protected_examples(setup: StudySetup, mitigation: Mitigation) -> Sequence[Example]:
    """The examples to replay and protect: of the retention tasks, else spare text (which early stopping does not use)."""
    return setup.protected or (setup.spare_text if mitigation.replay or mitigation.ewc else ())


def prepare_model(setup: StudySetup, trial: Trial, mitigation: Mitigation, steps: Sequence[Step]) -> Trainable:
    """The base prepared by the trial's method. Raises AssayError if method, mitigation and model do not work together."""
    method = find_method(trial.method)
    trainable = method.begin(open_base(setup.base), seed=trial.seed, steps=len(steps), options=dict(trial.options))
    if mitigation.wise_ft < 1 and trainable.merged is None:
        raise AssayError(
            "cannot be interpolated: the method cannot be merged into the weights",
            where=method.name,
            do="use a mitigation other than wise_ft",
        )
    check_recipe(trainable, setup.recipe)
    check_context(setup, virtual_tokens(trainable), steps)
    if method.merges is None:  # an untested peft configuration
        try_forward(trainable, next(iter(setup.validation.values()))[0], merging=mitigation.wise_ft < 1)
    return trainable


def virtual_tokens(trainable: Trainable) -> int:
    """The number of virtual tokens that a method puts before every prompt."""
    return int(getattr(getattr(trainable.model, "active_peft_config", None), "num_virtual_tokens", None) or 0)


def check_context(setup: StudySetup, virtual: int, steps: Sequence[Step]) -> None:
    """Raises AssayError if virtual tokens leave too little of the model's context for the trained, measured or scored items."""
    if not virtual:
        return
    if "longest" not in setup.references:
        measured = [*setup.probes, *setup.text, *(example for examples in setup.validation.values() for example in examples)]
        scored = (longest_scored(task, setup.scored.get(task.full_name, ()), setup.tokenizer, setup.chat) for task in setup.tasks.values())
        setup.references["longest"] = max((*(len(example.ids) for example in measured), *scored), default=0)
    trained = (len(example.ids) for step in steps for example in (*step.target, *step.replay))
    longest = max((setup.references["longest"], *trained))
    if longest + virtual > setup.positions:
        raise AssayError(
            f"{virtual} virtual tokens and items of up to {longest} tokens exceed the model's context of {setup.positions}",
            do="use fewer tokens or tasks with shorter prompts",
        )


def random_labels(docs: Sequence[Doc], seed: int) -> list[Doc]:
    """The docs with random answers: a random choice, or another doc's reference. Any gain from them is format, not knowledge."""
    draw = random.Random(f"labels:{seed}")
    if all(doc.choices for doc in docs):
        return [replace(doc, gold=draw.randrange(len(doc.choices)), targets=()) for doc in docs]
    return [replace(doc, references=(draw.choice(docs).answer,)) for doc in docs]


def json_safe(row: Row) -> Row:
    """The row with NaN and infinity replaced by None, as JSON needs it."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}


def is_separable(row: Mapping[str, Any]) -> bool:
    """Whether the base model stays unchanged next to the adapter, so that detaching the adapter undoes all forgetting."""
    return row.get("route") in ("lora", "prompt", "transformers", "base") or row.get("family") in ("additive", "reparameterization")
