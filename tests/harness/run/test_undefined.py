"""A score that its items do not define is null with its reason, in that cell alone; wide intervals are not shown and not ranked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, place

from assay import Doc, Regress, Task, evaluate, inline, read_run
from assay.harness.decide.compare import compare, side_of
from assay.harness.decide.decision import gate
from assay.harness.decide.policy import Policy
from assay.harness.engines.scripted import Scripted, constant, hashed
from assay.harness.files.places import Access
from assay.harness.metrics.regression import pearson
from assay.harness.reports.json_values import comparison_json, gate_json
from assay.harness.reports.results import notes, show_interval, show_number
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.store import check, index, query
from assay.harness.store.plan import Plan
from assay.leaderboard.data import queries
from tests.security.baits import rehash

TASKS = """
from assay import Choose, Doc, Family, Regress, Task, accuracy, inline
from assay.harness.metrics.choice import f1, mcc
from assay.harness.metrics.regression import pearson, spearman
from assay.harness.task.task import Term, Total

ROWS = [{"n": n} for n in range(40)]
RATE = Task("rate", inline(test=ROWS), lambda row: Doc(f"Rate {row['n']}:", value=float(row["n"] % 5)),
            Regress(("1", "2", "3"), (1.0, 2.0, 3.0)), (pearson, spearman))
PICK = Task("pick", inline(test=ROWS), lambda row: Doc(f"Pick {row['n']}:", choices=("no", "yes"), gold=row["n"] % 2),
            Choose(), (accuracy, mcc(), f1))
