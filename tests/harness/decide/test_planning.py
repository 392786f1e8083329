"""Planning a gate, explaining a policy or the check of another tool, the shipped policies, and the script of the GitHub Action."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest

from assay.harness.decide.planning.explain import Check, explain_policy, explained_cells, gate_rates, read_explained
from assay.harness.decide.planning.plan import plan_gate, plan_lines, suite_facts
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.errors import AssayError
from tests.sim.gate_tasks import draw, verdicts

ROOT = Path(__file__).parents[3]
CHECKS, POLICIES = sorted((ROOT / "docs/checks").glob("*.toml")), sorted((ROOT / "harness/decide/policies").glob("*.toml"))
SCRIPT = ROOT / ".github/actions/assay-gate/gate.sh"


@pytest.mark.parametrize("sizes", [(500,) * 5, (2000,) * 5])
def test_a_plan_names_the_power_and_the_items_that_simulation_confirms(sizes: tuple[int, ...]) -> None:
    facts = [(f"t{n}", size, 10 * size, True) for n, size in enumerate(sizes)]
    plan = plan_gate(facts, Policy(), "quantised")

    def power(scale: float) -> float:
        suite = draw(np.random.default_rng(1), 2000, np.round(np.array(sizes) * scale).astype(int), plan.churn, np.zeros(len(sizes)))
        return float((verdicts(suite) == 0).mean())

    assert plan.power == pytest.approx(power(1.0), abs=0.05) and power(plan.factor) == pytest.approx(0.8, abs=0.05)
    assert plan.needed == (round(plan.factor * sum(sizes) + 0.5), round(10 * plan.factor * sum(sizes) + 0.5))


def test_a_plan_prefers_one_task_with_cheap_items_and_ignores_tasks_at_chance() -> None:
    plan = plan_gate([("long", 4000, 4_000_000, True), ("short", 4000, 40_000, True), ("noise", 9000, 90, False)], Policy(), "engine")
    assert plan.cheapest is not None and plan.cheapest.task == "short" and plan.cheapest.alone == 619
    text = "\n".join(plan_lines(plan))
    assert "noise" in text and "--tasks short --limit 619" in text
    with pytest.raises(AssayError, match="better than chance on no task"):
        plan_gate([("noise", 100, 100, False)], Policy(), "engine")
    with pytest.raises(AssayError, match="unknown kind"):
        plan_gate([("a", 100, 100, True)], Policy(), "other")


def test_a_suite_has_the_main_scores_of_a_run_with_their_signal() -> None:
    plain = {"main": True, "value": 0.6, "n": 100, "low": 0.5}
    results = [{"task": "a", **plain, "chance": 0.4}, {"task": "b", **plain, "chance": 0.5}, {"task": "a", **plain, "main": False}]
    assert suite_facts(results, {"a": 900, "b": 800}) == [("a", 100, 900, True), ("b", 100, 800, False)]


@pytest.mark.parametrize("path", CHECKS, ids=lambda path: path.stem)
def test_every_check_of_the_page_is_explained_as_the_page_says(path: Path) -> None:
    rates = explain_policy(*read_explained(path))
    (line,) = [line for line in (ROOT / "docs/checks/README.md").read_text().splitlines() if f"| `{path.name}`" in line]
    by_loss = {each.loss: each for each in rates}
    cells = [cell.strip() for cell in line.split("|")]
    alarm, missed = (float(cells[at].split(" %")[0]) for at in (2, 3))
    assert alarm == pytest.approx(100 * (by_loss[0.0].fails or 0.0), abs=0.06)
    assert missed == pytest.approx(100 * (1 - (by_loss[2.0].fails or 0.0)), abs=0.06)
    assert by_loss[0.0].regressed <= 0.05 and len(explained_cells(rates)[1]) == len(rates)
    regressed, passed = (float(text.split(" %")[0]) for text in cells[5].split(" / "))
    assert (regressed, passed) == pytest.approx((100 * by_loss[0.0].regressed, 100 * by_loss[0.0].passed), abs=0.06)


def test_a_check_fails_as_often_as_its_noise_says() -> None:
    check = Check(items=200, score=0.8, threshold=0.78, noise=0.01, checks=3)
    scores = np.random.default_rng(0).normal(0.8 - 0.01, 0.01, (100_000, 3))
    assert check.fails(1.0) == pytest.approx((scores < 0.78).any(axis=1).mean(), abs=0.01)
    fresh = Check(items=200, score=0.8, threshold=0.75, two_sided=True)
    drawn = np.random.default_rng(0).binomial(200, 0.8, 100_000) / 200
    assert fresh.fails(0.0) == pytest.approx((abs(drawn - 0.8) > 0.05).mean(), abs=0.02)


def test_the_gate_of_an_explained_policy_errs_at_most_at_its_level() -> None:
    for items, churn in ((300, 0.1), (2000, 0.05)):
        assert gate_rates(Policy(), items, churn, 0.0)[1] <= 0.05 and gate_rates(Policy(), items, churn, 1.0)[0] <= 0.056


def test_a_wrong_field_of_a_check_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "check.toml"
    path.write_text("[check]\nitems = 200\nscore = 80\nthreshold = 0.7\n")
    with pytest.raises(AssayError, match="score: "):
        read_explained(path)
    path.write_text("margins = 1\n")
    with pytest.raises(AssayError, match="margins"):
        read_explained(path)


@pytest.mark.parametrize("path", POLICIES, ids=lambda path: path.stem)
def test_every_shipped_policy_is_valid(path: Path) -> None:
    assert read_policy(path).alpha == 0.05


@pytest.mark.parametrize(("code", "verdict"), [(0, "pass"), (10, "regressed"), (11, "inconclusive"), (12, "")])
def test_the_script_of_the_action_ends_as_the_gate_does(code: int, verdict: str, tmp_path: Path) -> None:
    called = tmp_path / "called"
    fake = tmp_path / "bin" / "assay"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {called}\nif [ "$1" = run ]; then echo \'{{"run": "r1"}}\'; exit 0; fi\nexit {code}\n')
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    out = tmp_path / "outputs"
    given = {"CANDIDATE": "new model", "TASKS": "a,b", "BASELINE": "v1", "POLICY": "gate.toml", "ARGUMENTS": "--margin 2"}
    ours = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(out), "GITHUB_ACTIONS": "true"}
    done = subprocess.run(["bash", str(SCRIPT)], cwd=tmp_path, env={**os.environ, **given, **ours}, check=False)
    assert done.returncode == code and out.read_text() == f"verdict={verdict}\ncode={code}\n"
    run, gate = called.read_text().splitlines()
    assert run == "run --model new model --tasks a,b --json"
    assert gate == "gate r1 --baseline v1 --markdown gate.md --junit gate.xml --policy gate.toml --github --margin 2"
