"""SIGKILL at random moments, then resume: nothing lost, nothing asked twice. Run: pytest tests/faults/test_kills.py

ASSAY_KILLS sets the number of kills (default 12).
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from fakes import make_model, place, write_task

from assay import Plan, evaluate, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed, slow
from assay.harness.model.find import ModelRef
from assay.harness.run.evaluate import OpenEngine, resume
from assay.harness.store import check, list_runs

KILLS = int(os.environ.get("ASSAY_KILLS", "12"))
ITEMS = 300


def opening(log: Path | None, pause: float) -> OpenEngine:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        return Scripted(slow(hashed(5), pause) if pause else hashed(5), log=log)

    return opener


def in_child(work: object, patience: float) -> bool:
    """Run `work` in a forked child and kill it after `patience` seconds; whether it had finished before."""
    child = os.fork()
    if child == 0:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, "the child failed by itself"
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_random_kills(tmp_path: Path) -> None:
    model, task = make_model(tmp_path / "model"), write_task(tmp_path, ITEMS)
    plan = Plan(model=str(model), tasks=(str(task),), engine="scripted")
    whole = read_run(evaluate(plan, place(tmp_path / "whole"), opener=opening(None, 0)))
    began = time.monotonic()
    evaluate(plan, place(tmp_path / "again"), opener=opening(None, 0))
    longest = 1.5 + 2 * (time.monotonic() - began)  # so that kills meet every stage on a slow machine too
    draw, here, log = random.Random(20), place(tmp_path), tmp_path / "calls"
    kills, rounds = 0, 0
    while kills < KILLS:
        rounds += 1
        runs = [info for info in list_runs(here.results) if info.status == "running"] if here.results.exists() else []
        if runs:
            work = lambda: resume(runs[0].path, here, opener=opening(log, 0.002))  # noqa: B023, E731
        else:
            work = lambda: evaluate(plan, here, opener=opening(log, 0.002))  # noqa: E731
        kills += not in_child(work, draw.uniform(0.01, longest))
    for info in list_runs(here.results):
        resume(info.path, here, opener=opening(log, 0))
    finished = list_runs(here.results)
    assert finished and all(info.status == "complete" for info in finished)
    for info in finished:
        run = read_run(info.path)
        assert run.summary()["results"] == whole.summary()["results"]
        assert [(r.item, r.output, r.stats) for r in run.records()] == [(r.item, r.output, r.stats) for r in whole.records()]
    calls = Counter(log.read_text().split())
    batch = 2  # the newest that is finished, and the one on its way
    assert sum(calls.values()) <= len(finished) * ITEMS + kills * batch
    assert check(here.results) == ()
    again = sum(calls.values()) - len(finished) * ITEMS
    print(
        json.dumps({"kills": kills, "runs": len(finished), "items": len(finished) * ITEMS, "asked_again": again, "per_kill": again / kills})
    )
