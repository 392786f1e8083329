"""Scores before and after, through the ordinary pipeline: plan, engine, bundle; and what they say of gain and forgetting.

A study only knows the callable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np

from assay import AssayError, Generate, Metric, Plan, Pooled, Task, evaluate, read_run
from assay.harness.run.stages import Surroundings, joint_after
from assay.harness.stats import difference as paired
from assay.harness.stats.influence import blocks, influence, is_mean
from assay.harness.stats.interval import Part
from assay.tuners.study.forgetting import Difference, average_drop_interval, measurable, paired_difference, retention, significant_drops
from assay.tuners.training.data import find_tasks

HEARD = 4
"""Items of a task of which the engine's log-probabilities are kept, to hold them against the trained model's."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What the engine said of one continuation: the log-probability of each of its tokens."""

    prompt: str
    continuation: str
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """A task's main metric: the score, the score of guessing (None: not known), and each item's part of it. Higher is better.

    Numbers are in `unit`s of the metric: its upper bound, or 1 where it has none; negative where less is better. Where the score is
    no mean of items, `items` is empty, `stats` and `groups` hold by item what it is made of, and `spread` is its standard error.
    """

    task: str
    metric: str
    value: float
    chance: float | None
    items: Mapping[str, float]
    clusters: Mapping[str, str]
    run: str = ""
    unit: float = 1.0
    stats: Mapping[str, Sequence[float]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    spread: float | None = None
    invalid: float | None = None
    """Share of generated texts that hold no answer."""
    heard: tuple[Heard, ...] = ()

    @property
    def error(self) -> float:
        """Standard error of the score over items."""
        if self.stats:
            return math.inf if self.spread is None else self.spread
        values = list(self.items.values())
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf

    def as_json(self) -> dict[str, Any]:
        """All of it but what was heard."""
        return {name: value for name, value in asdict(self).items() if name != "heard"}


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
    """Scoring by `harness.evaluate`; every run is kept as a bundle. `limit` keeps the first items of a task.

    In fp32 on every device, as it was trained: in bf16 weights the small steps of full tuning would round away.
    """

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
            engine=self.engine, dtype="float32", chat=self.chat,
        )  # fmt: skip
        return read_scores(evaluate(plan, self.place), find_tasks(list(tasks), self.place.access()))


def read_scores(bundle: Path, tasks: Sequence[Task]) -> dict[str, Score]:
    """The main metric of every one of these tasks in a finished run, with its items. Raises AssayError for a score that is no number."""
    run = read_run(bundle)
    tables = run.stats()
    by_name = {task.full_name: task for task in tasks}
    records = {(record.task, record.item): record for record in run.records()}
    said: dict[str, list[tuple[Any, Any]]] = {}
    for item in run.items():
        if (item.task, item.id) in records:
            said.setdefault(item.task, []).append((item, records[item.task, item.id]))
    found: dict[str, Score] = {}
    for result in run.summary()["results"]:
        name, key = result["task"], (result["task"], result["metric"])
        if name in found or key not in tables or name not in by_name:
            continue
        if result["value"] is None:
            raise AssayError(f"has no {result['metric']} on these items", where=f"{name}, {run.id}", do="score more items")
        task, table = by_name[name], tables[key]
        metric = next(each for each in task.metrics if each.name == result["metric"])
        made = {"run": run.id, "invalid": invalid_share(task, said[name]), "heard": heard(task, said[name])}
        found[name] = score_of(name, metric, table, result, made)
    return found


def score_of(task: str, metric: Metric[Any], table: Any, result: Mapping[str, Any], made: Mapping[str, Any]) -> Score:
    """A result and the statistics that it was made of, turned so that higher is better."""
    unit = paired.unit_of(metric) * (-1.0 if metric.better == "lower" else 1.0)
    stats = np.asarray(table.stats, dtype=np.float64).reshape(len(table.item_ids), -1)
    chance = None if metric.better == "lower" else float(result.get("chance") or 0.0) / unit
    clusters = dict(zip(table.item_ids, table.clusters, strict=True))
    value = float(result["value"]) / unit
    if mean_of_items(metric):
        items = dict(zip(table.item_ids, (stats[:, 0] / unit).tolist(), strict=True))
        return Score(task, metric.name, value, chance, items, clusters, unit=unit, **made)
    rows = {item: tuple(row) for item, row in zip(table.item_ids, stats.tolist(), strict=True)}
    groups = dict(zip(table.item_ids, table.groups, strict=True))
    spread = standard_error(metric, stats, codes(table.groups), codes(table.clusters)) / abs(unit)
    return Score(task, metric.name, value, chance, {}, clusters, unit=unit, stats=rows, groups=groups, spread=spread, **made)


def mean_of_items(metric: Metric[Any]) -> bool:
    return is_mean(metric) and isinstance(metric.combine, Pooled) and metric.combine.fold is None


