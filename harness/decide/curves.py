"""In-context learning curves: the scores of several runs of one model with their prompt lengths, and paired differences between
protocols of one task."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from assay.harness.decide.compare import Side, side_of
from assay.harness.files.places import Access
from assay.harness.run.scoring.results import codes
from assay.harness.stats.difference import Difference, paired_difference
from assay.harness.stats.interval import Part
from assay.harness.store import Run
from assay.harness.store.record import Record
from assay.harness.task.metric import Metric, Pooled, first

__all__ = ["Contrast", "Point", "contrasts", "points"]


@dataclass(frozen=True, slots=True)
class Point:
    """The main score of a task (or a total) in one run; `tokens` is the mean length of a prompt, None if unknown."""

    run: str
    task: str
    metric: str
    shots: int | None
    value: float | None
    low: float | None
    high: float | None
    n: int
    tokens: float | None


@dataclass(frozen=True, slots=True)
class Contrast:
    """The paired difference between two protocols of one task on the same rows: `second` minus `first`."""

    first: str
    second: str
    shots: int
    difference: Difference


def points(runs: Sequence[Run]) -> list[Point]:
    """All main scores, grouped by task, in the order of the runs."""
    found: dict[str, list[Point]] = defaultdict(list)
    for run in runs:
        lengths = prompt_lengths(run.records())
        for result in run.summary()["results"]:
            if result["main"] and result["value"] is not None:
                scores = (result["value"], result["low"], result["high"], result["n"])
                point = Point(run.id, result["task"], result["metric"], result["shots"], *scores, lengths.get(result["task"]))
                found[result["task"]].append(point)
    return [point for listed in found.values() for point in listed]


def prompt_lengths(records: Sequence[Record]) -> dict[str, float]:
    """Mean tokens per prompt by task, few-shot examples included."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        length = prompt_length(record.output, record.logical)
        if length is not None:
            found[record.task].append(length)
    return {task: math.fsum(lengths) / len(lengths) for task, lengths in found.items()}


def prompt_length(output: Mapping[str, Any], logical: int) -> float | None:
    """Tokens of one prompt, from `logical`, which counts it once per continuation. None for calibrated, sampled and perplexity tasks."""
    if output.get("logprobs") and not output.get("priors"):
        return (logical - sum(map(len, output["logprobs"]))) / len(output["logprobs"])
    if "text" in output and "samples" not in output:
        return float(logical - output["tokens"])
    return None


def contrasts(runs: Sequence[Run], access: Access) -> list[Contrast]:
    """Every pair of protocols of one task with the same number of few-shot examples whose main scores are means over the same rows."""
    sides = [side_of(run, access) for run in runs]
    found = []
    for one, two in combinations(sides, 2):
        for name, facts in one.tasks.items():
            for other, theirs in two.tasks.items():
                same = name != other and name.partition("@")[0] == other.partition("@")[0]
                if same and all(facts[field] == theirs[field] for field in ("data", "split", "items", "shots")):
                    difference = protocol_difference(one, name, two, other)
                    if difference is not None:
                        found.append(Contrast(name, other, facts["shots"], difference))
    return found


def protocol_difference(one: Side, name: str, two: Side, other: str) -> Difference | None:
    """The paired difference, or None if a main score is not a mean of item scores.

    Items are paired by row: their ids differ between protocols, because they depend on the prompt.
    """
    (key, metric), (their_key, theirs) = main_of(one, name), main_of(two, other)
    if not (is_mean_score(metric) and is_mean_score(theirs) and metric.better == theirs.better):
        return None
    table = one.tables[key]
    part = Part(metric, table.stats[:, :1], codes(table.groups), codes(table.clusters))
    return paired_difference(part, two.tables[their_key].stats[:, :1])


def main_of(side: Side, task: str) -> tuple[tuple[str, str], Metric[Any]]:
    """The first metric of a task."""
    return next((key, metric) for key, metric in side.metrics.items() if key[0] == task)


def is_mean_score(metric: Metric[Any]) -> bool:
    combine = metric.combine
    return isinstance(combine, Pooled) and combine.fold is None and combine.finish is first and (metric.low, metric.high) == (0.0, 1.0)
