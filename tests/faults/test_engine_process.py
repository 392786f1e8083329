"""An engine in a process of its own that dies, freezes, is killed, or meets a request that kills it.

Run: pytest tests/faults/test_engine_process.py
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, evaluate, read_run
from assay.harness.engines import Settings
from assay.harness.engines.child import ChildEngine, Timeouts, open_engine, read_timeouts
from assay.harness.engines.opening import open_engine as open_named
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.scripted import hashed
from assay.harness.errors import Incomplete
from assay.harness.model.find import ModelRef, find_model
from assay.harness.run.evaluate import resume
from assay.harness.store import find_run

GROUPS = tuple(ScoreGroup((1, 2, n), ((3,), (4, n))) for n in range(1, 31))
TEXTS = tuple(GenRequest((5, n), 8, ("\n", "é")) for n in range(12))
TRUTH = {number: hashed(3)(group) for number, group in enumerate(GROUPS)}
QUICK = Timeouts(no_progress=1.2, pause=0.01)


@pytest.fixture(scope="module")
def ref(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    folder = tmp_path_factory.mktemp("model")
    return find_model(str(make_model(folder)), cache=folder)


def opened(ref: ModelRef, script: str, limits: Timeouts = QUICK) -> ChildEngine:
    return ChildEngine(f"scripted:hashed,seed=3,{script}".rstrip(","), ref, Settings(), limits)


def answers(engine: ChildEngine) -> dict[int, ScoreReply | Failure]:
    """All replies; an index that comes twice is an error."""
    found: dict[int, ScoreReply | Failure] = {}
    for index, reply in engine.score(GROUPS):
        assert index not in found
        found[index] = reply
    return found


def test_it_answers_as_in_process(ref: ModelRef, tmp_path: Path) -> None:
    engine = open_engine(ref, Settings(seed=3), "scripted:hashed")
    try:
        assert engine.limits.vocabulary == 257 and engine.name == "scripted:hashed"
        assert answers(engine) == TRUTH
        assert dict(engine.generate(TEXTS)) == {number: hashed(3)(text) for number, text in enumerate(TEXTS)}
        assert engine.stats.forwards == len(GROUPS) + len(TEXTS) and engine.stats.computed > 0
        engine.swap(tmp_path)
        assert engine.model.path == tmp_path, "the next process opens the new weights"
        assert engine.describe()["restarts"] == "0" and engine.restarts == 0
    finally:
        engine.close()
    assert engine.process is None


def test_nan_and_failures_come_through(ref: ModelRef) -> None:
    engine = opened(ref, "fault=nan,at=2")
    replies = answers(engine)
    engine.close()
    assert isinstance(replies[1], ScoreReply) and math.isnan(replies[1].logprobs[0][0])
    engine = opened(ref, "fault=fail,at=2")
    assert answers(engine)[1] == Failure("scripted fault")
    engine.close()


def test_a_process_that_dies_is_replaced_and_answers_nothing_twice(ref: ModelRef, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    engine = opened(ref, f"fault=die,at=11,log={log}")
    assert answers(engine) == TRUTH
    engine.close()
    calls = Counter(log.read_text().split())
    assert engine.restarts == 2 and max(calls.values()) <= 2
    assert calls.total() == len(GROUPS) + engine.restarts, "only requests in flight are sent again"
    assert "exit code 137" in engine.stats.notes[0] and engine.describe()["restarts"] == "2"


def test_a_frozen_process_is_killed_and_replaced(ref: ModelRef) -> None:
    engine = opened(ref, "fault=sleep,at=20,seconds=60")
    began = time.monotonic()
    assert answers(engine) == TRUTH
    engine.close()
    assert engine.restarts == 1 and "frozen: no progress for" in engine.stats.notes[0]
    assert time.monotonic() - began < 30


def test_a_slow_process_that_gets_on_is_left_alone(ref: ModelRef) -> None:
    engine = opened(ref, "delay=0.1", Timeouts(no_progress=1.2, pause=0.01))
    assert answers(engine) == TRUTH  # three seconds of work
    engine.close()
    assert engine.restarts == 0


def test_a_stopped_process_is_frozen_too(ref: ModelRef) -> None:
    engine = opened(ref, "delay=0.02")
    replies = engine.score(GROUPS)
    found = [next(replies)]
    assert engine.process is not None
    os.kill(engine.process.inner.pid, signal.SIGSTOP)
    found += replies
    engine.close()
    assert dict(found) == TRUTH and len(found) == len(GROUPS) and engine.restarts == 1


def test_a_process_that_takes_no_requests_is_frozen_too(ref: ModelRef) -> None:
    engine = opened(ref, "")
    process = engine.start()
    os.kill(process.inner.pid, signal.SIGSTOP)
    long = [ScoreGroup(tuple(range(1, 250)) * 40, ((n,),)) for n in range(1, 40)]  # more than a pipe holds
    assert len(dict(engine.score(long))) == len(long) and "reads no requests" in engine.stats.notes[0]
    engine.close()


@pytest.mark.parametrize("kind", ["die", "raise"] if os.environ.get("ASSAY_SOAK") else ["die"])
def test_a_request_that_kills_is_isolated_and_the_others_are_answered(ref: ModelRef, kind: str) -> None:
    engine = opened(ref, f"fault={kind},key={GROUPS[17].key}")
    replies = answers(engine)
    poison = replies.pop(17)
    assert isinstance(poison, Failure) and "made the engine die" in poison.reason
    assert replies == {number: reply for number, reply in TRUTH.items() if number != 17}
    assert engine.restarts <= 2 + len(GROUPS).bit_length()
    (reply,) = (text_reply for _, text_reply in engine.generate(TEXTS[:1]))
    assert isinstance(reply, GenReply), "the engine goes on"
    engine.close()


def test_an_engine_that_always_dies_is_given_up_and_can_be_resumed(ref: ModelRef) -> None:
    engine = opened(ref, "fault=die,at=1", Timeouts(without_reply=0, pause=0.0))
    with pytest.raises(Incomplete, match=r"the engine died \d+ times, last reason: .*exit code 137") as caught:
        list(engine.score(GROUPS[:4]))
    assert caught.value.exit_code == 13


def test_memory_that_runs_out_halves_the_batch_and_is_noted(ref: ModelRef) -> None:
    engine = opened(ref, "fault=oom,at=25")
    assert answers(engine) == TRUTH
    engine.close()
    assert engine.settings.batch == 128 and "batch 256 halved" in engine.stats.notes[0]


def test_kills_from_outside(ref: ModelRef) -> None:
    engine = opened(ref, "delay=0.01")
    found = {}
    for index, reply in engine.score(GROUPS):
        assert index not in found
        found[index] = reply
        if len(found) in (5, 16):
            assert engine.process is not None
            os.kill(engine.process.inner.pid, signal.SIGKILL)
    assert found == TRUTH and engine.restarts == 2 and "SIGKILL" in engine.stats.notes[0]
    engine.close()


def test_what_cannot_be_opened_is_the_engines_own_error(ref: ModelRef) -> None:
    with pytest.raises(AssayError, match="unknown scripted engine 'clever'") as caught:
        open_engine(ref, Settings(), "scripted:clever")
    assert caught.value.exit_code == 2
    with pytest.raises(AssayError, match="unknown engine"):
        open_engine(ref, Settings(), "no-such")


def test_timeouts_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_timeouts().no_progress == 300
    monkeypatch.setenv("ASSAY_PATIENCE", "7.5")
    assert read_timeouts().no_progress == 7.5
    monkeypatch.setenv("ASSAY_PATIENCE", "soon")
    with pytest.raises(AssayError, match="ASSAY_PATIENCE='soon' is not a number"):
        read_timeouts()


def test_who_stops_listening_leaves_no_process_behind(ref: ModelRef) -> None:
    engine = opened(ref, "delay=0.05")
    replies = engine.score(GROUPS)
    next(replies)
    assert engine.process is not None
    pid = engine.process.inner.pid
    replies.close()
    assert engine.process is None and gone(pid)
    assert answers(engine) == TRUTH, "it can be used again"
    engine.close()


OWNER = """
import sys
from pathlib import Path
from assay.harness.engines import Settings
from assay.harness.engines.child import open_engine
from assay.harness.model.find import find_model
engine = open_engine(find_model(sys.argv[1], cache=Path()), Settings(), "scripted:hashed,delay=0.05")
print(engine.process.inner.pid, flush=True)
from assay.harness.engines.request import ScoreGroup
list(engine.score([ScoreGroup((1, n), ((2,),)) for n in range(10_000)]))
"""


def test_an_owner_that_is_killed_takes_its_engine_along(ref: ModelRef) -> None:
    root = str(Path(__file__).parents[2])
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(ref.path)], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": root}
    )
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(pid)


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie of somebody else has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_a_run_goes_on_over_deaths_and_says_so(tmp_path: Path) -> None:
    model, task = make_model(tmp_path / "model"), write_task(tmp_path, 40)
    whole = read_run(
        evaluate(Plan(str(model), (str(task),), engine="scripted:hashed,seed=3"), place(tmp_path / "whole"), opener=open_named)
    )
    plan = Plan(str(model), (str(task),), engine="child:scripted:hashed,seed=3,fault=die,at=15")
    run = read_run(evaluate(plan, place(tmp_path)))
    assert [(r.item, r.output, r.stats) for r in run.records()] == [(r.item, r.output, r.stats) for r in whole.records()]
    facts = run.summary()["engine"]
    assert facts["restarts"] == "2" and "engine restarted" in facts["notes"][0]


def test_a_poisoned_item_is_an_error_and_the_run_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, task = make_model(tmp_path / "model"), write_task(tmp_path, 12)
    log = tmp_path / "calls"
    plain = Plan(str(model), (str(task),), engine=f"scripted:hashed,log={log}")
    evaluate(plain, place(tmp_path / "whole"))
    key = log.read_text().split()[7]
    plan = Plan(str(model), (str(task),), engine=f"child:scripted:hashed,fault=die,key={key}")
    with pytest.raises(Incomplete, match=r"1 items failed.*made the engine die.*assay resume"):
        evaluate(plan, place(tmp_path))
    bundle = find_run(tmp_path / "results", "20")
    statuses = Counter(record.status for record in read_run(bundle).records())
    assert statuses == {"scored": 11, "error": 1}
    mended = lambda name, ref, settings: open_named("scripted:hashed", ref, settings)  # noqa: E731
    assert read_run(resume(bundle, place(tmp_path), opener=mended)).status == "complete"
