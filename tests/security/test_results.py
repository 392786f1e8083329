"""Results of strangers: scores come from the items, whatever a summary says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from baits import rehash
from fakes import make_model, place, write_task

from assay import Plan, evaluate, read_run
from assay.harness.files.places import Access
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.store import check, index, query


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, Path]:
    """A store with one honest run, and a second store for what is copied."""
    make_model(tmp_path / "model")
    write_task(tmp_path, 16)
    plan = Plan(model=str(tmp_path / "model"), tasks=(str(tmp_path / "sums.py"),), engine="scripted")
    bundle = evaluate(plan, place(tmp_path))
    copied = tmp_path / "copied" / "runs" / bundle.name
    shutil.copytree(bundle, copied)
    return copied.parent.parent, copied


def lie(bundle: Path, change: Callable[[dict[str, object]], None]) -> None:
    summary = json.loads((bundle / "summary.json").read_text())
    change(summary["results"][0])
    (bundle / "summary.json").write_text(json.dumps(summary))
    rehash(bundle)


def test_an_honest_copy_is_ranked_as_it_is(store: tuple[Path, Path]) -> None:
    root, bundle = store
    assert index(root, verify=verify(Access())).trouble == {}
    ((value,),) = query(root, "SELECT value FROM leaderboard")
    assert value == read_run(bundle).summary()["results"][0]["value"]


@pytest.mark.parametrize("field", ["value", "low", "high", "n"])
def test_a_score_that_the_items_do_not_give_is_left_out_and_named(store: tuple[Path, Path], field: str) -> None:
    root, bundle = store
    lie(bundle, lambda result: result.update({field: 7 if field == "n" else 0.999}))
    trouble = index(root, verify=verify(Access())).trouble[bundle.name]
    assert f"{field} of accuracy on sums is stored as" in trouble and "when computed from the items" in trouble
    assert query(root, "SELECT * FROM scores") == query(root, "SELECT * FROM leaderboard") == []
    (problem,) = [each for each in check(root, lambda run: recompute(run, Access())) if "when computed from the items" in each.what]
    assert problem.do


def test_a_score_without_items_is_left_out(store: tuple[Path, Path]) -> None:
    root, bundle = store
    lie(bundle, lambda result: result.update(metric="brilliance"))
    assert "items" in index(root, verify=verify(Access())).trouble[bundle.name]


def test_a_lie_that_comes_along_with_a_run_of_ours_is_not_ranked(store: tuple[Path, Path], tmp_path: Path) -> None:
    _, bundle = store
    lie(bundle, lambda result: result.update(value=0.999))
    forged = json.loads((bundle / "manifest.json").read_text()) | {"run": "20260101-000000-dead"}
    forged["model"]["digest"] = "f" * 64
    (bundle / "manifest.json").write_text(json.dumps(forged))
    rehash(bundle)
    bundle.rename(tmp_path / "results" / "runs" / "20260101-000000-dead")
    plan = Plan(model=str(tmp_path / "model"), tasks=(str(tmp_path / "sums.py"),), engine="scripted", seed=1)
    evaluate(plan, place(tmp_path))
    assert query(tmp_path / "results", "SELECT max(value) < 0.999 FROM scores") == [(True,)]
    assert query(tmp_path / "results", "SELECT * FROM runs WHERE run_id = '20260101-000000-dead'") == []


def test_a_score_of_an_unknown_task_is_never_ranked(store: tuple[Path, Path], tmp_path: Path) -> None:
    root, bundle = store
    (tmp_path / "sums.py").rename(tmp_path / "away.py")
    assert index(root, verify=verify(Access())).trouble == {}
    assert len(query(root, "SELECT * FROM scores")) == 1 and query(root, "SELECT * FROM leaderboard") == []
    assert not [problem for problem in check(root) if "has changed" in problem.what]
    (tmp_path / "away.py").rename(tmp_path / "sums.py")
    assert index(root, verify=verify(Access())).indexed == (bundle.name,), "looked at again once the task is there"
    assert len(query(root, "SELECT * FROM leaderboard")) == 1
