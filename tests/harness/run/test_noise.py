"""The noise floor: changes in a repetition are measured, stored, and shown beside every difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, make_model, place, write_task

from assay import AssayError, Doc, Plan, evaluate, read_run
from assay.harness.decide.compare import compare, side_of
from assay.harness.decide.decision import gate
from assay.harness.decide.policy import Policy
from assay.harness.engines.request import ScoreGroup, ScoreReply
from assay.harness.engines.scripted import Answer, Scripted, draw, oracle
from assay.harness.errors import Incomplete
from assay.harness.metrics.regression import pearson
from assay.harness.reports.json_values import comparison_json, gate_json
from assay.harness.reports.pipelines import github, junit
from assay.harness.reports.tables import comparison_markdown, gate_markdown
from assay.harness.run.evaluate import CannotOpen, resume
from assay.harness.run.noise import floors, metric_floor, portions
from assay.harness.run.prepare import PreparedItem
from assay.harness.store.record import Item, Record
from tests.sim.sides import flipped, right, side

ITEMS = 300


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    write_task(tmp_path, ITEMS)
    return tmp_path


class NoisyEngine(Scripted):
    """Right on most items. When an item is scored again, a share of the picks flips and every log-probability changes."""

    def __init__(self, share: float, drift: float = 1e-4) -> None:
        super().__init__(self.noisy_answer)
        self.share, self.drift = share, drift
        self.opened, self.closed, self.sizes, self.forgot = 0, 0, list[int](), 0

    def score(self, groups: Sequence[ScoreGroup]) -> Any:
        self.sizes.append(len(groups))
        return super().score(groups)

    def noisy_answer(self, request: Any) -> Any:
        again = self.calls[request.key] > 1
        gold = 1 if draw("luck", request.key) < 0.7 else 2
        reply = oracle(lambda _: 3 - gold if again and draw("moved", request.key) < self.share else gold)(request)
        assert isinstance(reply, ScoreReply)
        return replace(reply, logprobs=tuple(tuple(value - self.drift * again for value in part) for part in reply.logprobs))

    def forget(self) -> None:
        self.forgot += 1

    def close(self) -> None:
        self.closed += 1


def score(home: Path, engine: Scripted, **plan: Any) -> Path:
    def opener(*_: Any) -> Scripted:
        if isinstance(engine, NoisyEngine):
            engine.opened += 1
        return engine

    plan = {"model": str(home / "model"), "tasks": (str(home / "sums.py"),), "engine": "scripted", **plan}
    return evaluate(Plan(**plan), place(home), opener=opener)


def test_a_repetition_measures_flips_and_drift_in_one_opened_engine(home: Path) -> None:
    engine = NoisyEngine(0.05)
    run = read_run(score(home, engine, repeat_check=True))
    plain = read_run(score(home, NoisyEngine(0.05)))
    found = run.summary()["noise"]["batches"]["tasks"]["sums"]
    truth = sum(draw("moved", key) < 0.05 for key in engine.calls)
    assert engine.opened == engine.closed == engine.forgot == 1
    assert (found["items"], found["failed"], found["flipped"]) == (ITEMS, 0, truth) and truth > 5
    assert found["floor"]["accuracy"] == pytest.approx(100 * truth / ITEMS)
    assert found["mean_logprob"] > 0 and found["max_logprob"] >= 8  # a flipped pick changes a log-probability by nine nats
    assert engine.sizes[1:] == [ITEMS // 3] * 3
    assert run.summary()["tokens"] == plain.summary()["tokens"]  # the repetition is no part of the run's own cost
    assert run.summary()["noise"]["batches"]["computed"] == run.summary()["tokens"]["computed"]
    assert run.summary()["results"] == plain.summary()["results"] and "noise" not in plain.summary()


def test_the_items_of_all_tasks_are_repeated_in_common_portions(home: Path) -> None:
    (home / "more.py").write_text((home / "sums.py").read_text().replace('"sums"', '"more"').replace("+", "-"))
    engine = NoisyEngine(0.05)
    run = read_run(score(home, engine, tasks=(str(home / "sums.py"), str(home / "more.py")), repeat_check=True))
    assert sum(engine.sizes[-3:]) == sum(engine.sizes[:-3]) and max(engine.sizes[-3:]) - min(engine.sizes[-3:]) <= 1
    found = run.summary()["noise"]["batches"]["tasks"]
    assert [found[name]["items"] for name in ("sums", "more")] == [ITEMS, ITEMS] and all(found[name]["flipped"] > 5 for name in found)


def test_an_engine_without_noise_has_a_floor_of_zero(home: Path) -> None:
    run = read_run(score(home, NoisyEngine(0.0, 0.0), repeat_check=True))
    assert floors(run.summary()["noise"]) == {("sums", "accuracy"): 0.0}


def test_an_interrupted_repetition_is_made_when_the_run_is_resumed(home: Path) -> None:
    engine = NoisyEngine(0.05)
    answer = engine.answer

    def dies(request: Any) -> Any:
        if sum(engine.calls.values()) > ITEMS + 40:
            raise RuntimeError("gone")
        return answer(request)

    engine.answer = dies
    with pytest.raises(Incomplete, match="assay resume"):
        score(home, engine, repeat_check=True)
    (bundle,) = (home / "results" / "runs").glob("2*")
    before = read_run(bundle).records()
    assert len(before) == ITEMS
    engine.answer, calls = answer, sum(engine.calls.values())
    resume(bundle, place(home), opener=lambda *_: engine)
    whole = read_run(bundle)
    assert whole.records() == before and sum(engine.calls.values()) - calls == ITEMS
    assert whole.summary()["noise"]["batches"]["tasks"]["sums"]["items"] == ITEMS


def test_another_engine_is_a_repetition_of_its_own(home: Path) -> None:
    opened = []

    def opener(name: str, *_: Any) -> Scripted:
        opened.append(name)
        answer: Answer = oracle(lambda request: 1 if name == "scripted" or draw("other", request.key) < 0.9 else 2)
        return Scripted(answer)

    plan = Plan(str(home / "model"), (str(home / "sums.py"),), engine="scripted", repeat_engine="scripted:hashed")
    run = read_run(evaluate(plan, place(home), opener=opener))
    (kind,) = run.summary()["noise"].values()
    assert opened == ["scripted", "scripted:hashed"] and 10 < kind["tasks"]["sums"]["flipped"] < 60


def test_an_engine_that_cannot_repeat_a_run_loses_none_of_its_records(home: Path) -> None:
    def opener(name: str, *_: Any) -> Scripted:
        if name != "scripted":
            raise CannotOpen("no such device", where=name, do="fix it")
        return NoisyEngine(0)

    plan = Plan(str(home / "model"), (str(home / "sums.py"),), engine="scripted", repeat_engine="scripted:hashed")
    with pytest.raises(Incomplete, match=r"no such device.*assay resume"):
        evaluate(plan, place(home), opener=opener)
    (bundle,) = (home / "results" / "runs").glob("2*")
    assert len(read_run(bundle).records()) == ITEMS
    assert read_run(resume(bundle, place(home), opener=lambda *_: NoisyEngine(0))).status == "complete"


def test_a_shard_and_an_unknown_engine_are_refused_before_anything_is_scored(home: Path) -> None:
    with pytest.raises(AssayError, match="shard"):
        score(home, NoisyEngine(0), shard="1/2", repeat_check=True)
    with pytest.raises(AssayError, match="unknown engine"):
        score(home, NoisyEngine(0), repeat_engine="nowhere")


@pytest.mark.parametrize(("count", "largest"), [(1, 1), (2, 1), (7, 3), (1000, 334), (9000, 1024)])
def test_portions_are_never_the_whole_and_hold_every_item_once(count: int, largest: int) -> None:
    class Each:
        def __init__(self, number: int) -> None:
            self.item, self.task = self, "sums"
            self.id = str(number)

    items: list[Any] = [Each(number) for number in range(count)]
    found: list[list[PreparedItem]] = portions(items, 0)
    assert max(map(len, found)) == largest
    assert sorted(each.item.id for part in found for each in part) == sorted(each.id for each in items)


NOISE = {"batches": {"tasks": {"a": {"items": 2000, "flipped": 8, "failed": 0, "max_logprob": 0.01, "floor": {"acc": 0.4}}}}}


def test_every_report_shows_the_floor_and_which_difference_is_within_it() -> None:
    scores = right(2000)
    one = side({"a": scores, "b": scores}, noise=NOISE)
    two = side({"a": flipped(scores, 10, 5), "b": flipped(scores, 10, 5)}, "v2")
    comparison = compare(one, two)
    decision = gate(comparison, Policy())
    first, second = comparison.main
    assert (first.floor, first.within_floor, second.floor, second.within_floor) == (0.4, True, None, False)
    assert decision.floor is None  # b was not measured
    for text in (comparison_markdown(comparison), gate_markdown(decision, comparison)):
        assert "| floor |" in text and "is within the noise floor of 0.40" in text and "8 of 2,000 predictions flipped" in text
    for value in (comparison_json(comparison)["results"], gate_json(decision, comparison, 0)["tasks"]):
        assert [(each["floor"], each["within_floor"]) for each in value] == [(0.4, True), (None, False)]
    assert "noise floor 0.40, not exceeded" in junit(decision, comparison)
    worse = compare(one, side({"a": flipped(scores, 200), "b": scores}, "v2"))
    assert not worse.main[0].within_floor and "noise floor 0.40" in github(gate(worse, Policy()), worse)
    quiet = compare(replace(one, noise={}), two)
    assert "not measured" in quiet.notes[-1] and "| floor |" not in comparison_markdown(quiet)


def test_the_aggregate_has_the_weighted_floor_of_its_tasks() -> None:
    noise = {
        "batches": {
            "tasks": {name: {**NOISE["batches"]["tasks"]["a"], "floor": {"acc": floor}} for name, floor in (("a", 0.4), ("b", 0.2))}
        }
    }
    one = side({"a": right(2000), "b": right(2000)}, noise=noise)
    decision = gate(compare(one, replace(one, run="v2")), Policy())
    assert decision.floor == pytest.approx(0.3) and "noise floor 0.30" in gate_markdown(decision, compare(one, one))


def test_a_stored_floor_reaches_the_comparison(home: Path) -> None:
    base, new = score(home, NoisyEngine(0.05), repeat_check=True), score(home, NoisyEngine(0.0))
    one, two = (side_of(read_run(bundle), NOWHERE) for bundle in (base, new))
    (row,) = compare(one, two).main
    assert row.floor is not None and row.floor > 1 and not row.within_floor  # nothing differs at all


def test_a_repetition_that_leaves_a_score_undefined_has_no_floor() -> None:
    def record(n: int, x: float) -> Record:
        return Record(task="t", item=str(n), status="scored", stats={"pearson": (x, float(n), x * x, float(n * n), x * n)})

    items = [PreparedItem(Item("t", str(n), str(n), str(n), "x"), Doc("x"), (), 0) for n in range(6)]
    assert metric_floor(pearson, [(each, record(n, n % 4 + 0.5), record(n, 1.0)) for n, each in enumerate(items)]) is None
