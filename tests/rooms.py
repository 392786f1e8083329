"""The rooms of each package and who imports whom, read from the source. A room imports only rooms on lower floors (DESIGN section 2)."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "tasks", "tuners", "leaderboard")

FLOORS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "harness": (
        ("errors",),
        ("files", "model"),
        ("engines", "store", "task"),
        ("metrics", "prompt", "stats"),
        ("run",),
        ("decide", "exchange"),
        ("reports",),
        ("checking",),
        ("cli",),
    ),
    "tuners": (("retention", "training"), ("methods",), ("study", "toy"), ("report",), ("callback", "commands")),
    "leaderboard": (("data",), ("charts", "demo"), ("commands", "documents", "serve"), ("pages",)),
}
"""From the ground up: folders, and the few files at the root of a package."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_of(path: Path, root: Path = ROOT) -> str:
    """The import name of a file: `harness/run/watch.py` is `assay.harness.run.watch`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(("assay", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def modules() -> dict[str, Path]:
    return {module_of(path): path for package in PACKAGES for path in sources(package)}


def imported(tree: ast.AST, names: Mapping[str, Path]) -> Iterator[str]:
    """Our own modules that a file imports, anywhere in it; `from package import module` is resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in names or node.module in names:
                    yield whole if whole in names else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)


def arrows(package: str) -> dict[tuple[str, str], list[str]]:
    """(importing room, imported room) -> the imports behind it, within one package."""
    names = modules()
    found: dict[tuple[str, str], list[str]] = {}
    for path in sources(package):
        for other in imported(ast.parse(path.read_text(encoding="utf-8")), names):
            if other.startswith(f"assay.{package}."):
                pair = (room_of(module_of(path)), room_of(other))
                if pair[0] != pair[1] and all(pair):
                    found.setdefault(pair, []).append(f"{path.relative_to(ROOT)} imports {other}")
    return found


def room_of(module: str) -> str:
    """The room in which a module lies: `run` for `assay.harness.run.watch`; empty for a package's own `__init__.py`."""
    return [*module.split("."), ""][2]


def floor_of(package: str) -> dict[str, int]:
    return {room: number for number, rooms in enumerate(FLOORS[package], 1) for room in rooms}


def purpose(package: str, room: str) -> str:
    """The first sentence of a room's docstring."""
    folder = ROOT / package / room
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
