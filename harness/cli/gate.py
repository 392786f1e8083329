"""assay gate, assay baseline."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from assay.harness.cli.console import counted, out, print_json, show_progress
from assay.harness.cli.options import Json, PolicyFile, Results, place_of
from assay.harness.cli.planning import show_explained, show_plan
from assay.harness.decide.early_stopping import gate_early, plan_like
from assay.harness.decide.planning.plan import KINDS
from assay.harness.decide.policy import Policy, read_policy, reason_of
from assay.harness.decide.stored_gate import Gate, baselines, find_baseline, gate_stored, set_baseline
from assay.harness.errors import AssayError
from assay.harness.files.paths import exists
from assay.harness.files.places import Surroundings
from assay.harness.reports.formatting import VERDICTS, aggregate_line, details, early_lines, headline
from assay.harness.reports.json_values import early_json, gate_json
from assay.harness.reports.pipelines import early_github, early_junit, github, junit
from assay.harness.reports.tables import early_markdown, gate_cells, gate_markdown, table
from assay.harness.store import RunInfo, list_runs, read_run

COLLECT = 200_000
"""New objects between two garbage collections. The default of 700 makes a gate take a sixth longer: it scans again and again what was
read from the store, which holds no cycles. The same number as mypy's."""
COLOURS = {"pass": "bold green", "regressed": "bold red", "inconclusive": "bold yellow"}


baseline_command = typer.Typer(no_args_is_help=True, help="Manage named baselines for `assay gate`.")


def gate_command(
    candidate: Annotated[str, typer.Argument(help="Candidate run: id, unique prefix, model name or folder.")] = "",
    baseline: Annotated[str, typer.Option(help="Baseline run, or a name set with `assay baseline set`.")] = "",
    margin: Annotated[float | None, typer.Option(help="Allowed loss of the aggregate, in points. \\[default: 1.0]")] = None,
    recovery: Annotated[
        float | None, typer.Option(help="Least share of the baseline's aggregate score to keep, such as 0.99; replaces --margin.")
    ] = None,
    task_margin: Annotated[float | None, typer.Option(help="Allowed loss of a single task, in points. \\[default: 3.0]")] = None,
    alpha: Annotated[float | None, typer.Option(help="Maximum rate of false passes and of false regressions. \\[default: 0.05]")] = None,
    policy: PolicyFile = None,
    on_inconclusive: Annotated[str, typer.Option(help="Exit code of an inconclusive gate: fail (11) or pass (0). \\[default: fail]")] = "",
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown report to this file.")] = None,
    junit_xml: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Also gate served models, whose weights are not verified.")
    ] = False,
    early_stop: Annotated[bool, typer.Option("--early-stop", help="Score --model now and stop as soon as the verdict is certain.")] = False,
    model: Annotated[str, typer.Option(help="Candidate model for --early-stop, scored with the baseline's settings.")] = "",
    adapter: Annotated[str, typer.Option(help="PEFT adapter of --model: a folder or hub id.")] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Print the items and tokens that decide a candidate of a --candidate-kind.")] = False,
    candidate_kind: Annotated[str, typer.Option(help=f"For --plan: {', '.join(KINDS)}.")] = "quantised",
    explain: Annotated[
        Path | None, typer.Option("--explain-policy", help="Print the error rates of a policy file, or of the check of another tool in it.")
    ] = None,
    annotate: Annotated[bool, typer.Option("--github", help="Print GitHub annotations and write the step summary.")] = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Compare a candidate with a baseline and decide: pass (0), regressed (10) or inconclusive (11).

    [dim]assay gate candidate --baseline v1[/dim]
    """
    if explain is not None:
        return show_explained(explain, as_json)
    place = place_of(results)
    given = {"margin": margin, "task_margin": task_margin, "alpha": alpha, "on_inconclusive": on_inconclusive or None, "recovery": recovery}
    chosen = with_options(read_policy(policy) if policy else Policy(), given)
    if allow_unverified:
        chosen = chosen.model_copy(update={"allow_unverified": True})
    if plan and baseline:
        return show_plan(read_run(find_baseline(place.results, baseline)), chosen, candidate_kind, as_json)
    if not baseline or bool(candidate) == early_stop or bool(model) != early_stop:
        do = "assay gate RUN --baseline BASE, or assay gate --early-stop --model MODEL --baseline BASE"
        raise AssayError("a gate needs a baseline, and either a stored run or a model to evaluate", do=do)
    files = Files(markdown, junit_xml, annotate, annotate and not as_json)
    files.check()
    if early_stop:
        decide_early(model, adapter, baseline, chosen, place, as_json, files)
    gc.set_threshold(COLLECT)
    found = gate_stored(place.results, candidate, baseline, chosen, place.access(allow_partial=True))
    both = found.decision, found.comparison
    if as_json:
        print_json(gate_json(*both, found.exit_code))
    else:
        print_gate(found)
    files.write(gate_markdown(*both), junit(*both), github(*both))
    raise typer.Exit(found.exit_code)


@dataclass(frozen=True, slots=True)
class Files:
    """Where reports are written: Markdown file, JUnit file, GitHub step summary, GitHub annotations on stdout."""

    markdown: Path | None
    junit: Path | None
    summary: bool
    annotate: bool

    def check(self) -> None:
        """Raises AssayError for a folder, before the gate runs and its verdict is stored."""
        for option, path, example in (("--markdown", self.markdown, "gate.md"), ("--junit", self.junit, "gate.xml")):
            if path is not None and exists(path) and path.is_dir():
                raise AssayError(f"{path} is a folder", where=option, do=f"{option} {path / example}")

    def write(self, report: str, junit: str, commands: str) -> None:
        for option, path, text in (("--markdown", self.markdown, report), ("--junit", self.junit, junit)):
            if path is not None:
                with clear_write_errors(option, path):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, encoding="utf-8")
        if self.summary and (summary := os.environ.get("GITHUB_STEP_SUMMARY")):
            with clear_write_errors("GITHUB_STEP_SUMMARY", Path(summary)), Path(summary).open("a", encoding="utf-8") as file:
                file.write(report)
        if self.annotate:
            sys.stdout.write(commands)  # not through rich: workflow commands, escaped already


@contextmanager
def clear_write_errors(option: str, path: Path) -> Iterator[None]:
    """Raises AssayError if a report cannot be written."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        what = f"{path} cannot be written: {reason}"
        raise AssayError(what, where=option, do="give a file in a writable folder; the verdict itself is stored") from None


