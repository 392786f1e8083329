"""assay compare."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from assay.harness.cli.console import out, print_json
from assay.harness.cli.options import Json, Results, comma_list, place_of
from assay.harness.decide.compare import Comparison, compare, mismatches, side_of
from assay.harness.decide.items.imports import TaskPair, import_differences
from assay.harness.decide.stored_gate import find_baseline
from assay.harness.errors import NotComparable
from assay.harness.reports.json_values import comparison_json
from assay.harness.reports.tables import comparison_cells, comparison_markdown, table
from assay.harness.store import Run, find_run, read_run


def compare_command(
    baseline: Annotated[str, typer.Argument(help="Baseline run: id, unique prefix, model name, folder or named baseline.")],
    candidate: Annotated[str, typer.Argument(help="Candidate run: id, unique prefix, model name or folder.")],
    tasks: Annotated[str, typer.Option(help="Comma-separated list of tasks to compare. \\[default: all tasks of both runs]")] = "",
    items: Annotated[bool, typer.Option("--items", help="Show every item whose score changed, with both responses.")] = False,
    why: Annotated[bool, typer.Option("--why", help="List every setting that differs and makes the runs not comparable.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    results: Results = None,
    as_json: Json = False,
) -> None:
    """Compare two runs item by item: paired differences, confidence intervals, corrected p-values, lost and gained items.

    [dim]assay compare v1 candidate[/dim]
    """
    place = place_of(results)
    runs = (read_run(find_baseline(place.results, baseline)), read_run(find_run(place.results, candidate)))
    if why and ("imported" in runs[0].manifest) != ("imported" in runs[1].manifest):
        print_import_differences(import_differences(*runs, place.access(allow_partial=True)), runs, as_json)
        return
    one, two = (side_of(run, place.access(allow_partial=True)) for run in runs)
    if why:
        print_mismatches(mismatches(one, two, [name for name in one.tasks if name in two.tasks]), as_json)
        return
    found = compare(one, two, tasks=comma_list(tasks))
    flipped = flipped_items(found, runs) if items else []
    if as_json:
        print_json({**comparison_json(found), **({"items": flipped} if items else {})})
        return
    console = out()
    if markdown:
        console.print(comparison_markdown(found), markup=False, soft_wrap=True)
        return
    console.print(f"{two.model} ({two.run}) against {one.model} ({one.run}), in points", markup=False, soft_wrap=not console.is_terminal)
    console.print(table(*comparison_cells(found), console.width))
    for line in (*found.notes, *(f"{name}: scored in only one of the runs" for name in found.left_out)):
        console.print(line, style="yellow", markup=False, soft_wrap=not console.is_terminal)
    for item in flipped:
        console.print(f"\n{item['change']} {item['task']} {item['item']}  gold {item['gold']!r}", markup=False, soft_wrap=True)
        console.print(f"  baseline  {item['baseline']!r}\n  candidate {item['candidate']!r}", markup=False, soft_wrap=True)


def print_mismatches(found: tuple[Any, ...], as_json: bool) -> None:
    """Print every field that differs. Raises NotComparable (exit 12) if there is one."""
    if as_json:
        fields = ("task", "field", "baseline", "candidate")
        print_json({"comparable": not found, "mismatches": [{name: getattr(each, name) for name in fields} for each in found]})
    for each in found:
        if not as_json:
            out().print(str(each), markup=False, soft_wrap=True)
    if found:
        raise NotComparable(str(found[0]), do="score both models with the same settings")
    if not as_json:
        out().print("The runs are comparable: no setting differs.")


def print_import_differences(pairs: tuple[TaskPair, ...], runs: tuple[Run, Run], as_json: bool) -> None:
    """Print why an imported run and our own have other scores. Raises NotComparable (exit 12) if anything differs."""
    common = [each for pair in pairs for each in pair.found]
    differ = not common or any(each.cause for each in common)
    if as_json:
        found = [{"task": pair.tasks[0], **each} for pair in pairs for each in pair.mismatches()]
        print_json({"comparable": not differ, "mismatches": found, "tasks": [asdict(pair) for pair in pairs]})
    else:
        for line in (line for pair in pairs for line in pair.lines()):
            out().print(line, markup=False, soft_wrap=True)
    if differ:
        missing = "no items in common" if pairs else "no task in common, by its items' texts or by its name"
        raise NotComparable(
            "the runs differ in prompts, numbers or scoring" if common else missing,
            where=" and ".join(run.id for run in runs),
            do="score both with the prompts of one of them, or compare two runs of one tool",
        )


def flipped_items(found: Comparison, runs: tuple[Run, Run]) -> list[dict[str, Any]]:
    """Items whose score changed, with the gold answer and both responses."""
    samples_of_runs: list[dict[tuple[str, str], tuple[str, str]]] = []
    for run in runs:
        samples = run.table("samples.parquet")
        columns = [samples[name].to_pylist() for name in ("task", "item_id", "output", "gold")]
        samples_of_runs.append({(task, item): (output, gold) for task, item, output, gold in zip(*columns, strict=True)})
    rows = []
    for row in found.rows:
        for change, names in (("lost", row.lost), ("gained", row.gained)):
            for name in names:
                (one, gold), (two, _) = (outputs[row.task, name] for outputs in samples_of_runs)
                rows.append({"change": change, "task": row.task, "item": name, "gold": gold, "baseline": one, "candidate": two})
    return rows
