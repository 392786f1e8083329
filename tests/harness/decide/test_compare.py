"""Comparing two runs: what must agree, what is left out, flipped items and their causes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.harness.decide.compare import compare, mismatches
from assay.harness.decide.mismatch import FIELDS
from assay.harness.errors import AssayError, NotComparable
from assay.harness.store import StatTable
from assay.harness.task.metric import Metric
from assay.harness.task.task import Term, Total
from tests.sim.coverage import EM
from tests.sim.sides import facts, flipped, right, side, table


def test_a_run_equals_itself() -> None:
    one = side({"a": right(100), "b": right(50)})
    found = compare(one, replace(one, run="again"))
    assert [row.difference.delta for row in found.rows] == [0, 0]
    assert all(row.difference.p == 1 and row.p_holm == 1 and not row.lost and not row.gained for row in found.rows)
    assert any("same weights" in note for note in found.notes)


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_that_must_agree_is_named_when_it_does_not(name: str) -> None:
    one, two = side({"a": right(30)}), side({"a": right(30)}, "v2", tasks={"a": {**facts(30), name: "other"}})
    with pytest.raises(NotComparable, match=r"^a: ") as caught:
        compare(one, two)
    assert caught.value.exit_code == 12 and "'other'" in str(caught.value)
    assert [each.field for each in mismatches(one, two, ["a"])] == [name]


def test_items_that_differ_by_one_are_not_comparable() -> None:
    short = table(right(30))
    renamed = StatTable((*short.item_ids[:-1], "stranger"), short.groups, short.clusters, short.stats)
    with pytest.raises(NotComparable, match="items"):
        compare(side({"a": short}), side({"a": renamed}, "v2"))


def test_items_are_paired_by_name_not_by_place() -> None:
    one, two = table(right(200)), table(flipped(right(200), 9, 2))
    order = np.random.default_rng(1).permutation(200)
    shuffled = StatTable(*(tuple(np.array(names)[order]) for names in (two.item_ids, two.groups, two.clusters)), two.stats[order])
    here, there = compare(side({"a": one}), side({"a": two}, "v2")), compare(side({"a": one}), side({"a": shuffled}, "v2"))
    assert here.rows == there.rows
    assert len(here.rows[0].lost) == 9 and len(here.rows[0].gained) == 2


def test_tasks_that_only_one_run_has_are_named_never_dropped_silently() -> None:
    found = compare(side({"a": right(30), "b": right(30)}), side({"a": right(30), "c": right(30)}, "v2"))
    assert [row.task for row in found.rows] == ["a"] and found.left_out == ("b", "c")
    with pytest.raises(NotComparable, match="no task in common"):
        compare(side({"a": right(30)}), side({"b": right(30)}, "v2"))
    with pytest.raises(AssayError, match="neither"):
        compare(side({"a": right(30)}), side({"a": right(30)}, "v2"), tasks=("z",))


def test_lost_items_are_split_by_cause() -> None:
    scores = right(100)
    two = side({"a": flipped(scores, 4)}, "v2")
    lost = [f"i{place:05d}" for place in np.flatnonzero(scores == 1)[:4]]
    statuses = {("a", lost[0]): "unparsed", ("a", lost[1]): "truncated", ("a", lost[2]): "truncated"}
    row = compare(side({"a": scores}), replace(two, statuses=statuses)).rows[0]
    assert row.lost == tuple(lost) and dict(row.causes) == {"unparsed": 1, "truncated": 2, "wrong": 1}


def test_groups_that_fold_are_counted_and_named_by_their_first_item() -> None:
    ids = tuple(f"i{n}" for n in range(6))
    groups = ("q2", "q2", "q1", "q1", "q3", "q3")
    one = StatTable(ids, groups, groups, np.ones((6, 1)))
    two = StatTable(ids, groups, groups, np.array([[1.0], [1], [0], [1], [1], [0]]))
    row = compare(side({"a": one}, metric=EM), side({"a": two}, "v2", metric=EM)).rows[0]
    assert row.lost == ("i2", "i4") and row.difference.n == 3 and row.difference.losses == 2
    assert (row.baseline, row.candidate) == (1.0, pytest.approx(1 / 3))


def test_holm_is_over_the_main_metrics_only() -> None:
    scores, second = right(200), Metric("second", lambda doc, out: (0.0,))
    sides = []
    for name, losses in (("v1", 0), ("v2", 20)):
        one = side({task: flipped(scores, losses * (task == "a")) for task in "ab"}, name)
        tables = {**one.tables, ("a", "second"): table(flipped(scores, losses))}
        sides.append(replace(one, tables=tables, metrics={**one.metrics, ("a", "second"): second}))
    rows = {(row.task, row.metric): row for row in compare(*sides).rows}
    assert rows["a", "acc"].p_holm == pytest.approx(2 * rows["a", "acc"].difference.p)
    assert rows["a", "second"].p_holm is None and not rows["a", "second"].main


def test_totals_are_compared_like_tasks() -> None:
    total = Total("suite", (Term("a", "acc", 0.5), Term("b", "acc", 0.5)), scale=100.0)
    scores = right(200)
    found = compare(side({"a": scores, "b": scores}, totals=(total,)), side({"a": flipped(scores, 20), "b": scores}, "v2", totals=(total,)))
    row = next(row for row in found.rows if row.total)
    assert row.candidate - row.baseline == pytest.approx(-5.0) and row.difference.delta == pytest.approx(-0.05)
    assert row.difference.p < 0.001


def test_the_weaker_evidence_and_purpose_are_the_comparisons() -> None:
    one, two = side({"a": right(30)}), side({"a": right(30)}, "v2")
    assert compare(one, replace(two, evidence="limited")).evidence == "limited"
    assert compare(replace(one, purpose="smoke"), two).purpose == "smoke"
    assert any("engine" in note for note in compare(one, replace(two, settings={"engine": "vllm"})).notes)
