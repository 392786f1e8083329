"""What a study will take and can tell, before it runs: hours, memory, and the expected half-widths of its comparisons."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from assay import Access, ModelRef
from assay.harness.run.stages import open_tokenizer
from assay.harness.stats.distributions import t_quantile
from assay.tuners.methods import find_method
from assay.tuners.study.design import Study, count_trials, grid
from assay.tuners.study.prepare import read_neutral, scored_split, single_task
from assay.tuners.study.trial import open_base
from assay.tuners.training.batches import Example, Limit, plan_steps
from assay.tuners.training.data import find_tasks, read_docs, task_examples, text_examples
from assay.tuners.training.loss import log_probabilities
from assay.tuners.training.train import Recipe, train

SEED_LOG_KL = (0.18, 0.79)
"""Standard deviation over seeds of the log ratio of two methods' KL, in runs with one seed: in the published `cpu-mini` on languages, where
every run trained, and on sentiment, where some did not."""
SEED_GAIN = (0.027, 0.18)
"""As above, of the difference of two methods' gains."""
ITEM_GAIN = 0.6
"""Standard deviation over items of a change of score, in `cpu-mini`."""


@dataclass(frozen=True, slots=True)
class Expected:
    """`hours` on this machine with one process; `memory` in bytes, of one step of full tuning.

    Half-widths of 95% confidence intervals, from the variances of the published rows (the smaller and the larger of two targets): of a
    difference of gains in points, and the factor by which two methods' KL must differ to tell them apart; infinite with one seed.
    """

    trials: int
    runs: int
    hours: float
    memory: int
    seeds: int
    gain: tuple[float, float]
    factor: tuple[float, float]

    def lines(self) -> list[str]:
        gain, factor = ([f"{value:.3g}" for value in pair] for pair in (self.gain, self.factor))
        return [
            f"{self.trials} trials, {self.runs} of them training runs of the comparison ({self.seeds} seeds)",
            f"{self.hours:.1f} hours of this machine with one process, {self.memory / 1e9:.1f} GB of memory",
            f"expected half-width of a difference of gains: {gain[0]} to {gain[1]} points (95% confidence)",
            f"two methods' KL must differ by a factor of {factor[0]} to {factor[1]} to be told apart",
        ]


def expect(study: Study, model: ModelRef, access: Access) -> Expected:
    """Reads the data, and times one step of full tuning and one pass of scoring; trains and stores nothing."""
    tokenizer = open_tokenizer(model.path)
    tasks = {name: single_task(find_tasks([name], access), name) for name in (*study.targets, *study.retain)}

    def lengths(name: str, split: str, most: int | None) -> list[Example]:
        docs = read_docs(tasks[name], split, access)[:most]
        return task_examples(tasks[name], docs, tokenizer, model.positions, study.chat, study.max_length)

    training = {name: lengths(name, "train", study.examples) for name in study.targets}
    scored = {name: lengths(name, scored_split(task, access), limit_of(study, name)) for name, task in tasks.items()}
    texts = [
        text for name in (study.text, *study.more_texts) if name for text in text_examples(read_neutral(name, access)[:50], tokenizer, 128)
    ]
    train_speed, score_speed, memory = measure_speed(study, model, next(iter(training.values())))
    seconds = 0.0
    for name in study.targets:
        steps = plan_steps(training[name], loss_tokens=study.loss_tokens, batch=study.batch, seed=0, limit=Limit(study.steps, study.epochs))
        trained = sum(len(example.ids) for step in steps for example in step.target)
        text = min(study.text_tokens * (bool(study.text) + len(study.more_texts)), tokens_of(texts))
        each = tokens_of(scored[name]) + text
        points = each * (len([step for step in study.points if step < len(steps)]) + 1)
        retained = sum(tokens_of(scored[other]) for other in study.retain) * (1 + bool(study.retain_shots))
        seconds += trained / train_speed + (points + retained) / score_speed
    whole, seeds = seconds / len(study.targets), len(study.seeds)
    items = fmean(len(scored[name]) for name in study.targets)
    count = count_trials(study)
    reach = float(t_quantile(0.975, seeds - 1)) if seeds > 1 else math.inf
    gains = [100 * reach * math.sqrt(sd**2 / seeds + (ITEM_GAIN**2 / items if sd == SEED_GAIN[1] else 0.0)) for sd in SEED_GAIN]
    factors = [math.exp(reach * sd / math.sqrt(seeds)) if seeds > 1 else math.inf for sd in SEED_LOG_KL]
    runs = len([trial for trial in grid(study) if trial.role == "grid"]) or len(study.targets) * len(study.methods) * seeds
    return Expected(count, runs, count * whole / 3600, memory, seeds, (gains[0], gains[1]), (factors[0], factors[1]))


def limit_of(study: Study, name: str) -> int | None:
    return study.limit if name in study.targets else study.retain_limit or study.limit


def tokens_of(examples: list[Example]) -> int:
    return sum(len(example.ids) for example in examples)


def measure_speed(study: Study, model: ModelRef, examples: list[Example]) -> tuple[float, float, int]:
    """Tokens per second of training (full tuning, the slowest) and of scoring, and the peak memory in bytes."""
    sample = examples[: max(16, study.batch)]
    base: Any = open_base(model.path)
    log_probabilities(base, sample[:1])
    began = time.monotonic()
    log_probabilities(base, sample)
    scoring = tokens_of(sample) / (time.monotonic() - began)
    steps = plan_steps(sample, loss_tokens=2**40, batch=study.batch, seed=0, limit=Limit(2))
    done = train(find_method("full").begin(base), steps, replace(Recipe(lr=0.0, micro=study.micro), **study.recipe))
    return done.processed_tokens / done.seconds, scoring, done.peak_memory
