"""assay store import | export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.cli.console import out, print_json, tell_broken
from assay.harness.cli.running import Json, Results, place_of
from assay.harness.errors import AssayError
from assay.harness.exchange.every_eval_ever import export_every_eval_ever
from assay.harness.exchange.hugging_face import export_hf_yaml, export_model_index
from assay.harness.exchange.lm_eval import import_lm_eval
from assay.harness.exchange.lm_eval_export import export_lm_eval
from assay.harness.files.paths import is_there
from assay.harness.reports.results import results_table
from assay.harness.store import Run, find_run, read_run
from assay.harness.store.read import sound
from assay.harness.task.catalogue import load_module, sound_modules

FORMATS: Mapping[str, Callable[[Run, Path], list[Path]]] = {
    "lm-eval": export_lm_eval,
    "every-eval-ever": export_every_eval_ever,
    "hf-yaml": export_hf_yaml,
    "model-index": export_model_index,
}
"""Writes a run into a folder and gives the files."""


def formats() -> dict[str, Callable[[Run, Path], list[Path]]]:
    """Ours, and those that task modules bring in EXPORTS: their leaderboards' submission files. Broken plugins are told and left out."""
    modules, broken = sound_modules()
    tell_broken(broken)
    brought = [getattr(load_module(name), "EXPORTS", {}) for name in modules]
    return {**FORMATS, **{name: writer for exports in brought for name, writer in exports.items()}}


def register(store: typer.Typer) -> None:
    store.command("import")(import_command)
    store.command("export")(export_command)


def import_command(
    path: Annotated[Path, typer.Argument(help="A folder that lm-eval wrote, or one of its results_*.json.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Take over what lm-eval scored: samples become items, and every score is computed again from them.

    [dim]assay store import lm_eval_out/[/dim]
    """
    if not is_there(path):
        raise AssayError("no such file or folder", where=str(path), do="check the path")
    found = import_lm_eval(path, place_of(results))
    runs = [(read_run(bundle), new) for bundle, new in found]
    if as_json:
        told = [{"run": run.id, "new": new, "model": run.manifest["model"], "results": run.summary()["results"]} for run, new in runs]
        print_json({"runs": told})
        return
    console = out()
    for run, new in runs:
        stated = sum(result["evidence"] == "aggregate" for result in run.summary()["results"])
        console.print(f"{run.id}  {run.manifest['model']['name']}{'' if new else '  (was imported before)'}", markup=False, soft_wrap=True)
        console.print(results_table(run.summary()["results"]))
        if stated:
            console.print(f"{stated} scores have no samples: kept as stated, never ranked. Run lm-eval with --log_samples.", style="yellow")


def export_command(
    run: Annotated[str, typer.Argument(help="A run's id, a unique prefix of it, a model's name, or its folder.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write into.")],
    form: Annotated[
        str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}, or a benchmark's own: glue-submission, superglue-submission.")
    ],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Write a run in another's format.

    [dim]assay store export 20261123-2015 --format lm-eval --to out/[/dim]
    """
    known = FORMATS if form in FORMATS else formats()
    if form not in known:
        raise AssayError(f"there is no format {form!r}", where="--format", do=f"known are {', '.join(known)}")
    found = read_run(find_run(place_of(results).results, run))
    with sound(found.path):
        written = known[form](found, to)
    if as_json:
        print_json({"format": form, "files": [str(path) for path in written]})
        return
    for path in written:
        out().print(str(path), markup=False, soft_wrap=True)
