"""Margins of ranked choices, read from a stored run: the gold choice's score less the best other score, item by item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import numpy as np

from assay.harness.decide.shared_items import Key
from assay.harness.files.parquet import read_table
from assay.harness.stats.difference import Difference, Levels, paired_difference
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.interval import Part
from assay.harness.stats.smoothing import KEPT, LEAST, RANGE, can_smooth, has_spread, smoothed
from assay.harness.store import Run, StatTable
from assay.harness.task.metric import Array, Codes, Metric, Pooled, first
from assay.harness.task.task import Choose, Task

Rows = Sequence[Mapping[str, Any]]
"""Stored records, or Docs, of a task's items."""
DISAGREE = 0.01
"""Two-sided level at which smoothed and plain accuracy disagree."""


def not_measured(doc: Any, output: Any) -> tuple[float, ...]:
    raise NotImplementedError("computed from stored margins")


SMOOTHED: Metric[Any] = Metric("smoothed_accuracy", not_measured, Pooled(first), low=1 - RANGE, high=1.0)
PROBABILITY: Metric[Any] = Metric("gold_probability", not_measured, Pooled(first))


@dataclass(frozen=True, slots=True, eq=False)  # it holds arrays
class Margins:
    """Of one task's items, in the order of its statistics: `margins`, `picks` (positions) and `probability` (of the gold choice) [n]."""

    margins: Array
    picks: Codes
    probability: Array

    def ordered(self, places: Sequence[int]) -> Margins:
        """The items at these places."""
        return Margins(self.margins[places], self.picks[places], self.probability[places])


def margins_of(run: Run, samples: Any, tasks: Sequence[Task], tables: Mapping[Key, StatTable]) -> dict[str, Margins]:
    """Margins of each task with ranked choices and accuracy as its main metric, from a run and its table of samples; none where an item
    lacks scores or a gold choice, or has equal best choices."""
    chosen = {
        task.full_name: (task.ask, tables[task.full_name, "accuracy"])
        for task in tasks
        if isinstance(task.ask, Choose) and task.metrics[0].name == "accuracy" and (task.full_name, "accuracy") in tables
    }
    chosen = {task: (ask, table) for task, (ask, table) in chosen.items() if len(table.item_ids) >= LEAST}
    if not chosen:
        return {}
    lengths = [task for task, (ask, _) in chosen.items() if ask.normalize in ("chars", "bytes")]
    wanted = ("task", "id", "doc", *(["choices"] if lengths else []))
    items = read_table(run.read("items.parquet"), str(run.path / "items.parquet"), wanted)
    outputs = by_task(samples["task"], samples["item_id"], samples["record"], chosen)
    docs = by_task(items["task"], items["id"], items["doc"], chosen)
    choices = by_task(items["task"], items["id"], items["choices"], lengths) if lengths else {}
    found = {}
    for task, (ask, table) in chosen.items():
        texts = [[each[task].get(item, "{}") for item in table.item_ids] for each in (outputs, docs)]
        records, golds = (json.loads(f"[{','.join(each)}]") for each in texts)  # one call: a call per item takes four times as long
        texts_of = [choices[task].get(item, ()) for item in table.item_ids] if task in choices else []
        made, right = task_margins(ask, records, golds, texts_of), table.stats[:, 0]
        if made is not None and np.array_equal(made.margins > 0, right == 1) and np.isin(right, (0.0, 1.0)).all():
            found[task] = made
    return found


