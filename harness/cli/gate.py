"""assay gate, assay baseline."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.cli.console import out, print_json, watching
from assay.harness.cli.running import Json, Results, place_of
from assay.harness.decide.early_stopping import gate_early, plan_like
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import Gate, baselines, find_baseline, gate_stored, set_baseline
from assay.harness.errors import AssayError
from assay.harness.files.paths import is_there
from assay.harness.files.places import Surroundings
from assay.harness.reports.pipelines import early_github, early_junit, github, junit
from assay.harness.reports.tables import early_markdown, gate_cells, gate_markdown, table
from assay.harness.reports.values import early_json, gate_json
from assay.harness.reports.words import VERDICTS, aggregate_line, details, early_lines, headline
from assay.harness.store import read_run

COLOURS = {"pass": "bold green", "regressed": "bold red", "inconclusive": "bold yellow"}


baseline_command = typer.Typer(no_args_is_help=True, help="Name the runs that candidates are gated against.")


def gate_command(
    candidate: Annotated[str, typer.Argument(help="A run: id, unique prefix, model name or bundle directory.")] = "",
    baseline: Annotated[str, typer.Option(help="The run to beat: the same, or a name given by `assay baseline set`.")] = "",
    margin: Annotated[float | None, typer.Option(help="Points that the aggregate may lose. \\[default: 1.0]")] = None,
    task_margin: Annotated[float | None, typer.Option(help="Points that one task may lose. \\[default: 3.0]")] = None,
    alpha: Annotated[float | None, typer.Option(help="Chance of each of the two errors. \\[default: 0.05]")] = None,
    policy: Annotated[Path | None, typer.Option(help="A gate.toml: required tasks, margins, criticals, guards.")] = None,
    on_inconclusive: Annotated[str, typer.Option(help="fail or pass: exit 11, or 0 for pipelines that tolerate doubt.")] = "",
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown report here.")] = None,
    junit_xml: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML here.")] = None,
    early_stop: Annotated[bool, typer.Option("--early-stop", help="Evaluate --model while deciding; stop as soon as it is clear.")] = False,
    model: Annotated[str, typer.Option(help="The candidate's model for --early-stop; all else is as in the baseline.")] = "",
    annotate: Annotated[bool, typer.Option("--github", help="Print GitHub annotations and write its step summary.")] = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Decide whether a candidate may be released: pass (0), regressed (10) or inconclusive (11).

    [dim]assay gate candidate --baseline v1[/dim]
    """
    place = place_of(results)
    chosen = with_options(read_policy(policy) if policy else Policy(), margin, task_margin, alpha, on_inconclusive)
    if not baseline or bool(candidate) == early_stop or bool(model) != early_stop:
        do = "assay gate RUN --baseline BASE, or assay gate --early-stop --model MODEL --baseline BASE"
        raise AssayError("a gate needs a baseline, and either a stored run or a model to evaluate", do=do)
    files = Files(markdown, junit_xml, annotate, annotate and not as_json)
    files.check()
    if early_stop:
        decide_early(model, baseline, chosen, place, as_json, files)
    found = gate_stored(place.results, candidate, baseline, chosen, place.access(allow_partial=True))
    both = found.decision, found.comparison
    if as_json:
        print_json(gate_json(*both, found.exit_code))
    else:
        show(found)
    files.write(gate_markdown(*both), junit(*both), github(*both))
    raise typer.Exit(found.exit_code)


@dataclass(frozen=True, slots=True)
class Files:
    """Where reports go: a Markdown file, a JUnit file, GitHub's step summary, GitHub's annotations on stdout."""

    markdown: Path | None
    junit: Path | None
    summary: bool
    annotate: bool

    def check(self) -> None:
        """Raises AssayError for a folder, before the gate is run and remembered."""
        for option, path in (("--markdown", self.markdown), ("--junit", self.junit)):
            if path is not None and is_there(path) and path.is_dir():
                raise AssayError(f"{path} is a folder", where=option, do="name a file in it")

    def write(self, report: str, junit: str, commands: str) -> None:
        for option, path, text in (("--markdown", self.markdown, report), ("--junit", self.junit, junit)):
            if path is not None:
                with written(option, path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding="utf-8")
        if self.summary and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
            with written("GITHUB_STEP_SUMMARY", Path(summary)), Path(summary).open("a", encoding="utf-8") as file:
                file.write(report)
        if self.annotate:
            sys.stdout.write(commands)  # raw: these are commands, and escaped as such


