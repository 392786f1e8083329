"""Real vLLM in its process, killed in the middle of its work. Run: pytest tests/faults/test_vllm_process.py"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from fakes import place, write_task

from assay import Plan, evaluate, read_run
from assay.harness.checking.rerun import reproduction
from assay.harness.engines import Engine, Settings
from assay.harness.engines.child import ChildEngine
from assay.harness.engines.opening import open_engine
from assay.harness.model.find import ModelRef
from assay.harness.run.sweep import SharedEngine
from assay.harness.store import Writer

pytestmark = [pytest.mark.vllm, pytest.mark.model]
ITEMS = 120


def test_a_killed_vllm_loses_no_item_and_changes_no_score(tmp_path: Path, builtin_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[ChildEngine] = []

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        if not made:
            engine = open_engine(name, ref, settings)
            assert isinstance(engine, ChildEngine) and engine.name == "vllm"
            made.append(engine)
        return SharedEngine(made[0])

    plan = Plan(model=str(builtin_model), tasks=(str(write_task(tmp_path, ITEMS)),), engine="vllm")
    whole = read_run(evaluate(plan, place(tmp_path / "whole"), opener=opener))
    engine, append, killed = made[0], Writer.append, []

    def then_kill(writer: Writer, records: list[object]) -> None:
        append(writer, records)  # type: ignore[arg-type]
        if len(killed) < 1 and engine.process is not None:
            killed.append(engine.process.inner.pid)
            os.kill(killed[-1], signal.SIGKILL)

    monkeypatch.setattr(Writer, "append", then_kill)
    try:
        run = read_run(evaluate(plan, place(tmp_path), opener=opener))
    finally:
        engine.close()
    assert killed and engine.restarts == 1
    compared = reproduction(whole, run)
    assert compared.items == ITEMS and compared.changed == () and compared.drift < 1e-3
    assert [row["value"] for row in run.summary()["results"]] == [row["value"] for row in whole.summary()["results"]]
    facts = run.summary()["engine"]
    assert facts["restarts"] == "1" and "SIGKILL" in " ".join(facts["notes"])
