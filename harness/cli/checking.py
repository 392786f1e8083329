"""assay check, audit, rerun."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from assay.harness.checking import Checked, check_run, check_tasks
from assay.harness.checking.audit import SHARE, audit
from assay.harness.checking.finding import most_severe_first, short
from assay.harness.checking.repeatability import rescore_sample
from assay.harness.checking.report import COLOURS, as_json, baselines_line, counts, finding_lines, headline, number_of, verdict
from assay.harness.checking.rerun import rerun
from assay.harness.cli.console import out, print_json, show_progress
from assay.harness.cli.options import Json, Results, StoredRun, place_of
from assay.harness.errors import AssayError, Invalid
from assay.harness.files.places import Surroundings
from assay.harness.run.selection import select
from assay.harness.store import Run, find_run, read_run

MANY = 3
"""With more tasks than this, sample prompts and notes are not printed."""


def check_command(
    subjects: Annotated[list[str], typer.Argument(help="Tasks, families, task files or runs (id, unique prefix, model name or folder).")],
    shots: Annotated[int | None, typer.Option(help="Few-shot examples per prompt. \\[default: set by the task]")] = None,
    split: Annotated[str, typer.Option(help="Split of the task to check. \\[default: set by the task]")] = "",
    baseline: Annotated[str, typer.Option(help="Also check that the run is comparable with this run.")] = "",
    rerun: Annotated[int, typer.Option(help="Score N items of the run again with its model, for example 200.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")] = False,
    results: Results = None,
    as_object: Json = False,
) -> None:
    """Validate tasks or stored runs. Exits with 14 if an error is found.

    [dim]assay check my_task.py items.csv glue/rte[/dim]
    """
    place = place_of(results)
    runs = {subject: None if shots is not None or split else run_of(subject, place) for subject in dict.fromkeys(subjects)}
    if (baseline or rerun) and (task := next((subject for subject, run in runs.items() if run is None), "")):
        raise AssayError("--baseline and --rerun need a stored run, not a task", where=task, do="assay store ls lists the runs")
    other = read_run(find_run(place.results, baseline)) if baseline else None
    access = place.access(allow_partial=True)
    found: dict[str, list[Checked]] = {}
    for subject, run in runs.items():
        checked = check_tasks(select([subject], access).tasks, access, shots, split) if run is None else check_run(run, access, other)
        found[subject] = with_rerun(checked, run, rerun, place, quiet=as_object) if run is not None and rerun else checked
    if as_object:
        objects = [as_json(subject, "task" if runs[subject] is None else "run", checked) for subject, checked in found.items()]
        print_json(objects[0] if len(objects) == 1 else {"subjects": objects})
    else:
        print_findings(out(), [each for checked in found.values() for each in checked])
    failed = {subject: counts(checked) for subject, checked in found.items()}
    wrong = [subject for subject, count in failed.items() if count["E"] or (strict and count["W"])]
    if wrong and as_object:  # the object is all that is printed
        raise typer.Exit(Invalid.exit_code)
    if wrong:
        errors, warnings = (sum(failed[subject][level] for subject in wrong) for level in "EW")
        what = f"{number_of(errors, 'error')} and {number_of(warnings, 'warning')}"
        raise Invalid(what, where=", ".join(wrong), do="fix the findings listed above")


def run_of(subject: str, place: Surroundings) -> Run | None:
    """Return the run named by `subject`, or None if it is a task. Raises AssayError if it is neither."""
    try:
        return read_run(find_run(place.results, subject))
    except AssayError as no_run:
        try:
            select([subject], place.access(allow_partial=True))
        except AssayError as no_task:
            if no_task.what.startswith("unknown task") and list(place.results.glob("runs/*")):
                raise AssayError(f"neither a task nor a run: {no_task.what}; {no_run.what}", do=no_task.do) from None
            raise
        return None


def with_rerun(checked: list[Checked], run: Run, count: int, place: Surroundings, quiet: bool) -> list[Checked]:
    """Add the findings of scoring `count` items again."""
    with show_progress(quiet) as progress:
        found = {finding.task: finding for finding in rescore_sample(run, count, place, progress)}
    return [
        Checked(
            each.task, most_severe_first([*each.findings, *([found[each.task]] if each.task in found else [])]), each.facts, each.examples
        )
        for each in checked
    ]


def print_findings(console: Console, checked: list[Checked]) -> None:
    """Print sample prompts, then findings by severity, then the verdict."""
    few = len(checked) <= MANY
    for each in checked:
        for example in each.examples if few else ():
            console.rule(escape(f"{each.task}  row {example['row']}"), style="dim")
            console.print("\n".join(map(safe, example["prompt"].split("\n"))), markup=False, soft_wrap=True)
            for text in example["continuations"] or [example["gold"]]:
                gold = text.strip() == example["gold"].strip()
                console.print(f"    {'→' if gold else ' '} {short(text, 300)}", markup=False, soft_wrap=True, style="green" if gold else "")
        if few and each.examples:
            console.rule(style="dim")
        console.print(headline(each), markup=False, soft_wrap=True, style="bold")
        if line := baselines_line(each.facts):
            console.print(f"  {line}", markup=False, soft_wrap=True)
        for note in each.facts.get("notes", ()):
            console.print(f"  {note}", markup=False, soft_wrap=True)
        for finding in each.findings:
            for text in finding_lines(finding) if few or finding.level != "I" else ():
                console.print(f"  {safe(text)}", markup=False, soft_wrap=True, style=COLOURS[finding.level])
    clean = all(each.level == "I" for each in checked)
    console.print(verdict(checked), markup=False, soft_wrap=True, style="green" if clean else "")


def safe(text: str) -> str:
    """Replace control characters, so that text from data cannot move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def audit_command(
    run: StoredRun,
    share: Annotated[float, typer.Option(help="Fraction of items to score again (at least 20 items).")] = SHARE,
    seed: Annotated[int, typer.Option(help="Random seed for sampling items.")] = 0,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Re-score a random 2 % of a run's items with plain fp32 forward passes and compare with the stored results.

    Exit codes: 0 results match, 14 results differ, 12 the model or the data have changed.

    [dim]assay audit 20261123-2015[/dim]
    """
    place = place_of(results)
    with show_progress() as progress:
        found = audit(read_run(find_run(place.results, run)), place, progress, share, seed)
    if as_json:
        print_json({**asdict(found), "passed": found.passed})
    else:
        verdict = "match" if found.passed else f"MISMATCH in {len(found.differences)} items"
        skipped = f" ({found.skipped} sampled texts skipped)" if found.skipped else ""
        out().print(f"re-scored {found.items} of {found.of} items of run {found.run}{skipped}: {verdict}", markup=False)
        out().print(f"largest difference in the log-likelihood of a token: {found.drift:.1e} nats (tolerance {found.tolerance:g})")
        for each in found.differences[:20]:
            out().print(f"  {each.task}  {each.item}  {each.what}", markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(Invalid.exit_code)


def rerun_command(
    run: StoredRun,
    engine: Annotated[str, typer.Option(help="Inference engine. \\[default: the engine of the run]")] = "",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Re-run a stored run and report, per item, whether the results match.

    Exit codes: 0 results match up to rounding, 14 other prompts, log-likelihoods, or texts without log-likelihoods.

    [dim]assay rerun 20261123-2015 --engine vllm[/dim]
    """
    place = place_of(results)
    with show_progress() as progress:
        found = rerun(find_run(place.results, run), place, progress, engine)
    if as_json:
        names = ("changed", "prompts", "moved", "unexplained")
        lists = {name: [{"task": task, "item": item} for task, item in getattr(found, name)] for name in names}
        facts = {"drift": found.drift, "tolerance": found.tolerance, "reproduced": found.reproduced}
        print_json({"run": found.second.name, "of": found.first.name, "items": found.items, **lists, **facts})
    else:
        verdict = "all predictions match" if not found.changed else f"{len(found.changed)} of {found.items} predictions changed"
        if not found.reproduced:
            moved = f"{len(found.moved)} items changed by more than {found.tolerance:g} nats per token"
            texts = f", {len(found.unexplained)} texts changed and have no log-likelihoods" if found.unexplained else ""
            verdict = f"NOT REPRODUCED: {len(found.prompts)} prompts differ, {moved}{texts}; {verdict}"
        out().print(f"{verdict}; largest change of a log-likelihood: {found.drift:.1e} nats; run {found.second.name}", markup=False)
        for task, item in [*dict.fromkeys((*found.prompts, *found.moved, *found.changed))][:20]:
            out().print(f"  {task}  {item}", markup=False)
    if not found.reproduced:
        raise typer.Exit(Invalid.exit_code)
