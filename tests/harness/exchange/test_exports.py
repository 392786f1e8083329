"""What leaves: valid by the schemas and readers of those who take it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import made_lm_eval as made
import pytest
import yaml
from fakes import make_model, place
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from assay.harness.cli.exchanging import FORMATS
from assay.harness.errors import AssayError
from assay.harness.exchange.common import slugs
from assay.harness.exchange.every_eval_ever import export_every_eval_ever
from assay.harness.exchange.hugging_face import export_hf_yaml, export_model_index
from assay.harness.exchange.lm_eval import import_lm_eval
from assay.harness.exchange.lm_eval_export import export_lm_eval
from assay.harness.files.places import Surroundings
from assay.harness.run.evaluate import evaluate
from assay.harness.store import Run, read_run
from assay.harness.store.plan import Plan

TWINS = """from assay import Choose, Doc, Task, accuracy, inline

def doc(row):
    return Doc(str(row["n"]), choices=("x", "y"), gold=row["gold"])

def task(name, count, gold):
    return Task(name, inline(test=[{"n": name + str(n), "gold": gold} for n in range(count)]), doc, Choose(), (accuracy,))

TASKS = (task("a/b", 6, 0), task("a_b", 4, 1), task("plain", 3, 0))
"""
SCHEMAS = Path(__file__).parent / "every_eval_ever_0_3_0"


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("imported")
    made.write(root / "out", "acme/wren", 0.6)
    ((bundle, _),) = import_lm_eval(root / "out", Surroundings(root / "store", root, None, True))
    return read_run(bundle)


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of ours: choices, generation, MCC, regression, totals; a scripted engine answers."""
    root = tmp_path_factory.mktemp("own")
    model = make_model(root / "model", positions=8192)
    return read_run(evaluate(Plan(str(model), ("smoke",), engine="scripted:hashed"), place(root)))


