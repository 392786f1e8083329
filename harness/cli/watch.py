"""assay watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.cli.console import err, out, print_json, watching
from assay.harness.cli.running import Json, Results, place_of, run_json
from assay.harness.decide.early_stopping import plan_like
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import find_baseline, gate_stored
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.reports.results import show_number
from assay.harness.reports.values import gate_json
from assay.harness.reports.words import VERDICTS
from assay.harness.run.selection import anchored, select_stored
from assay.harness.run.watch import watch_folder
from assay.harness.store import read_run
from assay.harness.store.plan import Plan


def watch_command(
    folder: Annotated[Path, typer.Argument(help="Where a training writes its checkpoints, a folder each.")],
    tasks: Annotated[
        str, typer.Option(help="Names, files or module:NAME, by commas. \\[default: the baseline's, where one is named]")
    ] = "",
    gate: Annotated[str, typer.Option(help="Gate every checkpoint against this run; the exit code is the last one's.")] = "",
    policy: Annotated[Path | None, typer.Option(help="A gate.toml for --gate.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N items of each task.")] = None,
    engine: Annotated[str, typer.Option(help="auto, vllm, hf.")] = "auto",
    pause: Annotated[float, typer.Option(help="Seconds between looks.")] = 5.0,
    until: Annotated[int | None, typer.Option(help="End after N checkpoints. \\[default: never]")] = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Score each new checkpoint of a running training as it appears, in one engine, and gate it where a baseline is named.

    [dim]assay watch runs/ --tasks glue/rte[/dim]
    """
    place, found, code = place_of(results), [], 0
    chosen = read_policy(policy) if policy else Policy()
    plan = watched_plan(folder, tasks, gate, limit, engine, place)

    def scored(checkpoint: Path, bundle: Path) -> None:
        nonlocal code
        run = run_json(read_run(bundle))
        verdict = ""
        if gate:
            gated = gate_stored(place.results, str(bundle), gate, chosen, place.access(allow_partial=True))
            code, verdict = gated.exit_code, f"  {VERDICTS[gated.decision.verdict]}: {gated.decision.reasons[0]}"
            run |= {"gate": gate_json(gated.decision, gated.comparison, gated.exit_code)}
        found.append(run)
        if not as_json:
            values = [f"{result['task']} {show_number(result['value'])}" for result in run["results"] if result["main"]]
            out().print(f"{checkpoint.name}  {'  '.join(values)}{verdict}  (run {run['run']})", soft_wrap=True, markup=False)

    with watching(quiet=not as_json) as watch:
        try:
            watch_folder(folder, plan, place, scored, watch, pause=pause, until=until)
        except KeyboardInterrupt:
            err().print(f"{len(found)} checkpoints scored")
    if as_json:
        print_json({"runs": found})
    raise typer.Exit(code)


def watched_plan(folder: Path, tasks: str, gate: str, limit: int | None, engine: str, place: Surroundings) -> Plan:
    """The plan of every checkpoint: the baseline's, or the tasks that are named. Raises AssayError where neither is."""
    names = tuple(anchored(name.strip()) for name in tasks.split(",") if name.strip())
    if gate:
        run = read_run(find_baseline(place.results, gate))
        if not names:
            select_stored(run.manifest, place.access(allow_partial=True))  # what a manifest names, no person named
        base = plan_like(run, str(folder))
        chosen = base.engine if engine == "auto" else engine
        return replace(base, engine=chosen, tasks=names or base.tasks, limit=base.limit if limit is None else limit)
    if not names:
        raise AssayError("no task named", where="assay watch", do="name some with --tasks, or a baseline with --gate")
    return Plan(model=str(folder), tasks=names, limit=limit, engine=engine)
