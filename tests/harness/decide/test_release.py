"""The gate in release workflows: watched trainings, the history of checkpoints, the pytest fixture, the example workflow."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes import make_model, place, write_task
from typer.testing import CliRunner

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.cli.history import trend_command
from assay.harness.cli.watch import watch_command
from assay.harness.decide.history import select_runs, sparkline, trend
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import gate_stored, gates, set_baseline
from assay.harness.engines.scripted import Answer, Scripted, draw, oracle

pytest_plugins = ["pytester"]
ROOT = Path(__file__).parents[3]
app = typer.Typer(pretty_exceptions_enable=False)
app.command("watch")(watch_command)
app.command("trend")(trend_command)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_task(tmp_path, 320)
    return tmp_path


def right(share: float) -> Answer:
    return oracle(lambda request: 1 if draw(getattr(request, "key", "")) < share else 2)


def score(home: Path, name: str, share: float = 0.0) -> str:
    """The id of a run of the model `name`: right on a share of the items, or by the engine that the command line opens too."""
    number = sum(map(ord, name))
    model = home / name if (home / name).exists() else make_model(home / name, seed=number)
    plan = Plan(model=str(model), tasks=(str(home / "sums.py"),), engine="scripted" if share else "scripted:hashed")
    more: dict[str, Any] = {"opener": lambda *_: Scripted(right(share))} if share else {}
    return evaluate(plan, place(home), **more).name


def command(home: Path, *arguments: str) -> tuple[int, Any]:
    found = CliRunner().invoke(app, [*arguments, "--results", str(home / "results"), "--json"])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, json.loads(found.stdout)


def test_a_watched_training_is_gated_checkpoint_by_checkpoint(home: Path) -> None:
    base = score(home, "base")
    for step in (1, 2):
        make_model(home / "training" / f"step-{step}", seed=step)
    policy = home / "gate.toml"
    policy.write_text("margin = 2.0\nsignal_tasks = 0\n")  # the scripted engine guesses
    watched = ("watch", str(home / "training"), "--gate", base, "--until", "2", "--pause", "0.01", "--policy", str(policy))
    code, found = command(home, *watched)
    assert [run["gate"]["candidates"] for run in found["runs"]] == [2, 2]  # alpha is divided by --until
    assert code == 0 and [run["gate"]["verdict"] for run in found["runs"]] == ["pass", "pass"]
    assert [entry["attempt"] for entry in gates(home / "results")] == [1, 1]
    make_model(home / "later" / "step-3", seed=3)
    best = score(home, "best", 0.95)
    done = (
        "watch",
        str(home / "later"),
        "--gate",
        best,
        "--until",
        "1",
        "--pause",
        "0.01",
        "--engine",
        "scripted:hashed",
        "--policy",
        str(policy),
    )
    code, found = command(home, *done)
    assert code == 10 and found["runs"][0]["gate"]["reasons"][0].startswith("sums lost") and found["runs"][0]["gate"]["margin"] == 2.0


def test_watching_needs_tasks_or_a_baseline(home: Path) -> None:
    found = CliRunner().invoke(app, ["watch", str(home)])
    assert isinstance(found.exception, AssayError) and "--gate" in str(found.exception)


def test_watching_takes_the_options_of_a_run_and_the_rest_from_the_baseline(home: Path) -> None:
    make_model(home / "training" / "step-1", seed=1)
    watched, sums = ("watch", str(home / "training"), "--until", "1", "--pause", "0.01"), str(home / "sums.py")
    given = ("--shots", "0", "--seed", "5", "--limit", "40", "--limit-order", "first", "--engine", "scripted:hashed")
    _, found = command(home, *watched, "--tasks", sums, *given)
    own = read_run(Path(found["runs"][0]["bundle"])).manifest["plan"]
    assert (own["shots"], own["seed"], own["limit"], own["limit_order"]) == (0, 5, 40, "first")
    _, found = command(home, *watched, "--gate", found["runs"][0]["run"], "--seed", "0", "--batch", "3")
    like = read_run(Path(found["runs"][0]["bundle"])).manifest["plan"]
    assert like == own | {"seed": 0, "batch": 3}
    several = CliRunner().invoke(app, [*watched, "--tasks", sums, "--shots", "0,1"])
    assert isinstance(several.exception, AssayError) and "every checkpoint gets one run" in str(several.exception)


def test_a_series_of_checkpoints_shows_scores_changes_and_verdicts(home: Path) -> None:
    results, access = home / "results", place(home).access()
    runs = [score(home, f"m-{step}", share) for step, share in ((1, 0.9), (2, 0.897), (10, 0.6))]
    for run in runs[1:]:
        gate_stored(results, run, runs[0], Policy(margin=4.0), access)
    points = trend(results, select_runs(results, (), "time"), access)
    assert [point.run for point in points] == runs
    assert [point.gate.get("verdict") for point in points] == [None, "pass", "regressed"]
    assert points[0].change is None and points[2].change is not None and -36 < points[2].change[0] < -24
    values = [point.scores["sums accuracy"][0] for point in points]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    named = select_runs(results, (str(home / "m-*"),), "name")
    assert [Path(run.model).name for run in named] == ["m-1", "m-2", "m-10"]
    assert [run.id for run in select_runs(results, (runs[1], f"{home}/m-10"), "time")] == runs[1:]
    assert trend(results, named, access, ["nothing"])[1].change is None
    code, found = command(home, "trend", str(home / "m-*"), "--by", "name")
    assert code == 0 and [point["gate"].get("verdict") for point in found["line"]] == [None, "pass", "regressed"]
    shown = CliRunner().invoke(app, ["trend", "--results", str(results)], env={"COLUMNS": "200"}).stdout
    assert "REGRESSED against" in shown and "██▁" in shown and "first" in shown
    with pytest.raises(AssayError, match="no complete run"):
        select_runs(results, ("nowhere",), "time")


@pytest.mark.parametrize(("values", "line"), [((0.0, 0.5, 1.0), "▁▅█"), ((1.0, 1.0), "▄▄"), ((0.0, None, 1.0), "▁ █"), ((), "")])
def test_sparklines(values: tuple[float | None, ...], line: str) -> None:
    assert sparkline(values) == line


def test_the_fixture_fails_a_test_whose_candidate_regressed(home: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_CACHE", str(home / "cache"))  # where the task file was named
    assert any(point.value == "assay.harness.cli.pytest_plugin" for point in metadata.entry_points(group="pytest11"))
    base, worse = score(home, "base", 0.95), score(home, "worse", 0.6)
    (home / "gate.toml").write_text("margin = 4.0\n")
    pytester.makepyfile(
        f"""
        import sys

        STORE = {str(home / "results")!r}

        def test_same(assay_gate):
            assert assay_gate({base!r}, {base!r}, results=STORE).verdict == "pass"

        def test_worse(assay_gate):
            assay_gate({worse!r}, {base!r}, policy={str(home / "gate.toml")!r}, results=STORE)

        def test_light(assay_gate):
            assert not {{"torch", "transformers", "vllm", "streamlit", "datasets"}} & set(sys.modules)
        """
    )
    found = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    found.assert_outcomes(passed=2, failed=1)
    found.stdout.fnmatch_lines(["*REGRESSED: *worse against *base*", "*sums lost*"])


def steps() -> dict[str, str]:
    """The shell of every named step of the example workflow."""
    import yaml

    workflow = yaml.safe_load((ROOT / "docs" / "release-gate.yml").read_text())
    return {step["name"]: step["run"] for step in workflow["jobs"]["gate"]["steps"] if "run" in step}


def test_the_example_workflow_installs_from_a_checkout_or_a_wheel() -> None:
    import yaml

    workflow = yaml.safe_load((ROOT / "docs" / "release-gate.yml").read_text())
    assert steps()["install"] == 'pip install "${ASSAY}[hf]"', "no index has a package of this name"
    assert workflow["env"]["ASSAY"].startswith("./") and workflow["jobs"]["gate"]["steps"][0]["with"] == {"submodules": True}


def stub(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(("share", "code"), [(0.0, 0), (0.95, 10)])
def test_the_steps_of_the_example_workflow_run_unchanged(home: Path, share: float, code: int) -> None:
    set_baseline(home / "results", "v1", score(home, "base", share))
    make_model(home / "new", seed=9)
    (home / "gate.toml").write_text("margin = 2.0\nsignal_tasks = 0\n")  # the scripted engine guesses
    python = f"PYTHONPATH={ROOT} exec {sys.executable} -m assay"
    stub(home / "bin" / "assay", f'if [ "$1" = run ]; then {python} "$@" --engine scripted:hashed; else {python} "$@"; fi')
    stub(home / "bin" / "gh", 'echo "$@" >> gh.log; case "$*" in *paginate*) cat old 2>/dev/null || true;; esac')
    mine = {"CANDIDATE": str(home / "new"), "TASKS": str(home / "sums.py"), "BASELINE": "v1", "POLICY": "gate.toml"}
    github = {"GITHUB_STEP_SUMMARY": str(home / "summary.md"), "GITHUB_REPOSITORY": "me/it", "PULL": "7", "ASSAY_RESULTS": "results"}
    path = f"{home / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(name: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **mine, **github, "PATH": path}
        return subprocess.run(["bash", "-e", "-c", steps()[name]], cwd=home, env=env, capture_output=True, text=True, check=False)

    assert run("score").returncode == 0
    gated = run("gate")
    assert gated.returncode == code, gated.stderr
    assert ("::error" if code else "::notice") in gated.stdout
    assert (home / "gate.md").read_text() == (home / "summary.md").read_text() and "<testsuite" in (home / "gate.xml").read_text()
    assert run("comment").returncode == 0
    assert "issues/7/comments -F body=@gate.md" in (home / "gh.log").read_text()
    (home / "old").write_text("42\n")
    assert run("comment").returncode == 0
    assert "PATCH repos/me/it/issues/comments/42" in (home / "gh.log").read_text()
