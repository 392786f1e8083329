"""assay check, audit, rerun."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from assay.harness.checking import Checked, check_run, check_tasks
from assay.harness.checking.again import ask_again
from assay.harness.checking.audit import SHARE, audit
from assay.harness.checking.finding import gravest_first, short
from assay.harness.checking.report import COLOURS, as_json, baselines_line, counts, finding_lines, headline, verdict
from assay.harness.checking.rerun import rerun
from assay.harness.cli.console import out, print_json, watching
from assay.harness.cli.running import Json, Results, place_of
from assay.harness.errors import AssayError, Invalid
from assay.harness.files.places import Surroundings
from assay.harness.run.selection import select
from assay.harness.store import Run, find_run, read_run

MANY = 3
"""From so many tasks on, example prompts and notes are left out."""


def check_command(
    subject: Annotated[str, typer.Argument(help="A task, family or task file, or a run (id, prefix, model or folder).")],
    shots: Annotated[int | None, typer.Option(help="Check a task with so many exemplars. [default: the task's own]")] = None,
    split: Annotated[str, typer.Option(help="Check this split of a task. [default: the task's own]")] = "",
    baseline: Annotated[str, typer.Option(help="Check that a run can be compared with this one.")] = "",
    rerun: Annotated[int, typer.Option(help="Ask so many items of a run again (needs its model; 200 is good).")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    results: Results = None,
    as_object: Json = False,
) -> None:
    """Is a task fit to measure with, or a run's score to be believed? Exit code 14 where not.

    [dim]assay check my_task.py[/dim]
    """
    place = place_of(results)
    run = None if shots is not None or split else run_of(subject, place)
    if run is None:
        if baseline or rerun:
            raise AssayError("--baseline and --rerun need a run", where=subject, do="assay store ls lists the runs")
        kind, checked = (
            "task",
            check_tasks(select([subject], place.access(allow_partial=True)).tasks, place.access(allow_partial=True), shots, split),
        )
    else:
        other = read_run(find_run(place.results, baseline)) if baseline else None
        kind, checked = "run", check_run(run, place.access(allow_partial=True), other)
        if rerun:
            checked = with_rerun(checked, run, rerun, place, quiet=as_object)
    if as_object:
        print_json(as_json(subject, kind, checked))
    else:
        tell(out(), checked, kind)
    bad = counts(checked)
    if bad["E"] or (strict and bad["W"]):
        raise Invalid(f"{bad['E']} errors and {bad['W']} warnings", where=subject, do="mend what is listed above")


def run_of(subject: str, place: Surroundings) -> Run | None:
    """The run that is meant; None where the subject is a task. Raises AssayError where it is neither."""
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
    """The same with what asking again has shown."""
    with watching(quiet) as watch:
        found = {finding.task: finding for finding in ask_again(run, count, place, watch)}
    return [
        Checked(each.task, gravest_first([*each.findings, *([found[each.task]] if each.task in found else [])]), each.facts, each.examples)
        for each in checked
    ]


def tell(console: Console, checked: list[Checked], kind: str) -> None:
    """Prompts first, then findings, gravest first, then the verdict."""
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
        for finding in each.findings:
            for text in finding_lines(finding) if few or finding.level != "I" else ():
                console.print(f"  {safe(text)}", markup=False, soft_wrap=True, style=COLOURS[finding.level])
    clean = all(each.level == "I" for each in checked)
    console.print(verdict(checked, kind), markup=False, soft_wrap=True, style="green" if clean else "")


def safe(text: str) -> str:
    """Text from rows and models cannot move the cursor."""
    return "".join(character if character.isprintable() else " " for character in text)


def audit_command(
    run: Annotated[str, typer.Argument(help="A run's id, a unique prefix of it, or its folder.")],
    share: Annotated[float, typer.Option(help="Part of the items to ask again, at least 20 of them.")] = SHARE,
    seed: Annotated[int, typer.Option(help="Another seed draws other items.")] = 0,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Ask a seeded 2 % of a run's items again, one plain fp32 forward each, and compare with what is stored.

    Exit code 0: as stored; 14: not as stored; 12: the model or the data are other ones now.

    [dim]assay audit 20261123-2015[/dim]
    """
    place = place_of(results)
    with watching() as watch:
        found = audit(read_run(find_run(place.results, run)), place, watch, share, seed)
    if as_json:
        print_json({**asdict(found), "passed": found.passed})
    else:
        verdict = "as stored" if found.passed else f"NOT as stored: {len(found.differences)} differ"
        skipped = f", {found.skipped} sampled texts left out" if found.skipped else ""
        out().print(f"{found.items} of {found.of} items of run {found.run}{skipped}: {verdict}", markup=False)
        out().print(f"largest difference of a token's log-probability {found.drift:.1e} nats, allowed {found.tolerance:g}")
        for each in found.differences[:20]:
            out().print(f"  {each.task}  {each.item}  {each.what}", markup=False, soft_wrap=True)
    if not found.passed:
        raise typer.Exit(Invalid.exit_code)


def rerun_command(
    run: Annotated[str, typer.Argument(help="A run's id, a unique prefix of it, or its folder.")],
    engine: Annotated[str, typer.Option(help="Repeat on another engine. \\[default: the run's]")] = "",
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Repeat a run from its manifest and say, item by item, whether it reproduced.

    [dim]assay rerun 20261123-2015 --engine vllm[/dim]
    """
    place = place_of(results)
    with watching() as watch:
        found = rerun(find_run(place.results, run), place, watch, engine)
    if as_json:
        changed = [{"task": task, "item": item} for task, item in found.changed]
        print_json({"run": found.second.name, "of": found.first.name, "items": found.items, "changed": changed, "drift": found.drift})
        return
    verdict = "reproduced" if not found.changed else f"{len(found.changed)} of {found.items} predictions changed"
    out().print(f"{verdict}; largest change of a log-probability {found.drift:.1e} nats; run {found.second.name}", markup=False)
    for task, item in found.changed[:20]:
        out().print(f"  {task}  {item}", markup=False)
