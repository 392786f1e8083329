"""Progress of a run that is being written: per task the finished items, errors, and the running score with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from assay.harness.stats.interval import wilson
from assay.harness.store import read_run
from assay.harness.store.record import Record
from assay.leaderboard.data.ranking import Z95

POINTS_OF_CURVE = 60
Limits = tuple[float, float, float]
"""Score, low and high, in points."""


@dataclass(frozen=True, slots=True)
class LiveTask:
    """One task of a running run. `curve` has the number of scored items and the score on these, in the order of scoring."""

    name: str
    items: int
    done: int
    errors: int
    score: Limits | None
    """Mean of the item scores so far with Wilson's 95 % interval; None where the metric has no item scores."""
    curve: tuple[tuple[int, Limits], ...]


def live_tasks(bundle: Path) -> tuple[LiveTask, ...]:
    """The tasks of a run in planned order, from its journal."""
    run = read_run(bundle)
    by_task: dict[str, list[Record]] = {}
    for record in run.records():
        by_task.setdefault(record.task, []).append(record)
    return tuple(live_task(str(task["name"]), int(task["items"]), by_task.get(str(task["name"]), [])) for task in run.manifest["tasks"])


def live_task(name: str, items: int, records: Sequence[Record]) -> LiveTask:
    values = np.array([record.correct for record in records if record.correct is not None], dtype=np.float64)
    errors = sum(record.status == "error" for record in records)
    counts = np.unique(np.linspace(1, len(values), POINTS_OF_CURVE).astype(int)) if len(values) else np.empty(0, dtype=int)
    means = np.cumsum(values)[counts - 1] / counts if len(values) else values
    curve = tuple((int(count), limits(float(mean), int(count))) for count, mean in zip(counts, means, strict=True))
    return LiveTask(name, items, len(records), errors, curve[-1][1] if curve else None, curve)


def limits(share: float, count: int) -> Limits:
    low, high = wilson(share, count, Z95)
    return 100 * share, 100 * low, 100 * high


def pace(seen: Sequence[tuple[float, int]]) -> float:
    """Items per second over observations (seconds, finished items), oldest first; 0 where nothing was finished between them."""
    if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
        return 0.0
    return max(0, seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
