"""assay store trend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from assay.harness.cli.console import out, print_json
from assay.harness.cli.options import Json, Results, comma_list, place_of
from assay.harness.decide.history import Point, select_runs, sparkline, trend
from assay.harness.errors import AssayError
from assay.harness.reports.formatting import VERDICTS, signed
from assay.harness.reports.json_values import finite
from assay.harness.reports.results import show_number
from assay.harness.reports.tables import table

COLUMNS = 4
"""Number of task columns in the table; the lines below it and JSON have all tasks."""


def trend_command(
    models: Annotated[
        list[str] | None, typer.Argument(help="Runs, models or patterns such as 'runs/step-*'. \\[default: all runs]")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Comma-separated list of tasks or families to show.")] = "",
    by: Annotated[str, typer.Option(help="Sort by time or by name (step-9 before step-10).")] = "time",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Show scores over checkpoints or releases, with the paired change since the first and the gate verdicts.

    [dim]assay store trend 'runs/step-*' --by name[/dim]
    """
    if by not in ("time", "name"):
        raise AssayError(f"cannot sort by {by!r}", where="--by", do="use time or name")
    place = place_of(results)
    line = select_runs(place.results, models or (), "name" if by == "name" else "time")
    points = trend(place.results, line, place.access(allow_partial=True), comma_list(tasks))
    if as_json:
        print_json({"line": finite([asdict(point) for point in points])})
        return
    names = list(dict.fromkeys(name for point in points for name in point.scores))
    console = out()
    shown = names[:COLUMNS]
    head = ("model", "when", "change", "90 % interval", "gate", *map(short, shown))
    console.print(table(head, [row(point, shown, number == 0) for number, point in enumerate(points)], console.width))
    console.print()
    for name in names:
        values = [point.scores.get(name, (None,))[0] for point in points]
        ends = [value for value in values if value is not None]
        console.print(f"{sparkline(values)}  {show_number(ends[0])} → {show_number(ends[-1])}  {name}", markup=False, soft_wrap=True)
    console.print("change: points since the first run, over tasks scored in both, families weighted equally; higher is better", style="dim")
    for why in dict.fromkeys(f"{point.model}: {point.why}" for point in points if point.why):
        console.print(why, style="yellow", markup=False, soft_wrap=True)


def short(name: str) -> str:
    """The last part of a task's name; the lines below the table have the full name."""
    return name.split(" ")[0].split("@")[0].rpartition("/")[2]


def row(point: Point, names: Sequence[str], first: bool) -> tuple[str, ...]:
    change = ("first", "") if first else ("-", "-") if point.change is None else changed(*point.change)
    scores = [show_number(point.scores.get(name, (None,))[0]) for name in names]
    return (point.model.rstrip("/").rpartition("/")[2], point.created_at[:16].replace("T", " "), *change, verdict(point), *scores)


def changed(delta: float, low: float, high: float) -> tuple[str, str]:
    return signed(delta), f"{signed(low)} to {signed(high)}"


def verdict(point: Point) -> str:
    """The verdict of the last gate on this run, its baseline and its attempt number."""
    if not point.gate:
        return "-"
    attempt = f", attempt {point.gate['attempt']}" if point.gate.get("attempt", 1) > 1 else ""
    return (
        f"{VERDICTS.get(str(point.gate['verdict']), '?')} against {point.gate['baseline']['model'].rstrip('/').rpartition('/')[2]}{attempt}"
    )
