"""Rows of a study: one per trial, gathered into one Parquet file and read back from it."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from assay.tuners.study.forgetting import break_even
from assay.tuners.study.trial import Row, finite, is_separable
from assay.tuners.training.state import write_whole

FILE = "trials.parquet"


def collect(rows: Sequence[Row], chosen: Mapping[tuple[str, str], float]) -> list[Row]:
    """All rows with what needs the others: the chosen rate, gain over the best in-context row, break-even queries, and the
    bytes that one more task takes (a model of all targets is shared by them).

    The best number of examples in the prompt is the one with the highest mean score over draws.
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
        found.append(finite(whole))
    return found


def best_in_context(rows: Sequence[Row]) -> dict[str, Row]:
    """By target: mean score and context tokens of the best number of examples."""
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


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """One Parquet file, a row per trial; nested facts as JSON text. The file is whole at any moment."""
    import pyarrow
    import pyarrow.parquet

    names = list(dict.fromkeys(name for row in rows for name in row))
    flat = [{n: json.dumps(v) if isinstance(v := row.get(n), dict | list | tuple) else v for n in names} for row in rows]
    buffer = io.BytesIO()
    columns = {name: [row[name] for row in flat] for name in names}
    pyarrow.parquet.write_table(pyarrow.table({name: column(values) for name, values in columns.items()}), buffer, compression="zstd")
    write_whole(path, buffer.getvalue(), "the rows stay beside the trials")


def column(values: Sequence[object]) -> object:
    """Whole and broken numbers of one column share a type."""
    import pyarrow

    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if any(isinstance(value, float) for value in numbers):
        return pyarrow.array([None if value is None else float(value) for value in values])  # type: ignore[arg-type]
    return pyarrow.array(values)


def read_rows(path: Path) -> list[Row]:
    """The rows of such a file, without empty cells; JSON text becomes values again."""
    import pyarrow.parquet

    # Read at once: another worker may put a newer file in its place meanwhile.
    table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
    return [{name: unpacked(value) for name, value in row.items() if value is not None} for row in table.to_pylist()]


def unpacked(value: object) -> object:
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value