def decide_early(model: str, adapter: str, baseline: str, policy: Policy, place: Surroundings, as_json: bool, files: Files) -> None:
    """Score a model, with its adapter if it has one, while gating it, and exit with the verdict."""
    base = read_run(find_baseline(place.results, baseline))
    with show_progress() as progress:
        found = gate_early(plan_like(base, model, adapter=adapter), base, policy, place, progress)
    head = f"{VERDICTS[found.verdict]}: {model}{'+' if adapter else ''}{adapter} against {baseline}"
    if as_json:
        print_json(early_json(found, found.exit_code(policy)))
    else:
        out().print(head, style=COLOURS[found.verdict], markup=False, soft_wrap=True)
        for line in early_lines(found):
            out().print(f"  {line}", markup=False, soft_wrap=True)
        out().print(f"assay resume {found.bundle.name} scores the remaining items.", style="dim", markup=False, soft_wrap=True)
    files.write(early_markdown(found, head), early_junit(found, head), early_github(found, head))
    raise typer.Exit(found.exit_code(policy))


def with_options(policy: Policy, given: Mapping[str, float | str | None]) -> Policy:
    """The policy, overridden by the command-line options. Raises AssayError for a value out of range."""
    try:
        return Policy.model_validate({**policy.model_dump(), **{name: value for name, value in given.items() if value is not None}})
    except ValidationError as error:
        name, reason = reason_of(error)
        raise AssayError(reason, where=f"--{name.replace('_', '-')}", do="assay gate --help lists the options") from None


def print_gate(found: Gate) -> None:
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
    name: Annotated[str, typer.Argument(help="Name of the baseline, for --baseline NAME.")],
    run: Annotated[str, typer.Argument(help="Complete run: id, unique prefix, model name or folder.")],
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Save a run as a named baseline.

    [dim]assay baseline set v1 20261123-2015[/dim]
    """
    root = place_of(results).results
    before = baselines(root).get(name)
    chosen = set_baseline(root, name, run)
    if as_json:
        print_json({"baseline": name, "run": chosen})
        return
    known = {each.id: each for each in list_runs(root)}
    out().print(f"baseline {name}: {described(known.get(chosen), chosen)}", markup=False, soft_wrap=True)
    if before and before != chosen:
        out().print(f"It replaces {described(known.get(before), before)}.", markup=False, soft_wrap=True)


def described(run: RunInfo | None, name: str) -> str:
    """A run with its model, tasks, items and date."""
    if run is None:
        return f"run {name}"
    tasks = ", ".join(run.tasks) if len(run.tasks) < 4 else f"{len(run.tasks)} tasks"
    kind = "" if (run.purpose, run.evidence) == ("release", "complete") else f", {run.purpose}, {run.evidence}: a gate on it cannot pass"
    return f"run {name}, {run.model} on {tasks}, {counted(run.items, 'item')}, {run.created_at[:16].replace('T', ' ')} UTC{kind}"


@baseline_command.command("ls")
def ls_command(results: Results = None, as_json: Json = False) -> None:
    """List named baselines.

    [dim]assay baseline ls[/dim]
    """
    found = baselines(place_of(results).results)
    if as_json:
        print_json({"baselines": found})
        return
    for name, run in found.items():
        out().print(f"{name}  {run}", markup=False)
