"""Scores models through the same pipeline as `assay run`, and computes gain and forgetting from the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np

from assay import AssayError, Generate, Metric, Plan, Pooled, Task, evaluate, read_run
from assay.harness.metrics.choice import OrZero
from assay.harness.run.stages import Surroundings, joint_after
from assay.harness.stats import difference as paired
from assay.harness.stats.influence import blocks, influence, is_mean
from assay.harness.stats.interval import Part
from assay.tuners.study.forgetting import Difference, average_drop_interval, measurable, paired_difference, retention, significant_drops
from assay.tuners.training.data import find_tasks

PARITY_ITEMS = 4
"""Number of items per task whose engine log-probabilities are compared with the trained model's."""

NO_ASSOCIATION = ("mcc", "f1", "macro_f1")
"""Metrics that are undefined for constant predictions. A study needs a number before and after training: 0, as in scikit-learn."""


@dataclass(frozen=True, slots=True)
class EngineLogprobs:
    """The engine's log-probability of each token of one continuation, in nats."""

    prompt: str
    continuation: str
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """The score of a task's main metric, its chance level (None: not known), and the scores of its items. Higher is better.

    Numbers are divided by `unit`: the metric's upper bound, or 1 if it has none, negated if lower is better. For a metric that is not a
    mean of items, `items` is empty, `stats` and `groups` hold its statistics per item, and `spread` is its standard error.
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
    """Share of responses without a parsable answer."""
    engine_logprobs: tuple[EngineLogprobs, ...] = ()
    nats: float | None = None
    """Mean negative log-likelihood of the gold answers, if it was measured."""

    @property
    def error(self) -> float:
        """Standard error of the score over items."""
        if self.stats:
            return math.inf if self.spread is None else self.spread
        values = list(self.items.values())
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf

    def as_json(self) -> dict[str, Any]:
        """All fields except `engine_logprobs` and `nats`."""
        return {name: value for name, value in asdict(self).items() if name not in ("engine_logprobs", "nats")}


class ScoreOptions(TypedDict, total=False):
    """Which items are scored and how: a split ("": each task's own), few-shot examples and their seed, a maximum number of items."""

    split: str
    shots: int
    seed: int
    limit: int | None


class Scorer(Protocol):
    """Scores tasks by name."""

    def __call__(self, model: Path, adapter: Path | None, tasks: tuple[str, ...], **options: Unpack[ScoreOptions]) -> dict[str, Score]: ...


@dataclass(frozen=True, slots=True)
class PipelineScorer:
    """A Scorer that calls `evaluate`; every run is stored as a bundle. `limit` is the default maximum number of items per task.

    Scores in fp32 on every device, as in training: bf16 weights would round away the small updates of full tuning.
    """

    place: Surroundings
    limit: int | None = None
    chat: bool = False
    """Whether to apply the model's chat template."""

    def __call__(self, model: Path, adapter: Path | None, tasks: tuple[str, ...], **options: Unpack[ScoreOptions]) -> dict[str, Score]:
        plan = Plan(
            model=str(model), tasks=tasks, adapter=str(adapter or ""), engine="hf", dtype="float32", chat=self.chat,
            limit=options.get("limit") or self.limit, limit_seed=0,  # the same items whatever the seed of the few-shot examples
            shots=options.get("shots", 0), seed=options.get("seed", 0), split=options.get("split", ""),
        )  # fmt: skip
        return read_scores(evaluate(plan, self.place), find_tasks(list(tasks), self.place.access()))


def read_scores(bundle: Path, tasks: Sequence[Task]) -> dict[str, Score]:
    """The main metric of each of these tasks in a finished run. Raises AssayError for a metric without a value."""
    run = read_run(bundle)
    tables = run.stats()
    by_name = {task.full_name: task for task in tasks}
    records = {(record.task, record.item): record for record in run.records()}
    scored: dict[str, list[tuple[Any, Any]]] = {}
    for item in run.items():
        if (item.task, item.id) in records:
            scored.setdefault(item.task, []).append((item, records[item.task, item.id]))
    found: dict[str, Score] = {}
    for result in run.summary()["results"]:
        name, key = result["task"], (result["task"], result["metric"])
        if name in found or key not in tables or name not in by_name:
            continue
        if result["value"] is None and result["metric"] in NO_ASSOCIATION:
            result = {**result, "value": 0.0}
        if result["value"] is None:
            raise AssayError(f"{result['metric']} has no value on these items", where=f"{name}, {run.id}", do="score more items (--limit)")
        task, table = by_name[name], tables[key]
        metric = or_zero(next(each for each in task.metrics if each.name == result["metric"]))
        details = {"run": run.id, "invalid": invalid_share(task, scored[name]), "engine_logprobs": engine_logprobs(task, scored[name])}
        found[name] = score_of(name, metric, table, result, details)
    return found


def or_zero(metric: Metric[Any]) -> Metric[Any]:
    """The metric with 0 where it is undefined, for those of NO_ASSOCIATION."""
    if metric.name not in NO_ASSOCIATION or not isinstance(metric.combine, Pooled):
        return metric
    return replace(metric, combine=replace(metric.combine, finish=OrZero(metric.combine.finish)))


def score_of(task: str, metric: Metric[Any], table: Any, result: Mapping[str, Any], details: Mapping[str, Any]) -> Score:
    """A Score from a stored result and its statistics, negated if lower is better; `details` are further fields."""
    unit = paired.unit_of(metric) * (-1.0 if metric.better == "lower" else 1.0)
    stats = np.asarray(table.stats, dtype=np.float64).reshape(len(table.item_ids), -1)
    chance = None if metric.better == "lower" else float(result.get("chance") or 0.0) / unit
    clusters = dict(zip(table.item_ids, table.clusters, strict=True))
    value = float(result["value"]) / unit
    if mean_of_items(metric):
        items = dict(zip(table.item_ids, (stats[:, 0] / unit).tolist(), strict=True))
        return Score(task, metric.name, value, chance, items, clusters, unit=unit, **details)
    rows = {item: tuple(row) for item, row in zip(table.item_ids, stats.tolist(), strict=True)}
    groups = dict(zip(table.item_ids, table.groups, strict=True))
    spread = standard_error(metric, stats, codes(table.groups), codes(table.clusters)) / abs(unit)
    return Score(task, metric.name, value, chance, {}, clusters, unit=unit, stats=rows, groups=groups, spread=spread, **details)


def mean_of_items(metric: Metric[Any]) -> bool:
    return is_mean(metric) and isinstance(metric.combine, Pooled) and metric.combine.fold is None


def standard_error(metric: Metric[Any], stats: Any, groups: Any, clusters: Any) -> float:
    """The jackknife standard error over clusters; infinite with a single cluster."""
    units = clusters if isinstance(metric.combine, Pooled) else blocks(clusters)
    error = math.sqrt(influence(metric, stats, groups, units).variance) if len(np.unique(units)) > 1 else math.inf
    return error if math.isfinite(error) else math.inf


def codes(names: Sequence[str]) -> Any:
    """Names as consecutive integers."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def invalid_share(task: Task, scored: Sequence[tuple[Any, Any]]) -> float | None:
    """Share of responses that are empty or hold no parsable answer; None for a task that generates nothing."""
    if not isinstance(task.ask, Generate):
        return None
    invalid = [bool(record.status == "unparsed" or not str(record.output.get("text", "")).strip()) for _, record in scored]
    return sum(invalid) / len(invalid)


def engine_logprobs(task: Task, scored: Sequence[tuple[Any, Any]]) -> tuple[EngineLogprobs, ...]:
    """The log-probabilities of one choice of each of the first items; empty unless choices are scored without few-shot examples."""
    found = []
    for number, (item, record) in enumerate(scored[:PARITY_ITEMS]):
        logprobs = record.output.get("logprobs")
        if not logprobs or item.shots or not item.choices:
            return ()
        choice = number % len(item.choices)
        joint = joint_after(item.prompt.removeprefix(task.layout.instructions), task.layout)
        found.append(EngineLogprobs(item.prompt, joint + item.choices[choice], tuple(logprobs[choice])))
    return tuple(found)


def difference(before: Score, after: Score, metric: Metric[Any] | None = None) -> Difference:
    """After minus before with its 95% confidence interval, paired by item and clustered; above zero is better.

    Scores that are not a mean of items need their `metric`. Raises AssayError for scores of different items, or of different units or
    forms, as an older version of assay stored them.
    """
    if set(before.clusters) != set(after.clusters):
        unpaired = min(set(before.clusters) ^ set(after.clusters))
        raise AssayError(
            f"the scored items are not the base's: item {unpaired} is in one run only",
            where=before.task,
            do="delete base.json to score the base again",
        )
    if before.unit != after.unit or bool(before.stats) != bool(after.stats):
        raise AssayError("the base's score is stored in another form", where=before.task, do="delete base.json to score the base again")
    if not before.stats:
        ids = list(before.items)
        return paired_difference([before.items[i] for i in ids], [after.items[i] for i in ids], [before.clusters[i] for i in ids])
    if metric is None:
        raise AssayError(f"{before.metric} is not a mean of items", where=before.task, do="pass the task's metric")
    ids = list(before.stats)
    one, two = (np.array([score.stats[i] for i in ids], dtype=np.float64) for score in (before, after))
    part = Part(metric, one, codes([before.groups[i] for i in ids]), codes([before.clusters[i] for i in ids]))
    found = paired.paired_difference(part, two, levels=paired.Levels(0.025))
    return Difference(found.delta, found.low, found.high, found.p_loss)


def shots_name(task: str, shots: int) -> str:
    """The key of the base's score with `shots` few-shot examples in `base.json`."""
    return f"{shots}-shot {task}"


def recovered(plain: Mapping[str, Any], few_shot: Mapping[str, Any]) -> dict[str, Any]:
    """The average drop with few-shot examples, and how much smaller it is than without them, over the tasks measurable in both ways."""
    drops = {name: value for name, value in few_shot.get("drops", {}).items() if name in plain.get("drops", {})}
    row: dict[str, Any] = {"drops_shots": drops, "not_measurable_shots": few_shot["not_measurable"]}
    if not drops:
        return row
    with_shots = fmean(drops.values())
    return row | {"average_drop_shots": with_shots, "recovered_drop": fmean(plain["drops"][name] for name in drops) - with_shots}


def drops_row(
    before: Mapping[str, Score], after: Mapping[str, Score], metric: Callable[[Score], Metric[Any] | None] = lambda score: None
) -> dict[str, Any]:
    """Forgetting over the tasks on which the base is clearly above chance; the others are listed in `not_measurable`.

    If the chance level is not known, as for metrics where lower is better, the task is measurable. `metric` gives a score's metric.
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
