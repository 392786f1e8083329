"""Several processes score as one, share the requests, and survive the death of one. Run: pytest tests/contracts/test_parallel.py"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models

from assay import AssayError
from assay.harness.engines import Settings, parallel
from assay.harness.engines.hf.engine import open_engine as open_here
from assay.harness.engines.opening import open_engine
from assay.harness.engines.parallel import ParallelEngine, environments, work
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.model.find import ModelRef

DICE = random.Random(0)
GROUPS = [
    ScoreGroup(tuple(DICE.choices(range(3, tiny_models.VOCABULARY), k=5)), ((7, 8), (9,), tuple(DICE.choices(range(3, 60), k=4))))
    for _ in range(24)
]
SETTINGS = Settings(device="cpu", budget=64 << 20, data_parallel=2)


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    model = tiny_models.make(tmp_path)
    here = open_here(model, replace(SETTINGS, data_parallel=1))
    expected, texts = dict(here.score(GROUPS)), dict(here.generate([GenRequest((5, 6, number), 4) for number in range(9)]))
    engine = open_engine("hf", model, SETTINGS)
    assert isinstance(engine, ParallelEngine) and engine.limits == here.limits
    try:
        found = dict(engine.score(GROUPS))
        assert sorted(found) == list(range(len(GROUPS)))
        for index, reply in found.items():
            for one, other in zip(reply.logprobs, expected[index].logprobs, strict=True):  # type: ignore[union-attr]
                assert one == pytest.approx(other, abs=1e-5)
        assert all(each.stats.computed for each in engine.engines), "both processes worked"
        assert engine.stats.computed == sum(each.stats.computed for each in engine.engines)
        for index, proof in engine.plain(GROUPS[:2]):
            assert proof.logprobs[0] == pytest.approx(expected[index].logprobs[0], abs=1e-5)  # type: ignore[union-attr]
        replies = dict(engine.generate([GenRequest((5, 6, number), 4) for number in range(9)]))
        assert [replies[index].text for index in range(9)] == [texts[index].text for index in range(9)]  # type: ignore[union-attr]
        assert engine.engines[0].process is not None
        os.kill(engine.engines[0].process.inner.pid, signal.SIGKILL)
        assert sorted(dict(engine.score(GROUPS))) == list(range(len(GROUPS)))
        assert engine.describe()["data_parallel"] == "2"
        assert engine.describe()["restarts"] == "1", engine.stats.notes
        stream = engine.score(GROUPS)
        next(stream)
        stream.close()
        assert sorted(dict(engine.score(GROUPS))) == list(range(len(GROUPS))), "leaving early breaks nothing"
        other = tiny_models.make(tmp_path / "other", seed=1)
        engine.swap(other.path)
        assert dict(engine.score(GROUPS[:1]))[0] != found[0]
    finally:
        engine.close()


def test_a_thread_that_ends_late_keeps_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*args: Any) -> None:
        work(*args)
        time.sleep(0.3)

    monkeypatch.setattr(parallel, "work", late)
    engine = open_engine("hf", tiny_models.make(tmp_path), SETTINGS)
    assert isinstance(engine, ParallelEngine)
    try:
        before = [each.process for each in engine.engines]
        for _ in range(2):
            assert sorted(dict(engine.score(GROUPS))) == list(range(len(GROUPS)))
        assert [each.process for each in engine.engines] == before and engine.describe()["restarts"] == "0"
        stream = engine.score(GROUPS)
        next(stream)
        stream.close()
        assert sorted(dict(engine.score(GROUPS))) == list(range(len(GROUPS)))
        assert engine.describe()["restarts"] == "0", "a process that was ended on purpose is no restart"
    finally:
        engine.close()


def test_an_error_of_the_engine_is_raised_and_ends_all_processes(tmp_path: Path) -> None:
    with pytest.raises(AssayError):
        open_engine("hf", ModelRef("nothing", tmp_path, "0"), SETTINGS)


def test_each_process_gets_its_own_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert environments(Settings(data_parallel=2, tensor_parallel=2)) == [{"CUDA_VISIBLE_DEVICES": "2,3"}, {"CUDA_VISIBLE_DEVICES": "5,7"}]
    with pytest.raises(AssayError, match=r"need 6 GPUs, this machine has 4.*--data-parallel 2"):
        environments(Settings(data_parallel=3, tensor_parallel=2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [set(each) for each in environments(Settings(data_parallel=2))] == [{"OMP_NUM_THREADS"}] * 2
