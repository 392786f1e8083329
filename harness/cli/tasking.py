"""assay tasks, show, fetch, new-task."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from assay.harness.cli.console import err, out, print_json, warn_of_broken
from assay.harness.cli.options import Json
from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.download import Published
from assay.harness.files.places import Access, surroundings
from assay.harness.prompt.render import render
from assay.harness.run.prepare import load_task
from assay.harness.run.selection import select
from assay.harness.store.plan import Plan
from assay.harness.task.catalogue import families, known_names, load_module, loadable_modules, plugin_of
from assay.harness.task.fetch import Fetched, Report, data_sets, fetch_data_set, fetch_file
from assay.harness.task.scaffold import draft
from assay.harness.task.task import Task


def register(app: typer.Typer) -> None:
    app.command("tasks")(tasks_command)
    app.command("show")(show_command)
    app.command("fetch")(fetch_command)
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


def fetch_command(
    names: Annotated[list[str], typer.Argument(help="Tasks or suites, such as `core`.")],
    to: Annotated[Path, typer.Option("--to", help="Folder of the mirror; made if it is missing.")],
    as_json: Json = False,
) -> None:
    """Download the data of tasks into a folder for machines that are offline.

    [dim]assay fetch core --to data[/dim], then [dim]ASSAY_DATA=data assay run ...[/dim]
    """
    place = surroundings()
    if place.offline:
        raise AssayError(
            "fetching needs the network", where="HF_HUB_OFFLINE", do=f"HF_HUB_OFFLINE=0 assay fetch {' '.join(names)} --to {to}"
        )
    to.mkdir(parents=True, exist_ok=True)
    done: list[Fetched] = []
    faults: list[AssayError] = []
    with bars(as_json) as report:
        done += [fetch_file(path, source, to, report) for path, source in files_of(names).items()]
        tasks = select(names, replace(place.access(), data=to.resolve())).tasks
        for hub in data_sets(task.rows for task in tasks):
            try:
                done += fetch_data_set(hub, to, report)
            except AssayError as error:  # the other data sets are fetched all the same
                faults.append(error)
    if as_json:
        failed = [{"what": error.what, "where": error.where, "do": error.do} for error in faults]
        print_json({"to": str(to), "files": [{"file": each.file, "rows": each.rows, "new": each.new} for each in done], "failed": failed})
        raise typer.Exit(Incomplete.exit_code if faults else 0)
    print_files(done, to)
    if faults:
        listed = "; ".join(f"{error.where} {error.what} ({error.do})" for error in faults)
        what = f"{len(faults)} data set{'s' * (len(faults) > 1)} could not be fetched: {listed}"
        raise Incomplete(what, do=f"assay fetch {' '.join(names)} --to {to}")


def print_files(done: Sequence[Fetched], to: Path) -> None:
    new = [each for each in done if each.new]
    for each in new:
        out().print(each.file + (f"  {each.rows:,} rows" if each.rows else ""), markup=False, highlight=False, soft_wrap=True)
    counts = f"{len(new)} files fetched, {len(done) - len(new)} were there."
    out().print(f"{counts} Use them with ASSAY_DATA={to}", style="dim", soft_wrap=True)


def files_of(names: list[str]) -> Mapping[str, Published]:
    """Files that families need before their tasks can be selected, such as prompts that are data: the plugins' `find_files`."""
    found: dict[str, Published] = {}
    for module in loadable_modules()[0]:
        finder: Callable[[str], Mapping[str, Published]] | None = getattr(load_module(module), "find_files", None)
        if finder is not None:
            found |= {path: source for name in names for path, source in finder(name).items()}
    return found


@contextmanager
def bars(quiet: bool) -> Iterator[Report]:
    """Report downloads on stderr: a bar per file on a terminal, else a line."""
    console = err()
    if quiet:
        yield lambda name, done, whole: None
    elif not console.is_terminal:
        started: set[str] = set()

        def line(name: str, done: int, whole: int) -> None:
            if name not in started:
                started.add(name)
                console.print(f"fetching {name}", markup=False, highlight=False, soft_wrap=True)

        yield line
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            shown: dict[str, Any] = {}

            def bar(name: str, done: int, whole: int) -> None:
                if name not in shown:
                    shown[name] = progress.add_task(name, total=whole or None)
                progress.update(shown[name], completed=done, total=whole or None)

            yield bar
