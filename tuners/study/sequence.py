"""Sequential training on several tasks with one set of parameters: backward transfer, forgetting, forward transfer."""

from __future__ import annotations

import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from assay import Access, AssayError, ModelRef
from assay.tuners.methods import find_method
from assay.tuners.study.design import Study, check_numbers, check_plan, identity
from assay.tuners.study.forgetting import average_accuracy, backward_transfer, forgetting_measure, forward_transfer, learning_accuracy
from assay.tuners.study.prepare import prepare_study
from assay.tuners.study.run_trial import retention_row, save_result
from assay.tuners.study.scoring import Scorer
from assay.tuners.study.study import overlap_row
from assay.tuners.study.trial import Row, StudySetup, Trial, prepare_model, training_examples
from assay.tuners.study.workers import TrialEvent, Workload, run_trials, write_study
from assay.tuners.training.batches import Example, Step, plan_steps
from assay.tuners.training.mitigation import parse_mitigation, training_extras
from assay.tuners.training.mix import mix
from assay.tuners.training.train import Progress, train


@dataclass(frozen=True, slots=True)
class TaskSequence:
    """The settings of sequential training: `loss_tokens` per task, in several orders, the first as listed, the others random.

    `rate` is a multiple of each method's default learning rate. The mitigation `replay=0.5` replays examples of the earlier tasks.
    """

    name: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    loss_tokens: int
    retain: tuple[str, ...] = ()
    rate: float = 1.0
    orders: int = 3
    seeds: tuple[int, ...] = (0,)
    mitigations: tuple[str, ...] = ("none",)
    batch: int = 8
    micro: int = 8
    examples: int = 2000
    limit: int | None = None
    retain_limit: int | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chat: bool = False
    gradient_checkpointing: bool = False
    steps: int = 0
    """Most optimizer steps of a trial; 0: as many as its loss tokens need."""
    epochs: float = 0.0
    """Most passes over the training rows; 0: no limit."""
    max_length: int = 0
    """Longer examples have their answer cut to so many tokens with the prompt; 0: longer than the model's context is an error."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Changes of the training recipe, for example {"warmup": 0.03}."""

    def __post_init__(self) -> None:
        if len(self.tasks) < 2:
            raise AssayError("a sequence needs at least two tasks", where=self.name, do="list more, separated by commas")
        check_plan(self, self.tasks)
        check_numbers(self, "rate", (self.rate,), least=math.nextafter(0, 1))
        check_numbers(self, "orders", (self.orders,), least=1)
        if any(parse_mitigation(text).multi_task for text in self.mitigations):
            raise AssayError(
                "multi_task mixes tasks, a sequence trains on one after another", where=self.name, do="use replay or --regime multi-task"
            )


def orders(plan: TaskSequence) -> tuple[tuple[str, ...], ...]:
    """Distinct orders of the tasks, the first as listed; fewer than `plan.orders` if there are no more."""
    found, draw = [plan.tasks], random.Random(f"orders:{plan.name}")
    for _ in range(100 * plan.orders):
        if len(found) >= plan.orders:
            break
        drawn = tuple(draw.sample(plan.tasks, len(plan.tasks)))
        found += [drawn] if drawn not in found else []
    return tuple(found)


def trials(plan: TaskSequence) -> Iterator[Trial]:
    """Every method and mitigation in every order, one seed after another. A trial's target is the order, joined by " > "."""
    for seed in plan.seeds:
        for order in orders(plan):
            for method in plan.methods:
                for mitigation in plan.mitigations:
                    options = tuple(sorted(plan.options.get(method, {}).items()))
                    lr = find_method(method).lr * plan.rate
                    yield Trial(" > ".join(order), method, lr, seed, mitigation, "sequence", loss_tokens=plan.loss_tokens, options=options)


def run_sequence(
    plan: TaskSequence,
    model: ModelRef,
    access: Access,
    scorer: Scorer,
    root: Path,
    report: Callable[[TrialEvent], None] = lambda event: None,
) -> list[Row]:
    """Run all unfinished trials; returns a row per order, method, mitigation and seed, stored as those of a study.

    Several processes may share one folder, as for a study.
    """
    write_study(root, identity(plan, model.digest))
    setup = prepare_study(as_study(plan), model, access, scorer, root)
    every = list(trials(plan))
    work = Workload(plan.name, len(every), lambda rows: every, partial(run_order, setup), list)
    return run_trials(work, root, report)


