"""A tie of k choices counts 1/k, unless the protocol lets the first win; ties are stored, counted and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import NOWHERE, make_model, place

from assay import Choose, Doc, evaluate, read_run
from assay.harness.engines.scripted import Scripted, uniform
from assay.harness.metrics.choice import accuracy, accuracy_per, exact_set, mcc
from assay.harness.run.scoring.measure import choice_scores, correctness, measured
from assay.harness.run.scoring.verify import recompute
from assay.harness.run.selection import select
from assay.harness.store import check
from assay.harness.store.plan import Plan
from tests.security.baits import rehash

DOC = Doc("q", choices=("aa", "bb", "cc", "dd"), gold=0)


def output(*sums: float, ties: str = "share"):  # type: ignore[no-untyped-def]
    return choice_scores(Choose(ties=ties), DOC, sums, (1,) * len(sums), ())  # type: ignore[arg-type]


def test_a_tie_of_k_counts_one_kth() -> None:
    for count in (2, 3, 4):
        found = output(*(-1.0 if n < count else -2.0 for n in range(4)))
        assert found.tied == tuple(range(count)) and found.pick == 0
        assert measured(accuracy, DOC, found) == (pytest.approx(1 / count),)
        assert measured(accuracy, replace(DOC, gold=3), found) == ((0.25,) if count == 4 else (0.0,))
    assert sum(measured(mcc(4), DOC, output(-1.0, -1.0, -2.0, -2.0))) == 1.0, "the cells of an item still sum to 1"
    assert measured(exact_set, DOC, output(-1.0, -1.0, -2.0, -2.0)) == (0.5,)
    assert measured(accuracy_per("chars"), DOC, output(-1.0, -1.0, -1.0, -1.0)) == (0.25,)


def test_rounding_makes_no_winner_and_a_small_difference_does() -> None:
    assert output(-0.3, -0.1 - 0.2, -1.0, -1.0).tied == (0, 1)
    assert output(-0.3, -0.300001, -1.0, -1.0).tied == ()


def test_a_protocol_may_let_the_first_win() -> None:
    found = output(-1.0, -1.0, -1.0, -1.0, ties="first")
    assert measured(accuracy, DOC, found) == measured(accuracy_per("chars"), DOC, found) == (1.0,)
    assert repr(Choose(ties="first")) == repr(Choose()), "fingerprints of earlier runs stay"
    (family,) = select(("glue",), NOWHERE).tasks[:1]
    assert isinstance(family.ask, Choose) and family.protocol == "lm-eval" and family.ask.ties == "first"


def test_soft_targets_share_too() -> None:
    doc = Doc("q", choices=("a", "b"), targets=(0.2, 0.6))
    assert correctness(None, doc, choice_scores(Choose(), doc, (-1.0, -1.0), (1, 1), ()), {}) == pytest.approx(0.4)  # type: ignore[arg-type]


TASK = """
from assay import Choose, Doc, Task, accuracy, inline

def doc(row):
    return Doc(f"Q{row['n']}:", choices=("aa", "bb", "cc", "dd"), gold=0)

TASKS = (Task("t", inline(test=[{"n": n} for n in range(20)]), doc, Choose(TIES), (accuracy,)),)
"""


@pytest.mark.parametrize(("ties", "value"), [("", 0.25), ('ties="first"', 1.0)])
def test_an_engine_that_knows_nothing_scores_at_chance(tmp_path: Path, ties: str, value: float) -> None:
    (tmp_path / "t.py").write_text(TASK.replace("TIES", ties))
    plan = Plan(model=str(make_model(tmp_path / "m")), tasks=(str(tmp_path / "t.py"),), engine="scripted")
    run = read_run(evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(uniform())))
    (result,) = run.summary()["results"]
    assert result["value"] == value and run.summary()["ties"] == {"t": 20}
    assert f"ties:{'first' if ties else 'share'}" in result["signature"]
    assert all(record.output["tied"] == [0, 1, 2, 3] and record.correct == value for record in run.records())
    assert not check(tmp_path / "results", lambda run: recompute(run, NOWHERE))


def test_runs_of_earlier_versions_are_verified_by_their_own_rule(tmp_path: Path) -> None:
    (tmp_path / "t.py").write_text(TASK.replace("TIES", 'ties="first"'))
    plan = Plan(model=str(make_model(tmp_path / "m")), tasks=(str(tmp_path / "t.py"),), engine="scripted")
    bundle = evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(uniform()))
    (tmp_path / "t.py").write_text(TASK.replace("TIES", ""))
    manifest, summary = (json.loads((bundle / name).read_text()) for name in ("manifest.json", "summary.json"))
    del manifest["tasks"][0]["ties"], summary["ties"]
    summary["results"][0]["signature"] = summary["results"][0]["signature"].replace(" ties:first", "")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "summary.json").write_text(json.dumps(summary))
    rehash(bundle)
    select((str(tmp_path / "t.py"),), NOWHERE)  # trusts the changed file
    assert recompute(read_run(bundle), NOWHERE)[0]["value"] == 1.0
