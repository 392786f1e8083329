"""Items whose score rose or fell between two runs, and why the candidate lost them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from assay.harness.decide.shared_items import Key, Paired
from assay.harness.stats.difference import units_of
from assay.harness.task.metric import Pooled


def flips(task: str, pair: Paired, statuses: Mapping[Key, str]) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, int]]:
    """Items that gained and lost (the first of each group if the metric scores groups), and the number of lost items by cause."""
    ids, part, stats = pair
    moves = units_of(part, stats).moves
    names = np.array(ids)
    members: dict[str, list[str]] = {}
    if isinstance(part.metric.combine, Pooled) and part.metric.combine.fold is not None:
        first = np.unique(part.groups, return_index=True)[1]
        for item, group in zip(ids, part.groups, strict=True):
            members.setdefault(ids[first[group]], []).append(item)
        names = names[first]
    lost = tuple(str(name) for name in names[moves < -1e-9])
    causes = Counter(
        next((status for item in members.get(name, [name]) if (status := statuses.get((task, item)))), "wrong") for name in lost
    )
    return tuple(str(name) for name in names[moves > 1e-9]), lost, dict(causes)