def as_study(plan: TaskSequence) -> Study:
    """A study with the same data: every task is a target."""
    return Study(
        plan.name, plan.tasks, plan.retain, plan.methods, plan.loss_tokens, batch=plan.batch, micro=plan.micro, examples=plan.examples,
        held=1, limit=plan.limit, retain_limit=plan.retain_limit, options=plan.options, chat=plan.chat,
        gradient_checkpointing=plan.gradient_checkpointing, steps=plan.steps, epochs=plan.epochs, max_length=plan.max_length,
        recipe=plan.recipe,
    )  # fmt: skip


def run_order(setup: StudySetup, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    """Train on each task of the order in turn and score all of them after each; returns the row."""
    began, order = time.monotonic(), trial.target.split(" > ")
    method, mitigation = find_method(trial.method), parse_mitigation(trial.mitigation)
    facts: Row = {"task": trial.target, "family": method.family}
    try:
        if method.name == "adalora":
            raise AssayError("allocates its ranks over a single run", where=method.name, do="use lora")
        stages = plan_stages(setup, trial, order, mitigation.replay)
        trainable = prepare_model(setup, trial, mitigation, [step for steps, _ in stages for step in steps])
    except AssayError as error:
        return facts | {"status": "refused", "reason": str(error)}
    recipe = replace(setup.recipe, lr=trial.lr * mitigation.lower_lr, seed=trial.seed, checkpoint_every=0)
    matrix: list[list[float]] = []
    retained: Row = {}
    tokens = 0
    for name, (steps, earlier) in zip(order, stages, strict=True):
        protected = earlier or setup.protected
        active = mitigation if protected else replace(mitigation, ewc=0.0)  # before the first task there is nothing to protect
        extras = training_extras(active, trainable, setup.validation[name], protected, seed=trial.seed)
        done = train(trainable, steps, recipe, extras, report=report)
        tokens += done.loss_tokens
        if done.status == "diverged":
            return facts | {"status": "diverged", "loss_tokens": tokens, "seconds": time.monotonic() - began}
        served = save_result(setup, trainable, mitigation, folder)
        after = setup.scorer(*served, tuple(order))
        matrix.append([after[setup.tasks[task].full_name].value for task in order])
        if len(matrix) == len(order) and setup.retain:
            retained = retention_row(setup, served)
    shutil.rmtree(folder / "merged", ignore_errors=True)
    base = [setup.before[setup.tasks[task].full_name].value for task in order]
    facts |= {"status": "done", "loss_tokens": tokens, "trainable_parameters": trainable.count}
    return facts | measures(matrix, base) | retained | overlap_row(setup, *order) | {"seconds": time.monotonic() - began}


def plan_stages(setup: StudySetup, trial: Trial, order: list[str], ratio: float) -> list[tuple[tuple[Step, ...], list[Example]]]:
    """For each task its steps, and the examples of the earlier tasks, which are replayed at that ratio."""
    pools = {name: training_examples(setup, name, trial.seed) for name in order}
    stages = []
    for number, name in enumerate(order):
        earlier = {task: pools[task] for task in order[:number]}
        before = mix(earlier, 1e9, sum(map(len, earlier.values())), trial.seed) if earlier else []
        steps = plan_steps(
            pools[name], loss_tokens=trial.loss_tokens, batch=setup.batch, seed=trial.seed, replay=before, ratio=ratio if before else 0.0,
            limit=setup.limit,
        )  # fmt: skip
        stages.append((steps, before))
    return stages


def measures(matrix: list[list[float]], base: list[float]) -> Row:
    """The published measures of a matrix R[i, j], the score on task j after training on task i; `base` holds the untuned scores."""
    return {
        "matrix": matrix,
        "base_scores": base,
        "average_accuracy": average_accuracy(matrix),
        "learning_accuracy": learning_accuracy(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": forward_transfer(matrix, base),
        "forgetting_measure": forgetting_measure(matrix),
        "gain": average_accuracy(matrix) - sum(base) / len(base),
    }
