"""Scores before and after, through the ordinary pipeline: plan, engine, bundle. A study only knows the callable."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from harness import Plan, evaluate, read_run
from harness.pipeline import Surroundings
from tuners.forgetting import Difference, paired_difference


@dataclass(frozen=True, slots=True)
class Score:
    """A task's main metric: the score, the score of guessing, and each item's part of it."""

    task: str
    metric: str
    value: float
    chance: float
    items: Mapping[str, float]
    clusters: Mapping[str, str]
    run: str = ""

    @property
    def error(self) -> float:
        """Standard error of the mean over items."""
        values = list(self.items.values())
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf


class Scorer(Protocol):
    """Scores tasks by name on the first `limit` items of a split ("" for each task's own), with k examples in the prompt."""

    def __call__(
        self,
        model: Path,
        adapter: Path | None,
        tasks: tuple[str, ...],
        *,
        split: str = "",
        shots: int = 0,
        seed: int = 0,
        limit: int | None = None,
    ) -> dict[str, Score]: ...


@dataclass(frozen=True, slots=True)
class Harness:
    """Scoring by `harness.evaluate`; every run is kept as a bundle. `limit` keeps the first items of a task."""

    place: Surroundings
    engine: str = "hf"
    limit: int | None = None
    chat: bool = False
    """Whether prompts go through the model's chat template."""

    def __call__(
        self,
        model: Path,
        adapter: Path | None,
        tasks: tuple[str, ...],
        *,
        split: str = "",
        shots: int = 0,
        seed: int = 0,
        limit: int | None = None,
    ) -> dict[str, Score]:
        plan = Plan(
            model=str(model), tasks=tasks, adapter=str(adapter or ""), shots=shots, limit=limit or self.limit, seed=seed, split=split,
            engine=self.engine, chat=self.chat,
        )  # fmt: skip
        return read_scores(evaluate(plan, self.place))


def read_scores(bundle: Path) -> dict[str, Score]:
    """The main metric of every task of a finished run, with its items."""
    run = read_run(bundle)
    items = run.items()
    tables = run.stats()
    found: dict[str, Score] = {}
    for result in run.summary()["results"]:
        task, metric = result["task"], result["metric"]
        if task in found or (task, metric) not in tables:
            continue
        mine = [item for item in items if item.task == task]
        stats = np.asarray(tables[task, metric].stats, dtype=np.float64).reshape(len(mine), -1)[:, 0]
        if not math.isclose(float(stats.mean()), result["value"], abs_tol=1e-9):  # no mean of items, such as MCC or F1
            correct = {record.item: record.correct for record in run.records() if record.task == task}
            stats = np.asarray([correct.get(item.id) or 0.0 for item in mine])
        chance = float(result.get("chance") or 0.0)
        ids = [item.id for item in mine]
        found[task] = Score(
            task, metric, float(result["value"]), chance, dict(zip(ids, stats.tolist(), strict=True)),
            {item.id: item.cluster for item in mine}, run.id,
        )  # fmt: skip
    return found


def difference(before: Score, after: Score) -> Difference:
    """After minus before, paired by item and clustered; for scores that are no mean of items, moved to the scores' difference."""
    ids = list(before.items)
    found = paired_difference([before.items[i] for i in ids], [after.items[i] for i in ids], [before.clusters[i] for i in ids])
    moved = (after.value - before.value) - found.value
    return Difference(found.value + moved, found.low + moved, found.high + moved, found.p_drop)
