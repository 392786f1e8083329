"""The rows of a study, one per trial, and their Parquet file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.tuners.study.forgetting import break_even
from assay.tuners.study.trial import Row, current_names, is_separable, json_safe
from assay.tuners.training.state import write_atomic

FILE = "trials.parquet"
ITEMS_FILE = "items.parquet"
POINTS_FILE = "points.parquet"
SCORES = "item_scores"
"""The field of a trial's row with the target's score of each item; stored in `items.parquet` alone."""
POINTS = "points"
"""The field with the points of a run that was scored along its way; stored in `points.parquet`, a row each, alone."""


def add_derived_columns(rows: Sequence[Row], chosen: Mapping[tuple[str, str], float]) -> list[Row]:
    """All rows with the columns that depend on other rows: whether the learning rate was chosen, gain over the best few-shot prompt,
    break-even queries, and bytes per further task (targets trained together share a model).

    The best number of few-shot examples is the one with the highest mean score over seeds.
    """
    prompts = {row["target"]: row["context_tokens"] for row in rows if row["role"] == "base"}
    best, targets = best_in_context(rows), {row["target"] for row in rows}
    found = []
    for row in rows:
        target, icl = row["target"], best.get(row["target"])
        whole = {**row, "task": target, "selected": chosen.get((target, row["method"])) == row.get("lr") or row.get("lr") is None}
        if target in prompts and whole.get("context_tokens") is None:
            whole["context_tokens"] = prompts[target] + (row.get("virtual_tokens") or 0)
        if row.get("saved_bytes") is not None:
            whole["bytes_per_further_task"] = row["saved_bytes"] / (len(targets) if "multi_task" in row["mitigation"] else 1)
        if is_separable(row) and row.get("average_drop") is not None:
            whole["detached_drop"] = 0.0
        if icl and row.get("target_score") is not None:
            whole["gain_over_in_context"] = row["target_score"] - icl["target_score"]
            if row.get("processed_tokens"):
                whole["break_even"] = break_even(row["processed_tokens"], icl["context_tokens"], whole["context_tokens"])
        found.append(json_safe(whole))
    return found


def best_in_context(rows: Sequence[Row]) -> dict[str, Row]:
    """By target the mean score and the context tokens of the best number of few-shot examples."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row["role"] == "in_context":
            groups.setdefault((row["target"], int(row["shots"])), []).append(row)
    best: dict[str, Row] = {}
    for (target, shots), group in groups.items():
        score = math.fsum(row["target_score"] for row in group) / len(group)
        if target not in best or score > best[target]["target_score"]:
            best[target] = {"target_score": score, "context_tokens": group[0]["context_tokens"], "shots": shots}
    return best


def write_items(rows: Sequence[Row], path: Path) -> None:
    """Write the item scores of these rows, and keep those of other trials that the file holds already."""
    new = {str(row["trial"]): row[SCORES] for row in rows if row.get(SCORES)}
    every = sorted((trial, item, float(score)) for trial, scores in (read_items(path) | new).items() for item, score in scores.items())
    if new:
        write_table(dict(zip(("trial", "item", "score"), zip(*every, strict=True), strict=True)), path)


def write_points(rows: Sequence[Row], path: Path) -> None:
    """Write the points of these rows' runs, and keep those of other trials that the file holds already."""
    new = {str(row["trial"]): row[POINTS] for row in rows if row.get(POINTS)}
    every = [{"trial": trial, **point} for trial, points in sorted((read_points(path) | new).items()) for point in points]
    if new:
        write_table(columns_of(every, list(dict.fromkeys(name for point in every for name in point))), path)


def read_points(path: Path) -> dict[str, list[Row]]:
    """By trial the points of its run, in the order of steps; empty without the file."""
    found: dict[str, list[Row]] = {}
    for row in read_rows(path) if path.is_file() else ():
        found.setdefault(row["trial"], []).append({name: value for name, value in row.items() if name != "trial"})
    return found


def read_items(path: Path) -> dict[str, dict[str, float]]:
    """By trial the score of each item of the target; empty without the file."""
    import pyarrow.parquet

    if not path.is_file():
        return {}
    found: dict[str, dict[str, float]] = {}
    for row in pyarrow.parquet.read_table(io.BytesIO(path.read_bytes())).to_pylist():
        found.setdefault(row["trial"], {})[row["item"]] = row["score"]
    return found


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write one Parquet file with a row per trial, atomically; nested values become JSON text. Item scores go into `items.parquet`, the
    points of runs into `points.parquet`."""
    write_items(rows, path.with_name(ITEMS_FILE))
    write_points(rows, path.with_name(POINTS_FILE))
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in (SCORES, POINTS)]
    write_table(columns_of(rows, names), path)


def columns_of(rows: Sequence[Row], names: Sequence[str]) -> dict[str, object]:
    flat = [{n: json.dumps(v) if isinstance(v := row.get(n), dict | list | tuple) else v for n in names} for row in rows]
    return {name: column([row[name] for row in flat]) for name in names}


def write_table(columns: Mapping[str, object], path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(dict(columns)), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue(), "the rows remain in the trials' folders")


def column(values: Sequence[object]) -> object:
    """A column's values as an array; integers become floats if the column also has floats."""
    import pyarrow

    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if any(isinstance(value, float) for value in numbers):
        return pyarrow.array([None if value is None else float(value) for value in values])  # type: ignore[arg-type]
    return pyarrow.array(values)


def read_rows(path: Path) -> list[Row]:
    """The rows of such a file, without empty cells; JSON text is parsed."""
    import pyarrow.parquet

    # Read all bytes first: another worker may replace the file at any time.
    table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
    return [{name: from_cell(value) for name, value in row.items() if value is not None} for row in table.to_pylist()]


def from_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = current_names(value)
    return json.loads(text) if text[:1] in ("{", "[") else text