FAMILY = Family("both", (RATE, PICK), (Total("both", (Term("rate", "pearson", 0.5), Term("pick", "accuracy", 0.5)), scale=100.0),))
"""


def run(folder: Path, answer: Any, name: str = "model") -> Path:
    make_model(folder / name)
    (folder / "both.py").write_text(TASKS)
    plan = Plan(model=str(folder / name), tasks=(f"{folder / 'both.py'}",), engine="scripted")
    return evaluate(plan, place(folder), opener=lambda *_: Scripted(answer))


def results(bundle: Path) -> dict[tuple[str, str], Any]:
    return {(each["task"], each["metric"]): each for each in read_run(bundle).summary()["results"]}


def test_a_constant_model_has_all_other_scores(tmp_path: Path) -> None:
    bundle = run(tmp_path, constant())
    found = results(bundle)
    for key in (("rate", "pearson"), ("rate", "spearman"), ("both", "total"), ("pick", "mcc")):
        assert [found[key][name] for name in ("value", "low", "high", "method")] == [None, None, None, "undefined"], key
    assert "at least two different predictions" in found["rate", "pearson"]["reason"]
    assert found["both", "total"]["reason"].startswith("pearson of rate is undefined: ")
    assert found["pick", "accuracy"]["value"] == 0.5 and "reason" not in found["pick", "accuracy"]
    assert show_number(found["rate", "pearson"]["value"]) == "-" and show_interval(found["rate", "pearson"]) == "undefined"
    lines = notes(read_run(bundle).manifest, list(found.values()))
    assert any(line.startswith("rate: pearson is undefined: a correlation") for line in lines)


def test_it_is_stored_as_null_and_never_ranked(tmp_path: Path) -> None:
    bundle = run(tmp_path, constant())
    store = tmp_path / "results"
    assert query(store, "SELECT task, metric FROM scores WHERE value IS NULL ORDER BY ALL") == [
        ("both", "total"), ("pick", "mcc"), ("rate", "pearson"), ("rate", "spearman")
    ]  # fmt: skip
    assert query(store, "SELECT task FROM leaderboard") == [("pick",)]
    left = {row.task: row.reason for row in queries.unranked(store).itertuples()}
    assert left["rate"].startswith("undefined: a correlation") and left["both"].startswith("undefined: pearson of rate")
    assert not check(store, lambda run: recompute(run, Access()))
    assert index(store, verify=verify(Access())).trouble == {}
    assert bundle.is_dir()


def test_the_gate_is_inconclusive_for_it_and_compares_the_rest(tmp_path: Path) -> None:
    first, second = run(tmp_path, hashed(3)), run(tmp_path, constant(), "other")
    sides = [side_of(read_run(each), Access()) for each in (first, second)]
    comparison = compare(*sides)
    assert {(each.task, each.metric, each.side) for each in comparison.undefined} == {
        ("rate", "pearson", "candidate"), ("rate", "spearman", "candidate"), ("pick", "mcc", "candidate"), ("both", "total", "candidate")
    }  # fmt: skip
    assert {(row.task, row.metric) for row in comparison.rows} == {("pick", "accuracy"), ("pick", "f1")} - {
        (each.task, each.metric) for each in comparison.undefined
    }
    assert any(note.startswith("rate: pearson is undefined in the candidate: ") for note in comparison.notes)
    assert json.loads(json.dumps(comparison_json(comparison), allow_nan=False))["undefined"]
    decision = gate(comparison, Policy(margin=90.0))
    assert decision.verdict == "inconclusive" and any("rate: pearson is undefined" in reason for reason in decision.reasons)
    json.dumps(gate_json(decision, comparison, 11), allow_nan=False)
    alone = compare(*sides, tasks=("rate",))
    assert not alone.rows and gate(alone, Policy(tasks=("rate",))).verdict == "inconclusive"


def as_earlier(bundle: Path, **changes: Any) -> list[str]:
    """What is wrong with the run, stored as before tasks had `settings`, with these fields in every total and result without a score."""
    manifest, summary = (json.loads((bundle / name).read_text()) for name in ("manifest.json", "summary.json"))
    for task in manifest["tasks"]:
        task.pop("settings", None)
    for result in summary["results"]:
        result["signature"] = result["signature"].partition("|seed:")[0]
        if result["method"] in ("undefined", "of then"):
            result.update(method="of then", **changes)
            result.pop("reason", None)
        if wide := result.pop("wide", None):
            result.update(low=wide[0], high=wide[1], method="wilson")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "summary.json").write_text(json.dumps(summary))
    rehash(bundle)
    return [each.what for each in check(bundle.parents[1], lambda run: recompute(run, Access())) if "when computed" in each.what]


@pytest.mark.parametrize("value", [0.0, 12.5])
def test_a_run_of_an_earlier_version_that_stored_a_number_is_still_believed(tmp_path: Path, value: float) -> None:
    bundle = run(tmp_path, constant())
    assert not as_earlier(bundle, value=value, low=-0.1, high=20.0)
    found = as_earlier(bundle, n=7, evidence="partial")
    assert any(what.startswith("n of mcc on pick") for what in found) and any(what.startswith("evidence of total") for what in found)


def test_a_run_of_this_version_is_excused_nothing(tmp_path: Path) -> None:
    bundle = run(tmp_path, constant())
    summary = json.loads((bundle / "summary.json").read_text())
    summary["results"] = [each | ({"value": 0.0, "method": "wilson"} if each["metric"] == "mcc" else {}) for each in summary["results"]]
    (bundle / "summary.json").write_text(json.dumps(summary))
    rehash(bundle)
    assert [each for each in check(tmp_path / "results", lambda run: recompute(run, Access())) if "value of mcc" in each.what]


def test_a_wide_interval_is_kept_apart_and_out_of_ranks(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "few.py").write_text(TASKS.replace("range(40)", "range(6)"))
    plan = Plan(model=str(tmp_path / "model"), tasks=(str(tmp_path / "few.py"),), engine="scripted")
    bundle = evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(constant()))
    found = results(bundle)["pick", "accuracy"]
    assert (found["value"], found["low"], found["high"], found["method"]) == (0.5, None, None, "too few items")
    assert found["wide"][1] - found["wide"][0] > 0.5 and show_interval(found) == "too few items"
    assert query(tmp_path / "results", "SELECT * FROM leaderboard") == []
    assert "too few items" in set(queries.unranked(tmp_path / "results").reason)
    assert not as_earlier(bundle), "limits of earlier versions follow from the items"


def test_one_item_is_enough_for_every_kind_of_task(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "one.py").write_text(TASKS)
    plan = Plan(model=str(tmp_path / "model"), tasks=(str(tmp_path / "one.py"),), engine="scripted", limit=1)
    found = results(evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(hashed(1))))
    assert {key for key, each in found.items() if each["value"] is None} >= {("rate", "pearson"), ("pick", "mcc"), ("both", "total")}


def test_the_reason_is_the_metrics_own() -> None:
    task = Task("t", inline(test=[{}]), lambda row: Doc("x", value=1.0), Regress(("1",), (1.0,)), (replace(pearson, undefined="because"),))
    assert task.metrics[0].undefined == "because"
