"""A limited run scores a seeded sample with the labels' shares and whole clusters, the same for every model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import NOWHERE, make_model, place

from assay import AssayError, Choose, Doc, Generate, Task, accuracy, evaluate, exact_match, inline, read_run
from assay.harness.engines.scripted import Scripted, constant
from assay.harness.run.prepare import load_task
from assay.harness.run.scoring.verify import recompute
from assay.harness.stats.sampling import kept_docs
from assay.harness.store import check
from assay.harness.store.plan import Plan

PLAN = Plan(model="m", tasks=("t",))
SORTED = [Doc(f"q{n}", choices=("a", "b"), gold=int(n >= 150), id=str(n), group=str(n), cluster=str(n)) for n in range(200)]


def test_sorted_data_give_the_shares_of_the_labels() -> None:
    for size in (4, 20, 100):
        kept = kept_docs(SORTED, replace(PLAN, limit=size))
        assert len(kept) == size and kept == sorted(kept)
        assert abs(Counter(SORTED[n].gold for n in kept)[1] - size / 4) <= 1


def test_the_seed_and_the_order_decide_which() -> None:
    one, same, other = (kept_docs(SORTED, replace(PLAN, limit=30, seed=seed)) for seed in (0, 0, 1))
    assert one == same != other
    assert kept_docs(SORTED, replace(PLAN, limit=30, seed=1, limit_seed=0)) == one, "other examples, the same items"
    assert kept_docs(SORTED, replace(PLAN, limit=30, limit_order="first")) == list(range(30))
    assert kept_docs(SORTED, PLAN) == kept_docs(SORTED, replace(PLAN, limit=200)) == list(range(200))


def test_a_larger_sample_contains_the_smaller() -> None:
    assert set(kept_docs(SORTED, replace(PLAN, limit=10))) < set(kept_docs(SORTED, replace(PLAN, limit=60)))


def test_clusters_stay_whole() -> None:
    docs = [replace(doc, cluster=str(number // 7)) for number, doc in enumerate(SORTED)]
    kept = kept_docs(docs, replace(PLAN, limit=30))
    assert len(kept) <= 30 and all(count in (7, 4) for count in Counter(docs[n].cluster for n in kept).values())
    assert len(kept_docs(docs, replace(PLAN, limit=1))) in (4, 7), "at least one cluster"


def test_labels_of_generated_answers_are_used_and_free_texts_are_not() -> None:
    valid = [Doc(f"q{n}", references=("valid" if n < 100 else "invalid",), id=str(n), cluster=str(n)) for n in range(200)]
    assert Counter(valid[n].answer for n in kept_docs(valid, replace(PLAN, limit=10))) == {"valid": 5, "invalid": 5}
    free = [Doc(f"q{n}", references=(f"answer {n}",), id=str(n), cluster=str(n)) for n in range(200)]
    assert len(kept_docs(free, replace(PLAN, limit=10))) == 10


@pytest.mark.parametrize("kind", ["choose", "generate"])
def test_a_constant_model_is_not_right_on_sorted_data(tmp_path: Path, kind: str) -> None:
    """The first 100 of formal_fallacies are all valid: a constant model scored 1.000."""
    rows = [{"n": n, "word": "valid" if n < 100 else "invalid"} for n in range(200)]

    def doc(row: dict[str, object]) -> Doc:
        if kind == "generate":
            return Doc(f"Q{row['n']}:", references=(str(row["word"]),))
        return Doc(f"Q{row['n']}:", choices=("valid", "invalid"), gold=int(row["word"] == "invalid"))

    task = Task(
        "t", inline(test=rows), doc, Choose() if kind == "choose" else Generate(8), (accuracy if kind == "choose" else exact_match,)
    )
    loaded = load_task(task, replace(PLAN, limit=100), NOWHERE)
    assert Counter(each.answer for each in loaded.docs) == {"valid": 50, "invalid": 50} and loaded.evidence == "limited"
    first = load_task(task, replace(PLAN, limit=100, limit_order="first"), NOWHERE)
    assert {each.answer for each in first.docs} == {"valid"}


TASK = """
from assay import Choose, Doc, Task, accuracy, inline
ROWS = [{"n": n} for n in range(60)]

def doc(row):
    return Doc(f"Q{row['n']}:", choices=("no", "yes"), gold=int(row["n"] >= 30))

TASKS = (Task("t", inline(test=ROWS), doc, Choose(), (accuracy,)),)
"""


@pytest.mark.parametrize("order", ["sample", "first"])
def test_every_model_gets_the_same_items_and_the_store_can_verify_them(tmp_path: Path, order: str) -> None:
    (tmp_path / "t.py").write_text(TASK)
    ids = []
    for seed in (0, 1):
        model = make_model(tmp_path / f"m{seed}", seed=seed)
        plan = Plan(model=str(model), tasks=(str(tmp_path / "t.py"),), engine="scripted", limit=20, limit_order=order)
        run = read_run(evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(constant())))
        ids.append([item.id for item in run.items()])
        assert run.manifest["evidence"] == "limited"
        assert run.summary()["results"][0]["value"] == (0.5 if order == "sample" else 1.0)
    assert ids[0] == ids[1]
    assert not check(tmp_path / "results", lambda run: recompute(run, NOWHERE))


def test_stored_plans_of_earlier_versions_keep_the_first_items() -> None:
    old = {name: value for name, value in replace(PLAN, limit=3).as_json().items() if name != "limit_order"}
    assert Plan.from_json(old).limit_order == "first"
    with pytest.raises(AssayError, match=r"--limit-order 'last' is unknown.*use sample or first"):
        replace(PLAN, limit_order="last")
    with pytest.raises(AssayError, match="--batch 0 is too small"):
        replace(PLAN, batch=0)
