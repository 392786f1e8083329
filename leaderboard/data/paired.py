"""Compares two runs item by item with the statistics of the gate, for every score that is a mean over items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assay.harness.stats.correction import holm
from assay.harness.stats.difference import Difference, paired_difference
from assay.harness.stats.interval import Part
from assay.harness.stats.rule import mde80
from assay.harness.task.metric import Metric
from assay.leaderboard.data import frames
from assay.leaderboard.data.formats import unit_of
from assay.leaderboard.data.queries import Pair

FIELDS = ("version", "split", "data", "shots", "shots_order", "ask", "metrics", "items", "fingerprint")
"""Task facts that must be equal for a comparison; the same list as the gate's."""
SETTINGS = (
    "engine.name",
    "plan.dtype",
    "plan.seed",
    "plan.chat",
    "plan.limit",
    "plan.shots",
    "model.tokenizer",
    "versions.torch",
    "versions.vllm",
)
ALPHA = 0.05
COLUMNS = (
    *("Task", "Metric", "Main", "Baseline", "Candidate", "Difference", "Low", "High", "p", "p (Holm)", "MDE80"),
    *("Gained", "Lost", "Items", "Note"),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of one task in two runs. `reason` says why there is no difference. Multiply the difference by `scale` for points (for
    an unbounded metric: its own unit)."""

    pair: Pair
    unit: float | None
    difference: Difference | None
    p_holm: float | None = None
    reason: str = ""

    @property
    def scale(self) -> float:
        return 100.0 if self.unit else 1.0

    @property
    def direction(self) -> str:
        """better, worse, or not significant: Holm-corrected p above ALPHA, or no difference."""
        if self.difference is None or self.p_holm is None or self.p_holm > ALPHA:
            return "not significant"
        return "better" if self.difference.delta > 0 else "worse"

    @property
    def flips(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids of the items that the second run gained and lost."""
        sign = -1.0 if self.pair.better == "lower" else 1.0
        change = sign * (self.pair.second - self.pair.first)
        gained = tuple(item for item, value in zip(self.pair.items, change, strict=True) if value > 1e-9)
        return gained, tuple(item for item, value in zip(self.pair.items, change, strict=True) if value < -1e-9)


def differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Compares two manifests. Returns the reason for each task that cannot be compared, and settings that differ (name, first, second)."""
    tasks = [{task["name"]: task for task in each.get("tasks", [])} for each in (one, two)]
    broken = {}
    for name in sorted(tasks[0].keys() & tasks[1].keys()):
        for field in FIELDS:
            first, second = (each[name].get(field) for each in tasks)
            if first != second:
                broken[name] = f"{field} differs: {shortened(first)} vs {shortened(second)}"
                break
    settings = [
        (name, shortened(nested_value(one, name)), shortened(nested_value(two, name)))
        for name in SETTINGS
        if nested_value(one, name) != nested_value(two, name)
    ]
    return broken, settings


def nested_value(value: Any, name: str) -> Any:
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def compare(pairs: Sequence[Pair], broken: Mapping[str, str]) -> list[Compared]:
    """Second minus first, signed so that positive is better. p values of main metrics get Holm's correction, as in the gate."""
    found = [compared(pair, broken.get(pair.task, "")) for pair in pairs]
    main = [number for number, each in enumerate(found) if each.pair.main and each.difference is not None]
    for number, p in zip(main, holm([each.difference.p for n in main if (each := found[n]).difference]).tolist(), strict=True):
        found[number] = replace(found[number], p_holm=p)
    return found


def compared(pair: Pair, broken: str) -> Compared:
    unit = unit_of(pair.metric, pair.better, pair.unit)
    if broken:
        return Compared(pair, unit, None, reason=f"not comparable: {broken}")
    if not len(pair.first):
        return Compared(pair, unit, None, reason="total: compare its tasks instead")
    if pair.unpaired:
        return Compared(pair, unit, None, reason=f"not comparable: only one run has {pair.unpaired} of the items")
    gaps = [abs(float(values.mean()) - score) for values, score in zip((pair.first, pair.second), pair.values, strict=True)]
    if max(gaps) > 1e-9 * max(1.0, unit or 1.0):
        return Compared(pair, unit, None, reason="not a mean over items: use `assay compare`")
    metric = Metric(pair.metric, not_measured, better=pair.better, low=0.0 if unit else None, high=unit)
    groups = np.arange(len(pair.first), dtype=np.int64)
    part = Part(metric, pair.first[:, None], groups, pair.clusters)
    return Compared(pair, unit, paired_difference(part, pair.second[:, None], alpha=ALPHA))


def not_measured(doc: Any, output: Any) -> tuple[float, ...]:
    raise NotImplementedError("only stored statistics are compared")


def table(rows: Sequence[Compared]) -> Any:
    """One row per metric, in points; MDE80 is the loss that the test detects with 80 % power."""

    def numbers(each: Compared) -> dict[str, Any]:
        d, scale = each.difference, each.scale
        unit = each.unit or 1.0
        first = {"Task": each.pair.task, "Metric": each.pair.metric, "Main": each.pair.main}
        scores = {"Baseline": scale * each.pair.values[0] / unit, "Candidate": scale * each.pair.values[1] / unit}
        if d is None:
            return first | scores | {"Note": each.reason}
        ends = {"Difference": scale * d.delta, "Low": scale * d.low, "High": scale * d.high}
        tests = {"p": d.p, "p (Holm)": each.p_holm, "MDE80": scale * float(mde80(d.se, ALPHA))}
        return first | scores | ends | tests | {"Gained": d.wins, "Lost": d.losses, "Items": d.n, "Note": d.method}

    return frames.DataFrame([numbers(each) for each in rows], columns=list(COLUMNS))
