"""What a whole run owes when its surroundings misbehave. Run: pytest tests/faults/test_runs.py"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Doc, Generate, Plan, Task, evaluate, exact_match, inline, read_run
from assay.harness.cli import main
from assay.harness.engines import Engine, Settings
from assay.harness.engines.request import Failure, GenReply
from assay.harness.engines.scripted import Answer, Fault, Scripted, constant, faulty, hashed, slow
from assay.harness.errors import Incomplete
from assay.harness.files.places import Access
from assay.harness.model.find import ModelRef
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run import manifest
from assay.harness.run.evaluate import OpenEngine, resume
from assay.harness.run.prepare import prepare_task
from assay.harness.store import bundle as bundles
from assay.harness.store import check, create_bundle, find_run, list_runs, query
from assay.harness.store.provenance import accelerators
from assay.harness.store.record import Item

CHILD = Path(__file__).with_name("create_child.py")


def opening(answer: Answer, made: list[Scripted] | None = None) -> OpenEngine:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        engine = Scripted(answer)
        if made is not None:
            made.append(engine)
        return engine

    return opener


def plan_in(folder: Path, count: int = 40) -> Plan:
    return Plan(model=str(make_model(folder / "model")), tasks=(str(write_task(folder, count)),), engine="scripted")


def test_a_kill_at_every_step_of_making_a_run_leaves_a_whole_one_or_none() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(CHILD.parents[2]), str(CHILD.parent)))}
    done = subprocess.run([sys.executable, str(CHILD)], capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] >= 5 and found["leftovers"] >= 3, "the kills met a folder in the making"
    assert found["problems"] == 0


def test_a_run_that_would_not_fit_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles.shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(AssayError, match=r"No space left on device for this run: needs about [\d,]+ bytes, 10,000 are free"):
        evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(hashed(3)))
    assert list_runs(tmp_path / "results") == ()


def test_a_results_folder_that_cannot_be_written_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file stands in the way")
    made: list[Scripted] = []
    with pytest.raises(AssayError, match=r"results.*(--results)"):
        evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(hashed(3), made))
    assert not made


def test_two_processes_on_one_run_the_second_is_told_who_has_it(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    with pytest.raises(Incomplete):
        evaluate(plan, place(tmp_path), opener=opening(faulty(hashed(3), Fault("raise", at=5))))
    bundle = find_run(tmp_path / "results", "20")
    child = os.fork()
    if child == 0:
        resume(bundle, place(tmp_path), opener=opening(slow(hashed(3), 0.5)))
        os._exit(0)
    try:
        deadline = time.monotonic() + 30
        while not (bundle / "lock.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(Incomplete, match=f"in use by process {child} on ") as caught:
            resume(bundle, place(tmp_path), opener=opening(hashed(3)))
        assert caught.value.exit_code == 13
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert read_run(resume(bundle, place(tmp_path), opener=opening(hashed(3)))).status == "complete", "a dead owner holds nothing"


def test_an_error_is_asked_again_and_a_measured_item_is_not(tmp_path: Path) -> None:
    with pytest.raises(Incomplete, match="1 items failed"):
        evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("fail", at=6))))
    made: list[Scripted] = []
    run = read_run(resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(hashed(3), made)))
    assert made[0].calls.total() == 1
    assert Counter(record.status for record in run.records()) == {"scored": 40}


def test_many_failures_stop_a_run_early(tmp_path: Path) -> None:
    made: list[Scripted] = []
    with pytest.raises(Incomplete, match=r"stopped early: 11 items of sums failed, the last \(\w+\): no answer.*assay resume"):
        evaluate(plan_in(tmp_path, 60), place(tmp_path), opener=opening(lambda request: Failure("no answer"), made))
    assert made[0].calls.total() == 12, "the newest waits for the next"
    assert query(tmp_path / "results", "SELECT * FROM scores") == []


def test_what_a_run_cost_is_summed_over_its_attempts(tmp_path: Path) -> None:
    whole = read_run(evaluate(plan_in(tmp_path), place(tmp_path / "whole"), opener=opening(hashed(3))))
    with pytest.raises(Incomplete):
        evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("raise", at=25))))
    run = read_run(resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(hashed(3))))
    assert run.summary()["tokens"] == whole.summary()["tokens"]
    assert run.summary()["results"] == whole.summary()["results"], "all items, not only those of the last attempt"
    assert run.summary()["results"][0]["n"] == 40


@pytest.mark.parametrize(
    ("place_of", "name", "value"), [("versions", "torch", "1.0"), ("machine", "accelerators", "NVIDIA X"), ("machine", "processor", "arm")]
)
def test_another_version_or_another_machine_does_not_go_on_with_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place_of: str, name: str, value: str
) -> None:
    with pytest.raises(Incomplete):
        evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("raise", at=5))))
    facts = getattr(manifest, place_of)()
    monkeypatch.setattr(manifest, place_of, lambda: facts | {name: value})
    made: list[Scripted] = []
    with pytest.raises(AssayError, match=f"{name} was .*, is {value}.*or start a new run"):
        resume(find_run(tmp_path / "results", "20"), place(tmp_path), opener=opening(hashed(3), made))
    assert not made


def test_gpus_are_named_by_the_driver(tmp_path: Path) -> None:
    assert accelerators(tmp_path) == ""
    for number, name in enumerate(("NVIDIA H200", "NVIDIA H200", "NVIDIA A10")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text(f"Model: \t\t {name}\nIRQ: 1\n")
    assert accelerators(tmp_path) == "NVIDIA A10, NVIDIA H200"


def test_the_samples_of_one_prompt_are_different_requests(tmp_path: Path) -> None:
    """Five answers at a temperature are five requests, each with its own key: no cache makes them one."""
    ask = Generate(max_tokens=8, temperature=1.0, samples=5)
    task = Task("told", inline(test=[{"q": "a"}]), lambda row: Doc(row["q"], references=("b",)), ask, (exact_match,))
    model = make_model(tmp_path / "model")
    (item,) = prepare_task(task, Plan(str(model), ("told",)), Access(), open_tokenizer(model), 512).items
    assert len({request.key for request in item.requests}) == 5
    (again,) = prepare_task(task, Plan(str(model), ("told",), seed=1), Access(), open_tokenizer(model), 512).items
    assert not {request.key for request in item.requests} & {request.key for request in again.requests}


def test_an_answer_that_was_cut_says_so(tmp_path: Path) -> None:
    task = tmp_path / "told.py"
    task.write_text(
        "from assay import Doc, Generate, Task, exact_match, inline\n"
        "TASKS = (Task('told', inline(test=[{'q': str(n)} for n in range(5)]), lambda row: Doc(row['q'], references=('b',)), "
        "Generate(max_tokens=32), (exact_match,)),)\n"
    )
    plan = Plan(model=str(make_model(tmp_path / "model")), tasks=(str(task),), engine="scripted")
    cut = lambda request: GenReply("on and on", (1,) * 32, "length", -1.0)  # noqa: E731
    run = read_run(evaluate(plan, place(tmp_path), opener=opening(cut)))
    assert run.summary()["statuses"] == {"truncated": 5}
    assert {record.output["finish"] for record in run.records()} == {"length"}


class Backwards(datetime):
    """A clock that is set back an hour whenever somebody looks."""

    step = timedelta()

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        cls.step -= timedelta(hours=1)
        return datetime.now(UTC) + cls.step


def test_a_clock_that_goes_back_changes_no_duration_and_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "datetime", Backwards)
    ticks = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        first = read_run(evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(slow(hashed(3), 0.001))))
        second = read_run(evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(constant())))
    finally:
        monkeypatch.undo()
        time.tzset()
    for run in (first, second):
        assert run.status == "complete" and run.manifest["created_at"].endswith("+00:00")
        assert all(record.seconds >= 0 for record in run.records()) and run.summary()["seconds"]["last_attempt"] >= 0
        assert [record.item for record in run.records()] == [item.id for item in run.items()]
    assert first.id != second.id and check(tmp_path / "results") == ()


def test_a_store_takes_two_runs_of_the_same_second(tmp_path: Path) -> None:
    assert len({create_bundle(tmp_path, {"plan": {}}, [Item("t", "i", "g", "c", "p")]).name for _ in range(30)}) == 30


def test_a_forged_score_is_found_though_every_hash_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = evaluate(plan_in(tmp_path), place(tmp_path), opener=opening(hashed(3)))
    command = ["assay", "store", "check", "--results", str(tmp_path / "results"), "--json"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and json.loads(capsys.readouterr().out) == {"problems": []}
    summary, done = json.loads((bundle / "summary.json").read_text()), json.loads((bundle / "DONE").read_text())
    summary["results"][0]["value"] = 0.99
    (bundle / "summary.json").write_text(json.dumps(summary))
    done["files"]["summary.json"] = hashlib.sha256((bundle / "summary.json").read_bytes()).hexdigest()
    (bundle / "DONE").write_text(json.dumps(done))
    with pytest.raises(SystemExit) as ended:
        main()
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 14 and any("is stored as 0.99, but is" in problem["what"] for problem in told["problems"])
