"""assay watch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.harness.cli.console import err, out, print_json, show_progress
from assay.harness.cli.options import Json, PolicyFile, Results, comma_list, place_of, shot_counts
from assay.harness.cli.running import plan_fields, run_command, run_json
from assay.harness.decide.early_stopping import plan_like
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import find_baseline, gate_stored
from assay.harness.engines.cluster import open_cluster
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.reports.formatting import VERDICTS
from assay.harness.reports.json_values import gate_json
from assay.harness.reports.results import show_number
from assay.harness.run.selection import select_stored
from assay.harness.run.sweep import under_protocols
from assay.harness.run.watch import Listener, watch_folder
from assay.harness.store import read_run
from assay.harness.store.plan import Plan

NOT_WATCHED = ("model", "adapter", "revision", "served_name", "tokenizer", "shard", "explain")
"""Options of `assay run` that `assay watch` does not take: the checkpoints are its models, and each gets one whole run."""


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command every option of `assay run` that it does not declare itself, as `assay run` declares it, but those in NOT_WATCHED."""
    own = [each for each in inspect.signature(command, eval_str=True).parameters.values() if each.kind is not each.VAR_KEYWORD]
    known = {each.name for each in own} | set(NOT_WATCHED)
    more = [each for each in inspect.signature(run_command, eval_str=True).parameters.values() if each.name not in known]
    command.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]
    return command


@with_run_options
def watch_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder where training writes its checkpoints, one subfolder each.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated tasks: names, files or module:NAME. \\[default: the tasks of --gate]")] = "",
    gate: Annotated[str, typer.Option(help="Gate each checkpoint against this run. Exits with the code of the last gate.")] = "",
    policy: PolicyFile = None,
    base: Annotated[str, typer.Option(help="Base model of checkpoints that are adapters (LoRA): a folder or hub id.")] = "",
    pause: Annotated[float, typer.Option(help="Seconds between checks of the folder.")] = 5.0,
    until: Annotated[int | None, typer.Option(help="Stop after N checkpoints. \\[default: never]")] = None,
    results: Results = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Score checkpoints as training writes them, and optionally gate each one.

    Folders that cannot be scored are reported once and skipped. With --gate, alpha is divided among the checkpoints (by --until N, or by
    k (k + 1) for the k-th since one passed): waiting for one that passes does not raise the rate of false passes. Options
    of `assay run` that are not given are those of the baseline.

    [dim]assay watch runs/ --tasks glue/rte --shots 2 --chat --dtype bfloat16[/dim]
    [dim]assay watch lora/ --base builtin:smollm2-135m --tasks glue/rte[/dim]
    """
    place, found, skipped, code = place_of(results), [], [], 0
    chosen = read_policy(policy) if policy else Policy()
    given = {name for name in context.params if (source := context.get_parameter_source(name)) and source.name != "DEFAULT"}
    plan = watched_plan(base, gate, context.params, given, place)

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
            opener = open_cluster if options["ray"] else open_engine
            watch_folder(folder, plan, place, Listener(report, skip), progress, pause=pause, until=until, opener=opener)
        except KeyboardInterrupt:
            err().print(f"{len(found)} checkpoints scored")
    if as_json:
        print_json({"runs": found, "skipped": skipped})
    raise typer.Exit(code)


def watched_plan(base: str, gate: str, options: Mapping[str, Any], given: Set[str], place: Surroundings) -> Plan:
    """The plan for each checkpoint, with the base of adapters, from all options by name, of which the user has given some; the others are
    as in the baseline of --gate, if there is one.

    Raises AssayError if there are neither tasks nor a baseline, and where several runs of each checkpoint would follow.
    """
    shots, protocols, tasks = shot_counts(options["shots"]), comma_list(options["protocol"]), comma_list(options["tasks"])
    if len(shots) > 1 or len(protocols) > 1:
        raise AssayError("every checkpoint gets one run", where="assay watch", do="give one number with --shots, one protocol")
    if not gate:
        if not tasks:
            raise AssayError("no tasks given", where="assay watch", do="add --tasks glue/rte, or --gate BASELINE to use its tasks")
        fields = plan_fields(options, under_protocols(tasks, protocols)[0])
        return Plan(model=base, **fields | {"shots": shots[0]})
    run = read_run(find_baseline(place.results, gate))
    if not tasks:
        select_stored(run.manifest, place.access(allow_partial=True))  # refuses task code that the user never named
    like = plan_like(run, base)
    fields = plan_fields(options, under_protocols(tasks or like.tasks, protocols)[0]) | {"shots": shots[0]}
    return replace(like, **{name: value for name, value in fields.items() if name in given or name == "tasks"})
