"""Two runs, item by item: the gate's numbers for every score that is a mean over items, and why the rest cannot be paired."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.harness.stats.correction import holm
from assay.harness.stats.difference import Difference, paired_difference
from assay.harness.stats.interval import Part
from assay.harness.stats.rule import mde80
from assay.harness.task.metric import Metric
from assay.leaderboard.data import frames
from assay.leaderboard.data.queries import Pair
from assay.leaderboard.data.units import unit_of

FIELDS = ("version", "split", "data", "shots", "shots_order", "ask", "metrics", "items", "fingerprint")
"""What must agree for every task; the same list as the gate's."""
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


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of one task. Differences in points, or in the metric's own unit where it has no bound; `why` says what is missing."""

    pair: Pair
    unit: float | None
    difference: Difference | None
    p_holm: float | None = None
    why: str = ""

    @property
    def scale(self) -> float:
        return 100.0 if self.unit else 1.0

    @property
    def flips(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Items gained and lost by the second run."""
        turn = -1.0 if self.pair.better == "lower" else 1.0
        moved = turn * (self.pair.two - self.pair.one)
        gained = tuple(item for item, move in zip(self.pair.items, moved, strict=True) if move > 1e-9)
        return gained, tuple(item for item, move in zip(self.pair.items, moved, strict=True) if move < -1e-9)


def differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """From two manifests: the tasks that cannot be compared with the reason, and the settings that differ: name, first, second."""
    tasks = [{task["name"]: task for task in each.get("tasks", [])} for each in (one, two)]
    broken = {}
    for name in sorted(tasks[0].keys() & tasks[1].keys()):
        for field in FIELDS:
            first, second = (each[name].get(field) for each in tasks)
            if first != second:
                broken[name] = f"{field} differs: {short(first)} and {short(second)}"
                break
    settings = [(name, short(reach(one, name)), short(reach(two, name))) for name in SETTINGS if reach(one, name) != reach(two, name)]
    return broken, settings


def reach(value: Any, name: str) -> Any:
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def compare(pairs: Sequence[Pair], broken: Mapping[str, str], *, alpha: float = 0.05) -> list[Compared]:
    """Second minus first, signed so that positive is better; p of the main metrics corrected by Holm, as in the gate."""
    found = [compared(pair, broken.get(pair.task, ""), alpha) for pair in pairs]
    main = [number for number, each in enumerate(found) if each.pair.main and each.difference is not None]
    for number, p in zip(main, holm([each.difference.p for n in main if (each := found[n]).difference]).tolist(), strict=True):
        each = found[number]
        found[number] = Compared(each.pair, each.unit, each.difference, p, each.why)
    return found


def compared(pair: Pair, broken: str, alpha: float) -> Compared:
    unit = unit_of(pair.metric, pair.better, pair.unit)
    if broken:
        return Compared(pair, unit, None, why=f"not comparable: {broken}")
    if not len(pair.one):
        return Compared(pair, unit, None, why="a total: see its tasks")
    if pair.only:
        return Compared(pair, unit, None, why=f"not comparable: {pair.only} items are in one run only")
    gaps = [abs(float(values.mean()) - score) for values, score in zip((pair.one, pair.two), pair.values, strict=True)]
    if max(gaps) > 1e-9 * max(1.0, unit or 1.0):
        return Compared(pair, unit, None, why="no mean over items: `assay compare` has its test")
    metric = Metric(pair.metric, nothing, better=pair.better, low=0.0 if unit else None, high=unit)
    groups = np.arange(len(pair.one), dtype=np.int64)
    part = Part(metric, pair.one[:, None], groups, pair.clusters)
    return Compared(pair, unit, paired_difference(part, pair.two[:, None], alpha=alpha))


def nothing(doc: Any, output: Any) -> tuple[float, ...]:
    raise NotImplementedError("stored statistics are not measured again")


def table(rows: Sequence[Compared], alpha: float = 0.05) -> Any:
    """One row per metric, in points."""

    def numbers(each: Compared) -> dict[str, Any]:
        d, scale = each.difference, each.scale
        unit = each.unit or 1.0
        first = {"Task": each.pair.task, "Metric": each.pair.metric, "Main": each.pair.main}
        scores = {"First": scale * each.pair.values[0] / unit, "Second": scale * each.pair.values[1] / unit}
        if d is None:
            return first | scores | {"Note": each.why}
        ends = {"Difference": scale * d.delta, "Low": scale * d.low, "High": scale * d.high}
        tests = {"p": d.p, "p (Holm)": each.p_holm, "Smallest loss seen": scale * float(mde80(d.se, alpha))}
        return first | scores | ends | tests | {"Gained": d.wins, "Lost": d.losses, "Items": d.n, "Note": d.method}

    names = (
        "Task",
        "Metric",
        "Main",
        "First",
        "Second",
        "Difference",
        "Low",
        "High",
        "p",
        "p (Holm)",
        "Smallest loss seen",
        "Gained",
        "Lost",
        "Items",
        "Note",
    )
    return frames.DataFrame([numbers(each) for each in rows], columns=list(names))
