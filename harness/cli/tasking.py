"""assay tasks, show, new-task."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assay.harness.cli.console import out, print_json, warn_of_broken
from assay.harness.cli.options import Json
from assay.harness.errors import AssayError
from assay.harness.files.places import Access, surroundings
from assay.harness.prompt.render import render
from assay.harness.run.prepare import load_task
from assay.harness.run.selection import select
from assay.harness.store.plan import Plan
from assay.harness.task.catalogue import families, known_names, load_module, loadable_modules, plugin_of
from assay.harness.task.scaffold import draft
from assay.harness.task.task import Task


def register(app: typer.Typer) -> None:
    app.command("tasks")(tasks_command)
    app.command("show")(show_command)
    app.command("new-task")(new_task_command)


def tasks_command(
    name: Annotated[str, typer.Argument(help="Family or task to describe; lm-eval: the names of lm-evaluation-harness.")] = "",
    search: Annotated[str, typer.Argument(help="Word in the names to list, such as `lm-eval arc`.")] = "",
    as_json: Json = False,
) -> None:
    """List benchmark families, the tasks of one family, or lm-eval's tasks.

    [dim]assay tasks superglue[/dim]   [dim]assay tasks lm-eval arc[/dim]
    """
    if (find := getattr(plugin_of(name), "search", None)) is not None:
        library_names(name, find(search, surroundings().access()), as_json)
    elif search:
        raise AssayError(f"{name!r:.60} has no names to search", do=f"leave out {search!r:.40}, or use: assay tasks lm-eval {search:.40}")
    elif name:
        one_family(name, as_json)
    else:
        all_families(as_json)


def all_families(as_json: bool) -> None:
    modules, broken = loadable_modules()
    warn_of_broken(broken)
    listed = list(families(modules))
    lazy = {module: getattr(load_module(module), "NAMES", ()) for module in modules}
    if as_json:
        print_json(
            {
                "families": [
                    {"name": family.name, "about": family.about, "tasks": [task.full_name for task in family.tasks]} for _, family in listed
                ],
                "names": list(known_names(modules)),
            }
        )
        return
    console, table = out(), Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    rows = [(family.name, len(family.tasks), family.about) for _, family in listed]
    for module, names in lazy.items():
        if names:
            rows.append((names[0], sum("/" in name for name in names), (load_module(module).__doc__ or "").split("\n")[0]))
    for name, count, about in sorted(rows):
        table.add_row(Text(name), f"{count} task{'s' if count > 1 else ''}", Text(about))
    console.print(table)
    console.print("\n`assay tasks NAME` lists a family; `assay show TASK` prints its prompts.", style="dim")


def library_names(library: str, names: Sequence[Any], as_json: bool) -> None:
    """The tasks, groups and tags of another library by name."""
    if as_json:
        print_json({"names": [{"name": f"{library}:{each.name}", "kind": each.kind, "file": each.file} for each in names]})
        return
    lines = [f"{each.kind:5}  {library}:{each.name}" + (f"  ({len(each.members)} tasks)" if each.members else "") for each in names]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    out().print(f"\n{len(names):,} names. `assay run --tasks {library}:NAME` runs one.", style="dim", highlight=False)


def one_family(name: str, as_json: bool) -> None:
    selection = select([name], surroundings().access(allow_partial=True))
    facts = [task_facts(task) for task in selection.tasks]
    if as_json:
        print_json({"tasks": facts, "totals": [total.name for total in selection.totals]})
        return
    console = out()
    for fact in facts:
        console.print(
            f"[bold]{escape(fact['name'])}[/]  v{fact['version']}  {fact['ask']}  {escape(', '.join(fact['metrics']))}", soft_wrap=True
        )
        if len(facts) < 12 and fact["about"]:
            console.print(Padding(Text(fact["about"], "dim"), (0, 0, 0, 2)))
    for total in selection.totals:
        console.print(f"total [bold]{escape(total.name)}[/] over {len({term.task for term in total.terms})} tasks")


def task_facts(task: Task) -> dict[str, Any]:
    return {
        "name": task.full_name,
        "version": task.version,
        "ask": type(task.ask).__name__,
        "metrics": [metric.name for metric in task.metrics],
        "shots": task.shots.count,
        "about": task.about,
        "licence": task.licence,
        "citation": task.citation,
    }


def show_command(
    task: Annotated[str, typer.Argument(help="Task name or file.")],
    count: Annotated[int, typer.Option("-n", help="Number of items.")] = 3,
    shots: Annotated[int | None, typer.Option(help="Few-shot examples per prompt. \\[default: set by the task]")] = None,
    seed: Annotated[int, typer.Option(help="Random seed for few-shot examples.")] = 0,
    split: Annotated[str, typer.Option(help="Split to read. \\[default: set by the task]")] = "",
    as_json: Json = False,
) -> None:
    """Print prompts exactly as they are sent to the model.

    [dim]assay show glue/rte -n 1[/dim]
    """
    access = surroundings().access(allow_partial=True)
    plan = Plan(model="", tasks=(task,), shots=shots, seed=seed, split=split)
    shown = [item for each in select([task], access).tasks for item in rendered(each, plan, access, count)]
    if as_json:
        print_json({"items": shown})
        return
    console = out()
    for item in shown:
        console.rule(escape(f"{item['task']}  {item['id']}"), style="dim")
        console.print(item["prompt"], markup=False, soft_wrap=True, end="")
        for choice in item["continuations"]:
            gold = choice.strip() == item["gold"].strip()
            console.print(f"\n    {'→' if gold else ' '} {choice!r}", markup=False, soft_wrap=True, end="", style="green" if gold else "")
        if not item["continuations"]:
            console.print(f"\n    → {item['gold']!r}", markup=False, soft_wrap=True, end="", style="green")
        console.print()


def rendered(task: Task, plan: Plan, access: Access, count: int) -> list[dict[str, Any]]:
    """The prompts, choices and gold answers of the first items, including perturbed copies."""
    prepared, found = load_task(task, plan, access), []
    for number, doc in enumerate(prepared.docs[:count]):
        text = render(task, doc, prepared.examples(number))
        gold = doc.answer if doc.labelled else ""
        found.append({"task": task.full_name, "id": doc.id, "prompt": text.prompt, "continuations": list(text.continuations), "gold": gold})
    return found


def new_task_command(
    name: Annotated[str, typer.Argument(help="Name of the task: lower-case letters, digits and underscores.")],
    choose: Annotated[bool, typer.Option("--choose", help="Multiple choice instead of text generation.")] = False,
    folder: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    as_json: Json = False,
) -> None:
    """Create a task file of 15 lines with sample data and a test.

    [dim]assay new-task capitals[/dim]
    """
    written = draft(name, "choose" if choose else "generate", folder).write()
    if as_json:
        print_json({"task": name, "files": [str(path) for path in written]})
        return
    console = out()
    for path in written:
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
    task = os.path.relpath(written[0])
    console.print(
        f"\nNext: [bold]assay check {task}[/], then [bold]assay run --model builtin:smollm2-135m --tasks {task}[/]", soft_wrap=True
    )
