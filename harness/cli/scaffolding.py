"""assay new-task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.console import out, print_json
from harness.cli.running import Json
from harness.scaffold import draft


def new_task_command(
    name: Annotated[str, typer.Argument(help="The task's name: small letters, digits and underscores.")],
    choose: Annotated[bool, typer.Option("--choose", help="Multiple choice instead of generated text.")] = False,
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a working task of 15 lines with its data and a test, to start from.

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
