"""assay store ls | index | check | merge."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from assay.harness.cli import exchanging
from assay.harness.cli.console import out, print_json
from assay.harness.cli.options import Json, Results, place_of
from assay.harness.cli.running import print_run
from assay.harness.errors import Invalid
from assay.harness.run.merge import merge
from assay.harness.run.scoring.rescore import local_docs
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.store import RunInfo, check, find_run, index, list_runs, read_run


def register(app: typer.Typer) -> None:
    store = typer.Typer(no_args_is_help=True, help="Manage stored runs: list, check, merge, import, export.")
    store.command("ls")(ls_command)
    store.command("index")(index_command)
    store.command("check")(check_command)
    store.command("merge")(merge_command)
    exchanging.register(store)
    app.add_typer(store, name="store")


def ls_command(results: Results = None, as_json: Json = False) -> None:
    """List stored runs, newest last.

    [dim]assay store ls[/dim]
    """
    runs = list_runs(place_of(results).results)
    if as_json:
        print_json({"runs": [as_json_run(run) for run in runs]})
        return
    console = out()
    for run in runs:
        tasks = ", ".join(run.tasks[:4]) + (f" and {len(run.tasks) - 4} more" if len(run.tasks) > 4 else "")
        state = f"{run.status} ({run.owner})" if run.owner else run.status
        line = f"{run.id}  {state:<9} {run.items:>6} items  {run.model}  {tasks}"
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis", markup=False)
        else:
            console.print(line, soft_wrap=True, markup=False)
    if not runs:
        console.print("No runs yet. `assay demo` creates one.")


def as_json_run(run: RunInfo) -> dict[str, Any]:
    return {**asdict(run), "path": str(run.path)}


def index_command(results: Results = None, as_json: Json = False) -> None:
    """Rebuild the DuckDB index from the run folders.

    [dim]assay store index[/dim]
    """
    place = place_of(results)
    report = index(place.results, verify=verify(place.access(allow_partial=True)))
    if as_json:
        print_json({"indexed": report.indexed, "unchanged": report.unchanged, "removed": report.removed, "trouble": report.trouble})
        return
    console = out()
    console.print(f"{len(report.indexed)} runs indexed, {len(report.unchanged)} unchanged, {len(report.removed)} removed")
    for run, trouble in report.trouble.items():
        console.print(f"{run} skipped: {trouble}", markup=False, soft_wrap=True)


def merge_command(
    parts: Annotated[list[str], typer.Argument(help="Runs to merge: ids, unique prefixes or folders.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Merge the runs of `assay run --shard i/n` into one.

    [dim]assay store merge results/runs/20261123-*[/dim]
    """
    place = place_of(results)
    bundle = merge([find_run(place.results, part) for part in parts], place)
    print_run(read_run(bundle), place, as_json)


def check_command(results: Results = None, as_json: Json = False) -> None:
    """Verify the hashes and scores of all stored runs.

    [dim]assay store check[/dim]
    """
    place = place_of(results)
    access = place.access(allow_partial=True)
    docs = local_docs(access)
    problems = check(place.results, lambda run: recompute(run, access, docs))
    if as_json:
        print_json({"problems": [{"where": str(problem.where), "what": problem.what} for problem in problems]})
    for problem in problems:
        if not as_json:
            out().print(f"{problem}", markup=False, soft_wrap=True)
    if problems and as_json:  # the JSON object is already printed
        raise typer.Exit(Invalid.exit_code)
    if problems:
        raise Invalid(f"{len(problems)} problems in {place.results}", do="restore these runs from a copy, or score them again")
    if not as_json:
        out().print("All hashes and scores are correct.")
