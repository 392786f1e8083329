"""Several tasks one after another with one set of parameters: what is kept of the earlier ones (BWT, FM), what helps the later (FWT)."""

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
from assay.tuners.study.bench import open_bench
from assay.tuners.study.design import Study, check_numbers, check_plan, identity
from assay.tuners.study.forgetting import average_accuracy, backward_transfer, forgetting_measure, forward_transfer, learning_accuracy
from assay.tuners.study.run_trial import kept_row, save_or_say
from assay.tuners.study.scoring import Scorer
from assay.tuners.study.study import left_out
from assay.tuners.study.trial import Bench, Row, Trial, make_ready
from assay.tuners.study.workers import Happening, Work, work_through, write_study
from assay.tuners.training.batches import Example, Step, plan_steps
from assay.tuners.training.data import task_examples
from assay.tuners.training.mitigation import extras_of, parse_mitigation
from assay.tuners.training.mix import mix
from assay.tuners.training.train import Progress, train


@dataclass(frozen=True, slots=True)
class Sequence:
    """Tasks that are learned one after another, `loss_tokens` each, in several orders: the first as named, the others drawn.

    `rate` is a factor of each method's centre. Mitigation `replay=0.5` replays examples of the tasks before, in equal shares.
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

    def __post_init__(self) -> None:
        if len(self.tasks) < 2:
            raise AssayError("a sequence needs at least two tasks", where=self.name, do="name more, separated by commas")
        check_plan(self, self.tasks)
        check_numbers(self, "rate", (self.rate,), least=math.nextafter(0, 1))
        check_numbers(self, "orders", (self.orders,), least=1)
        if any(parse_mitigation(text).multi_task for text in self.mitigations):
            raise AssayError("multi_task mixes tasks that a sequence learns in turn", where=self.name, do="use replay, or another regime")


def orders(plan: Sequence) -> tuple[tuple[str, ...], ...]:
    """Distinct orders of the tasks, the first as they are named; fewer than asked for where there are no more."""
    found, draw = [plan.tasks], random.Random(f"orders:{plan.name}")
    for _ in range(100 * plan.orders):
        if len(found) >= plan.orders:
            break
        drawn = tuple(draw.sample(plan.tasks, len(plan.tasks)))
        found += [drawn] if drawn not in found else []
    return tuple(found)


def trials(plan: Sequence) -> Iterator[Trial]:
    """Every method and mitigation in every order, one seed after another. A trial's target names the order."""
    for seed in plan.seeds:
        for order in orders(plan):
            for method in plan.methods:
                for mitigation in plan.mitigations:
                    options = tuple(sorted(plan.options.get(method, {}).items()))
                    lr = find_method(method).lr * plan.rate
                    yield Trial(" > ".join(order), method, lr, seed, mitigation, "sequence", loss_tokens=plan.loss_tokens, options=options)


def run_sequence(
    plan: Sequence,
    model: ModelRef,
    access: Access,
    scorer: Scorer,
    root: Path,
    report: Callable[[Happening], None] = lambda happening: None,
) -> list[Row]:
    """Run what is not done yet; gives a row per order, method, mitigation and seed, kept as those of a study are.

    Several processes may work in one folder side by side, as for a study.
    """
    write_study(root, identity(plan, model.digest))
    bench = open_bench(as_study(plan), model, access, scorer, root)
    every = list(trials(plan))
    work = Work(plan.name, len(every), lambda rows: every, partial(do_trial, bench), list)
    return work_through(work, root, report)


def as_study(plan: Sequence) -> Study:
    """The data of a sequence as a study reads them: every task is a target, and no rate is chosen."""
    return Study(
        plan.name, plan.tasks, plan.retain, plan.methods, plan.loss_tokens, batch=plan.batch, micro=plan.micro, examples=plan.examples,
        held=1, limit=plan.limit, retain_limit=plan.retain_limit, options=plan.options, chat=plan.chat,
        gradient_checkpointing=plan.gradient_checkpointing,
    )  # fmt: skip


def do_trial(bench: Bench, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    """What an order gave, under the name of the order."""
    return {"task": trial.target, **learn(bench, trial, folder, report)}


def learn(bench: Bench, trial: Trial, folder: Path, report: Callable[[Progress], None]) -> Row:
    """Train on each task of the order in turn, and score all of them after each."""
    began, order = time.monotonic(), trial.target.split(" > ")
    method, mitigation = find_method(trial.method), parse_mitigation(trial.mitigation)
    try:
        if method.name == "adalora":
            raise AssayError("plans its ranks for one run, not for several", where=method.name, do="use lora")
        stages = plan_stages(bench, trial, order, mitigation.replay)
        trainable = make_ready(bench, trial, mitigation, [step for steps, _ in stages for step in steps])
    except AssayError as error:
        return {"family": method.family, "status": "refused", "reason": str(error)}
    recipe = replace(bench.recipe, lr=trial.lr * mitigation.lower_lr, seed=trial.seed, checkpoint_every=0)
    matrix: list[list[float]] = []
    kept: Row = {}
    tokens = 0
    for name, (steps, before) in zip(order, stages, strict=True):
        protected = before or bench.protected
        held = mitigation if protected else replace(mitigation, ewc=0.0)  # the first task has nothing before it
        extras = extras_of(held, trainable, bench.validation[name], protected, seed=trial.seed)
        done = train(trainable, steps, recipe, extras, report=report)
        tokens += done.loss_tokens
        if done.status == "diverged":
            return {"family": method.family, "status": "diverged", "loss_tokens": tokens, "seconds": time.monotonic() - began}
        served = save_or_say(bench, trainable, mitigation, folder)
        after = bench.scorer(*served, tuple(order))
        matrix.append([after[bench.tasks[task].full_name].value for task in order])
        if len(matrix) == len(order) and bench.retain:
            kept = kept_row(bench, served)
    shutil.rmtree(folder / "merged", ignore_errors=True)
    base = [bench.before[bench.tasks[task].full_name].value for task in order]
    facts: Row = {"family": method.family, "status": "done", "loss_tokens": tokens, "trainable_parameters": trainable.count}
    return facts | measures(matrix, base) | kept | left_out(bench, *order) | {"seconds": time.monotonic() - began}


def plan_stages(bench: Bench, trial: Trial, order: list[str], ratio: float) -> list[tuple[tuple[Step, ...], list[Example]]]:
    """For each task its steps, and examples of the tasks before it, which are replayed at that ratio."""
    pools = {name: task_examples(bench.tasks[name], bench.training[name], bench.tokenizer, bench.positions, bench.chat) for name in order}
    stages = []
    for number, name in enumerate(order):
        earlier = {task: pools[task] for task in order[:number]}
        before = mix(earlier, 1e9, sum(map(len, earlier.values())), trial.seed) if earlier else []
        steps = plan_steps(
            pools[name], loss_tokens=trial.loss_tokens, batch=bench.batch, seed=trial.seed, replay=before, ratio=ratio if before else 0.0
        )
        stages.append((steps, before))
    return stages


def measures(matrix: list[list[float]], base: list[float]) -> Row:
    """The published measures of a matrix R[i, j], the score on task j after learning task i; `base` holds the untuned scores."""
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
