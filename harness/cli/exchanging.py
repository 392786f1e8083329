"""assay store import | export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.cli.console import out, print_json, warn_of_broken
from assay.harness.cli.options import Json, Results, place_of
from assay.harness.errors import AssayError
from assay.harness.exchange.every_eval_ever import export_every_eval_ever
from assay.harness.exchange.hugging_face import export_hf_yaml, export_model_index
from assay.harness.exchange.lm_eval import import_lm_eval
from assay.harness.exchange.lm_eval_export import export_lm_eval
from assay.harness.files.paths import exists
from assay.harness.reports.results import results_table
from assay.harness.store import Run, find_run, read_run
from assay.harness.store.read import content_errors
from assay.harness.task.catalogue import load_module, loadable_modules

FORMATS: Mapping[str, Callable[[Run, Path], list[Path]]] = {
    "lm-eval": export_lm_eval,
    "every-eval-ever": export_every_eval_ever,
    "hf-yaml": export_hf_yaml,
    "model-index": export_model_index,
}
"""Format name to exporter. An exporter writes a run into a folder and returns the files."""


def formats() -> dict[str, Callable[[Run, Path], list[Path]]]:
    """All export formats: FORMATS and the EXPORTS of task modules (leaderboard submissions). Warns of broken plugins."""
    modules, broken = loadable_modules()
    warn_of_broken(broken)
    of_modules = [getattr(load_module(name), "EXPORTS", {}) for name in modules]
    return {**FORMATS, **{name: exporter for exports in of_modules for name, exporter in exports.items()}}


def register(store: typer.Typer) -> None:
    store.command("import")(import_command)
    store.command("export")(export_command)


def import_command(
    path: Annotated[Path, typer.Argument(help="Output folder of lm-eval, or one of its results_*.json files.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Import results of lm-eval. Scores are recomputed from the logged samples.

    [dim]assay store import lm_eval_out/[/dim]
    """
    if not exists(path):
        raise AssayError("no such file or folder", where=str(path), do="give the output folder of lm-eval")
    found = import_lm_eval(path, place_of(results))
    runs = [(read_run(bundle), new) for bundle, new in found]
    if as_json:
        imported = [{"run": run.id, "new": new, "model": run.manifest["model"], "results": run.summary()["results"]} for run, new in runs]
        print_json({"runs": imported})
        return
    console = out()
    for run, new in runs:
        unverified = sum(result["evidence"] == "aggregate" for result in run.summary()["results"])
        console.print(f"{run.id}  {run.manifest['model']['name']}{'' if new else '  (already imported)'}", markup=False, soft_wrap=True)
        console.print(results_table(run.summary()["results"]))
        if unverified:
            console.print(f"{unverified} scores have no samples, so they cannot be ranked. Run lm-eval with --log_samples.", style="yellow")


def export_command(
    run: Annotated[str, typer.Argument(help="Run: id, unique prefix, model name or folder.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write to.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}, glue-submission or superglue-submission.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Export a run in the format of another tool.

    [dim]assay store export 20261123-2015 --format lm-eval --to out/[/dim]
    """
    known = FORMATS if form in FORMATS else formats()
    if form not in known:
        raise AssayError(f"unknown format {form!r}", where="--format", do=f"use one of {', '.join(known)}")
    found = read_run(find_run(place_of(results).results, run))
    with content_errors(found.path):
        written = known[form](found, to)
    if as_json:
        print_json({"format": form, "files": [str(path) for path in written]})
        return
    for path in written:
        out().print(str(path), markup=False, soft_wrap=True)