@contextmanager
def written(option: str, path: Path) -> Iterator[None]:
    """Whatever keeps a report from being written is one clear error."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        what = f"{path} cannot be written: {reason}"
        raise AssayError(what, where=option, do="name a file in a folder that can be written; the gate itself is remembered") from None


def decide_early(model: str, baseline: str, policy: Policy, place: Surroundings, as_json: bool, files: Files) -> None:
    """Gate a model that is evaluated meanwhile, and exit with the verdict."""
    base = read_run(find_baseline(place.results, baseline))
    with watching() as watch:
        found = gate_early(plan_like(base, model), base, policy, place, watch)
    head = f"{VERDICTS[found.verdict]}: {model} against {baseline}"
    if as_json:
        print_json(early_json(found, found.exit_code(policy)))
    else:
        out().print(head, style=COLOURS[found.verdict], markup=False, soft_wrap=True)
        for line in early_lines(found):
            out().print(f"  {line}", markup=False, soft_wrap=True)
        out().print(f"assay resume {found.bundle.name} completes the run and gives its scores.", style="dim", markup=False, soft_wrap=True)
    files.write(early_markdown(found, head), early_junit(found, head), early_github(found, head))
    raise typer.Exit(found.exit_code(policy))


def with_options(policy: Policy, margin: float | None, task_margin: float | None, alpha: float | None, on_inconclusive: str) -> Policy:
    """The policy with what the command line says on top. Raises AssayError for a value out of range."""
    given = {"margin": margin, "task_margin": task_margin, "alpha": alpha, "on_inconclusive": on_inconclusive or None}
    try:
        return Policy.model_validate({**policy.model_dump(), **{name: value for name, value in given.items() if value is not None}})
    except ValueError as error:
        raise AssayError(
            str(error).splitlines()[2].strip(),
            where=f"--{str(error).splitlines()[1].replace('_', '-')}",
            do="`assay gate --help` lists the options",
        ) from None


def show(found: Gate) -> None:
    decision, console = found.decision, out()
    console.print(headline(decision, found.comparison), style=COLOURS[decision.verdict], markup=False, soft_wrap=not console.is_terminal)
    console.print(aggregate_line(decision), markup=False, soft_wrap=not console.is_terminal)
    for reason in decision.reasons:
        console.print(f"  {reason}", markup=False, soft_wrap=not console.is_terminal)
    console.print()
    console.print(table(*gate_cells(decision), console.width))
    console.print()
    for line in details(decision, found.comparison):
        console.print(line, style="dim", markup=False, soft_wrap=not console.is_terminal)


@baseline_command.command("set")
def set_command(
    name: Annotated[str, typer.Argument(help="The baseline's name, as in --baseline NAME.")],
    run: Annotated[str, typer.Argument(help="A complete run.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Give a run a name to gate against.

    [dim]assay baseline set v1 20261123-2015[/dim]
    """
    chosen = set_baseline(place_of(results).results, name, run)
    if as_json:
        print_json({"baseline": name, "run": chosen})
    else:
        out().print(f"{name} is {chosen}", markup=False)


@baseline_command.command("ls")
def ls_command(results: Results = None, as_json: Json = False) -> None:
    """List the named baselines.

    [dim]assay baseline ls[/dim]
    """
    found = baselines(place_of(results).results)
    if as_json:
        print_json({"baselines": found})
        return
    for name, run in found.items():
        out().print(f"{name}  {run}", markup=False)
