"""Mean win rates of models on a suite, whole and by its groups, as HELM ranks: computed from the store, and as parts of a document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.task.catalogue import families
from assay.harness.task.task import Scenario
from assay.leaderboard.data.assembly import columns_with_clusters, is_total
from assay.leaderboard.data.ranking import DRAWS, LEVEL, mean_win_rates, resampled
from assay.leaderboard.documents.document import Heading, Paragraph, Part, Table

WIN_RATE = (
    "HELM's number: the share of the other models shown that a model beats in a scenario (ties count half), averaged over the scenarios. "
    "It changes with the models shown and says nothing of how far apart they are. Brackets: 95 % interval, items resampled."
)


@dataclass(frozen=True, slots=True)
class WinRates:
    """Mean win rates of M models on a suite: on all of its scenarios and on each of its groups, shape [1 + groups, M], with the ends of
    95 % intervals; NaN where there is nothing to compare. `counts` [M]: the scenarios that each model has, out of `scenarios`."""

    models: tuple[str, ...]
    groups: tuple[str, ...]
    rates: Any
    low: Any
    high: Any
    counts: tuple[int, ...]
    scenarios: int


def measured(root: Path, cells: Any, scenarios: Sequence[Scenario]) -> WinRates | None:
    """Compares all models with a score in a scenario of the suite; None if those are fewer than two.

    A scenario's score is the mean of its tasks and missing if one of them is. Items are resampled once for all models.
    """
    names = {task for scenario in scenarios for task in scenario.tasks}
    places = cells[cells.usual & ~is_total(cells) & cells.task.isin(names)].reset_index(drop=True)
    index = places.reset_index().pivot(index="label", columns="task", values="index")
    scores = np.full((1 + DRAWS, len(index), len(scenarios)), np.nan)
    drawn = {}
    for column in columns_with_clusters(root, places, index):
        rows = index[column.task].notna().to_numpy()
        drawn[column.task] = np.full((1 + DRAWS, len(index)), np.nan)
        drawn[column.task][:, rows] = column.sign * np.vstack([column.values, resampled(column, DRAWS, 0)])
    for place, scenario in enumerate(scenarios):
        if all(task in drawn for task in scenario.tasks):
            scores[:, :, place] = np.mean([drawn[task] for task in scenario.tasks], axis=0)
    counts = np.isfinite(scores[0]).sum(axis=1)
    if (counts > 0).sum() < 2:
        return None
    kept = scores[:, counts > 0]
    groups = tuple(dict.fromkeys(scenario.group for scenario in scenarios))
    shown = groups if len(groups) > 1 else ()
    members = [np.array([scenario.group == group for scenario in scenarios]) for group in shown]
    rates = np.stack([mean_win_rates(kept), *(mean_win_rates(kept[:, :, part]) for part in members)], axis=1)
    ends = np.quantile(rates[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    low, high = np.fmin(ends[0], rates[0]), np.fmax(ends[1], rates[0])
    return WinRates(tuple(index.index[counts > 0]), shown, rates[0], low, high, tuple(counts[counts > 0].tolist()), len(scenarios))


def win_rates(root: Path, cells: Any) -> list[Part]:
    """Mean win rates of the models on each suite that has scenarios and of which a model has a total."""
    names = set(cells[cells.metric == "total"].task) if len(cells) else set()
    parts: list[Part] = []
    for _, family in families() if names else ():
        if family.scenarios and family.name in names and (found := measured(root, cells, family.scenarios)) is not None:
            parts += [Heading(f"Mean win rate: {family.name}", 3), Paragraph(f"{WIN_RATE} {family.about}"), win_rate_table(found)]
            if min(found.counts) < found.scenarios:
                parts.append(Paragraph("Models that lack scenarios are compared on fewer: their rates mean something else.", "warning"))
    return parts


def win_rate_table(found: WinRates) -> Table:
    """The models by mean win rate, best first, with 95 % intervals."""
    head = ("model", "scenarios", "mean win rate", *(name.replace("_", " ") for name in found.groups))
    order = sorted(range(len(found.models)), key=lambda place: -float(np.nan_to_num(found.rates[0, place])))
    rows = []
    for place in order:
        shown = [
            "–" if math.isnan(rate) else f"{rate:.2f} [{low:.2f}, {high:.2f}]"
            for rate, low, high in zip(found.rates[:, place], found.low[:, place], found.high[:, place], strict=True)
        ]
        rows.append((found.models[place], f"{found.counts[place]} of {found.scenarios}", *shown))
    return Table(head, tuple(rows), frozenset(range(2, len(head))))
