"""History of a series of checkpoints: their scores, the paired change since the first run, and the last gate of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from assay.harness.decide.compare import Side, compare, side_of
from assay.harness.decide.decision import gate
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import gates
from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.run.sweep import natural
from assay.harness.store import RunInfo, list_runs, read_run

Order = Literal["time", "name"]
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Point:
    """One run of the series. `scores`: value, low, high by main metric ("task metric"); `change`: points since the first run, with
    two one-sided 95 % limits; `why`: why there is none. `gate`: the last recorded gate of this run."""

    run: str
    model: str
    created_at: str
    scores: Mapping[str, tuple[float | None, float | None, float | None]]
    change: tuple[float, float, float] | None = None
    why: str = ""
    gate: Mapping[str, Any] = field(default_factory=dict)


def select_runs(root: Path, names: Sequence[str], order: Order) -> tuple[RunInfo, ...]:
    """The complete runs that `names` select by id, prefix of an id, model name or pattern; all of them without names.

    Sorted by time, or by model name with numbers in numeric order (step-9 before step-10). Raises AssayError if a name selects none.
    """
    runs = [run for run in list_runs(root) if run.status == "complete"]
    for name in names:
        if not any(matches(run, name) for run in runs):
            raise AssayError(f"no complete run matches {name!r}", where=str(root), do="list the runs with assay store ls")
    chosen = [run for run in runs if not names or any(matches(run, name) for name in names)]
    if not chosen:
        raise AssayError("there is no complete run", where=str(root), do="evaluate a model with assay run")
    return tuple(sorted(chosen, key=lambda run: natural(run.model))) if order == "name" else tuple(chosen)


def matches(run: RunInfo, name: str) -> bool:
    model, pattern = run.model.rstrip("/"), name.rstrip("/")
    return run.id.startswith(name) or model == pattern or fnmatch(model, pattern) or fnmatch(run.id, pattern)


def trend(root: Path, line: Sequence[RunInfo], access: Access, tasks: Sequence[str] = ()) -> tuple[Point, ...]:
    """Every run of the series with its scores, its change since the first run, and its gate. `tasks`: only these tasks or families."""
    judged = {str(entry["candidate"]["run"]): entry for entry in gates(root)}
    first: Side | None = None
    points = []
    for info in line:
        run = read_run(info.path)
        results = [each for each in run.summary()["results"] if each["main"] and wanted(str(each["task"]), tasks)]
        scores = {f"{each['task']} {each['metric']}": (each["value"], each["low"], each["high"]) for each in results}
        change, why = None, ""
        try:
            side = side_of(run, access)
            if first is None:
                first = side
            else:
                change, why = change_since(first, side, tasks)
        except AssayError as error:
            why = str(error)
        points.append(Point(info.id, info.model, info.created_at, scores, change, why, judged.get(info.id, {})))
    return tuple(points)


def wanted(task: str, tasks: Sequence[str]) -> bool:
    plain = task.split("@")[0]
    return not tasks or any(task == name or plain == name or plain.startswith(f"{name}/") for name in tasks)


def change_since(first: Side, side: Side, tasks: Sequence[str]) -> tuple[tuple[float, float, float] | None, str]:
    """The aggregate change over the common tasks, weighted as in the gate; or why there is none."""
    shared = tuple(name for name in first.tasks if name in side.tasks and wanted(name, tasks))
    if not shared:
        return None, "no task in common with the first run"
    found = gate(compare(first, side, tasks=shared), Policy(tasks=shared))
    if found.delta is None or found.low is None or found.high is None:
        return None, "no task has a bounded metric"
    return (found.delta, found.low, found.high), ""


def sparkline(values: Sequence[float | None]) -> str:
    """The values as one line of bars scaled from the lowest to the highest; a space for None."""
    there = [value for value in values if value is not None]
    low, span = min(there, default=0.0), max(there, default=0.0) - min(there, default=0.0)
    return "".join(" " if value is None else BARS[round((value - low) / span * 7) if span else 3] for value in values)