def standard_error(metric: Metric[Any], stats: Any, groups: Any, clusters: Any) -> float:
    """By the jackknife over clusters; infinite where one cluster carries the score."""
    units = clusters if isinstance(metric.combine, Pooled) else blocks(clusters)
    error = math.sqrt(influence(metric, stats, groups, units).variance) if len(np.unique(units)) > 1 else math.inf
    return error if math.isfinite(error) else math.inf


def codes(names: Sequence[str]) -> Any:
    """Names as consecutive integers."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def invalid_share(task: Task, said: Sequence[tuple[Any, Any]]) -> float | None:
    """Share of generated texts that are empty or from which no answer could be read; None where nothing is generated."""
    if not isinstance(task.ask, Generate):
        return None
    none = [bool(record.status == "unparsed" or not str(record.output.get("text", "")).strip()) for _, record in said]
    return sum(none) / len(none)


def heard(task: Task, said: Sequence[tuple[Any, Any]]) -> tuple[Heard, ...]:
    """One choice each of the first items, where choices are scored and no example stands in the prompt."""
    found = []
    for number, (item, record) in enumerate(said[:HEARD]):
        scored = record.output.get("logprobs")
        if not scored or item.shots or not item.choices:
            return ()
        choice = number % len(item.choices)
        joint = joint_after(item.prompt.removeprefix(task.layout.instructions), task.layout)
        found.append(Heard(item.prompt, joint + item.choices[choice], tuple(scored[choice])))
    return tuple(found)


def difference(before: Score, after: Score, metric: Metric[Any] | None = None) -> Difference:
    """After minus before with its 95% interval, paired by item and clustered; above zero is better.

    Scores that are no mean of items are compared by the harness, which needs their `metric`. Raises AssayError for scores of other
    items, and where one was kept by an assay that did not know the other's unit or statistics.
    """
    if set(before.clusters) != set(after.clusters):
        odd = min(set(before.clusters) ^ set(after.clusters))
        raise AssayError(f"not the base's items were scored: {odd} only once", where=before.task, do="look for errors in the run's items")
    if before.unit != after.unit or bool(before.stats) != bool(after.stats):
        raise AssayError("the base's score was kept in another form", where=before.task, do="remove base.json; the base is scored again")
    if not before.stats:
        ids = list(before.items)
        return paired_difference([before.items[i] for i in ids], [after.items[i] for i in ids], [before.clusters[i] for i in ids])
    if metric is None:
        raise AssayError(f"{before.metric} is no mean of items and cannot be compared", where=before.task, do="name the task's metric")
    ids = list(before.stats)
    one, two = (np.array([score.stats[i] for i in ids], dtype=np.float64) for score in (before, after))
    part = Part(metric, one, codes([before.groups[i] for i in ids]), codes([before.clusters[i] for i in ids]))
    found = paired.paired_difference(part, two, alpha=0.025)
    return Difference(found.delta, found.low, found.high, found.p_loss)


def shots_name(task: str, shots: int) -> str:
    """Under which name the base's score with k examples in the prompt is kept, beside the one without."""
    return f"{shots}-shot {task}"


def recovered(plain: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any]:
    """The drop with examples in the prompt, and how much of the drop without them that gives back.

    Both over the tasks that can be measured either way.
    """
    drops = {name: value for name, value in shown.get("drops", {}).items() if name in plain.get("drops", {})}
    row: dict[str, Any] = {"drops_shots": drops, "not_measurable_shots": shown["not_measurable"]}
    if not drops:
        return row
    with_shots = fmean(drops.values())
    return row | {"average_drop_shots": with_shots, "recovered_drop": fmean(plain["drops"][name] for name in drops) - with_shots}


def drops_row(
    before: Mapping[str, Score], after: Mapping[str, Score], metric: Callable[[Score], Metric[Any] | None] = lambda score: None
) -> dict[str, Any]:
    """Forgetting over the tasks on which the base is clearly above chance; the others are named, never counted as zero.

    Where chance is not known, as where less is better, every base counts. `metric` gives the metric that a score is of.
    """
    usable = {name: score for name, score in after.items() if can_drop(before[name])}
    row: dict[str, Any] = {"not_measurable": sorted(set(after) - set(usable))}
    if not usable:
        return row
    found = {name: difference(before[name], score, metric(score)) for name, score in usable.items()}
    average, low, high = average_drop_interval(found)
    worst = min(found, key=lambda name: found[name].value)
    return row | {
        "average_drop": average,
        "average_drop_low": low,
        "average_drop_high": high,
        "worst_task": worst,
        "worst_drop": -found[worst].value,
        "significant_drops": len(significant_drops(found)),
        "drops": {name: -value.value for name, value in found.items()},
        "retention": {
            name: retention(before[name].value, score.value, chance)
            for name, score in usable.items()
            if (chance := before[name].chance) is not None
        },
    }


def can_drop(base: Score) -> bool:
    return base.chance is None or measurable(base.value, base.chance, base.error)
