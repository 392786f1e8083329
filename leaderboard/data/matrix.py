"""The matrix of models and tasks: what each cell shows, and which scores share the lead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from assay.leaderboard.data.formats import amount, points, span, unit_of
from assay.leaderboard.data.frames import missing
from assay.leaderboard.data.incomplete import Grid
from assay.leaderboard.data.ranking import Array, leaders, lowest
from assay.leaderboard.data.safe_text import visible

LEVELS = 4
"""Tints below the leaders' one."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One score. `tint` is LEVELS for the best score and those that are not significantly worse, else 0 to LEVELS - 1."""

    text: str
    value: float
    tip: tuple[str, ...]
    tint: int
    guessing: bool = False
    """Whether the interval includes the chance level."""
    task: str = ""
    run: str = ""
    perfect: bool = False
    """Whether no item is wrong."""


@dataclass(frozen=True, slots=True)
class Head:
    """One task. `chance` in points, NaN if there is none; `ceiling`: the intervals of two or more models reach 99 points."""

    column: str
    short: str
    family: str
    chance: float
    ceiling: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One model. `partial` says which share of the tasks it has, empty if all; `families` are means in the order of Matrix.families."""

    label: str
    detail: str
    rank: str
    best: float
    tier: int
    score: str
    value: float
    limits: str
    partial: str
    cells: tuple[Cell | None, ...]
    families: tuple[Cell | None, ...]


CELL_FACTS = ["model_digest", "column", "task", "metric", "better", "unit", "chance", "value", "low", "high", "n", "run_id"]


@dataclass(frozen=True, slots=True)
class Matrix:
    heads: tuple[Head, ...]
    families: tuple[tuple[str, int], ...]
    """Name and number of tasks of each family, in the order of `heads`."""
    rows: tuple[Row, ...]


def matrix_of(table: Any, places: Any, grid: Grid) -> Matrix:
    """`table` has one row per model (assembly.rows_of); `places` are the cells; `grid` has the models in the order of `table`."""
    names = [column.task for column in grid.columns]
    found = {(cell.model_digest, cell.column): cell for cell in places[CELL_FACTS].itertuples()}
    kept = [[found.get((digest, name)) for name in names] for digest in table.digest]
    tints = np.column_stack([column_tints(grid, place) for place in range(len(names))])
    shown = [visible(name, 80) for name in names]
    cells = [
        [
            None if cell is None else score_cell(f"{row.Model} on {name}", cell, int(tint))
            for name, cell, tint in zip(shown, line, shades, strict=True)
        ]
        for row, line, shades in zip(table[["Model"]].itertuples(), kept, tints, strict=True)
    ]
    heads = tuple(head_of(name, [line[place] for line in kept]) for place, name in enumerate(names))
    families = tuple((name, len(list(part))) for name, part in groupby(heads, lambda head: head.family))
    means = family_cells(table.Model.tolist(), grid, families)
    rows = zip(table.to_dict("records"), cells, zip(*means, strict=True), strict=True)
    return Matrix(heads, families, tuple(row_of(facts, line, parts) for facts, line, parts in rows))


def row_of(facts: dict[str, Any], cells: Sequence[Cell | None], families: Sequence[Cell | None]) -> Row:
    ranked = not missing(facts["Rank"])
    present, total = sum(cell is not None for cell in cells), len(cells)
    size = "" if missing(facts["Parameters"]) else f"{amount(1e9 * facts['Parameters'])} parameters"
    return Row(
        label=facts["Model"],
        detail=" · ".join(filter(None, (size, facts["Kind"] if facts["Kind"] != "base" else ""))),
        rank=facts["Rank interval"] if ranked else "–",
        best=float(facts["Rank"]) if ranked else np.inf,
        tier=int(facts["Tier"]) if ranked else 0,
        score=f"{facts['Score']:.1f}" if ranked else "–",
        value=float(facts["Score"]) if ranked else np.nan,
        limits=facts["95 % CI"] if ranked else "",
        partial="" if present == total else f"{present} of {total} tasks",
        cells=tuple(cells),
        families=tuple(families),
    )


def head_of(column: str, cells: Sequence[Any]) -> Head:
    kept = [cell for cell in cells if cell is not None]
    family, slash, rest = column.partition("/")
    unit = unit_of(kept[0].metric, kept[0].better, kept[0].unit) if kept else None
    chance = kept[0].chance if kept and unit and not missing(kept[0].chance) else np.nan
    high = sum(100 * cell.high / unit >= 99 for cell in kept if unit and not missing(cell.high))
    name, dot, version = (rest if slash else column).partition(" · ")
    short = name.split("@")[0] + dot + version
    return Head(column, visible(short, 40), visible(family.split("@")[0], 40), 100 * float(chance) / (unit or 1.0), high >= 2)


def score_cell(title: str, cell: Any, tint: int) -> Cell:
    unit = unit_of(cell.metric, cell.better, cell.unit)
    text = points(cell.value, unit)
    guessing = bool(unit) and not missing(cell.chance) and not missing(cell.low) and cell.low <= cell.chance
    tip = [title, f"{text} ({span(cell.low, cell.high, unit)}), {int(cell.n or 0):,} items"]
    tip += ["not significantly worse than the best"] * (tint == LEVELS) + ["not significantly above chance"] * guessing
    return Cell(text, float(cell.value), tuple(tip), tint, guessing, cell.task, cell.run_id, bool(unit) and cell.value >= unit)


def column_tints(grid: Grid, place: int) -> Any:
    """The tint of each model [M] on one task; 0 where it has no score."""
    column = grid.columns[place]
    minimum = 0.0 if column.sizes is None else 1.0 / len(column.sizes)
    return tints_of(grid.points[:, place], grid.draws[:, :, place], minimum)


def tints_of(values: Array, draws: Array, minimum: float) -> Any:
    """LEVELS for the leaders, below that by the distance from chance or the lowest score up to the leaders."""
    tints = np.zeros(len(values), dtype=np.int64)
    rows = np.flatnonzero(np.isfinite(values))
    if not len(rows):
        return tints
    kept = values[rows]
    lead = leaders(kept, draws[:, rows], minimum)
    low, high = min(0.0, float(kept.min())), float(kept[lead].min())
    share = np.clip((kept - low) / max(high - low, 1e-9), 0, 1)
    tints[rows] = np.where(lead, LEVELS, np.minimum(LEVELS - 1, (share * LEVELS).astype(np.int64)))
    return tints


def family_cells(labels: Sequence[str], grid: Grid, families: Sequence[tuple[str, int]]) -> list[list[Cell | None]]:
    """Per family, the chance-normalised mean of each model; None where it lacks a task of the family, or none of them is bounded."""
    found: list[list[Cell | None]] = []
    start = 0
    for name, count in families:
        places = [place for place in range(start, start + count) if grid.columns[place].unit is not None]
        start += count
        if not places:
            found.append([None] * len(labels))
            continue
        values, draws = grid.points[:, places].mean(axis=1), grid.draws[:, :, places].mean(axis=2)
        sizes = [column.sizes for place in places if (column := grid.columns[place]).sizes is not None]
        minimum = float(np.sqrt(sum(1.0 / len(each) ** 2 for each in sizes if each is not None))) / len(places)
        tints = tints_of(values, draws, minimum)
        low, high = np.clip(np.quantile(draws, [0.025, 0.975], axis=0), lowest([grid.columns[place] for place in places]), 1.0)
        line: list[Cell | None] = []
        for number, label in enumerate(labels):
            if not np.isfinite(values[number]):
                line.append(None)
                continue
            text = f"{100 * values[number]:.1f}"
            tip = [f"{label} on {name}", f"{text} ({span(low[number], high[number], 1.0)}), mean of {len(places)} tasks, 0 is chance"]
            tip += ["not significantly worse than the best"] * bool(tints[number] == LEVELS)
            line.append(Cell(text, float(values[number]), tuple(tip), int(tints[number])))
        found.append(line)
    return found
