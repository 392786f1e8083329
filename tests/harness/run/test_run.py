"""Runs with scripted engines: results, resuming, errors. Run: pytest tests/harness/run/test_run.py"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.scripted import Answer, Fault, Scripted, constant, faulty, hashed, oracle
from assay.harness.errors import Incomplete, Invalid
from assay.harness.model.find import ModelRef
from assay.harness.run.evaluate import OpenEngine, resume
from assay.harness.run.manifest import same_run
from assay.harness.run.prepare import shard_of
from assay.harness.run.scoring.results import rescore
from assay.harness.run.selection import select
from assay.harness.store import check, find_run, query


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def opening(answer: Answer, made: list[Scripted] | None = None) -> OpenEngine:
    """An opener that gives an engine around `answer`, and remembers it."""

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        engine = Scripted(answer)
        if made is not None:
            made.append(engine)
        return engine

    return opener


def plan_of(model: Path, tmp_path: Path, count: int = 40) -> Plan:
    return Plan(model=str(model), tasks=(str(write_task(tmp_path, count)),), engine="scripted")


def second_choice(request: object) -> int | None:
    return 1 if isinstance(request, ScoreGroup) else None


def test_an_oracle_scores_one(model: Path, tmp_path: Path) -> None:
    bundle = evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(oracle(second_choice)))
    run = read_run(bundle)
    (result,) = run.summary()["results"]
    assert run.status == "complete"
    assert (result["task"], result["metric"], result["value"], result["n"], result["shots"]) == ("sums", "accuracy", 1.0, 40, 0)
    assert result["low"] < 1.0 == result["high"] and result["chance"] == pytest.approx(1 / 3)
    rows = query(tmp_path / "results", "SELECT task, metric, value, n, engine, status FROM scores", [])
    assert [tuple(row) for row in rows] == [("sums", "accuracy", 1.0, 40, "scripted", "complete")]
    (sample,) = query(tmp_path / "results", "SELECT prompt, gold, correct FROM samples ORDER BY item_id LIMIT 1", [])
    prompt, _, correct = sample
    assert correct == 1.0 and "+" in prompt


def test_a_finished_run_rescored_gives_its_results(model: Path, tmp_path: Path) -> None:
    bundle = evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(hashed(7)))
    run = read_run(bundle)
    assert rescore(run, place(tmp_path).access()) == run.summary()["results"]
    assert check(tmp_path / "results", lambda run: rescore(run, place(tmp_path).access())) == ()


def test_every_distinct_request_is_sent_once_even_across_tasks(model: Path, tmp_path: Path) -> None:
    made: list[Scripted] = []
    one = write_task(tmp_path)
    two = tmp_path / "again.py"
    two.write_text(one.read_text().replace('"sums"', '"again"'))
    plan = Plan(model=str(model), tasks=(str(one), str(two)), engine="scripted")
    run = read_run(evaluate(plan, place(tmp_path), opener=opening(hashed(1), made)))
    assert set(made[0].calls.values()) == {1}
    first, second = run.summary()["results"]
    assert first["value"] == second["value"] and (first["task"], second["task"]) == ("sums", "again")


def test_all_tasks_go_to_the_engine_in_one_call(model: Path, tmp_path: Path) -> None:
    sums, calls = write_task(tmp_path), list[tuple[str, int]]()
    more, said = tmp_path / "more.py", tmp_path / "said.py"
    more.write_text(sums.read_text().replace('"sums"', '"more"').replace("} +", "} plus"))
    said.write_text(
        "from assay import Doc, Generate, Task, exact_match, inline\n"
        "TASKS = (Task('said', inline(test=[{'w': f'w{n}'} for n in range(7)]), lambda r: Doc(r['w'], references=(r['w'],)),"
        " Generate(max_tokens=2), (exact_match,)),)\n"
    )

    class Counting(Scripted):
        def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
            calls.append(("score", len(groups)))
            return super().score(groups)

        def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
            calls.append(("generate", len(requests)))
            return super().generate(requests)

    plan = Plan(model=str(model), tasks=(str(sums), str(said), str(more)), engine="scripted")
    run = read_run(evaluate(plan, place(tmp_path), opener=lambda name, ref, settings: Counting(hashed(1))))
    assert calls == [("score", 80), ("generate", 7)] and len(run.records()) == 87


@pytest.mark.parametrize("at", [1, 17, 40])
def test_a_dying_engine_loses_nothing(model: Path, tmp_path: Path, at: int) -> None:
    plan = plan_of(model, tmp_path)
    whole = read_run(evaluate(plan, place(tmp_path / "whole"), opener=opening(hashed(3))))
    with pytest.raises(Incomplete, match=r"scripted fault.*assay resume \d{8}-") as caught:
        evaluate(plan, place(tmp_path), opener=opening(faulty(hashed(3), Fault("raise", at=at))))
    assert caught.value.exit_code == 13
    bundle = find_run(tmp_path / "results", "20")
    made: list[Scripted] = []
    run = read_run(resume(bundle, place(tmp_path), opener=opening(hashed(3), made)))
    assert made[0].calls.total() == 40 - (at - 1), "finished items are not scored again"
    assert run.summary()["results"] == whole.summary()["results"]
    dying = opening(faulty(hashed(3), Fault("raise", at=1)))
    assert resume(bundle, place(tmp_path), opener=dying) == bundle, "a finished run sends no requests"


def test_a_failed_item_is_never_a_zero(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match=r"1 items failed.*non-finite"):
        evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("nan", at=5))))
    run = read_run(find_run(tmp_path / "results", "20"))
    assert run.status != "complete"
    assert [record.status for record in run.records()].count("error") == 1
    assert query(tmp_path / "results", "SELECT * FROM scores WHERE value IS NOT NULL", []) == []


def test_other_weights_never_continue_a_run(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Incomplete):
        evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("raise", at=9))))
    make_model(model, seed=1)
    with pytest.raises(AssayError, match="the model's files are not those of this run"):
        resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(hashed(3)))


def test_other_rules_never_continue_a_run(model: Path, tmp_path: Path) -> None:
    stored = read_run(evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(hashed(3)))).manifest
    same_run(stored, stored, tmp_path)
    for field in ("ties", "settings"):
        earlier = {**stored, "tasks": [{name: value for name, value in task.items() if name != field} for task in stored["tasks"]]}
        with pytest.raises(AssayError, match=rf"{field} was .*start a new run"):
            same_run(earlier, stored, tmp_path)


def test_other_data_never_continue_a_run(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Incomplete):
        evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("raise", at=9))))
    changed = write_task(tmp_path, 39)
    with pytest.raises(AssayError, match="has changed since"):
        resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(hashed(3)))
    select([str(changed)], place(tmp_path).access())  # named again
    with pytest.raises(AssayError, match="start a new run"):
        resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(hashed(3)))


def test_a_checkpoint_overwritten_while_it_is_scored_is_invalid(model: Path, tmp_path: Path) -> None:
    def answer(request: object) -> object:
        make_model(model, seed=2)
        return constant()(request)  # type: ignore[arg-type]

    with pytest.raises(Invalid, match="changed while they were scored"):
        evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(answer))  # type: ignore[arg-type]


def test_nothing_is_written_for_a_bad_plan(model: Path, tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="unknown task"):
        evaluate(Plan(model=str(model), tasks=("no/such",)), place(tmp_path))
    assert not (tmp_path / "results").exists()
    with pytest.raises(AssayError, match="leaves nothing"):
        Plan(model="m", tasks=("t",), limit=0)


def test_a_plan_survives_its_manifest(model: Path, tmp_path: Path) -> None:
    plan = plan_of(model, tmp_path)
    run = read_run(evaluate(plan, place(tmp_path), opener=opening(hashed(1))))
    assert Plan.from_json(run.manifest["plan"]) == plan
    with pytest.raises(AssayError, match="unknown fields"):
        Plan.from_json({**run.manifest["plan"], "surprise": 1})


def test_a_limited_run_says_so(model: Path, tmp_path: Path) -> None:
    plan = Plan(model=str(model), tasks=(str(write_task(tmp_path)),), engine="scripted", limit=5)
    run = read_run(evaluate(plan, place(tmp_path), opener=opening(hashed(1))))
    assert run.manifest["evidence"] == "limited" and run.summary()["results"][0]["evidence"] == "limited"
    assert query(tmp_path / "results", "SELECT * FROM leaderboard", []) == []


def test_auto_falls_back_to_transformers_with_a_reason(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that cannot load the model leaves no run behind; one given by --engine is not replaced."""
    monkeypatch.setattr("assay.harness.run.evaluate.pick_engine", lambda model, wanted: ("vllm", "a GPU"))

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        if name == "vllm":
            raise AssayError("vLLM cannot load this model: no such architecture", do="try --engine hf")
        return Scripted(hashed())

    plan = replace(plan_of(model, tmp_path), engine="auto")
    run = read_run(evaluate(plan, place(tmp_path), opener=opener))
    assert run.manifest["engine"] == {"name": "hf", "reason": "vllm could not open: vLLM cannot load this model: no such architecture"}
    with pytest.raises(AssayError, match="no such architecture"):
        evaluate(replace(plan, engine="vllm"), place(tmp_path), opener=opener)
    assert [row[0] for row in query(tmp_path / "results", "SELECT run_id FROM runs")] == [run.id]
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 1


def test_shards_cut_the_plan_and_not_each_task() -> None:
    parts = [[list(range(size))[share] for size, share in zip((5, 2, 3), shard_of((5, 2, 3), n, 3), strict=True)] for n in range(3)]
    assert parts == [[[0, 1, 2], [], []], [[3, 4], [0], []], [[], [1], [0, 1, 2]]]
    assert shard_of((4, 6), 0, 1) == [slice(0, 10), slice(0, 6)]