@pytest.fixture(params=["imported", "own"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(request.param)
    return found


def validator(name: str) -> Any:
    return jsonschema.Draft7Validator(json.loads((SCHEMAS / name).read_text()))


def test_every_eval_ever_validates(run: Run, tmp_path: Path) -> None:
    scores, samples = export_every_eval_ever(run, tmp_path)
    document = json.loads(scores.read_text())
    assert [str(error.message) for error in validator("eval.schema.json").iter_errors(document)] == []
    lines = [json.loads(line) for line in samples.read_text().split("\n") if line]
    instance = validator("instance_level_eval.schema.json")
    assert [str(error.message) for line in lines for error in instance.iter_errors(line)] == []
    details = document["detailed_evaluation_results"]
    assert details["total_rows"] == len(lines) > 100
    assert details["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert (tmp_path / details["file_path"]) == samples
    stored = {(result["task"], result["metric"]): result for result in run.summary()["results"]}
    assert len(document["evaluation_results"]) == len(stored)
    for entry in document["evaluation_results"]:
        result = stored[entry["evaluation_name"], entry["metric_config"]["metric_id"]]
        assert entry["score_details"]["score"] == result["value"]
        interval = entry["score_details"]["uncertainty"].get("confidence_interval", {"lower": None, "upper": None})
        assert (interval["lower"], interval["upper"]) == (result["low"], result["high"])
        assert entry["metric_config"]["lower_is_better"] == (result["better"] == "lower")
    known = {entry["evaluation_result_id"] for entry in document["evaluation_results"]}
    assert {line["evaluation_result_id"] for line in lines} <= known
    accuracy = [line["evaluation"]["score"] for line in lines if line["evaluation_result_id"] == "lm_eval/places@imported|acc"]
    assert not accuracy or sum(accuracy) / len(accuracy) == stored["lm_eval/places@imported", "acc"]["value"]


def test_the_same_run_gives_the_same_files(imported: Run, tmp_path: Path) -> None:
    first, second = ([path.read_bytes() for path in export_every_eval_ever(imported, tmp_path / name)] for name in "ab")
    assert first == second


def test_our_own_runs_are_read_by_the_import_of_lm_eval(own: Run, tmp_path: Path) -> None:
    export_lm_eval(own, tmp_path / "out")
    ((bundle, _),) = import_lm_eval(tmp_path / "out", Surroundings(tmp_path / "store", tmp_path, None, True))
    again = {(result["task"], result["metric"]): result for result in read_run(bundle).summary()["results"]}
    for result in own.summary()["results"]:
        name = "".join(c if c.isalnum() or c in "@.-_" else "_" for c in result["task"])
        found = again[f"lm_eval/{name}@imported", result["metric"]]
        assert found["value"] == result["value"], result["task"]
    means = [each for each in again.values() if each["metric"] == "accuracy"]
    assert means and all(each["evidence"] == "complete" for each in means)


def test_tasks_whose_names_would_be_one_file_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(TWINS)
    make_model(tmp_path / "model")
    run = read_run(evaluate(Plan(str(tmp_path / "model"), (str(tmp_path / "tasks.py"),), engine="scripted"), place(tmp_path)))
    written = export_lm_eval(run, tmp_path / "out")
    exported = json.loads(written[0].read_text())["results"]
    stored = {result["task"]: (result["value"], result["n"]) for result in run.summary()["results"]}
    assert {each["alias"]: (each["accuracy,none"], each["sample_len"]) for each in exported.values()} == stored and len(stored) == 3
    assert "plain" in exported  # a name that no other is like stays as it is
    for name, each in exported.items():
        (path,) = (path for path in written if path.name.startswith(f"samples_{name}_2"))
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
        assert [row["doc"]["task"] for row in rows] == [each["alias"]] * each["sample_len"]
    ((bundle, _),) = import_lm_eval(tmp_path / "out", Surroundings(tmp_path / "store", tmp_path, None, True))
    assert sorted(result["value"] for result in read_run(bundle).summary()["results"]) == sorted(value for value, _ in stored.values())


def test_names_that_would_be_equal_carry_a_piece_of_their_own_hash() -> None:
    assert slugs(["a/b", "a_b", "c d"]) == {"a/b": "a_b-c14cddc0", "a_b": "a_b-648fa9b3", "c d": "c_d"}
    assert slugs(["a/b", "a/b"]) == {"a/b": "a_b"}


@pytest.mark.parametrize("export", [export_lm_eval, export_every_eval_ever])
def test_a_run_whose_names_are_no_unicode_is_refused_in_one_line(export: Any, imported: Run, tmp_path: Path) -> None:
    exported = imported.manifest["imported"]
    document = json.dumps({**json.loads(exported["document"]), "model_name": "\ud800"})
    model = {**imported.manifest["model"], "name": "acme/\ud800"}
    hurt = replace(imported, manifest={**imported.manifest, "model": model, "imported": {**exported, "document": document}})
    with pytest.raises(AssayError, match="not valid Unicode"):
        export(hurt, tmp_path)


def test_the_hub_reads_its_own_formats(imported: Run, tmp_path: Path) -> None:
    (path,) = export_hf_yaml(imported, tmp_path)
    assert path == tmp_path / ".eval_results" / "assay.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    main = {r["task"]: r for r in imported.summary()["results"] if r["main"] and r["metric"] != "total"}
    assert [entry.value for entry in entries] == [result["value"] for result in main.values()]
    assert {entry.dataset_id for entry in entries} == {"acme/geography"}
    assert all(entry.task_id in result["task"] for entry, result in zip(entries, main.values(), strict=True))
    assert all("95% interval" in str(entry.notes) and "n=" in str(entry.notes) for entry in entries)
    (card,) = export_model_index(imported, tmp_path)
    head = yaml.safe_load(card.read_text().split("---")[1])
    name, found = model_index_to_eval_results(head["model-index"])
    assert name == "wren"
    assert [each.metric_value for each in found] == [result["value"] for result in main.values()]
    with pytest.raises(AssayError, match="exists already"):
        export_model_index(imported, tmp_path)


def test_smoke_scores_are_not_published_on_a_models_page(own: Run, tmp_path: Path) -> None:
    for export in (export_hf_yaml, export_model_index):
        with pytest.raises(AssayError, match="no release score"):
            export(own, tmp_path)


def test_every_format_is_on_the_command_line() -> None:
    assert {"lm-eval", "every-eval-ever", "hf-yaml", "model-index"} <= FORMATS.keys()
