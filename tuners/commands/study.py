"""assay study."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from assay import AssayError, ModelRef
from assay.harness.run.stages import Surroundings, surroundings
from assay.tuners.commands.options import Json, LogTo, names
from assay.tuners.commands.output import check_installed, open_model, print_rows, run_plan, tell
from assay.tuners.report.expected import expect
from assay.tuners.report.text import build
from assay.tuners.study.design import Study
from assay.tuners.study.presets import MODELS, find_preset, read_study


def study(
    preset: Annotated[
        str,
        typer.Argument(
            help="toy (minutes), cpu-mini (hours), gpu; toy-sequence and cpu-sequence train on one task after another. Or a .toml file "
            "with a study of your own."
        ),
    ] = "",
    model: Annotated[str, typer.Option(help="Model to use instead of the preset's.")] = "",
    methods: Annotated[str, typer.Option(help="Comma-separated list of methods to run.")] = "",
    seeds: Annotated[int | None, typer.Option(help="Number of random seeds, counted from 0. \\[default: the preset's]")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder. \\[default: results/studies/<preset>]")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the expected hours, memory and half-widths, and exit.")] = False,
    log_to: LogTo = "",
    report: Annotated[Path | None, typer.Option(help="Write the report and figures of this study folder and exit.")] = None,
    as_json: Json = False,
) -> None:
    """Run a grid of methods, learning rates, seeds and mitigations. The same command resumes an interrupted study."""
    if report is not None:
        path = str(build(report))
        sys.stdout.write((json.dumps({"report": path}) if as_json else path) + "\n")
        return
    if not preset:
        raise AssayError("no preset named", do="run assay study toy (or cpu-mini, gpu), or assay study --report FOLDER")
    check_installed()
    own = Path(preset).suffix == ".toml"
    chosen: Any
    chosen, usual = read_study(Path(preset)) if own else (find_preset(preset), MODELS.get(preset, ""))
    if methods:
        chosen = replace(chosen, methods=names(methods))
    if seeds is not None:
        chosen = replace(chosen, seeds=tuple(range(seeds)))
    place = surroundings()
    if plan:
        print_plan(chosen, open_model(model or usual, place), place, as_json)
        return
    ref, root = open_model(model or usual, place), out or place.results / "studies" / chosen.name
    print_rows(chosen, ref, run_plan(chosen, ref, place, root, log_to), root, as_json)
    tell(f"next: assay study --report {shlex.quote(str(root))}")


def print_plan(chosen: Any, ref: ModelRef, place: Surroundings, as_json: bool) -> None:
    if not isinstance(chosen, Study):
        raise AssayError("a sequence of tasks has no plan", where=chosen.name, do="leave out --plan")
    found = expect(chosen, ref, place.access())
    sys.stdout.write((json.dumps({"study": chosen.name, **asdict(found)}) if as_json else "\n".join(found.lines())) + "\n")
