"""assay fetch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from assay.harness.cli.console import err, out, print_json
from assay.harness.cli.options import Json
from assay.harness.errors import AssayError
from assay.harness.files.download import Published
from assay.harness.files.places import surroundings
from assay.harness.run.selection import select
from assay.harness.task.catalogue import load_module, loadable_modules
from assay.harness.task.fetch import Fetched, Report, data_sets, fetch_data_set, fetch_file


def register(app: typer.Typer) -> None:
    app.command("fetch")(fetch_command)


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
    else:
        print_files(done, to)
    if faults:
        listed = "; ".join(f"{error.where} {error.what}. {error.do}" for error in faults)
        what = f"{len(faults)} data set{'s' * (len(faults) > 1)} could not be fetched: {listed}"
        raise AssayError(what, do="then repeat the command: what is there is kept")


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
