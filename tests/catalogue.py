"""Pages written from the code: the catalogue, and each package's rooms and files. `python -m tests.catalogue` writes them anew."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assay.harness.task.catalogue import families, load_module, module_names
from assay.harness.task.fetch import data_sets, hubs_in
from assay.harness.task.task import Task
from assay.tasks import bbh
from tests.rooms import FLOORS, ROOT, floor_of, purpose

PAGE = ROOT / "tasks" / "CATALOGUE.md"
DATA = (
    "Every data set that the tasks above read, and where its id and config were checked: in published files of other tools and of "
    "repositories, not on the hub itself. `bbh` reads SaylorTwift/bbh, bigbench google/BIG-bench. `assay fetch NAME --to DIR` brings them."
)
MARKS = ("## Rooms", "## Files")


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows)])


def grouped(tasks: Iterable[Task]) -> Iterator[tuple[list[Task], tuple[str, ...]]]:
    """Group tasks that differ only in their rows."""
    groups: dict[tuple[str, ...], list[Task]] = {}
    for task in tasks:
        shots = f"{task.shots.count} ({task.shots.order})" if task.shots.count else "0"
        metrics = ", ".join(metric.name for metric in task.metrics)
        facts = (type(task.ask).__name__, metrics, shots, data_of(task), task.licence, task.citation)
        groups.setdefault((task.protocol, *facts), []).append(task)
    yield from ((group, key[1:]) for key, group in groups.items())


def shown(group: Sequence[Task]) -> str:
    first = group[0]
    if len(group) == 1:
        return f"`{first.full_name}`"
    names = ", ".join(task.name.rpartition("/")[2] for task in group[:3])
    return f"`{first.name.rpartition('/')[0]}/*@{first.protocol}`: {names}{', ...' if len(group) > 3 else ''} ({len(group)})"


def places() -> dict[str, dict[str, Any]]:
    """For every data set that a task reads: where its id and configs were checked, and what is to be known of it."""
    found: dict[str, dict[str, Any]] = json.loads((ROOT / "tasks" / "sources.json").read_text(encoding="utf-8"))
    return found


def is_checked(repo: str) -> bool:
    """Whether a data set's place was found in more than one public place, or its files have a published address and SHA-256."""
    checked = places()[repo]["checked"]
    return len(checked) > 1 or any("several" in text or "two public" in text or "SHA-256" in text for text in checked)


def data_of(task: Task) -> str:
    """Where the rows of a task come from: data sets, each checked or not; or generated, or in the package."""
    repos = list(dict.fromkeys(hub.repo for hub in hubs_in(task.rows)))
    if repos:
        return ", ".join(f"{repo} ({'checked' if is_checked(repo) else 'not checked'})" for repo in repos)
    return "generated" if type(task.rows).__name__ == "Generated" else "in the package"


def data_rows() -> Iterator[tuple[str, str, str, str]]:
    """(data set, revision, where it was checked, note) of every data set."""
    revisions = {hub.repo: hub for _, family in families() for hub in data_sets(task.rows for task in family.tasks)}
    revisions |= {hub.repo: hub for hub in data_sets([bbh.rows_of(bbh.SUBJECTS[0])])}
    for repo, facts in places().items():
        revision = f"`{revisions[repo].revision}`" if repo in revisions and revisions[repo].revision else "none"
        yield repo, revision, "; ".join(facts["checked"]) or "not checked", facts.get("note", "")


def tasks_of() -> Iterator[str]:
    seen: set[str] = set()
    for _, family in families():
        fresh = [task for task in family.tasks if task.full_name not in seen and task.purpose == "release"]
        seen |= {task.full_name for task in fresh}
        yield f"### {family.name}\n\n{family.about}\n"
        if fresh:
            yield grid(
                ("task", "request", "metrics", "shots", "data", "licence", "source"),
                ((shown(group), *facts) for group, facts in sorted(grouped(fresh), key=lambda pair: pair[0][0].name)),
            )
        if family.totals:
            yield "Totals: " + ", ".join(f"`{total.name}`" for total in family.totals) + "."
    for module in module_names():
        names = getattr(load_module(module), "NAMES", ())
        if names:
            yield f"### {names[0]}\n\n{(load_module(module).__doc__ or '').splitlines()[0]}\n"
            yield ", ".join(f"`{name}`" for name in names[1:])


def metrics_of() -> Iterator[tuple[str, str, str]]:
    """(name, file, first paragraph) of every public metric, from its docstring."""
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
        "# Catalogue\n\nGenerated by `python -m tests.catalogue`; a test checks that it is up to date.",
        "## Tasks",
        *tasks_of(),
        "## Data",
        DATA,
        grid(("data set", "revision", "checked in", "note"), data_rows()),
        "## Metrics",
        grid(("name", "module of `assay.harness.metrics`", "definition"), metrics_of()),
        "## Fine-tuning methods",
        grid(("name", "description"), methods_of()),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def map_of(package: str) -> str:
    """Every file of a package with the first sentence of its docstring."""
    rows = []
    for path in sorted((ROOT / package).rglob("*.py")):
        sentence = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
        rows.append((f"`{path.relative_to(ROOT / package)}`", sentence))
    return grid(("file", "purpose"), rows)


def rooms_of(package: str) -> str:
    """The rooms of a package, from the top floor down."""
    floors = floor_of(package)
    rows = [(str(floors[room]), f"`{room}`", purpose(package, room)) for room in sorted(floors, key=lambda room: (-floors[room], room))]
    return grid(("floor", "room", "what is in it"), rows)


def readme(package: str) -> tuple[Path, str]:
    """A package's README with its list of files regenerated; the text above the mark is written by hand."""
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
