"""One model beside another or the field's median, and the scores of a training run's checkpoints."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from assay.leaderboard.data import frames
from assay.leaderboard.data.formats import unit_of
from assay.leaderboard.data.safe_text import visible

STEP = re.compile(r"(?P<training>.*?)[-_./]?(?:step|checkpoint|ckpt|iter|iteration|epoch)[-_.]?(?P<step>\d+)/?$", re.IGNORECASE)


def in_points(cells: Any) -> Any:
    """The cells of bounded metrics whose higher values are better, with `points` (0 to 100)."""
    units = [unit_of(cell.metric, cell.better, cell.unit) for cell in cells.itertuples()]
    kept = cells.assign(size=frames.to_numeric(units, errors="coerce"))
    kept = kept[kept["size"].notna() & (kept.better != "lower") & (kept.metric != "total")]
    return kept.assign(points=100 * kept.value / kept["size"])


def profile(cells: Any, label: str, other: str = "") -> Any:
    """A model's score on each task beside that of another model, or the median of all others: label, family, own, other, difference;
    the largest difference first."""
    kept = in_points(cells)
    own = kept[kept.label == label].set_index("column")
    rest = kept[kept.label == other] if other else kept[kept.label != label]
    field = rest.groupby("column").points.median()
    columns = [name for name in own.index if name in field.index]
    table = frames.DataFrame(
        {
            "label": [visible(name.split("@")[0], 60) for name in columns],
            "family": [own.group[name] for name in columns],
            "own": [float(own.points[name]) for name in columns],
            "other": [float(field[name]) for name in columns],
        }
    )
    table["difference"] = table.own - table.other
    table = table.sort_values("difference", key=np.abs, ascending=False).reset_index(drop=True)
    table["order"] = range(len(table))
    return table


def checkpoints(cells: Any, model: str) -> Any:
    """Scores of all checkpoints of the model's training run: step, family, points (mean over the tasks that all of them have)."""
    found = STEP.match(model)
    empty = frames.DataFrame(columns=["step", "family", "points"])
    if not found:
        return empty
    kept = in_points(cells[cells.usual])
    matches = [STEP.match(name) for name in kept.model]
    same = [each is not None and each["training"] == found["training"] for each in matches]
    kept = kept[same].assign(step=[int(each["step"]) for each, own in zip(matches, same, strict=True) if each and own])
    steps = kept.step.nunique()
    if steps < 2:
        return empty
    counts = kept.groupby("column").step.nunique()
    kept = kept[kept.column.isin(counts[counts == steps].index)]
    return kept.groupby(["step", "group"], as_index=False).points.mean().rename(columns={"group": "family"})
