"""assay run --explain: the cost of a run, without loading a model. Run: pytest tests/harness/run/test_explain.py"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import make_model, place, write_task
from typer.testing import CliRunner

from assay import Plan, read_run
from assay.harness.cli import app
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.model.find import ModelRef
from assay.harness.run import explain as explaining
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import evaluate
from assay.harness.run.explain import Speed, explain
from tests.harness.prompt.chat_models import CHATML, make_chat_tokenizer


def plan_of(folder: Path, **changes: object) -> Plan:
    if not (folder / "m").is_dir():
        make_model(folder / "m")
        write_task(folder, 12)
    return replace(Plan(model=str(folder / "m"), tasks=(str(folder / "sums.py"),), engine="scripted"), **changes)  # type: ignore[arg-type]


def scripted(name: str, ref: ModelRef, settings: Settings) -> Engine:
    return Scripted(hashed(1))


def test_the_counts_are_those_of_the_run(tmp_path: Path) -> None:
    plan, here = plan_of(tmp_path, engine="hf"), place(tmp_path)
    (cost,) = explain(plan, here, NoProgress()).tasks
    assert (cost.items, cost.requests, cost.generated) == (12, 12, 0)
    tokens = read_run(evaluate(plan, here)).summary()["tokens"]
    assert (cost.logical, cost.ideal) == (tokens["logical"], tokens["computed"])
    assert cost.shared > 2


def test_counts_are_cached_and_an_edited_task_is_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, here = plan_of(tmp_path), place(tmp_path)
    first = explain(plan, here, NoProgress())
    monkeypatch.setattr(explaining, "count_tokens", lambda *_: pytest.fail("counted again"))
    monkeypatch.setattr(explaining, "tokenizer_of", lambda _: pytest.fail("a tokenizer was loaded"))
    assert explain(plan, here, NoProgress()) == first
    monkeypatch.undo()
    (kept,) = (here.cache / "plans").glob("*.json")
    kept.write_text(kept.read_text()[:-9])  # a truncated cache file is ignored
    assert explain(plan, here, NoProgress()) == first
    path = tmp_path / "sums.py"
    path.write_text(path.read_text().replace("} =", "} equals"))
    assert explain(plan, here, NoProgress()).total.ideal > first.total.ideal
    more = [replace(plan, limit=5), replace(plan, shots=0, shard="1/2")]
    assert [explain(each, here, NoProgress()).total.items for each in more] == [5, 6]


def test_counts_of_a_chat_depend_on_what_the_chat_holds(tmp_path: Path) -> None:
    plan, here = replace(plan_of(tmp_path), chat=True), place(tmp_path)
    make_chat_tokenizer(tmp_path / "m", CHATML)
    plain = explain(plan, here, NoProgress()).total.ideal
    for changes in ({"system": "Be brief."}, {"assistant_prefix": "The sum is"}):
        assert explain(replace(plan, **changes), here, NoProgress()).total.ideal != plain  # type: ignore[arg-type]


def test_speed_is_that_of_earlier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining, "MIN_TOKENS", 1)
    plan, here = plan_of(tmp_path), place(tmp_path)
    assert explain(plan, here, NoProgress()).seconds is None
    summary = read_run(evaluate(plan, here, opener=scripted)).summary()
    found = explain(plan, here, NoProgress())
    assert found.speed is not None and "1 earlier run of this model" in found.speed.source
    if summary["seconds"]["engine"] > 0:
        assert found.speed.tokens_per_second == pytest.approx(summary["tokens"]["computed"] / summary["seconds"]["engine"])
    make_model(tmp_path / "other", seed=5)
    assert "models of this size" in (explain(replace(plan, model=str(tmp_path / "other")), here, NoProgress()).speed or Speed(0, "")).source


def test_on_the_command_line_no_engine_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(tmp_path)
    monkeypatch.setattr("assay.harness.run.sweep.sweep", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    line = ["run", "--explain", "--model", plan.model, "--tasks", plan.tasks[0], "--engine", "hf", "--results", str(tmp_path / "results")]
    result = CliRunner().invoke(app, [*line, "--json"])
    found = json.loads(result.stdout)
    assert found["items"] == 12 and found["tokens"]["ideal"] < found["tokens"]["logical"] and found["seconds"] is None
    assert "time unknown" in CliRunner().invoke(app, line).stdout
    assert not (tmp_path / "results").exists()
