"""Pages written from the code: the catalogue, and each package's rooms and files. `python -m tests.catalogue` writes them anew."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from assay.harness.task.catalogue import families, load_module, module_names
from assay.harness.task.task import Task
from tests.rooms import FLOORS, ROOT, floor_of, purpose

PAGE = ROOT / "tasks" / "CATALOGUE.md"
MARKS = ("## Rooms", "## Files")


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows)])


def alike(tasks: Iterable[Task]) -> Iterator[tuple[list[Task], tuple[str, ...]]]:
    """Tasks that differ only in their rows, together."""
    groups: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        shots = f"{task.shots.count} ({task.shots.order})" if task.shots.count else "0"
        facts = (type(task.ask).__name__, ", ".join(metric.name for metric in task.metrics), shots, task.licence, task.citation)
        groups.setdefault((task.protocol, *facts), []).append(task)
    yield from ((group, key[1:]) for key, group in groups.items())


def shown(group: Sequence[Task]) -> str:
    first = group[0]
    if len(group) == 1:
        return f"`{first.full_name}`"
    names = ", ".join(task.name.rpartition("/")[2] for task in group[:3])
    return f"`{first.name.rpartition('/')[0]}/*@{first.protocol}`: {names}{', ...' if len(group) > 3 else ''} ({len(group)})"


def tasks_of() -> Iterator[str]:
    seen: set[str] = set()
    for _, family in families():
        fresh = [task for task in family.tasks if task.full_name not in seen and task.purpose == "release"]
        seen |= {task.full_name for task in fresh}
        yield f"### {family.name}\n\n{family.about}\n"
        if fresh:
            yield grid(
                ("task", "asks", "metrics", "shots", "licence", "source"),
                ((shown(group), *facts) for group, facts in sorted(alike(fresh), key=lambda pair: pair[0][0].name)),
            )
        if family.totals:
            yield "Totals: " + ", ".join(f"`{total.name}`" for total in family.totals) + "."
    for module in module_names():
        names = getattr(load_module(module), "NAMES", ())
        if names:
            yield f"### {names[0]}\n\n{(load_module(module).__doc__ or '').splitlines()[0]}\n"
            yield ", ".join(f"`{name}`" for name in names[1:])


def metrics_of() -> Iterator[tuple[str, str, str]]:
    """(name, file, first sentence) of every public metric, from the docstring that stands under it."""
    for path in sorted((ROOT / "harness" / "metrics").glob("[!_]*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        public: set[str] = set()
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.FunctionDef):
                name, text = node.name, ast.get_docstring(node) or ""
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
                under = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                text = str(after.value.value) if under else ""  # type: ignore[union-attr]
            else:
                continue
            if name == "__all__" and isinstance(node, ast.Assign):
                public = set(ast.literal_eval(node.value))
            elif name in public and text:
                yield name, path.stem, text.strip().split("\n\n")[0]


def methods_of() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "tuners" / "methods").glob("*/[!_]*.py")):
        yield path.stem, (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]


def page() -> str:
    parts = [
        "# The catalogue\n\nWritten by `python -m tests.catalogue`; a test compares it with the code.",
        "## Tasks",
        *tasks_of(),
        "## Metrics",
        grid(("name", "in `assay.harness.metrics`", "what it is"), metrics_of()),
        "## Fine-tuning methods",
        grid(("name", "what it is"), methods_of()),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def map_of(package: str) -> str:
    """Every file of a package with the first sentence of its docstring."""
    rows = []
    for path in sorted((ROOT / package).rglob("*.py")):
        sentence = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
        rows.append((f"`{path.relative_to(ROOT / package)}`", sentence))
    return grid(("file", "what it is for"), rows)


def rooms_of(package: str) -> str:
    """The rooms of a package, from the top floor down."""
    floors = floor_of(package)
    rows = [(str(floors[room]), f"`{room}`", purpose(package, room)) for room in sorted(floors, key=lambda room: (-floors[room], room))]
    return grid(("floor", "room", "what is in it"), rows)


def readme(package: str) -> tuple[Path, str]:
    """A package's README with its list of files made anew; what stands above the mark is written by hand."""
    path = ROOT / package / "README.md"
    text = path.read_text(encoding="utf-8")
    start = min((text.index(f"\n{mark}\n") for mark in MARKS if f"\n{mark}\n" in text), default=-1)
    assert start >= 0, f"{path} has no line {MARKS[-1]}"
    rooms = f"\n{MARKS[0]}\n\n{rooms_of(package)}\n" if package in FLOORS else ""
    return path, f"{text[:start]}{rooms}\n{MARKS[1]}\n\n{map_of(package)}\n"


def pages() -> dict[Path, str]:
    return {PAGE: page(), **dict(readme(package) for package in ("harness", "tasks", "tuners", "leaderboard"))}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
