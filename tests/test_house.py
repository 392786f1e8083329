"""The house rules (DESIGN section 2), each a test. Run: pytest tests/test_house.py"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import rooms
from tests.rooms import FLOORS, PACKAGES, ROOT, arrows, floor_of, imported, module_of, modules, sources

ALLOWED = {
    "harness": ("assay.harness",),
    "tasks": ("assay.tasks", "assay", "assay.harness.metrics"),
    "tuners": (
        "assay.tuners",
        "assay",
        "assay.harness.run.stages",
        "assay.harness.metrics",
        "assay.harness.stats",
        "assay.harness.decide",  # `assay forget` is a gate on two models
        "assay.harness.reports",
    ),
    "leaderboard": (
        "assay.leaderboard",
        "assay.harness.store",
        "assay.harness.stats",
        "assay.harness.task.metric",
        "assay.harness.task.task",
        "assay.harness.task.catalogue",  # the scenarios of a suite
        "assay.harness.decide",  # Compare shows the statistics and the verdict of `assay compare` and `assay gate`, not a second version
        "assay.harness.reports.formatting",
        "assay.harness.files.places",
        "assay.harness.errors",
    ),
}
HEAVY = {
    "harness": {"torch", "transformers", "vllm", "ray", "datasets", "streamlit", "peft", "duckdb", "pyarrow", "openai"},
    "tasks": {"torch", "transformers", "vllm", "ray", "datasets", "streamlit"},
    "tuners": {"vllm", "streamlit"},
    "leaderboard": {"torch", "transformers", "vllm", "ray"},
}
FILE_LINES, FUNCTION_LINES, PARAMETERS, ROOM_FILES, ROOMS, FLOOR_COUNT = 400, 60, 8, 15, 22, 9


def every_source() -> list[Path]:
    return [path for package in PACKAGES for path in sources(package)]


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
            found.append(f"{path}:{line} imports {name}: the package is `assay.{name}`")
        if head == "assay":
            if not top:
                found.append(f"{path}:{line} imports {name} inside a function")
            if not any(name == allowed or (name.startswith(f"{allowed}.") and allowed != "assay") for allowed in ALLOWED[package]):
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
        ("tasks", "from harness import Doc"),
        ("tuners", "from assay.tasks.glue import TASKS"),
        ("tuners", "from assay.harness.engines.hf.engine import open_engine"),
        ("tuners", "from assay.harness.task.catalogue import select"),
        ("leaderboard", "import tuners"),
        ("leaderboard", "from assay.harness.run.evaluate import evaluate"),
    ],
)
def test_the_layer_test_sees_a_forbidden_import(package: str, line: str) -> None:
    assert faults_of_layering(Path("x.py"), package, line)


@pytest.mark.parametrize("package", FLOORS)
def test_no_arrow_between_rooms_runs_up(package: str) -> None:
    floors = floor_of(package)
    up = {pair: lines for pair, lines in arrows(package).items() if floors[pair[0]] <= floors[pair[1]]}
    assert not up, "\n".join(line for lines in up.values() for line in lines)


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_stands_on_a_floor(package: str) -> None:
    entries = {path for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert {path.stem for path in entries} - {"__init__"} == set(floor_of(package))
    assert {room for pair in arrows(package) for room in pair} <= set(floor_of(package))


def test_the_house_is_small_enough_to_know() -> None:
    assert sum(map(len, FLOORS["harness"])) <= ROOMS and len(FLOORS["harness"]) <= FLOOR_COUNT
    assert {path.name for path in (ROOT / "harness").glob("*.py")} == {"__init__.py", "errors.py"}
    folders = Counter(path.parent for path in every_source())
    assert not [f"{folder}: {count} files" for folder, count in folders.items() if count > ROOM_FILES]


def test_the_room_test_sees_an_arrow_that_runs_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harness" / "run").mkdir(parents=True)
    (tmp_path / "harness" / "cli").mkdir()
    (tmp_path / "harness" / "cli" / "console.py").write_text("")
    (tmp_path / "harness" / "run" / "watch.py").write_text("def late():\n    from assay.harness.cli import console\n")
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    monkeypatch.setattr(rooms, "module_of", lambda path: module_of(path, tmp_path))
    assert list(arrows("harness")) == [("run", "cli")]


def graph() -> dict[str, set[str]]:
    """Imports between our own modules."""
    names = modules()
    return {name: set(imported(ast.parse(path.read_text()), names)) - {name} for name, path in names.items()}


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
        "import sys, time; start = time.process_time(); import assay; spent = time.process_time() - start;"
        f"heavy = {sorted(HEAVY['harness'])!r}; print([name for name in heavy if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("face", ["assay", "assay.harness.run.stages"])
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
