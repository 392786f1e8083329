"""The gate: verdicts, what can never pass, corrections, and its error rates in simulation."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from assay.harness.decide.compare import Side, compare
from assay.harness.decide.decision import Decision, expected_maximum, gate
from assay.harness.decide.policy import Policy, read_policy
from assay.harness.decide.stored_gate import Gate, append_gate, baselines, entry_of, gates, pair_key
from assay.harness.errors import AssayError, NotComparable
from assay.harness.reports.json_values import comparison_json, gate_json
from assay.harness.reports.pipelines import github, junit
from assay.harness.reports.tables import comparison_cells, comparison_markdown, gate_cells, gate_markdown, table
from assay.harness.stats.paired import mid_p
from assay.harness.store import StatTable
from assay.harness.task.metric import Metric
from assay.harness.task.task import Term, Total
from tests.sim.gate_size import limit, measure, power
from tests.sim.rules import MISTAKES, OTHERS, our_test, ours
from tests.sim.sides import flipped, right, side
from tests.sim.sides import table as stat_table

BASE = right(2000)


def decide(one: Side, two: Side, policy: Policy | None = None, **more: int) -> Decision:
    return gate(compare(one, two), policy or Policy(), **more)


def against(losses: int, wins: int = 0, n: int = 2000, **policy: object) -> Decision:
    scores = right(n)
    return decide(side({"a": scores}), side({"a": flipped(scores, losses, wins)}, "v2"), Policy.model_validate(policy))


@pytest.mark.parametrize(
    ("losses", "wins", "verdict"), [(0, 0, "pass"), (10, 12, "pass"), (25, 15, "inconclusive"), (80, 5, "regressed"), (0, 30, "pass")]
)
def test_the_three_verdicts(losses: int, wins: int, verdict: str) -> None:
    assert against(losses, wins).verdict == verdict


def test_exit_codes_are_those_of_the_contract() -> None:
    found = [against(*case) for case in ((0, 0), (80, 5), (25, 15))]
    assert [each.exit_code(Policy()) for each in found] == [0, 10, 11]
    assert [each.exit_code(Policy(on_inconclusive="pass")) for each in found] == [0, 10, 0]
    assert found[2].verdict == "inconclusive"


@pytest.mark.parametrize("n", [1, 2, 5, 20, 60, 297])
def test_identical_outputs_on_few_items_do_not_pass(n: int) -> None:
    assert against(0, 0, n).verdict == "inconclusive"


def test_identical_outputs_pass_from_the_least_number_of_items_on() -> None:
    assert against(0, 0, 298).verdict == "pass"


@pytest.mark.parametrize("copies", [1, 2, 5])
@pytest.mark.parametrize(("losses", "wins"), [(10, 12), (25, 15), (80, 5)])
def test_copies_of_items_within_their_clusters_keep_the_verdict(copies: int, losses: int, wins: int) -> None:
    def copied(scores: np.ndarray, name: str) -> Side:
        return side({"a": stat_table(np.repeat(scores, copies), np.repeat(np.arange(len(scores)), copies))}, name)

    once, more = against(losses, wins), decide(copied(BASE, "v1"), copied(flipped(BASE, losses, wins), "v2"))
    assert more.verdict == once.verdict and more.delta == pytest.approx(once.delta) and more.low == pytest.approx(once.low)


def test_swapping_the_runs_turns_the_sign_and_the_order_of_items_changes_nothing() -> None:
    one, two = side({"a": BASE, "b": BASE}), side({"a": flipped(BASE, 60, 20), "b": flipped(BASE, 5, 9)}, "v2")
    there, back = decide(one, two), decide(two, one)
    assert there.delta == pytest.approx(-(back.delta or 0)) and there.low == pytest.approx(-(back.high or 0), abs=1e-9)
    for first, second in zip(there.tasks, back.tasks, strict=True):
        found, turned = first.row.difference, second.row.difference
        assert (found.wins, found.losses, found.delta) == (turned.losses, turned.wins, -turned.delta)
    order = np.random.default_rng(2).permutation(len(BASE))

    def mixed(scores: np.ndarray) -> StatTable:
        table = stat_table(scores)
        names = (tuple(np.array(part)[order]) for part in (table.item_ids, table.groups, table.clusters))
        return StatTable(*names, table.stats[order])

    again = decide(one, side({"a": mixed(flipped(BASE, 60, 20)), "b": mixed(flipped(BASE, 5, 9))}, "v2"))
    assert again == there


def test_fewer_than_ten_clusters_never_pass() -> None:
    scores = stat_table(BASE, np.arange(2000) // 250)
    assert decide(side({"a": scores}), side({"a": scores}, "v2")).verdict == "inconclusive"


def test_smoke_limited_and_partial_evidence_never_passes() -> None:
    one, two = side({"a": BASE}), side({"a": BASE}, "v2")
    assert decide(one, two).verdict == "pass"
    for changed in ({"purpose": "smoke"}, {"evidence": "limited"}, {"evidence": "partial"}, {"evidence": "early-stopped"}):
        found = decide(one, replace(two, **changed))
        assert found.verdict == "inconclusive" and next(iter(changed.values())) in found.reasons[0]
    worse = side({"a": flipped(BASE, 200)}, "v2", evidence="limited")
    assert decide(one, worse).verdict == "regressed"


def test_missing_tasks_are_not_comparable_and_no_gated_task_never_passes() -> None:
    one, two = side({"a": BASE, "b": BASE}), side({"a": BASE}, "v2")
    with pytest.raises(NotComparable, match="b is missing"):
        decide(one, two)
    with pytest.raises(NotComparable, match="c is missing"):
        decide(one, one, Policy(tasks=("a", "c")))
    assert decide(one, two, Policy(tasks=("a",))).verdict == "pass"
    nothing = decide(two, two, Policy(advisory=("a",)))
    assert nothing.verdict == "inconclusive" and "every task is advisory" in nothing.reasons
    with pytest.raises(AssayError, match="not a task of these runs"):
        decide(two, two, Policy(critical=("nowhere",)))


def test_one_lost_task_fails_although_the_aggregate_is_fine() -> None:
    one = side(dict.fromkeys("abcdef", BASE))
    found = decide(one, side({name: flipped(BASE, 120 * (name == "c"), 10) for name in "abcdef"}, "v2"))
    assert found.verdict == "regressed" and found.reasons[0].startswith("c lost 5.5")
    lost = next(each for each in found.tasks if each.row.task == "c")
    assert lost.p_holm <= 0.025 and not lost.held


def test_a_small_loss_within_its_margin_is_a_note_not_a_failure() -> None:
    found = against(30, 4, margin=3.0)
    assert found.verdict == "pass" and any("smaller than the margin" in reason for reason in found.reasons)


def test_critical_tasks_must_exclude_a_loss_of_their_margin() -> None:
    scores = {"a": BASE, "b": right(60)}
    one, two = side(scores), side(scores, "v2")
    assert decide(one, two, Policy(weights={"a": 1})).verdict == "pass"
    found = decide(one, two, Policy(weights={"a": 1}, critical=("b",)))
    assert found.verdict == "inconclusive" and any("b: a loss of its margin is not excluded" in reason for reason in found.reasons)


def test_relative_guards_are_judged_by_the_interval() -> None:
    low = right(1500, 0.1)
    one, two = side({"a": low}), side({"a": flipped(low, 20, 0)}, "v2")
    policy = Policy(margin=5.0)
    assert decide(one, two, policy).verdict == "pass"
    guarded = decide(one, two, Policy(margin=5.0, relative={"a": 0.1}))
    assert guarded.verdict == "regressed" and guarded.tasks[0].margin == pytest.approx(10 * low.mean(), rel=0.01)
    unchanged = decide(one, side({"a": flipped(low, 9, 8)}, "v2"), Policy(margin=5.0, relative={"a": 0.03}))
    assert unchanged.verdict == "pass"


@pytest.mark.parametrize(
    ("weighting", "weights"), [("sqrt", [0.1667] * 4 + [0.3333]), ("equal", [0.125] * 4 + [0.5]), ("items", [0.2] * 5)]
)
def test_weights_come_from_the_numbers_of_items(weighting: str, weights: list[float]) -> None:
    one = side({**{f"mmlu/{n}": right(300, seed=n) for n in range(4)}, "rte": right(300)})
    found = decide(one, replace(one, run="v2", digest="other"), Policy.model_validate({"weighting": weighting}))
    assert [round(each.weight, 4) for each in found.tasks] == weights


def test_precision_weights_count_clusters() -> None:
    clustered = stat_table(right(1000), np.repeat(np.arange(100), 10))
    one = side({"a": clustered, "b": right(300)})
    found = decide(one, replace(one, run="v2", digest="other"), Policy(weighting="precision"))
    assert [each.weight for each in found.tasks] == [0.25, 0.75]


def test_totals_are_gated_like_tasks() -> None:
    total = Total("suite", tuple(Term(name, "acc", 0.5) for name in "ab"), scale=100.0)
    one = side({"a": BASE, "b": BASE}, totals=(total,))
    found = decide(one, side({name: flipped(BASE, 100) for name in "ab"}, "v2", totals=(total,)))
    row = next(each for each in found.tasks if each.row.total)
    assert found.verdict == "regressed" and row.weight == 0 and row.p_holm < 0.001 and row.row.difference.delta == pytest.approx(-0.05)
    assert row.margin == 3.0


def test_a_metric_without_bounds_is_gated_in_its_own_unit() -> None:
    bits = Metric("bits_per_byte", lambda doc, out: (0.0,), better="lower", high=None)
    rng = np.random.default_rng(0)
    base = rng.normal(1, 0.2, 400)
    one, same = side({"a": base}, metric=bits), side({"a": base + rng.normal(0, 0.01, 400)}, "v2", metric=bits)
    worse = side({"a": base + 0.05}, "v2", metric=bits)
    assert decide(one, same).verdict == "inconclusive"  # no margin was declared
    assert decide(one, same, Policy(margins={"a": 0.02})).verdict == "pass"
    assert decide(one, worse, Policy(margins={"a": 0.02})).verdict == "regressed"
    assert decide(one, same).delta is None


def test_the_report_names_tasks_with_low_power_and_the_items_needed() -> None:
    scores = {"big": BASE, "small": right(80)}
    found = decide(side(scores), side({"big": flipped(BASE, 60, 50), "small": flipped(right(80), 6, 6)}, "v2"))
    blind = {each.row.task: each.blind for each in found.tasks}
    assert blind == {"big": False, "small": True} and found.verdict == "inconclusive"
    assert found.needed_unchanged is not None and found.needed is not None and 2080 < found.needed_unchanged <= found.needed
    text = gate_markdown(found, compare(side(scores), side(scores, "v2")))
    assert "or more (80 % power)" in text and "to pass if nothing was lost: " in text


@pytest.mark.parametrize(("losses", "wins"), [(0, 0), (10, 12), (25, 15), (60, 5)])
def test_the_named_number_of_flips_changes_the_verdict_and_one_less_does_not(losses: int, wins: int) -> None:
    found = against(losses, wins)
    assert found.flips is not None

    def after(flips: int) -> set[str]:
        return {against(losses + flips, wins).verdict, against(max(0, losses - flips), wins + max(0, flips - losses)).verdict}

    assert after(found.flips) != {found.verdict}
    assert after(found.flips - 1) == {found.verdict}


def test_the_best_of_many_baselines_is_corrected() -> None:
    alone, best = against(30, 12), against(30, 12)
    assert alone.verdict == "regressed" and alone.tried == 1
    one, two = side({"a": BASE}), side({"a": flipped(BASE, 30, 12)}, "v2")
    best = decide(one, two, tried=10)
    assert best.verdict == "inconclusive" and best.tasks[0].p == pytest.approx(10 * alone.tasks[0].p)
    assert expected_maximum(10) == pytest.approx(1.5388, abs=0.01) and best.inflation > 0


def test_best_of_k_false_alarms_stay_below_alpha() -> None:
    rng, alarms, raw, trials = np.random.default_rng(3), 0, 0, 400
    shared = rng.random((trials, 1000)) < 0.9
    for keep in shared:
        runs = [np.where(keep, BASE[:1000], rng.random(1000) < 0.65) for _ in range(9)]
        best = max(runs[:8], key=lambda run: run.mean())
        wins, losses = int((runs[8] > best).sum()), int((runs[8] < best).sum())
        p = float(mid_p(wins, losses))
        raw += p <= 0.05
        alarms += 8 * p <= 0.05
    assert alarms <= trials * 0.05 + 3 * (trials * 0.0475) ** 0.5
    assert raw > trials * 0.1  # what it would be without the correction


def test_every_gate_is_recorded_in_order(tmp_path: Path) -> None:
    comparison = compare(side({"a": BASE}), side({"a": flipped(BASE, 30, 12)}, "v2"))
    key = pair_key(comparison.candidate.digest, comparison.baseline, ["a"])
    for attempt in (1, 2):
        decision = gate(comparison, Policy(), attempt=len(gates(tmp_path, key)) + 1)
        assert decision.attempt == attempt
        append_gate(tmp_path, entry_of(Gate(comparison, decision, Policy())))
    with (tmp_path / "gates.jsonl").open("a") as file:
        file.write('{"key": "torn')
    append_gate(tmp_path, entry_of(Gate(comparison, gate(comparison, Policy(), attempt=3), Policy())))
    assert [entry["attempt"] for entry in gates(tmp_path)] == [1, 2, 3]
    assert gates(tmp_path, "another pair") == ()
    assert "Attempt 3" in gate_markdown(gate(comparison, Policy(), attempt=3), comparison)


def test_a_policy_file_says_which_field_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text('margin = 0.5\ncritical = ["a"]\n[margins]\na = 2.0\n[relative]\na = 0.02\n')
    policy = read_policy(path)
    assert policy.margin == 0.5 and policy.margin_of("a", 65.0) == pytest.approx(1.3) and policy.margin_of("b", 65.0) == 3.0
    for text, word in (("margn = 1", "margn"), ("margin = -1", "margin"), ("margin = ", "TOML")):
        path.write_text(text)
        with pytest.raises(AssayError, match=word):
            read_policy(path)
    with pytest.raises(AssayError):
        read_policy(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("field", ["margin", "task_margin", "margins", "relative", "weights", "alpha", "tried"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1.0", "1e308", "1e-320", "true", "'1'", "9" * 26])
def test_invalid_numbers_are_refused_in_every_field_of_a_policy(field: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(f"[{field}]\na = {value}\n" if field in ("margins", "relative", "weights") else f"{field} = {value}\n")
    if (field, value) == ("weights", "1e-320"):
        assert against(0, 0, **read_policy(path).model_dump()).verdict == "pass"  # the only weight, however small
        return
    with pytest.raises(AssayError, match=field):
        read_policy(path)


def test_whole_numbers_are_margins_too(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("margin = 1\ntried = 2\n[margins]\na = 2\n[weights]\na = 0\n")
    assert read_policy(path) == Policy(margin=1.0, tried=2, margins={"a": 2.0}, weights={"a": 0.0})


def test_a_policy_is_a_plain_file_of_limited_size(tmp_path: Path) -> None:
    (tmp_path / "link.toml").symlink_to(tmp_path / "gate.toml")
    (tmp_path / "gate.toml").write_text("margin = 0.5\n")
    assert read_policy(tmp_path / "link.toml").margin == 0.5
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (Path("/dev/zero"), tmp_path / "pipe.toml", tmp_path):
        with pytest.raises(AssayError, match="not a regular file"):
            read_policy(path)
    (tmp_path / "gate.toml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(AssayError, match="bytes"):
        read_policy(tmp_path / "gate.toml")


GATES = ("7", "{}", "[]", "[" * 100_000, '{"key": "k", "candidate": 7}', '{"key": 1, "at": 2}', "\udcff", '{"key": "\\ud800"}')


@pytest.mark.parametrize("line", GATES, ids=range(len(GATES)))
def test_a_malformed_recorded_gate_is_one_clear_error(line: str, tmp_path: Path) -> None:
    comparison = compare(side({"a": BASE}), side({"a": BASE}, "v2"))
    append_gate(tmp_path, entry_of(Gate(comparison, gate(comparison, Policy()), Policy())))
    assert len(gates(tmp_path)) == 1
    with (tmp_path / "gates.jsonl").open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(AssayError, match=r"gates\.jsonl, line 2: is not a recorded gate"):
        gates(tmp_path)


BASELINES = ("7", "[" * 100_000, '{"v1": 7}', '{"\\ud800": {"run": "a", "at": "b"}}', "\udcff")


@pytest.mark.parametrize("text", BASELINES, ids=range(len(BASELINES)))
def test_malformed_baselines_are_one_clear_error(text: str, tmp_path: Path) -> None:
    assert baselines(tmp_path) == {}
    (tmp_path / "baselines.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(AssayError, match="not a valid list of baselines"):
        baselines(tmp_path)


def test_gates_and_baselines_are_read_from_plain_files_only(tmp_path: Path) -> None:
    for name, read in (("gates.jsonl", gates), ("baselines.json", baselines)):
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(AssayError, match="link"):
            read(tmp_path)


def test_reports_are_well_formed_and_finite() -> None:
    evil = "a|b<!--\n]]>&"
    one, two = side({evil: BASE, "tiny": [1.0]}), side({evil: flipped(BASE, 90), "tiny": [0.0]}, "v2 %0A::error::")
    comparison = compare(one, two)
    decision = gate(comparison, Policy())
    for value in (gate_json(decision, comparison, 10), comparison_json(comparison)):
        json.loads(json.dumps(value, allow_nan=False))
    suite = ElementTree.fromstring(junit(decision, comparison).split("\n", 1)[1])
    assert suite.get("failures") == "2" and len(suite) == 3
    lines = github(decision, comparison).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::error"] and "%250A" in lines[0]
    grid = gate_markdown(decision, comparison) + comparison_markdown(comparison)
    assert all(line.count("|") - line.count("\\|") in (11, 12) for line in grid.splitlines() if line.startswith("|"))
    assert table(*gate_cells(decision)).row_count == table(*comparison_cells(comparison)).row_count == 2


def test_seventy_tasks_and_thirty_thousand_items_take_under_two_seconds() -> None:
    scores = {f"t{n}/x": right(430, seed=n) for n in range(70)}
    two = {name: flipped(values, 20, 20) for name, values in scores.items()}
    start = time.process_time()  # the machine may be busy; `python -m tests.sim.gate_speed` measures the whole command
    found = decide(side(scores), side(two, "v2"))
    assert found.items == 30_100 and time.process_time() - start < 2.0


@pytest.mark.parametrize("kind", ["binary", "graded", "clustered"])
@pytest.mark.parametrize(("n", "churn"), [(300, 0.05), (1000, 0.01), (1000, 0.2)])
def test_both_error_rates_hold(kind: str, n: int, churn: float) -> None:
    for row in measure({"gate": ours, "tests": our_test}, kind, n, churn, 1000):
        assert row.rate <= limit(row.trials), row
    if row := power(kind, n, churn, 1000):
        assert 0.71 <= row.rate <= 0.91


@pytest.mark.parametrize(
    ("rule", "kind", "n", "churn", "error"),
    [
        ("Wald", "binary", 60, 0.05, "pass"),
        ("BCa bootstrap, one-sided 5 %", "binary", 60, 0.01, "pass"),
        ("percentile bootstrap, one-sided 5 %", "binary", 60, 0.01, "pass"),
        ("items of a passage as independent", "clustered", 1000, 0.2, "regressed"),
        ("items of a passage as independent", "clustered", 1000, 0.2, "pass"),
        ("t with one pseudo-discordance", "graded", 300, 0.05, "pass"),
        ("invarlock: Newcombe, regression unless non-inferior", "binary", 300, 0.2, "regressed"),
        ("statgate: BCa, block beyond the margin", "binary", 60, 0.01, "pass"),
        ("NeMo Evaluator gate: t interval, loss beyond the margin", "binary", 60, 0.01, "pass"),
    ],
)
def test_the_simulation_catches_wrong_rules(rule: str, kind: str, n: int, churn: float, error: str) -> None:
    trials = 8000 if "pseudo" in rule else 600
    worst = max(row.rate for row in measure({rule: {**MISTAKES, **OTHERS}[rule]}, kind, n, churn, trials) if row.error == error)
    assert worst > limit(trials)
