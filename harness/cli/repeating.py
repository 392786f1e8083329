"""assay watch, rerun."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import err, out, print_json, watching
from harness.cli.running import Json, Results, place_of, run_json
from harness.plan import Plan
from harness.report import show_number
from harness.rerun import rerun
from harness.store import find_run, read_run
from harness.watching import watch_folder


def register(app: typer.Typer) -> None:
    app.command("watch")(watch_command)
    app.command("rerun")(rerun_command)


def watch_command(
    folder: Annotated[Path, typer.Argument(help="Where a training writes its checkpoints, a folder each.")],
    tasks: Annotated[str, typer.Option(help="Names, files or module:NAME, separated by commas.")],
    limit: Annotated[int | None, typer.Option(help="Only the first N items of each task.")] = None,
    engine: Annotated[str, typer.Option(help="auto, vllm, hf.")] = "auto",
    pause: Annotated[float, typer.Option(help="Seconds between looks.")] = 5.0,
    until: Annotated[int | None, typer.Option(help="End after N checkpoints. \\[default: never]")] = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Score each new checkpoint of a running training as it appears, in one engine.

    [dim]assay watch runs/ --tasks glue/rte[/dim]
    """
    place, found = place_of(results), []
    plan = Plan(model=str(folder), tasks=tuple(name for name in tasks.split(",") if name.strip()), limit=limit, engine=engine)

    def scored(checkpoint: Path, bundle: Path) -> None:
        run = run_json(read_run(bundle))
        found.append(run)
        if not as_json:
            values = [f"{result['task']} {show_number(result['value'])}" for result in run["results"] if result["main"]]
            out().print(f"{checkpoint.name}  {'  '.join(values)}  (run {run['run']})", soft_wrap=True, markup=False)

    with watching(quiet=not as_json) as watch:
        try:
            watch_folder(folder, plan, place, scored, watch, pause=pause, until=until)
        except KeyboardInterrupt:
            err().print(f"{len(found)} checkpoints scored")
    if as_json:
        print_json({"runs": found})


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
    out().print(f"{verdict}; largest change of a log-probability {found.drift:.1e} nats; run {found.second.name}")
    for task, item in found.changed[:20]:
        out().print(f"  {task}  {item}", markup=False)
