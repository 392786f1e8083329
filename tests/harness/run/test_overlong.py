"""Items longer than the context: refused with their count before anything runs, skipped, or cut on the left; shown, and not complete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, make_model, place

from assay import AssayError, evaluate, read_run
from assay.harness.decide.compare import compare, side_of
from assay.harness.decide.decision import gate
from assay.harness.decide.policy import Policy
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.errors import NotComparable
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.reports.results import notes
from assay.harness.run.scoring.verify import recompute
from assay.harness.store import Run, check, query
from assay.harness.store.plan import Plan

ASKS = {
    "choose": 'doc=lambda row: Doc(row["p"], choices=("yes", "no"), gold=row["n"] % 2), ask=Choose(), metrics=(accuracy,)',
    "generate": 'doc=lambda row: Doc(row["p"], references=("yes",)), ask=Generate(4), metrics=(exact_match,)',
    "regress": 'doc=lambda row: Doc(row["p"], value=float(row["n"])), ask=Regress(("1", "2"), (1.0, 2.0)), metrics=(pearson,)',
}
TASK = """
from assay import Choose, Doc, Generate, Regress, Task, accuracy, exact_match, inline
from assay.harness.metrics.regression import pearson
ROWS = [{"n": n, "p": f"Text {n}: " + "word " * (200 if n == 7 else 5) + "Is it short?"} for n in range(30)]
TASKS = (Task("t", inline(test=ROWS), HOW),)
"""


def run(folder: Path, ask: str, overlong: str, positions: int = 300, engine: str = "scripted", name: str = "m", seed: int = 3) -> Run:
    (folder / "t.py").write_text(TASK.replace("HOW", ASKS[ask]))
    plan = Plan(str(make_model(folder / name, seed, positions)), (str(folder / "t.py"),), engine=engine, overlong=overlong, device="cpu")
    opener: Any = {} if engine == "hf" else {"opener": lambda *_: Scripted(hashed(seed))}
    return read_run(evaluate(plan, place(folder), **opener))


@pytest.mark.parametrize("ask", ASKS)
def test_by_default_nothing_runs_and_the_count_is_told(tmp_path: Path, ask: str) -> None:
    with pytest.raises(AssayError, match=r"1 of 30 prompts are longer than the model's context of 300 tokens .*--overlong skip") as error:
        run(tmp_path, ask, "error")
    assert error.value.exit_code == 2 and not (tmp_path / "results").exists()


@pytest.mark.parametrize("engine", ["scripted", "hf"])
@pytest.mark.parametrize("ask", ASKS)
def test_skipped_items_are_stored_counted_and_shown(tmp_path: Path, ask: str, engine: str) -> None:
    found = run(tmp_path, ask, "skip", engine=engine)
    (task,) = found.manifest["tasks"]
    assert task["overlong"] == {"rule": "skip", "items": 1} and task["evidence"] == found.manifest["evidence"] == "overlong"
    (record,) = [each for each in found.records() if each.status == "skipped"]
    assert "more than the model's context" in record.error and not record.stats
    assert found.summary()["statuses"]["skipped"] == 1 and found.summary()["results"][0]["n"] == 29
    assert "t: 1 of 30 items do not fit the model's context: skipped." in notes(found.manifest, found.summary()["results"])
    assert query(tmp_path / "results", "SELECT * FROM leaderboard") == []
    assert query(tmp_path / "results", "SELECT count(*) FROM samples WHERE error <> ''") == [(1,)]
    assert not check(tmp_path / "results", lambda run: recompute(run, NOWHERE))


@pytest.mark.parametrize("engine", ["scripted", "hf"])
@pytest.mark.parametrize("ask", ASKS)
def test_a_cut_prompt_keeps_its_end_and_is_what_is_stored(tmp_path: Path, ask: str, engine: str) -> None:
    found = run(tmp_path, ask, "truncate-left", engine=engine)
    (item,) = [each for each in found.items() if "cut" in each.doc]
    assert item.prompt.endswith("word Is it short?") and len(item.prompt) < 310
    tokenizer = open_tokenizer(tmp_path / "m")
    (ids,) = tokenizer.encode([item.prompt])
    room = 300 - 4 if ask == "generate" else 300
    assert len(ids) == room - {"choose": 4, "generate": 0, "regress": 2}[ask], "as much as fits beside the longest answer"
    assert found.summary()["results"][0]["n"] == 30 and found.manifest["tasks"][0]["overlong"] == {"rule": "truncate-left", "items": 1}
    assert not check(tmp_path / "results", lambda run: recompute(run, NOWHERE))


def test_the_gate_takes_it_as_complete_only_if_both_did_the_same(tmp_path: Path) -> None:
    one, two = run(tmp_path, "choose", "skip"), run(tmp_path, "choose", "skip", name="other", seed=4)
    sides = [side_of(each, NOWHERE) for each in (one, two)]
    assert compare(*sides).evidence == "complete"
    third = side_of(run(tmp_path, "choose", "skip", positions=4096, name="long"), NOWHERE)
    assert third.evidence == "complete"
    with pytest.raises(NotComparable):
        compare(sides[0], third)
    forged = replace(sides[1], tasks={"t": {**sides[1].tasks["t"], "overlong": {"rule": "truncate-left", "items": 1}}})
    decision = gate(compare(sides[0], forged), Policy(margin=90.0))
    assert decision.verdict == "inconclusive" and any("the evidence is overlong" in reason for reason in decision.reasons)


def test_an_answer_that_does_not_fit_alone_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match=r"the answer alone does not fit .*--overlong skip"):
        run(tmp_path, "choose", "truncate-left", positions=2)


def test_a_skipped_item_can_not_pass_as_complete(tmp_path: Path) -> None:
    from tests.security.baits import rehash

    bundle = run(tmp_path, "choose", "skip").path
    manifest, summary = (json.loads((bundle / name).read_text()) for name in ("manifest.json", "summary.json"))
    manifest["evidence"] = manifest["tasks"][0]["evidence"] = summary["results"][0]["evidence"] = "complete"
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "summary.json").write_text(json.dumps(summary))
    rehash(bundle)
    with pytest.raises(AssayError, match="claims to be complete, but items were skipped"):
        recompute(read_run(bundle), NOWHERE)
