"""assay watch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.cli.console import err, out, print_json, show_progress
from assay.harness.cli.options import EngineName, Json, Limit, PolicyFile, Results, comma_list, place_of
from assay.harness.cli.running import run_json
from assay.harness.decide.early_stopping import plan_like
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import find_baseline, gate_stored
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.reports.formatting import VERDICTS
from assay.harness.reports.json_values import gate_json
from assay.harness.reports.results import show_number
from assay.harness.run.selection import anchored, select_stored
from assay.harness.run.watch import Listener, watch_folder
from assay.harness.store import read_run
from assay.harness.store.plan import Plan


def watch_command(
    folder: Annotated[Path, typer.Argument(help="Folder where training writes its checkpoints, one subfolder each.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks: names, files or module:NAME. \\[default: the tasks of --gate]")] = "",
    gate: Annotated[str, typer.Option(help="Gate each checkpoint against this run. Exits with the code of the last gate.")] = "",
    policy: PolicyFile = None,
    base: Annotated[str, typer.Option(help="Base model of checkpoints that are adapters (LoRA): a folder or hub id.")] = "",
    limit: Limit = None,
    engine: EngineName = "auto",
    pause: Annotated[float, typer.Option(help="Seconds between checks of the folder.")] = 5.0,
    until: Annotated[int | None, typer.Option(help="Stop after N checkpoints. \\[default: never]")] = None,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Score checkpoints as training writes them, and optionally gate each one.

    Folders that cannot be scored are reported once and skipped. With --gate, alpha is divided among the checkpoints (by --until N, or by
    k (k + 1) for the k-th since one passed): waiting for one that passes does not raise the rate of false passes.

    [dim]assay watch runs/ --tasks glue/rte[/dim]
    [dim]assay watch lora/ --base builtin:smollm2-135m --tasks glue/rte[/dim]
    """
    place, found, skipped, code = place_of(results), [], [], 0
    chosen = read_policy(policy) if policy else Policy()
    plan = watched_plan(base, tasks, gate, limit, engine, place)

    def report(checkpoint: Path, bundle: Path) -> None:
        nonlocal code
        run = run_json(read_run(bundle))
        verdict = ""
        if gate:
            gated = gate_stored(place.results, str(bundle), gate, chosen, place.access(allow_partial=True), series=until or 0)
            code, verdict = gated.exit_code, f"  {VERDICTS[gated.decision.verdict]}: {gated.decision.reasons[0]}"
            run |= {"gate": gate_json(gated.decision, gated.comparison, gated.exit_code)}
        found.append(run)
        if not as_json:
            values = [f"{result['task']} {show_number(result['value'])}" for result in run["results"] if result["main"]]
            out().print(f"{checkpoint.name}  {'  '.join(values)}{verdict}  (run {run['run']})", soft_wrap=True, markup=False)

    def skip(checkpoint: Path, reason: str) -> None:
        skipped.append({"checkpoint": checkpoint.name, "reason": reason})
        err().print(f"{checkpoint.name} skipped: {reason}", style="yellow", soft_wrap=True, markup=False)

    with show_progress(quiet=not as_json) as progress:
        try:
            watch_folder(folder, plan, place, Listener(report, skip), progress, pause=pause, until=until)
        except KeyboardInterrupt:
            err().print(f"{len(found)} checkpoints scored")
    if as_json:
        print_json({"runs": found, "skipped": skipped})
    raise typer.Exit(code)


def watched_plan(base: str, tasks: str, gate: str, limit: int | None, engine: str, place: Surroundings) -> Plan:
    """The plan for each checkpoint, from --tasks or from the baseline, with the base of adapters. Raises AssayError if neither is given."""
    names = tuple(map(anchored, comma_list(tasks)))
    if gate:
        run = read_run(find_baseline(place.results, gate))
        if not names:
            select_stored(run.manifest, place.access(allow_partial=True))  # refuses task code that the user never named
        like = plan_like(run, base)
        chosen = like.engine if engine == "auto" else engine
        return replace(like, engine=chosen, tasks=names or like.tasks, limit=like.limit if limit is None else limit)
    if not names:
        raise AssayError("no tasks given", where="assay watch", do="add --tasks glue/rte, or --gate BASELINE to use its tasks")
    return Plan(model=base, tasks=names, limit=limit, engine=engine)
