"""The house rules (DESIGN section 2), each a test. Run: pytest tests/test_house.py"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("harness", "tasks", "tuners", "leaderboard")
ALLOWED = {
    "harness": ("harness",),
    "tasks": ("tasks", "harness", "assay.harness.metrics"),
    "tuners": ("tuners", "harness", "assay.harness.run.stages", "assay.harness.metrics", "assay.harness.stats"),
    "leaderboard": ("leaderboard", "assay.harness.store", "assay.harness.stats", "assay.harness.task.metric", "assay.harness.errors"),
}
HEAVY = {
    "harness": {"torch", "transformers", "vllm", "ray", "datasets", "streamlit", "peft", "duckdb", "pyarrow"},
    "tasks": {"torch", "transformers", "vllm", "ray", "datasets", "streamlit"},
    "tuners": {"tasks", "leaderboard", "vllm", "streamlit"},
    "leaderboard": {"torch", "transformers", "vllm", "ray", "tasks", "tuners"},
}
FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def every_source() -> list[Path]:
    return [path for package in PACKAGES for path in sources(package)]


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package_only: bool = False) -> Iterator[tuple[int, str, bool]]:
    """(line, module, whether at the top of the file) of every import; TYPE_CHECKING blocks are not imports."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    inside = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
        if inner is not node
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) not in inside
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.lineno, node.module, id(node) not in inside


def faults_of_layering(path: Path, package: str, text: str) -> list[str]:
    """Imports in one file that the design forbids."""
    found = []
    for line, name, top in imports(ast.parse(text)):
        head = name.split(".")[0]
        if head in PACKAGES:
            if not top:
                found.append(f"{path}:{line} imports {name} inside a function")
            allowed = ALLOWED[package]
            ours = (
                head in (package,)
                or name in allowed
                or any(
                    name.startswith(f"{prefix}.")
                    for prefix in allowed
                    if prefix in ("assay.harness.metrics", "assay.harness.stats", "assay.harness.store")
                )
            )
            if not ours:
                found.append(f"{path}:{line} {package} may not import {name}")
        if top and head in HEAVY[package]:
            found.append(f"{path}:{line} {package} may not import {head} at the top")
    return found


def test_layers() -> None:
    faults = [fault for package in PACKAGES for path in sources(package) for fault in faults_of_layering(path, package, path.read_text())]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("harness", "import torch"),
        ("harness", "from assay.tasks import glue"),
        ("harness", "def late():\n    from assay.harness.task.doc import Doc"),
        ("tasks", "from assay.harness.engines import Engine"),
        ("tasks", "import vllm"),
        ("tuners", "from assay.tasks.glue import TASKS"),
        ("tuners", "from assay.harness.engines.hf.engine import open_engine"),
        ("tuners", "from assay.harness.task.catalogue import select"),
        ("leaderboard", "import tuners"),
        ("leaderboard", "from assay.harness.run.evaluate import evaluate"),
    ],
)
def test_the_layer_test_sees_a_forbidden_import(package: str, line: str) -> None:
    assert faults_of_layering(Path("x.py"), package, line)


def graph() -> dict[str, set[str]]:
    """Imports at module level between our own modules, `from package import module` resolved."""
    names = {module_of(path): path for path in every_source()}
    edges: dict[str, set[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text())
        edges[name] = set()
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module in names:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                edges[name] |= {other for other in whole if other in names} or {node.module}
    return edges


def test_no_import_cycle() -> None:
    edges, done, path = graph(), set(), []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for other in sorted(edges[name]):
            if cycle := visit(other):
                return cycle
        path.pop()
        done.add(name)
        return []

    for name in edges:
        assert not (cycle := visit(name)), " -> ".join(cycle)


def excused(text: str, line: int) -> bool:
    """An honest exception says why, in one comment `# house: ...` where it stands."""
    return "# house:" in text.splitlines()[line - 1]


def test_sizes() -> None:
    faults = []
    for path in every_source():
        text = path.read_text()
        if text.count("\n") > FILE_LINES and not excused(text, 1):
            faults.append(f"{path} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and not excused(text, node.lineno):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                parameters = len(node.args.args) + len(node.args.kwonlyargs)
                command = any("typer" in ast.dump(argument) for argument in [*node.args.args, *node.args.kwonlyargs])
                if size > FUNCTION_LINES and not command:
                    faults.append(f"{path}:{node.lineno} {node.name} has {size} lines")
                if parameters > PARAMETERS + ("self" in [a.arg for a in node.args.args]) and not command:
                    faults.append(f"{path}:{node.lineno} {node.name} has {parameters} parameters")
    assert not faults, "\n".join(faults)


def test_forbidden_constructs() -> None:
    banned_calls = {"eval", "exec", "__import__"}
    banned_modules = {"pickle", "dill", "marshal", "shelve", "joblib"}
    faults = []
    for path in every_source():
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            where = f"{path}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Global | ast.Nonlocal) and isinstance(node, ast.Global):
                faults.append(f"{where} global")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in banned_calls:
                faults.append(f"{where} {node.func.id}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("yaml.load", "torch.load", "np.random.seed", "random.seed"):
                faults.append(f"{where} {ast.unparse(node.func)}")
        faults += [f"{path}:{line} {name}" for line, name, _ in imports(ast.parse(text)) if name.split(".")[0] in banned_modules]
    assert not faults, "\n".join(faults)


def test_dataclasses_are_frozen_and_slotted() -> None:
    """One that changes must be slotted and say in its docstring what it holds."""
    faults = []
    for path in every_source():
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                shown = ast.unparse(decorator)
                if not shown.startswith(("dataclass", "dataclasses.dataclass")) or excused(text, decorator.lineno):
                    continue
                if "slots=True" not in shown or ("frozen=True" not in shown and not ast.get_docstring(node)):
                    faults.append(f"{path}:{node.lineno} {node.name} is not frozen and slotted")
    assert not faults, "\n".join(faults)


def test_no_module_is_named_after_a_dependency() -> None:
    taken = {"requests", "transformers", "datasets", "ray", "torch", "numpy", "scipy", "typing", "statistics", "random", "json", "csv"}
    faults = [str(path) for path in every_source() if path.stem in taken]
    assert not faults


def test_import_is_light_and_quick() -> None:
    code = (
        "import sys, time; start = time.process_time(); import harness; spent = time.process_time() - start;"
        f"heavy = {sorted(HEAVY['harness'])!r}; print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("face", ["harness", "assay.harness.run.stages"])
def test_public_face_has_docstrings(face: str) -> None:
    module = importlib.import_module(face)
    assert sorted(module.__all__) == list(module.__all__)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert (value.__doc__ or "").strip(), name


def test_every_module_says_what_it_is_for() -> None:
    missing = [str(path) for path in every_source() if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not missing
