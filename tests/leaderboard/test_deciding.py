"""Which of two models is better, in one sentence, and which items decide it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay.harness.store import query, read_run
from assay.leaderboard.data import queries
from assay.leaderboard.data.assembly import ALL, Filters, assemble, differ, lead, with_columns
from assay.leaderboard.data.paired import deciding, margin_of, margins, pairing
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.demo.cached import demo_store

BASE, TUNED = "beta/heron-3b", "beta/heron-3b+tuned/lora-0/result"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = demo_store(tmp_path_factory.mktemp("cache"))
    return root


def test_the_sentence_says_better_exactly_where_the_rank_interval_does(demo: Path) -> None:
    found = assemble(demo, with_columns(queries.cells(demo)), Filters(), AGGREGATORS[0])
    names = found.table.Model.tolist()
    assert found.standing is not None
    for one in names:
        beaten = [two for two in names if differ(found, one, two).startswith(f"{one} is better than {two}: +")]
        worst = int(found.table.set_index("Model").worst[one])
        assert len(names) - len(beaten) == worst
        assert all(differ(found, one, two) == differ(found, two, one) for two in names)
    assert lead(found) == (
        "acme/otter-13b has the highest score. No significant difference between acme/otter-13b and beta/heron-8b: "
        "+2.9 points, 95 % interval -0.6 to +6.4."
    )
    assert differ(found, names[0], "nobody") == ""
    alone = assemble(demo, with_columns(queries.cells(demo)), Filters(group=ALL, models=(names[0],)), AGGREGATORS[0])
    assert lead(alone) == ""


def test_deciding_items_are_ordered_by_task_and_then_by_the_change_of_the_margin(demo: Path) -> None:
    bundles = dict(query(demo, "SELECT run_id, path FROM run WHERE status = 'complete'"))
    models = dict(query(demo, "SELECT model, path FROM run WHERE status = 'complete' AND purpose = 'release'"))
    found = pairing(demo, {"": models[BASE]}, {"": models[TUNED]})
    changed = deciding(demo, found, bundles)
    rows = {row.task: row for row in found.rows if row.main and not row.total}
    for name in ("lost", "gained"):
        items = getattr(changed, name)
        assert {(item.task, item.item) for item in items} == {(row.task, item) for row in rows.values() for item in getattr(row, name)}
        tasks = list(dict.fromkeys(item.task for item in items))
        sign = 1 if name == "lost" else -1
        nets = [sign * (len(rows[task].lost) - len(rows[task].gained)) for task in tasks]
        assert nets == sorted(nets, reverse=True)
        for task in tasks:
            changes = [item.change for item in items if item.task == task]
            assert changes == sorted(changes, reverse=True)
    assert changed.items == sum(row.difference.n for row in rows.values())
    top = changed.lost[0]
    assert top.task == "words/order@demo" and top.margins is not None and top.margins[0] > 0 > top.margins[1]
    for path, margin in zip((models[BASE], models[TUNED]), top.margins, strict=True):
        run = read_run(demo / path)
        (record,) = (each for each in run.records() if (each.task, each.item) == (top.task, top.item))
        (gold,) = (item.doc["gold"] for item in run.items() if (item.task, item.id) == (top.task, top.item))
        scores = np.array(record.output["loglikelihoods"])
        assert margin == pytest.approx(scores[gold] - np.delete(scores, gold).max())


def test_only_ranked_choices_have_margins(demo: Path) -> None:
    ((path,),) = query(demo, "SELECT path FROM run WHERE model = 'acme/otter-13b' AND status = 'complete'")
    found = margins(demo / path, {("reasoning/chain@demo", "000"), ("letters/last@demo", "001")})
    assert list(found) == [("letters/last@demo", "001")]
    assert margins(demo / "runs" / "nowhere", {("letters/last@demo", "001")}) == {}


def test_a_margin_is_that_of_the_score_by_which_the_choice_was_picked() -> None:
    assert margin_of({"logprobs": [[-1.0, -1.0], [-3.0]], "pick": 0}, 0) == pytest.approx(1.0)
    assert margin_of({"logprobs": [[-1.0, -1.0], [-3.0]], "pick": 0}, 1) == pytest.approx(-1.0)
    per_token = {"logprobs": [[-1.0] * 4, [-3.0]], "pick": 0}  # -1 against -3 per token, -4 against -3 as a sum
    assert margin_of(per_token, 0) is None and margin_of(per_token, 1) is None
    assert margin_of({"text": "a"}, 0) is None and margin_of({"logprobs": [[-1.0], [-3.0]], "pick": 0}, None) is None
