"""Compare and gate end to end: scripted engines, the store, the command line. ASSAY_GATES=300 runs the full count of gates."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from fakes import make_model, place, save_lora, write_task
from typer.testing import CliRunner

from assay import Plan, evaluate
from assay.harness.cli.compare import compare_command
from assay.harness.cli.gate import baseline_command, gate_command
from assay.harness.decide.early_stopping import EarlyGate, gate_early, plan_like
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import baselines, find_baseline, gate_stored, gates, set_baseline
from assay.harness.engines import Engine, Settings
from assay.harness.engines.request import ScoreGroup
from assay.harness.engines.scripted import Answer, Fault, Scripted, draw, faulty, oracle
from assay.harness.errors import AssayError, Incomplete, NotComparable
from assay.harness.model.find import ModelRef
from assay.harness.reports.formatting import early_lines
from assay.harness.reports.json_values import early_json
from assay.harness.reports.pipelines import early_github, early_junit
from assay.harness.reports.tables import early_markdown
from assay.harness.run.evaluate import resume
from assay.harness.store import read_run

app = typer.Typer(pretty_exceptions_enable=False)
app.command("compare")(compare_command)
app.command("gate")(gate_command)
app.add_typer(baseline_command, name="baseline")
TRIALS = int(os.environ.get("ASSAY_GATES", "2"))


def skilled(seed: int, churn: float = 0.0, skill: float = 0.65, world: int = 0) -> Answer:
    """Right on a share `skill` of the items, the same ones for every seed but for a share `churn` that is drawn anew."""

    def gold(request: object) -> int | None:
        if not isinstance(request, ScoreGroup):
            return None
        moved = draw("moved", seed, world, request.key) < churn
        luck = draw("luck", seed if moved else 0, world, request.key)
        return 1 if luck < skill else 2

    return oracle(gold)


def score(home: Path, answer: Answer, model: str = "model", **plan: Any) -> Path:
    """One stored run of the task `sums` by a scripted engine."""

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        return Scripted(answer)

    task = home / "sums.py"
    return evaluate(Plan(model=str(home / model), tasks=(str(task),), engine="scripted", **plan), place(home), opener=opener)


def command(home: Path, *arguments: str) -> tuple[int, Any]:
    """Exit code and JSON of a command; the errors of the contract as main() reports them."""
    found = CliRunner().invoke(app, [*arguments, "--results", str(home / "results"), "--json"])
    if isinstance(found.exception, AssayError):
        return found.exception.exit_code, str(found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, json.loads(found.stdout)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for number, name in enumerate(("model", "other", "third", "fourth")):
        make_model(tmp_path / name, seed=number)
    write_task(tmp_path, 500)
    return tmp_path


def test_compare_and_gate_through_the_command_line(home: Path) -> None:
    base, same = score(home, skilled(1)), score(home, skilled(2, 0.02), "other")
    worse = score(home, skilled(3, 1.0, 0.4), "third")
    code, found = command(home, "compare", str(base), same.name, "--items")
    (row,) = found["results"]
    assert code == 0 and row["n"] == 500 and len(row["lost"]) == row["losses"] and len(found["items"]) == row["wins"] + row["losses"]
    assert all(item["baseline"] != item["candidate"] for item in found["items"])
    assert command(home, "baseline", "set", "v1", base.name)[0] == 0
    code, found = command(home, "gate", same.name, "--baseline", "v1", "--margin", "3")
    assert (code, found["verdict"], found["exit_code"], found["attempt"]) == (0, "pass", 0, 1)
    code, found = command(home, "gate", same.name, "--baseline", "v1", "--margin", "0.2")
    assert (code, found["verdict"], found["attempt"]) == (11, "inconclusive", 2) and found["needed"] > 500
    assert command(home, "gate", same.name, "--baseline", "v1", "--margin", "0.2", "--on-inconclusive", "pass")[0] == 0
    report, junit = home / "out" / "gate.md", home / "out" / "gate.xml"
    code, found = command(home, "gate", worse.name, "--baseline", "v1", "--markdown", str(report), "--junit", str(junit))
    assert (code, found["verdict"]) == (10, "regressed") and "sums lost" in found["reasons"][0]
    assert "REGRESSED" in report.read_text() and 'failures="2"' in junit.read_text()
    assert [entry["verdict"] for entry in gates(home / "results")] == ["pass", "inconclusive", "inconclusive", "regressed"]


def test_runs_that_do_not_compare_exit_with_12_and_say_why(home: Path) -> None:
    base = score(home, skilled(1))
    path = home / "sums.py"
    path.write_text(path.read_text().replace(" + {row['b']} =", " plus {row['b']} ="))
    changed = score(home, skilled(1), "other")
    code, text = command(home, "gate", changed.name, "--baseline", base.name)
    assert code == 12 and "sums: rendered prompts" in text
    assert command(home, "compare", base.name, changed.name, "--why")[0] == 12
    assert command(home, "compare", base.name, base.name, "--why") == (0, {"comparable": True, "mismatches": []})
    shorter = score(home, skilled(1), "third", limit=100)
    assert command(home, "gate", shorter.name, "--baseline", changed.name)[0] == 12


def test_limited_runs_never_pass_and_mistakes_are_usage_errors(home: Path) -> None:
    one, two = (score(home, skilled(1), model, limit=400) for model in ("model", "other"))
    code, found = command(home, "gate", one.name, "--baseline", two.name)
    assert code == 11 and "limited" in found["reasons"][0] and found["flips"] is None
    assert command(home, "gate", one.name, "--baseline", "nothing")[0] == 2
    assert command(home, "gate", one.name, "--baseline", two.name, "--margin", "-1")[0] == 2
    assert command(home, "gate", one.name, "--baseline", two.name, "--policy", str(home / "none.toml"))[0] == 2


def test_a_row_with_an_error_exits_with_13_and_is_no_verdict(home: Path) -> None:
    base = score(home, skilled(1))
    with pytest.raises(Incomplete, match="items failed"):
        score(home, faulty(skilled(1), Fault("fail", at=200)), "other")
    (failed,) = (path for path in (home / "results" / "runs").iterdir() if path != base)
    assert len(read_run(failed).records()) == 500
    assert command(home, "gate", failed.name, "--baseline", base.name)[0] == 13
    assert gates(home / "results") == ()
    resume(failed, place(home), opener=lambda *_: Scripted(skilled(1)))
    assert command(home, "gate", failed.name, "--baseline", base.name, "--margin", "3")[0] == 0


def test_a_policy_may_leave_out_the_protocol(home: Path) -> None:
    policy = Policy(critical=("sums",), margins={"sums@a": 2.0}, tasks=("none",))
    found = policy.with_full_names(["sums@a", "else@b"])
    assert (found.critical, found.margins, found.tasks) == (("sums@a",), {"sums@a": 2.0}, ("none",))
    with pytest.raises(AssayError, match="matches 2 tasks"):
        policy.with_full_names(["sums@a", "sums@b"])
    base = score(home, skilled(1))
    file = home / "gate.toml"
    file.write_text('margin = 3.0\ncritical = ["sums"]\n')
    assert command(home, "gate", base.name, "--baseline", base.name, "--policy", str(file))[0] == 0


def test_an_unfinished_run_exits_with_13(home: Path) -> None:
    base, half = score(home, skilled(1)), score(home, skilled(1), "other")
    (half / "DONE").unlink()
    code, text = command(home, "gate", half.name, "--baseline", base.name)
    assert code == 13 and "assay resume" in text


def test_the_best_of_several_baselines_is_found_in_the_store(home: Path) -> None:
    best, lower = score(home, skilled(1, 0.2)), score(home, skilled(2, 0.2, 0.6), "other")
    new = score(home, skilled(3, 0.2), "third")
    results, access = home / "results", place(home).access()
    assert gate_stored(results, new.name, best.name, Policy(), access).decision.tried == 2
    assert gate_stored(results, new.name, lower.name, Policy(), access).decision.tried == 1
    assert gate_stored(results, new.name, best.name, Policy(tried=7), access).decision.tried == 7


def test_models_scored_after_a_baseline_do_not_count_for_best_of_k(home: Path) -> None:
    results, access = home / "results", place(home).access()
    base = score(home, skilled(1, 0.2))
    later = [score(home, skilled(2, 0.2, 0.6), "other"), score(home, skilled(3, 0.2, 0.6), "third")]
    assert gate_stored(results, later[0].name, base.name, Policy(), access).decision.tried == 2  # no baseline is named: both models count
    (results / "gates.jsonl").unlink()
    shutil.rmtree(later[1])
    gate_stored(results, later[0].name, base.name, Policy(), access)
    third = score(home, skilled(3, 0.2, 0.6), "third")
    assert gate_stored(results, later[0].name, base.name, Policy(), access).decision.tried == 1
    (results / "gates.jsonl").unlink()
    shutil.rmtree(third)
    set_baseline(results, "v1", base.name)
    score(home, skilled(3, 0.2, 0.6), "third")
    assert gate_stored(results, later[0].name, "v1", Policy(), access).decision.tried == 1


def test_named_baselines(home: Path) -> None:
    bundle, results = score(home, skilled(1), limit=20), home / "results"
    assert set_baseline(results, "v1", bundle.name[:12]) == bundle.name
    assert baselines(results) == {"v1": bundle.name} and find_baseline(results, "v1") == find_baseline(results, bundle.name)
    with pytest.raises(AssayError):
        set_baseline(results, "a/b", bundle.name)


def test_the_gate_imports_nothing_heavy() -> None:
    code = "import assay.harness.cli.gate, assay.harness.cli.compare, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "vllm", "streamlit", "datasets", "transformers"} & set(loaded)


def early(home: Path, answer: Answer, base: Path, model: str = "other", fault: Fault | None = None, **policy: Any) -> EarlyGate:
    made = Scripted(faulty(answer, fault) if fault else answer)
    plan = plan_like(read_run(base), str(home / model))
    return gate_early(plan, read_run(base), Policy.model_validate(policy), place(home), opener=lambda *_: made)


def test_an_early_gate_stops_as_soon_as_it_is_clear_and_its_run_can_be_completed(home: Path) -> None:
    base = score(home, skilled(1))
    same = early(home, skilled(2, 0.02), base, margin=5.0)
    assert (same.verdict, same.planned) == ("pass", 500) and same.items <= 300
    broken = early(home, skilled(3, 1.0, 0.2), base, "third", margin=5.0)
    assert broken.verdict == "regressed" and broken.items <= 150
    whole = read_run(resume(same.bundle, place(home), opener=lambda *_: Scripted(skilled(2, 0.02))))
    assert whole.status == "complete" and len(whole.records()) == 500
    with pytest.raises(NotComparable):
        gate_early(plan_like(read_run(base), str(home / "other"), limit=50), read_run(base), Policy(), place(home))


@pytest.mark.parametrize("at", [3, 199])
def test_an_interrupted_early_gate_goes_on_and_decides_the_same(home: Path, at: int) -> None:
    base = score(home, skilled(1))
    whole = early(home, skilled(2, 0.1), base, "third", margin=5.0)
    results = home / "results"
    assert whole.items > at and [entry["looks"] for entry in gates(results)] == [list(whole.looks)]
    with pytest.raises(Incomplete):
        early(home, skilled(2, 0.1), base, margin=5.0, fault=Fault("fail", at=at))
    assert len(gates(results)) == 1  # what was interrupted has decided nothing
    score(home, skilled(5, 1.0, 0.5), "fourth")  # what is scored meanwhile is no part of it
    again = early(home, skilled(2, 0.1), base, margin=5.0)
    same = ("verdict", "items", "by", "looks", "delta", "low", "high", "tasks", "reasons")
    assert [getattr(again, name) for name in same] == [getattr(whole, name) for name in same]
    assert sum(path.is_dir() for path in (results / "runs").iterdir()) == 4
    assert len(read_run(again.bundle).records()) < 500


def test_an_early_gate_is_recorded_with_its_looks_and_attempt(home: Path) -> None:
    base, results = score(home, skilled(1)), home / "results"
    first = early(home, skilled(2, 0.02), base, margin=5.0)
    again = early(home, skilled(2, 0.02), base, margin=5.0)
    assert (first.attempt, again.attempt) == (1, 2) and again.bundle == first.bundle and again.verdict == first.verdict
    assert [entry["attempt"] for entry in gates(results)] == [1, 2]
    manifest = read_run(first.bundle).manifest["early_stop"]
    assert manifest["looks"] == list(range(50, 501, 50)) and set(first.looks) <= set(manifest["looks"])
    assert first.low is not None and first.delta is not None and first.low <= first.delta <= (first.high or 0)
    other = early(home, skilled(2, 0.02), base, margin=6.0)
    assert other.bundle != first.bundle and other.attempt == 3  # another design begins anew, and counts
    broken = early(home, skilled(3, 1.0, 0.2), base, "third", margin=5.0)
    assert gates(results)[-1]["lost"] == ["sums"] and "sums changed by -" in broken.reasons[1]
    text = "\n".join(early_lines(again))
    assert "Attempt 2" in text and "valid at every interim look" in text
    json.loads(json.dumps(early_json(again, 0), allow_nan=False))
    assert "<failure" in early_junit(broken, "head") and early_github(broken, "a: b").startswith("::error title=a%3A b::decided by")
    report = early_markdown(again, "PASS: new against v1")
    assert "of 500" in report and "Attempt 2" in report and report.startswith("<!-- assay gate -->\n### PASS")


def test_an_early_gate_is_corrected_for_the_best_of_several_and_refuses_what_it_cannot_decide(home: Path) -> None:
    base = score(home, skilled(1))
    score(home, skilled(9, 0.3, 0.5), "third")
    assert early(home, skilled(2, 0.02), base, margin=5.0).tried == 2
    assert early(home, skilled(2, 0.02), base, margin=5.0, tried=9).tried == 9
    for wrong in ({"critical": ("sums",)}, {"margins": {"sums": 2.0}}, {"relative": {"sums": 0.1}}):
        with pytest.raises(AssayError, match="needs every item"):
            early(home, skilled(2), base, **wrong)
    with pytest.raises(NotComparable):
        early(home, skilled(2), base, tasks=("nowhere",))


def test_an_early_gate_through_the_command_line(home: Path) -> None:
    plan = Plan(model=str(home / "model"), tasks=(str(home / "sums.py"),), engine="scripted:hashed")
    base = evaluate(plan, place(home))
    options = ("--early-stop", "--model", str(home / "other"), "--baseline", base.name, "--margin", "5")
    report, junit = home / "gate.md", home / "gate.xml"
    code, found = command(home, "gate", *options, "--markdown", str(report), "--junit", str(junit))
    assert (code, found["verdict"], found["exit_code"], found["evidence"]) == (0, "pass", 0, "early-stopped")
    assert found["items"] < found["planned"] == 500 and found["looks"] and found["tasks"][0]["task"] == "sums"
    assert "decided by" in report.read_text() and "<testsuite" in junit.read_text()
    assert gates(home / "results")[0]["candidate"]["run"] == found["run"]
    code, found = command(home, "gate", found["run"], "--baseline", base.name)
    assert code == 13  # it has no scores before it is completed


def test_an_early_gate_of_an_adapter_scores_the_adapter(home: Path) -> None:
    plan = Plan(model=str(home / "model"), tasks=(str(home / "sums.py"),), engine="scripted:hashed")
    base, adapter = evaluate(plan, place(home)), save_lora(home / "lora")
    options = ("--early-stop", "--model", str(home / "other"), "--adapter", str(adapter), "--baseline", base.name, "--margin", "5")
    code, found = command(home, "gate", *options)
    assert code == 0 and read_run(home / "results" / "runs" / found["run"]).manifest["model"]["name"] == f"{home / 'other'}+{adapter}"


def test_an_early_gate_on_limited_evidence_never_passes(home: Path) -> None:
    found = early(home, skilled(1), score(home, skilled(1), limit=400), margin=5.0)
    assert found.verdict == "inconclusive" and "cannot pass" in found.reasons[0]
    assert command(home, "gate", "--early-stop", "--baseline", "x")[0] == 2
    assert command(home, "gate", "x", "--model", "y", "--baseline", "x")[0] == 2


def test_unchanged_models_are_rarely_called_regressed(home: Path) -> None:
    verdicts = []
    for trial in range(TRIALS):
        base = score(home, skilled(1, 0.2, world=trial))
        new = score(home, skilled(2, 0.2, world=trial), "other")
        code, found = command(home, "gate", new.name, "--baseline", str(base))
        shutil.rmtree(home / "results")  # the index grows, and the next pair is another story
        assert {"pass": 0, "regressed": 10, "inconclusive": 11}[found["verdict"]] == code
        verdicts.append(found["verdict"])
    limit = {2: 2, 300: 28}.get(TRIALS, TRIALS)
    assert verdicts.count("regressed") <= limit  # 99.9 % of true 5 % gates stay within
    print(f"{verdicts.count('regressed')} of {TRIALS} gates at no change regressed, {verdicts.count('pass')} passed")
