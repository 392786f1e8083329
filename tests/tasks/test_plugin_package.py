"""A third-party task package: installed, found, checked and run by name. Run: pytest tests/tasks/test_plugin_package.py"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import make_model

PACKAGE = Path(__file__).parent.parent / "plugin_package"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed into `site`, without network access and without changing this environment."""
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PACKAGE, folder / "source")
    install = ("install", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q", "--target", "site")
    done = subprocess.run([sys.executable, "-m", "pip", *install, str(source)], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    make_model(folder / "model")
    return folder


def assay(home: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "PYTHONPATH": str(home / "site"),
        "ASSAY_RESULTS": str(home / "results"),
        "ASSAY_CACHE": str(home / "cache"),
        "ASSAY_DATA": "",
        "HF_HUB_OFFLINE": "1",
    }
    found = subprocess.run([sys.executable, "-m", "assay", *arguments], capture_output=True, text=True, cwd=home, env=env)
    assert found.returncode == code, found.stdout[-1000:] + found.stderr[-2000:]
    assert "Traceback" not in found.stderr
    return found


def test_its_tasks_are_listed(home: Path) -> None:
    found = json.loads(assay(home, "tasks", "--json").stdout)
    listed = {family["name"]: family["tasks"] for family in found["families"]}
    assert listed["colours"] == ["colours/shades", "colours/backwards"]
    assert "glue" in listed


def test_its_family_passes_check(home: Path) -> None:
    found = json.loads(assay(home, "check", "colours", "--json").stdout)
    assert [(task["task"], task["facts"]["items"]) for task in found["tasks"]] == [("colours/shades", 8), ("colours/backwards", 8)]
    assert found["counts"] == {"E": 0, "W": 0, "I": 0}
    assert found["tasks"][0]["facts"] | {"oracle": 1.0, "chance": 0.25, "shots": 2} == found["tasks"][0]["facts"]


def test_it_runs_by_name(home: Path) -> None:
    found = json.loads(assay(home, "run", "--model", "model", "--tasks", "colours/shades", "--engine", "scripted", "--json").stdout)
    (result,) = found["results"]
    assert (result["task"], result["metric"], result["n"], result["shots"]) == ("colours/shades", "accuracy", 8, 2)
    checked = json.loads(assay(home, "check", found["run"], "--json").stdout)
    assert checked["kind"] == "run" and checked["tasks"][0]["task"] == "colours/shades"