def by_task(tasks: Any, ids: Any, values: Any, wanted: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Values of a table's column by task and item."""
    found: dict[str, dict[str, Any]] = {task: {} for task in wanted}
    for task, item, value in zip(tasks.to_pylist(), ids.to_pylist(), values.to_pylist(), strict=True):
        if task in found:
            found[task][item] = value
    return found


def task_margins(ask: Choose, records: Rows, docs: Rows, choices: Sequence[Sequence[str]]) -> Margins | None:
    """Margins of one task's items; None where an item's scores or gold choice are not stored."""
    golds, logprobs = [doc.get("gold") for doc in docs], [record.get("logprobs", ()) for record in records]
    if any(gold is None or len(each) < 2 or not 0 <= gold < len(each) for gold, each in zip(golds, logprobs, strict=True)):
        return None
    if choices and list(map(len, choices)) != list(map(len, logprobs)):
        return None
    sums = matrix([[sum(each) for each in item] for item in logprobs], -np.inf)
    gold, picks = (np.arange(len(golds)), np.array(golds)), np.array([int(record.get("pick", -1)) for record in records])
    with np.errstate(invalid="ignore"):  # a choice without probability
        values = normalized(ask, sums, records, choices)
        weights = np.exp(sums - sums.max(axis=1, keepdims=True))
        rest = values.copy()
        rest[gold] = -np.inf
        return Margins(values[gold] - rest.max(axis=1), picks.astype(np.int64), weights[gold] / weights.sum(axis=1))


def normalized(ask: Choose, sums: Array, records: Rows, choices: Sequence[Sequence[str]]) -> Array:
    """The choices' scores [n, k] by which the task ranks them, -inf where an item has fewer than k."""
    found = sums
    if any("priors" in record for record in records):
        found = found - matrix([record.get("priors") or () for record in records], 0.0, sums.shape[1])
    match ask.normalize:
        case "sum":
            return found
        case "tokens":
            lengths = [list(map(len, record["logprobs"])) for record in records]
        case "chars":
            lengths = [list(map(len, each)) for each in choices]
        case "bytes":
            lengths = [[len(choice.encode()) for choice in each] for each in choices]
    return found / np.maximum(matrix(lengths, 1.0), 1.0)


def matrix(rows: Sequence[Sequence[float]], missing: float, width: int = 0) -> Array:
    """Rows of unequal length as an array with `missing` at their ends."""
    found = np.array(list(zip_longest(*rows, fillvalue=missing)), dtype=np.float64).reshape(-1, len(rows)).T
    return np.pad(found, ((0, 0), (0, max(0, width - found.shape[1]))), constant_values=missing)


def smoothed_difference(
    plain: tuple[Part, Array, Difference], one: Margins, two: Margins, levels: Levels, seed: int = 0
) -> tuple[Difference | None, bool]:
    """The paired difference of smoothed accuracy of two runs on the same items, and whether plain accuracy agrees with it.

    None where the baseline cannot be smoothed, or no margin changed. `plain`: the baseline's part and the candidate's statistics of plain
    accuracy. Where the two disagree, the difference is plain accuracy's, with the lower of both lower limits.
    """
    part, stats, accuracy = plain
    if not can_smooth(one.margins, one.picks) or not has_spread(two.margins) or np.array_equal(one.margins, two.margins):
        return None, True
    scores = [smoothed(each.margins) for each in (one, two)]
    found = paired_difference(part._replace(metric=SMOOTHED, stats=scores[0][:, None]), scores[1][:, None], levels=levels, seed=seed)
    found = replace(found, wins=accuracy.wins, losses=accuracy.losses)
    bias = KEPT * (scores[1] - scores[0]) - (stats - part.stats)[:, 0]
    error = float(bias.std(ddof=1)) / np.sqrt(len(bias))
    if abs(float(bias.mean())) <= z_quantile(1 - DISAGREE / 2) * error:
        return found, True
    low, strict = (min(getattr(found, name), getattr(accuracy, name)) for name in ("low", "strict"))
    return replace(accuracy, low=low, strict=strict, exact=False), False


def probability_difference(part: Part, one: Margins, two: Margins, levels: Levels, seed: int = 0) -> Difference:
    """The paired difference of the gold choice's probability."""
    base = part._replace(metric=PROBABILITY, stats=one.probability[:, None])
    return paired_difference(base, two.probability[:, None], levels=levels, seed=seed)
