"""The command line: one function per verb, no logic.

Commands of other packages (tune, study, board) come through the entry-point group `assay.commands` and load when they are used.
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
    help="Scores language models and says, honestly, whether one is better or worse than another.",
)


PANELS = {
    "Score a model": ("demo", "run", "resume", "watch", "doctor"),
    "Is it better or worse?": ("compare", "gate", "baseline", "audit", "rerun"),
    "Look": ("board", "report", "store"),
    "Fine-tune: gain against forgetting": ("tune", "study"),
    "Tasks": ("tasks", "show", "check", "new-task"),
}
"""The commands of `assay --help` in reading order; a plugin's stand below."""


def tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"assay {metadata.version('assay')}")
        raise typer.Exit


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", callback=tell_version)] = False) -> None:
    pass


for module in (running, tasking, stored):
    module.register(app)


def extend(arguments: Sequence[str]) -> None:
    """Load the command that is asked for; where the list is wanted all are named, and stay unloaded."""
    asked = arguments[0] if arguments else "--help"
    for point in metadata.entry_points(group=GROUP):
        group, _, verb = point.name.rpartition(".")
        if group:  # a verb of a group that is here already, such as store.publish
            if asked == group:
                within(group).command(verb, help=summary(point))(load(point) if arguments[1:2] == [verb] else nothing)
        elif asked == point.name:
            add(point.name, load(point))
        elif asked in ("--help", "-h"):
            app.command(point.name, help=summary(point))(nothing)
    if asked in ("--help", "-h"):
        arrange()


def nothing() -> None:
    """Stands for a command that is only listed."""


def arrange() -> None:
    """Put every command into its panel, in reading order."""
    places = {verb: (number, panel) for number, (panel, verb) in enumerate((panel, verb) for panel in PANELS for verb in PANELS[panel])}
    entries: list[Any] = [*app.registered_commands, *app.registered_groups]
    for entry in entries:
        entry.rich_help_panel = places.get(str(entry.name), (0, "Commands"))[1]
    app.registered_commands.sort(key=lambda entry: places.get(str(entry.name), (len(places), ""))[0])


def load(point: metadata.EntryPoint) -> Any:
    """A command's function. Raises AssayError where it needs an extra that is not installed, or is a plugin that does not load."""
    owner = point.dist.name if point.dist is not None else "its package"
    where = f"assay {point.name.replace('.', ' ')}"
    try:
        return point.load()
    except ModuleNotFoundError as error:
        do = 'pip install "assay[board,tune]"' if owner == "assay" else f"mend or uninstall {owner}"
        raise AssayError(f"needs {error.name}, which is not installed", where=where, do=do) from None
    except (Exception, SystemExit) as error:  # a stranger's plugin may raise anything
        what = f"this plugin cannot be loaded: {type(error).__name__}: {error}"
        raise AssayError(what, where=where, do=f"mend or uninstall {owner}") from error


def within(group: str) -> typer.Typer:
    """A group of commands by name. Raises AssayError where there is none."""
    for known in app.registered_groups:
        if known.name == group and known.typer_instance is not None:
            return known.typer_instance
    raise AssayError(f"there is no group of commands {group!r}", where="assay.commands", do="mend the plugin's entry point")


def add(name: str, command: Callable[..., Any] | typer.Typer) -> None:
    """One command, or a group of them."""
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


def summary(point: metadata.EntryPoint) -> str:
    """The first line of a command's docstring, or a group's help, read without importing its module."""
    spec = find_spec(point.module)
    if spec is None:
        return f"does not load: there is no module {point.module}"
    try:
        return documented(ast.parse(Path(spec.origin or "").read_text(encoding="utf-8")), point.attr) or f"from {point.module}"
    except (OSError, ValueError, SyntaxError, RecursionError):  # no source, or none that can be read
        return f"from {point.module}"


def documented(module: ast.Module, name: str) -> str:
    """What a module's source says of a function or a group of commands; empty where it says nothing."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return (ast.get_docstring(node) or "").split("\n")[0]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.targets[0]) == name:
            return next((str(ast.literal_eval(each.value)) for each in node.value.keywords if each.arg == "help"), "")
    return ""


def main() -> None:
    """Run the command; every foreseen error is one line on stderr and the exit code of the contract."""
    try:
        extend(sys.argv[1:])
        code = app(prog_name="assay", standalone_mode=False)  # a verdict comes back as the code of typer.Exit
        sys.exit(code if isinstance(code, int) else 0)
    except AssayError as error:
        fail(str(error), error.exit_code)
    except typer.Abort:
        fail("interrupted", 130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not the parser's: a bug of ours, and the traceback is wanted
            sys.stderr.write(redact(traceback.format_exc()))
            sys.exit(1)
        if not error.format_message():  # no arguments: the help was shown
            sys.exit(2)
        fail(usage(error), 2)


def usage(error: Exception) -> str:
    """A usage error of the parser as one line that names the next step."""
    context = getattr(error, "ctx", None)
    asked = context.command_path if context is not None else "assay"
    message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
    return f"{message}{'' if message.endswith('?') else '.'} `{asked} --help` shows how"


def fail(text: str, code: int) -> None:
    """The error as one line on stderr (and as the one JSON object where JSON was asked for), then the exit code."""
    if "--json" in sys.argv:
        print_json({"error": text, "exit_code": code})
    err().print(f"[bold red]assay:[/] {rich_safe(text)}", soft_wrap=True)
    sys.exit(code)


def rich_safe(text: str) -> str:
    """Text from files and models is never read as markup; control characters are shown as spaces."""
    return "".join(character if character.isprintable() else " " for character in text).replace("[", "\\[")
