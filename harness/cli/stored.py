"""assay store ls | index | check | merge."""

from __future__ import annotations

from dataclasses import asdict
from time import time
from typing import Annotated, Any

import typer

from assay.harness.cli import exchanging
from assay.harness.cli.console import counted, duration, out, print_json
from assay.harness.cli.options import Json, Results, place_of
from assay.harness.cli.running import print_run
from assay.harness.errors import AssayError, Invalid
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
    root = place_of(results).results
    if results is not None and not root.is_dir():
        raise AssayError("there is no such folder", where=str(root), do="give the folder that holds runs/, such as results")
    if root.name == "runs" and any(root.glob("*/manifest.json")):
        raise AssayError("this is the folder of the runs", where=str(root), do=f"give the folder above: --results {root.parent}")
    runs = list_runs(root)
    if as_json:
        print_json({"runs": [as_json_run(run) for run in runs]})
        return
    console = out()
    for run in runs:
        tasks = ", ".join(run.tasks[:4]) + (f" and {len(run.tasks) - 4} more" if len(run.tasks) > 4 else "")
        line = f"{run.id}  {state_of(run):<9} {counted(run.items, 'item'):>12}  {run.model}  {tasks}"
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis", markup=False)
        else:
            console.print(line, soft_wrap=True, markup=False)
    for run in runs:
        if run.status == "running" and not run.owner:
            console.print(f"{run.id} was interrupted {age(run)} ago. Resume it: assay resume {run.id}", soft_wrap=True, markup=False)
    if not runs:
        console.print(f"No runs in {root}. `assay demo` creates one.", soft_wrap=True, markup=False)


def state_of(run: RunInfo) -> str:
    """Its status; a running run with its process, or interrupted if none writes it."""
    return f"running ({run.owner})" if run.owner else "interrupted" if run.status == "running" else run.status


def age(run: RunInfo) -> str:
    """The time since a run's last change."""
    changed = max(file.stat().st_mtime for file in run.path.iterdir())
    return duration(max(0.0, time() - changed))


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
