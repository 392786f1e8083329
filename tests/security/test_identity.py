"""No score under another model's name, and no number that is none in a score or a rank."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Metric, Plan, evaluate, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Answer, Fault, Scripted, faulty, hashed
from assay.harness.errors import Incomplete
from assay.harness.model.find import ModelRef, find_model
from assay.harness.run.evaluate import OpenEngine, resume
from assay.harness.run.scoring.results import number, part_of
from assay.harness.stats.interval import score_interval
from assay.harness.store import StatTable, index, query
from assay.harness.task.metric import Array, Pooled

COUNT = 40
"""Items: enough for an interval, which a rank needs."""


def opening(answer: Answer, made: list[Scripted]) -> OpenEngine:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        made.append(Scripted(answer))
        return made[-1]

    return opener


def plan_of(model: Path, folder: Path) -> Plan:
    return Plan(model=str(model), tasks=(str(write_task(folder, COUNT)),), engine="scripted")


def interrupted(model: Path, folder: Path) -> Path:
    """A run that ended after five items."""
    with pytest.raises(Incomplete):
        evaluate(plan_of(model, folder), place(folder), opener=opening(faulty(hashed(3), Fault("raise", at=6)), []))
    (bundle,) = (folder / "results" / "runs").iterdir()
    return bundle


def test_the_same_path_with_other_weights_reuses_nothing(tmp_path: Path) -> None:
    model, made = make_model(tmp_path / "model"), []  # type: ignore[var-annotated]
    runs = []
    for seed in (0, 1):
        make_model(model, seed=seed)
        runs.append(read_run(evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(hashed(seed), made))))
    assert [engine.calls.total() for engine in made] == [COUNT, COUNT], "every item was asked of the new weights"
    first, second = (run.manifest["model"] for run in runs)
    assert first["path"] == second["path"] and first["digest"] != second["digest"]
    ranked = query(tmp_path / "results", "SELECT run_id, model_digest FROM leaderboard ORDER BY run_id")
    assert sorted(digest for _, digest in ranked) == sorted((first["digest"], second["digest"]))


def test_one_flipped_byte_of_a_weight_is_another_model(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    before = find_model(str(model), cache=tmp_path, offline=True).digest
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (model / "model.safetensors").write_bytes(data)
    assert find_model(str(model), cache=tmp_path, offline=True).digest != before


def test_a_run_is_not_resumed_with_another_model_at_its_path(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    bundle = interrupted(model, tmp_path)
    shutil.rmtree(model)
    make_model(model, seed=1)
    made: list[Scripted] = []
    with pytest.raises(AssayError, match="not those of this run"):
        resume(bundle, place(tmp_path), opener=opening(hashed(3), made))
    assert not made, "no engine was opened"


def test_a_journal_moved_to_another_models_run_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    one = interrupted(make_model(tmp_path / "one"), tmp_path / "a")
    other = interrupted(make_model(tmp_path / "other", seed=1), tmp_path / "b")
    shutil.copy(one / "journal.jsonl", other / "journal.jsonl")
    with pytest.raises(AssayError, match="belongs to another run"):
        resume(other, place(tmp_path / "b"), opener=opening(hashed(3), []))


def test_a_manifest_changed_to_another_model_is_refused(tmp_path: Path) -> None:
    bundle = interrupted(make_model(tmp_path / "one"), tmp_path)
    make_model(tmp_path / "other", seed=1)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["plan"]["model"] = str(tmp_path / "other")
    manifest["model"]["digest"] = find_model(str(tmp_path / "other"), cache=tmp_path, offline=True).digest
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(AssayError, match=r"belongs to another run, or manifest\.json was changed"):
        resume(bundle, place(tmp_path), opener=opening(hashed(3), []))


def test_nan_from_an_engine_is_no_score_and_no_rank(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    with pytest.raises(Incomplete, match=r"items failed.*non-finite"):
        evaluate(plan_of(model, tmp_path), place(tmp_path), opener=opening(faulty(hashed(3), Fault("nan", at=4)), []))
    index(tmp_path / "results")
    assert query(tmp_path / "results", "SELECT * FROM scores") == query(tmp_path / "results", "SELECT * FROM leaderboard") == []
    for path in (tmp_path / "results").rglob("*.json*"):
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()


def test_nan_weights_in_a_real_engine_are_no_score(tmp_path: Path) -> None:
    """A checkpoint with one NaN: every logit is NaN, and generated text would be garbage in silence."""
    from safetensors.numpy import load_file, save_file

    model = make_model(tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].copy()
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    plan = Plan(model=str(model), tasks=(str(write_task(tmp_path, 4)),), engine="hf", device="cpu")
    with pytest.raises(AssayError, match=r"(?i)nan|finite"):
        evaluate(plan, place(tmp_path))
    if (tmp_path / "results").is_dir():
        index(tmp_path / "results")
        assert query(tmp_path / "results", "SELECT * FROM scores") == []


def test_a_metric_that_combines_to_nan_has_no_score() -> None:
    def nothing(means: Array) -> Array:
        return np.full(means.shape[:-1], math.nan)

    metric = Metric("nothing", lambda doc, output: (1.0,), Pooled(nothing))
    table = StatTable(("a", "b"), ("a", "b"), ("a", "b"), np.ones((2, 1)))
    found = score_interval(*part_of(metric, table))
    assert (found.value, found.low, found.high, found.reason) == (None, None, None, "its formula gives nan")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_limit_that_is_no_number_is_stored_as_none(value: float) -> None:
    assert number(value) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_measures_nan_stops_the_run_with_its_item(tmp_path: Path, value: float) -> None:
    make_model(tmp_path / "model")
    task = write_task(tmp_path, 4)
    text = (
        task.read_text()
        .replace("accuracy, inline", "Metric, inline")
        .replace("(accuracy,)", f"(Metric('m', lambda d, o: (float('{value}'),)),)")
    )
    task.write_text(text)
    plan = Plan(model=str(tmp_path / "model"), tasks=(str(task),), engine="scripted")
    with pytest.raises(AssayError, match=r"metric m, item .*: gave \((nan|inf),\)\. measure must give finite numbers"):
        evaluate(plan, place(tmp_path), opener=opening(hashed(1), []))
