"""assay store trend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from assay.harness.cli.console import out, print_json
from assay.harness.cli.running import Json, Results, place_of
from assay.harness.decide.history import Point, line_of, spark, trend
from assay.harness.errors import AssayError
from assay.harness.reports.results import show_number
from assay.harness.reports.tables import table
from assay.harness.reports.values import finite
from assay.harness.reports.words import VERDICTS, signed

COLUMNS = 4
"""Tasks beside each other on a terminal; the curves below the table and JSON have all."""


def trend_command(
    models: Annotated[
        list[str] | None, typer.Argument(help="Runs, models or patterns such as 'runs/step-*'. \\[default: all runs]")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Only these tasks or families, separated by commas.")] = "",
    by: Annotated[str, typer.Option(help="Order by time, or by name: step-9 before step-10.")] = "time",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Show one model line over its releases or checkpoints: scores, paired change since the first, and the gates' verdicts.

    [dim]assay store trend 'runs/step-*' --by name[/dim]
    """
    if by not in ("time", "name"):
        raise AssayError(f"cannot order by {by!r}", where="--by", do="use time or name")
    place = place_of(results)
    line = line_of(place.results, models or (), "name" if by == "name" else "time")
    points = trend(place.results, line, place.access(allow_partial=True), [name.strip() for name in tasks.split(",") if name.strip()])
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
        console.print(f"{spark(values)}  {show_number(ends[0])} → {show_number(ends[-1])}  {name}", markup=False, soft_wrap=True)
    console.print("change: points since the first run, over the tasks that both have, equal per family", style="dim")
    for why in dict.fromkeys(f"{point.model}: {point.why}" for point in points if point.why):
        console.print(why, style="yellow", markup=False, soft_wrap=True)


def short(name: str) -> str:
    """The last part of a task's name; the curves below the table have it in full."""
    return name.split(" ")[0].split("@")[0].rpartition("/")[2]


def row(point: Point, names: Sequence[str], first: bool) -> tuple[str, ...]:
    change = ("first", "") if first else ("-", "-") if point.change is None else changed(*point.change)
    scores = [show_number(point.scores.get(name, (None,))[0]) for name in names]
    return (point.model.rstrip("/").rpartition("/")[2], point.created_at[:16].replace("T", " "), *change, verdict(point), *scores)


def changed(delta: float, low: float, high: float) -> tuple[str, str]:
    return signed(delta), f"{signed(low)} to {signed(high)}"


def verdict(point: Point) -> str:
    """The last gate on this run, against what, and which attempt it was."""
    if not point.gate:
        return "-"
    attempt = f", attempt {point.gate['attempt']}" if point.gate.get("attempt", 1) > 1 else ""
    return (
        f"{VERDICTS.get(str(point.gate['verdict']), '?')} against {point.gate['baseline']['model'].rstrip('/').rpartition('/')[2]}{attempt}"
    )
