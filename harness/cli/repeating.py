"""assay rerun."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.console import out, print_json, watching
from harness.cli.running import Json, Results, place_of
from harness.rerun import rerun
from harness.store import find_run


def register(app: typer.Typer) -> None:
    app.command("rerun")(rerun_command)


def rerun_command(
    run: Annotated[str, typer.Argument(help="A run's id, a unique prefix of it, or its folder.")],
    engine: Annotated[str, typer.Option(help="Repeat on another engine. \\[default: the run's]")] = "",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Repeat a run from its manifest and say, item by item, whether it reproduced.

    [dim]assay rerun 20261123-2015 --engine vllm[/dim]
    """
    place = place_of(results)
    with watching() as watch:
        found = rerun(find_run(place.results, run), place, watch, engine)
    if as_json:
        changed = [{"task": task, "item": item} for task, item in found.changed]
        print_json({"run": found.second.name, "of": found.first.name, "items": found.items, "changed": changed, "drift": found.drift})
        return
    verdict = "reproduced" if not found.changed else f"{len(found.changed)} of {found.items} predictions changed"
    out().print(f"{verdict}; largest change of a log-probability {found.drift:.1e} nats; run {found.second.name}", markup=False)
    for task, item in found.changed[:20]:
        out().print(f"  {task}  {item}", markup=False)
