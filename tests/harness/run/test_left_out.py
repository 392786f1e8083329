"""A suite runs without the members whose data are missing, and reports them. Run: pytest tests/harness/run/test_left_out.py"""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from fakes import make_model

from assay import AssayError, Missing, Plan, evaluate, read_run
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.errors import Incomplete
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef
from assay.harness.reports.results import notes
from assay.harness.run.evaluate import resume
from assay.harness.run.scoring.results import rescore
from assay.harness.store import find_run

ROWS = [{"sentence1": f"It rained {n} times.", "sentence2": "It rained.", "label": n % 2, "idx": n} for n in range(6)]
EMPTY = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "wnli", "ax")


def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
    return Scripted(hashed(2))


def broken(name: str, ref: ModelRef, settings: Settings) -> Engine:
    raise RuntimeError("the engine died")


@pytest.fixture
def here(tmp_path: Path) -> Surroundings:
    """A data folder that holds RTE alone."""
    for name in EMPTY:
        (tmp_path / "nyu-mll__glue" / name).mkdir(parents=True)
    (tmp_path / "nyu-mll__glue" / "rte").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "nyu-mll__glue" / "rte" / "validation.parquet")
    return Surroundings(tmp_path / "results", tmp_path / "cache", tmp_path, True)


def plan_of(folder: Path, task: str) -> Plan:
    return Plan(model=str(make_model(folder / "model")), tasks=(task,), engine="scripted")


def test_members_without_data_are_reported_and_so_is_the_total_without_them(here: Surroundings, tmp_path: Path) -> None:
    run = read_run(evaluate(plan_of(tmp_path, "glue"), here, opener=opener))
    results = run.summary()["results"]
    assert [result["task"] for result in results] == ["glue/rte@lm-eval"], "no total is shown"
    left = run.manifest["left_out"]
    assert len(left) == 10 and all("no split" in each["reason"] and each["task"] in each["reason"] for each in left)
    (unformed,) = run.manifest["unformed"]
    assert unformed["total"] == "glue" and len(unformed["lacks"]) == 9
    found = notes(run.manifest, results)
    assert sum(note.startswith("Skipped, data missing: glue/") for note in found) == 10
    assert any(note.startswith("Total glue not computed, tasks missing: ") for note in found)
    assert rescore(run, here.access()) == results


def test_a_task_given_by_name_is_never_left_out(here: Surroundings, tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"glue/mrpc@lm-eval.*no split 'validation'"):
        evaluate(plan_of(tmp_path, "glue/mrpc"), here, opener=opener)
    with pytest.raises(Missing):
        evaluate(Plan(model=str(tmp_path / "model"), tasks=("glue", "glue/mrpc"), engine="scripted"), here, opener=opener)


def test_a_suite_without_any_data_is_an_error(here: Surroundings, tmp_path: Path) -> None:
    (tmp_path / "nyu-mll__glue" / "rte" / "validation.parquet").unlink()
    with pytest.raises(Missing, match="no split"):
        evaluate(plan_of(tmp_path, "glue"), here, opener=opener)
    assert not (tmp_path / "results" / "runs").exists()


def test_data_added_later_need_a_new_run(here: Surroundings, tmp_path: Path) -> None:
    with pytest.raises(Incomplete):
        evaluate(plan_of(tmp_path, "glue"), here, opener=broken)
    bundle = find_run(here.results, next((here.results / "runs").iterdir()).name)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "nyu-mll__glue" / "wnli" / "validation.parquet")
    with pytest.raises(AssayError, match="data on this machine have changed"):
        resume(bundle, here, opener=opener)
