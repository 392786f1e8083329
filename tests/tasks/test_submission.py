"""Hidden test sets: runs without scores, and submission files. Run: pytest tests/tasks/test_submission.py"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import make_model

from assay import AssayError, Plan, Run, evaluate, read_run
from assay.harness.cli.exchanging import formats
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, oracle
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef
from assay.tasks.submission import GLUE, SUPERGLUE, glue_submission, superglue_submission

NLI = {"premise": "It rained.", "hypothesis": "It was wet."}
PAIR = {"sentence1": "It rained.", "sentence2": "It was wet."}
GLUE_ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "cola/test": ("label", {"sentence": "It rained."}),
    "sst2/test": ("label", {"sentence": "fine"}),
    "stsb/test": ("label", PAIR),
    "mnli/test_matched": ("label", NLI),
    "mnli/test_mismatched": ("label", NLI),
    "rte/test": ("label", PAIR),
    "ax/test": ("label", NLI),
}
SUPERGLUE_ROWS: dict[str, list[dict[str, object]]] = {
    "boolq": [{"question": "did it rain", "passage": "It rained.", "idx": number} for number in (1, 0)],
    "cb": [{**NLI, "idx": 0}],
    "copa": [{"premise": "It rained.", "choice1": "A.", "choice2": "B.", "question": "cause", "idx": 0}],
    "multirc": [
        {"paragraph": "p", "question": "q", "answer": "a", "idx": {"paragraph": 0, "question": question, "answer": answer}}
        for question, answer in ((0, 0), (0, 1), (1, 2))
    ],
    "record": [
        {
            "passage": "Ann met Bob.\n@highlight\nThey met",
            "query": "@placeholder left.",
            "entities": ["Bob", "Ann"],
            "answers": [],
            "idx": {"passage": 0, "query": 7},
        }
    ],
    "axg": [{**NLI, "idx": 0}],
}


def store(path: Path, rows: Sequence[object]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


def run_of(folder: Path, family: str, pick: int, **fields: object) -> Run:
    """A run on the test splits in `folder` with a model that always ranks choice `pick` first."""

    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        return Scripted(oracle(lambda request: pick))

    place = Surroundings(folder / "results", folder / "cache", folder, True)
    plan = Plan(model=str(make_model(folder / "model")), tasks=(family,), split="test", engine="scripted", **fields)  # type: ignore[arg-type]
    return read_run(evaluate(plan, place, opener=opener))


def hidden_glue(folder: Path) -> None:
    for name, (label, row) in GLUE_ROWS.items():
        hidden = -1.0 if name.startswith("stsb") else -1
        store(folder / "nyu-mll__glue" / f"{name}.parquet", [{**row, label: hidden, "idx": number} for number in (1, 0, 2)])
    for name in ("mrpc", "qqp", "qnli", "wnli"):
        (folder / "nyu-mll__glue" / name).mkdir()


def test_a_hidden_test_set_has_predictions_and_no_scores(tmp_path: Path) -> None:
    hidden_glue(tmp_path)
    run = run_of(tmp_path, "glue", 1)
    assert run.status == "complete" and run.summary()["results"] == []
    assert all(task["labelled"] is False for task in run.manifest["tasks"])
    assert {left["task"].split("@")[0] for left in run.manifest["left_out"]} == {"glue/mrpc", "glue/qqp", "glue/qnli", "glue/wnli"}
    assert run.manifest["unformed"][0]["total"] == "glue"


def test_glue_files_have_the_leaderboards_names_headers_and_labels(tmp_path: Path) -> None:
    hidden_glue(tmp_path)
    written = glue_submission(run_of(tmp_path, "glue", 1), tmp_path / "out")
    texts = {path.name: path.read_text() for path in written}
    assert texts["CoLA.tsv"] == "index\tprediction\n0\t1\n1\t1\n2\t1\n"
    for file in ("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"):
        assert texts[file].splitlines()[:2] == ["index\tprediction", "0\tneutral"]
    assert texts["RTE.tsv"].splitlines()[1] == "0\tnot_entailment"
    values = [float(line.split("\t")[1]) for line in texts["STS-B.tsv"].splitlines()[1:]]
    assert len(values) == 3 and all(0 <= value <= 5 for value in values)
    assert texts["MISSING.txt"].split() == ["MRPC.tsv", "QQP.tsv", "QNLI.tsv", "WNLI.tsv"]
    names = ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI-m", "MNLI-mm", "QNLI", "RTE", "WNLI", "AX"]
    assert [each.file for each in GLUE.values()] == [f"{name}.tsv" for name in names]


def test_superglue_files_have_the_leaderboards_names_and_labels(tmp_path: Path) -> None:
    for name, rows in SUPERGLUE_ROWS.items():
        hidden = [row if name == "record" else {**row, "label": -1} for row in rows]
        store(tmp_path / "aps__super_glue" / name / "test.parquet", hidden)
    for name in ("rte", "wic", "wsc.fixed", "axb"):
        (tmp_path / "aps__super_glue" / name).mkdir()
    written = superglue_submission(run_of(tmp_path, "superglue", 1), tmp_path / "out")
    found = {path.name: [json.loads(line) for line in path.read_text().splitlines()] for path in written if path.suffix == ".jsonl"}
    assert found == {
        "BoolQ.jsonl": [{"idx": 0, "label": "true"}, {"idx": 1, "label": "true"}],
        "CB.jsonl": [{"idx": 0, "label": "contradiction"}],
        "COPA.jsonl": [{"idx": 0, "label": 1}],
        "MultiRC.jsonl": [
            {
                "idx": 0,
                "passage": {
                    "questions": [
                        {"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 1}]},
                        {"idx": 1, "answers": [{"idx": 2, "label": 1}]},
                    ]
                },
            }
        ],
        "ReCoRD.jsonl": [{"idx": 7, "label": "Bob"}],
        "AX-g.jsonl": [{"idx": 0, "label": "not_entailment"}],
    }
    names = ["BoolQ", "CB", "COPA", "MultiRC", "ReCoRD", "RTE", "WiC", "WSC", "AX-b", "AX-g"]
    assert [each.file for each in SUPERGLUE.values()] == [f"{name}.jsonl" for name in names]


def test_only_complete_test_splits_can_be_submitted(tmp_path: Path) -> None:
    hidden_glue(tmp_path)
    with pytest.raises(AssayError, match=r"was run on 'test' \(limited\)"):
        glue_submission(run_of(tmp_path, "glue", 0, limit=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_export_command_lists_the_formats() -> None:
    assert {"glue-submission", "superglue-submission", "lm-eval"} <= set(formats())
