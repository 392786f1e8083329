"""The command line: one function per command, no logic.

Commands of other packages (tune, study, board) come from the entry-point group `assay.commands` and are imported only when they are called.
"""

from __future__ import annotations

import ast
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.harness.cli import running, stored, tasking
from assay.harness.cli.console import err, print_json
from assay.harness.errors import AssayError, redact
from assay.harness.task.catalogue import find_spec

GROUP = "assay.commands"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Evaluate language models and test whether one is better or worse than another.",
)


PANELS = {
    "Evaluate": ("demo", "run", "resume", "watch", "doctor"),
    "Compare": ("compare", "gate", "baseline"),
    "Results": ("board", "report", "store"),
    "Tasks": ("tasks", "show", "fetch", "new-task"),
    "Validate": ("check", "audit", "rerun"),
    "Fine-tune": ("tune", "forget", "study"),
}
"""The panels of `assay --help` and their commands, in order. Commands of plugins are listed below them."""


def print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"assay {metadata.version('assay')}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=print_version)] = False) -> None:
    pass


for module in (running, tasking, stored):
    module.register(app)


def extend(arguments: Sequence[str]) -> None:
    """Load the command that is called. For `--help`, list every command without loading it."""
    called = arguments[0] if arguments else "--help"
    for point in metadata.entry_points(group=GROUP):
        group, _, verb = point.name.rpartition(".")
        if group:  # a subcommand of an existing group, such as store.publish
            if called == group:
                find_group(group).command(verb, help=summary(point))(load(point) if arguments[1:2] == [verb] else not_loaded)
        elif called == point.name:
            add_command(point.name, load(point))
        elif called in ("--help", "-h"):
            app.command(point.name, help=summary(point))(not_loaded)
    if called in ("--help", "-h"):
        sort_into_panels()


def not_loaded() -> None:
    """Placeholder for a command that is listed but not loaded."""


def sort_into_panels() -> None:
    """Assign every command to its panel and sort the commands by panel."""
    places = {verb: (number, panel) for number, (panel, verb) in enumerate((panel, verb) for panel in PANELS for verb in PANELS[panel])}
    entries: list[Any] = [*app.registered_commands, *app.registered_groups]
    for entry in entries:
        entry.rich_help_panel = places.get(str(entry.name), (0, "Commands"))[1]
    app.registered_commands.sort(key=lambda entry: places.get(str(entry.name), (len(places), ""))[0])


def load(point: metadata.EntryPoint) -> Any:
    """Return a command's function. Raises AssayError if an extra is not installed or a plugin cannot be imported."""
    owner = point.dist.name if point.dist is not None else "its package"
    where = f"assay {point.name.replace('.', ' ')}"
    try:
        return point.load()
    except ModuleNotFoundError as error:
        do = 'pip install "assay[board,tune]"' if owner == "assay" else f"fix {owner}, or run: pip uninstall {owner}"
        raise AssayError(f"needs {error.name}, which is not installed", where=where, do=do) from None
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        what = f"this command cannot be loaded: {type(error).__name__}: {error}"
        do = "pip install --force-reinstall assay" if owner == "assay" else f"fix {owner}, or run: pip uninstall {owner}"
        raise AssayError(what, where=where, do=do) from error


def find_group(name: str) -> typer.Typer:
    """Return a group of commands by name. Raises AssayError if there is none."""
    for known in app.registered_groups:
        if known.name == name and known.typer_instance is not None:
            return known.typer_instance
    raise AssayError(f"unknown command group {name!r}", where="assay.commands", do="fix the entry point of the plugin")


def add_command(name: str, command: Callable[..., Any] | typer.Typer) -> None:
    """Add one command or a group of commands."""
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


def summary(point: metadata.EntryPoint) -> str:
    """Return the first line of a command's docstring, or a group's help, without importing its module."""
    spec = find_spec(point.module)
    if spec is None:
        return f"cannot be loaded: there is no module {point.module}"
    try:
        return help_in_source(ast.parse(Path(spec.origin or "").read_text(encoding="utf-8")), point.attr) or f"from {point.module}"
    except (OSError, ValueError, SyntaxError, RecursionError):  # no source, or not readable as Python
        return f"from {point.module}"


def help_in_source(module: ast.Module, name: str) -> str:
    """Return the help of a function or command group from its module's source; empty if it has none."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == name:
            return next((str(ast.literal_eval(each.value)) for each in node.value.keywords if each.arg == "help"), "")
    return ""


def main() -> None:
    """Run the command. An expected error prints one line on stderr and sets the exit code."""
    try:
        extend(sys.argv[1:])
        code = app(prog_name="assay", standalone_mode=False)  # typer.Exit(code) returns its code
        sys.exit(code if isinstance(code, int) else 0)
    except AssayError as error:
        fail(str(error), error.exit_code)
    except typer.Abort:
        fail("interrupted", 130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a usage error but a bug: print the traceback
            sys.stderr.write(redact(traceback.format_exc()))
            sys.exit(1)
        if not error.format_message():  # no arguments: the help has been printed
            sys.exit(2)
        fail(usage(error), 2)


def usage(error: Exception) -> str:
    """Return a usage error as one line that names the command for help."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "assay"
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return f"{message}{'' if message.endswith('?') else '.'} Try `{command} --help`"


def fail(text: str, code: int) -> None:
    """Print the error as one line on stderr (and as JSON on stdout with --json), then exit."""
    if "--json" in sys.argv:
        print_json({"error": text, "exit_code": code})
    err().print(f"[bold red]assay:[/] {rich_safe(text)}", soft_wrap=True)
    sys.exit(code)


def rich_safe(text: str) -> str:
    """Escape rich markup and replace control characters with spaces."""
    return "".join(character if character.isprintable() else " " for character in text).replace("[", "\\[")
