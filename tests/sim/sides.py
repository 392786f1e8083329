"""Runs made of arrays: one side of a comparison with scores that a test chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from assay.harness.decide.compare import Side
from assay.harness.store import StatTable
from assay.harness.task.metric import Metric
from assay.harness.task.task import Total
from tests.sim.coverage import MEAN


def table(stats: Any, clusters: Sequence[int] | None = None) -> StatTable:
    """One statistic or a row of them per item; the items are named by their place."""
    rows = np.asarray(stats, dtype=float).reshape(len(stats), -1)
    ids = tuple(f"i{place:05d}" for place in range(len(rows)))
    groups = ids if clusters is None else tuple(f"c{cluster}" for cluster in clusters)
    return StatTable(ids, ids, groups, rows)


def facts(items: int, **changed: Any) -> dict[str, Any]:
    plain = {"version": 1, "split": "test", "data": "d", "shots": 0, "shots_order": "", "ask": "Choose()", "metrics": ["acc"]}
    return {**plain, "items": items, "fingerprint": "f", **changed}


def side(scores: Mapping[str, Any], name: str = "v1", metric: Metric[Any] = MEAN, totals: tuple[Total, ...] = (), **changed: Any) -> Side:
    """A complete run of one metric per task."""
    tables = {(task, metric.name): found if isinstance(found, StatTable) else table(found) for task, found in scores.items()}
    made = Side(
        run=f"run-{name}",
        model=name,
        digest=f"digest-{name}",
        purpose="release",
        evidence="complete",
        tasks={task: facts(len(found.item_ids), data=f"d{place or ''}") for place, ((task, _), found) in enumerate(tables.items())},
        tables=tables,
        metrics=dict.fromkeys(tables, metric),
        totals=totals,
        settings={"engine": "hf"},
    )
    return replace(made, **changed)


def flipped(scores: Any, losses: int, wins: int = 0) -> Any:
    """The scores with the first so many right items wrong, and the first so many wrong items right."""
    found = np.array(scores, dtype=float)
    found[np.flatnonzero(np.asarray(scores) == 1)[:losses]] = 0
    found[np.flatnonzero(np.asarray(scores) == 0)[:wins]] = 1
    return found


def right(n: int, share: float = 0.65, seed: int = 0) -> Any:
    return (np.random.default_rng(seed).random(n) < share).astype(float)
