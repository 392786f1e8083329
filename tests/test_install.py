"""Installed is one package, `assay`; a project with folders and files of the same names as ours works. Run: pytest tests/test_install.py

The walk `project.sh` does the same from the wheel.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OURS = ("harness", "tasks", "tuners", "leaderboard")

GATED = """
def test_release(assay_gate):
    assert assay_gate is not None
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose own modules are called like our folders."""
    for folder in ("tasks", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("OWN = True\n")
    for name in ("harness.py", "leaderboard.py"):
        (tmp_path / name).write_text("OWN = True\n")
    (tmp_path / "tests" / "test_release.py").write_text(GATED)
    return tmp_path


def python(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")} | {"PYTHONPATH": "."}
    return subprocess.run([sys.executable, *arguments], cwd=home, env=environment, capture_output=True, text=True, check=False)


def test_only_assay_can_be_imported(tmp_path: Path) -> None:
    code = f"import assay, sys; assert not set({OURS!r}) & set(sys.modules); print(assay.exact_match.name)"
    assert python(tmp_path, "-c", code).stdout == "exact_match\n"
    for name in (*OURS, "tests"):
        assert "ModuleNotFoundError" in python(tmp_path, "-c", f"import {name}").stderr


def test_every_benchmark_is_listed_beside_a_projects_own_tasks(project: Path) -> None:
    found = python(project, "-m", "assay", "tasks")
    assert found.returncode == 0 and all(name in found.stdout for name in ("glue", "superglue", "mmlu", "helm", "bigbench")), found.stderr


def test_pytest_runs_in_a_project_with_a_harness(project: Path) -> None:
    found = python(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert found.returncode == 0 and "1 passed" in found.stdout, found.stdout + found.stderr


@pytest.mark.model
def test_the_demo_runs_in_such_a_project(project: Path) -> None:
    found = python(project, "-m", "assay", "demo")
    assert found.returncode == 0 and "smoke/glue/sst2" in found.stdout, found.stderr
