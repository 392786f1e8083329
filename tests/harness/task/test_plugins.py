"""A broken plugin is left out and reported; the others work. Run: pytest tests/harness/task/test_plugins.py"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FILE_TASK, NOWHERE

from assay import AssayError
from assay.harness.cli.exchanging import formats
from assay.harness.run.doctor import check_plugins
from assay.harness.run.selection import select
from assay.harness.task.catalogue import loadable_modules
from assay.harness.task.plugins import plugins

BROKEN = {
    "raises": "raise SystemExit('boom\\n::error::boom')\n",
    "gone.sub.module": None,
    "mistyped": "FAMILIES = (7,)\nNAMES = ('x',)\n",
    "nameless": "NAMES = 7\n",
    "exports": "EXPORTS = ['x']\n",
}


def install(site: Path, name: str, group: str, target: str, source: str | None) -> None:
    """A distribution with one entry point, as pip would leave it."""
    facts = site / f"{name}-1.5.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (facts / "entry_points.txt").write_text(f"[{group}]\n{name} = {target}\n")
    if source is not None:
        (site / f"{target.partition(':')[0]}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Broken plugins of every kind, and a sound one whose task is not called after its module."""
    folder = tmp_path / "site"
    for number, (module, source) in enumerate(BROKEN.items()):
        install(folder, f"broken{number}", "assay.tasks", module, source)
    install(folder, "fine", "assay.tasks", "zz_fine", FILE_TASK.replace("%d", "8").replace('"sums"', '"additions"'))
    install(folder, "engine", "assay.engines", "gone.engine:open", None)
    install(folder, "command", "assay.commands", "gone.command:run", None)
    install(folder, "odd", "assay.commands", "odd:run", "def run(:\n")
    monkeypatch.syspath_prepend(str(folder))
    for module in [*BROKEN, "zz_fine", "odd"]:
        monkeypatch.delitem(sys.modules, module, raising=False)
    return folder


def test_a_task_is_found_despite_broken_plugins(site: Path) -> None:
    assert [task.name for task in select(["additions"], NOWHERE).tasks] == ["additions"]
    assert {error.where for error in loadable_modules()[1]} == set(BROKEN)


def test_an_unknown_task_says_which_plugins_are_broken(site: Path) -> None:
    with pytest.raises(AssayError, match=r"unknown task 'nosuch'.* cannot be loaded \(assay doctor\)") as caught:
        select(["nosuch"], NOWHERE)
    assert all(module in caught.value.do for module in BROKEN)
    with pytest.raises(AssayError, match=r"raises: this task plugin cannot be imported: SystemExit: boom"):
        select(["raises/x"], NOWHERE)


def test_exports_need_no_broken_plugin(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"lm-eval", "glue-submission"} <= formats().keys()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(BROKEN) and all(line.startswith("warning: skipped plugin ") for line in lines)


def test_the_doctor_lists_plugins_with_their_distributions(site: Path) -> None:
    found = list(check_plugins(tuple(plugins())))
    told = {finding.what: finding for finding in found}
    assert any("assay.tasks builtin" in what and "assay.engines child, hf" in what for what in told)
    assert told["plugins of fine 1.5: assay.tasks fine"].level == "ok"
    faulty = [finding for finding in found if finding.level == "warn"]
    assert len(faulty) == len(BROKEN) + 2 and all("pip uninstall" in finding.remedy for finding in faulty)
    assert any("plugin assay.engines engine = gone.engine:open of engine 1.5 does not load" in finding.what for finding in faulty)
    assert all("\n" not in finding.what for finding in found)


def assay(home: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(home / "site"), os.environ.get("PYTHONPATH")))), "ASSAY_DATA": ""}
    found = subprocess.run([sys.executable, "-m", "assay", *arguments], capture_output=True, text=True, cwd=home, env=env)
    assert found.returncode == code, found.stderr[-2000:]
    assert "Traceback" not in found.stderr
    return found


def test_commands_work_and_name_the_broken_plugin(site: Path, tmp_path: Path) -> None:
    help_text = assay(tmp_path, "--help").stdout
    assert "there is no module gone.command" in help_text and "from odd" in help_text and "doctor" in help_text
    listed = assay(tmp_path, "tasks", "--json")
    assert {"glue", "zz_fine"} <= {family["name"] for family in json.loads(listed.stdout)["families"]}
    assert "warning: skipped plugin gone.sub.module: " in listed.stderr
    for verb in ("command", "odd"):
        assert f"pip uninstall {verb}" in assay(tmp_path, verb, code=2).stderr
