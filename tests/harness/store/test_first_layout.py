"""Runs that were stored before the package was called `assay` stay readable, with the same numbers. Run: pytest tests/harness/store

`first_layout/` holds four bundles of that time: a model and a candidate with 4-bit weights on helm/dyck/3, a task named by its former
module (`tuners.toy:MAX`), and a task file that imports `harness`. `expected.json` has what the commands of that time printed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from typer.testing import CliRunner

from assay.harness.cli import app, extend
from assay.harness.metrics.text import best, exact_match, exact_match_indicator
from assay.harness.store import query
from assay.harness.task.task import Task
from assay.tasks import helm
from assay.tasks._helm.synthetic import DYCK_TASKS

HERE = Path(__file__).parent / "first_layout"
EXPECTED = json.loads((HERE / "expected.json").read_text())
BASE, CANDIDATE, TOY, FILE = sorted(path.name for path in (HERE / "runs").iterdir())


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # users have no `tuners` on the path: pytest puts the repository there
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).parents[3]])
    shutil.copytree(HERE / "runs", tmp_path / "results" / "runs")
    return tmp_path / "results"


@pytest.fixture
def former_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """HELM's dyck task with its metric of that time, which did not strip the response."""
    measure = best(lambda gold, text: float(gold.split(" ")[-1].strip() == text.split(" ")[-1].strip()))
    former = replace(exact_match_indicator, measure=measure, signature="helm|after:space")
    task = replace(DYCK_TASKS[0], metrics=(former, exact_match))

    def with_former(tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        return tuple(task if each in DYCK_TASKS else each for each in tasks)

    monkeypatch.setattr(helm, "FAMILIES", tuple(replace(each, tasks=with_former(each.tasks)) for each in helm.FAMILIES))
    monkeypatch.setattr(helm, "TASKS", with_former(helm.TASKS))


def command(results: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    extend(arguments)
    found = CliRunner().invoke(app, [*arguments, "--results", str(results), "--json"])
    return found.exit_code, json.loads(found.stdout)


@pytest.mark.usefixtures("former_metric")
def test_scores_and_gate_are_those_of_that_time(results: Path) -> None:
    assert command(results, "store", "index")[0] == 0
    scores = query(results, f"SELECT run_id, task, metric, value, low, high, n, shots FROM scores WHERE run_id <> '{FILE}' ORDER BY ALL")
    assert [list(row) for row in scores] == EXPECTED["scores"]
    code, gate = command(results, "gate", CANDIDATE, "--baseline", BASE)
    assert code == 10 and {name: gate[name] for name in EXPECTED["gate"]} == EXPECTED["gate"]
    code, compared = command(results, "compare", BASE, CANDIDATE)
    assert code == 0 and {name: compared["results"][0][name] for name in EXPECTED["change"]} == EXPECTED["change"]


@pytest.mark.usefixtures("former_metric")
def test_stored_answers_still_give_their_scores(results: Path) -> None:
    """Re-scoring passes for all but the run whose task file is not trusted here, which is named with what to do."""
    assert command(results, "store", "index")[0] == 0
    code, found = command(results, "store", "check")
    assert code == 14 and ["words.py" in problem["where"] for problem in found["problems"]] == [True]
    shutil.rmtree(results / "runs" / FILE)
    assert command(results, "store", "index")[0] == 0
    assert command(results, "store", "check") == (0, {"problems": []})


def test_runs_whose_metric_has_changed_are_named(results: Path) -> None:
    assert command(results, "store", "index")[0] == 0
    _, found = command(results, "store", "check")
    told = [problem["what"] for problem in found["problems"] if "dyck" in problem["where"]]
    changed = "metrics was exact_match_indicator helm|after:space, is exact_match_indicator helm|strip|after:space here"
    assert told == [changed, changed]
    assert query(results, "SELECT count(*) FROM leaderboard WHERE task LIKE 'helm/dyck%'") == [(0,)]


@pytest.mark.usefixtures("former_metric")
def test_the_board_ranks_them(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(results, "store", "index")[0] == 0
    monkeypatch.setenv("ASSAY_RESULTS", str(results))
    root = Path(__file__).parents[3]
    page = AppTest.from_file(str(root / "leaderboard" / "pages" / "app.py"), default_timeout=60).run()
    assert not page.exception and "helm/dyck/3" in str([element.value for element in page.markdown]) + str(page.main)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("from harness import Doc, Task, Said", "from assay import Doc, Task, Completion"),
        ("from harness.metrics.choice import macro_f1", "from assay.harness.metrics.choice import macro_f1"),
        ("import tuners.toy", "import assay.tuners.toy"),
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["no such module", "a module of the user's of that name"])
def test_a_former_import_is_one_error_with_the_new_line(tmp_path: Path, old: str, new: str, own: bool) -> None:
    if own:
        (tmp_path / "harness.py").write_text("")
        (tmp_path / "tuners.py").write_text("")
    (tmp_path / "capitals.py").write_text(f'"""A task."""\n\n{old}\n')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}
    for name in ("capitals.py", "capitals:TASKS"):
        command = [sys.executable, "-m", "assay", "check", name]
        found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert found.returncode == 2 and f"the package is now called `assay`, not `{old.split()[1].split('.')[0]}`" in found.stderr
        assert found.stderr.strip().endswith(f"write: {new}") and "capitals" in found.stderr and ":3" in found.stderr
