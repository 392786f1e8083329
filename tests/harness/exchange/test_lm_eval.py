"""What lm-eval wrote comes in with every score computed again, and goes out again with every number as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import made_lm_eval as made
import pytest

from harness.compare import compare, side_of
from harness.errors import AssayError, Invalid
from harness.exchange.lm_eval import import_lm_eval
from harness.exchange.lm_eval_export import export_lm_eval
from harness.exchange.recomputing import recompute
from harness.provenance import Surroundings
from harness.source import Access
from harness.store import Run, check, query, read_run


def place(root: Path) -> Surroundings:
    return Surroundings(root / "store", root, None, True)


def bring(root: Path, **more: Any) -> Run:
    made.write(root / "out", **{"model": "acme/wren", "skill": 0.6, **more})
    ((bundle, new),) = import_lm_eval(root / "out", place(root))
    assert new
    return read_run(bundle)


def results(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (result["task"].removeprefix("lm_eval/").removesuffix("@imported"), result["metric"]): result for result in run.summary()["results"]
    }


def test_every_score_is_the_one_that_lm_eval_gave(tmp_path: Path) -> None:
    run = bring(tmp_path)
    found = results(run)
    document = json.loads(next((tmp_path / "out").rglob("results_*.json")).read_text())
    stated = {
        (task, key.removesuffix(",none")): value
        for task, told in document["results"].items()
        for key, value in told.items()
        if "," in key and "stderr" not in key and isinstance(value, float)
    }
    stated["atlas", "total"] = stated.pop(("atlas", "acc"))
    assert found.keys() == stated.keys()
    for key, value in stated.items():
        assert found[key]["value"] == pytest.approx(value, rel=1e-12), key
        assert found[key]["low"] <= value <= found[key]["high"], key
        assert found[key]["evidence"] == "complete"
    assert found["texts", "word_perplexity"]["better"] == "lower"
    assert found["places", "acc"]["chance"] == 0.25
    assert {found[key]["unit"] for key in (("places", "acc"), ("atlas", "total"))} == {1.0}
    assert found["texts", "bits_per_byte"]["unit"] is None


def test_the_history_is_ranked_and_marked_as_imported(tmp_path: Path) -> None:
    run = bring(tmp_path)
    root = tmp_path / "store"
    rows = query(root, "SELECT DISTINCT model, task, created_at::DATE::VARCHAR FROM leaderboard ORDER BY task")
    assert [row[1] for row in rows] == [f"lm_eval/{task}@imported" for task in sorted([*made.samples_of(0.6, 0), "atlas"])]
    assert {(row[0], row[2]) for row in rows} == {("acme/wren", "2026-11-23")}  # the day it was run, not that of the import
    assert run.manifest["imported"]["from"] == "lm-eval"
    assert run.manifest["model"]["digest"].startswith("imported-")
    assert not check(root, lambda each: recompute(each, Access()))


def test_what_was_sent_and_came_back_is_there(tmp_path: Path) -> None:
    run = bring(tmp_path)
    sums = query(tmp_path / "store", "SELECT prompt, output, gold, correct FROM samples WHERE task LIKE '%sums%' AND item_id = '0'")
    said = next(each for each in made.samples_of(0.6, 0)["sums"] if each["doc_id"] == 0)
    assert sums[0][:3] == (said["arguments"]["gen_args_0"]["arg_0"], said["resps"][0][0], "1")
    statuses = {record.item: record.status for record in run.records() if "sums" in record.task}
    invalid = {str(each["doc_id"]) for each in made.samples_of(0.6, 0)["sums"] if each["filtered_resps"] == ["[invalid]"]}
    assert invalid and {item for item, status in statuses.items() if status == "unparsed"} == (invalid if main_is_strict(run) else set())
    choice = query(tmp_path / "store", "SELECT output, gold, correct FROM samples WHERE task LIKE '%places%'")
    assert all((output == gold) == (correct == 1.0) for output, gold, correct in choice)


def main_is_strict(run: Run) -> bool:
    return next(result["metric"] for result in run.summary()["results"] if "sums" in result["task"] and result["main"]).endswith(
        "strict-match"
    )


def test_two_imports_are_compared_item_by_item(tmp_path: Path) -> None:
    for number, (model, skill) in enumerate((("acme/wren", 0.45), ("acme/heron", 0.95))):
        made.write(tmp_path / "out", model, skill, number)
    runs = [read_run(bundle) for bundle, _ in import_lm_eval(tmp_path / "out", place(tmp_path))]
    heron, wren = sorted(runs, key=lambda run: str(run.manifest["model"]["name"]))
    found = {(row.task, row.metric): row for row in compare(side_of(wren, Access()), side_of(heron, Access())).rows}
    row = found["lm_eval/places@imported", "acc"]
    assert row.difference.delta == pytest.approx(row.candidate - row.baseline)
    assert row.difference.wins - row.difference.losses == round(24 * row.difference.delta)
    assert row.gained
    assert found["lm_eval/twins@imported", "mcc"].difference.p < 0.05
    assert found["lm_eval/atlas@imported", "total"].total


def same(one: Any, two: Any, where: str = "") -> None:
    """Equal in every number, text and key; 1 and 1.0 differ."""
    assert type(one) is type(two), where
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(two), where
        for number, pair in enumerate(zip(one, two, strict=True)):
            same(*pair, f"{where}[{number}]")
    else:
        assert one == two, where


def round_trip(source: Path, root: Path) -> int:
    """How many files came out of an import and an export as they went in."""
    count = 0
    for bundle, _ in import_lm_eval(source, place(root)):
        told = read_run(bundle).manifest["imported"]
        first = next(path for path in source.rglob(told["file"]))
        written = {path.name.rsplit("_", 1)[0]: path for path in export_lm_eval(read_run(bundle), root / f"back{count}")}
        date = first.stem.removeprefix("results_")
        for path in (first, *first.parent.glob(f"samples_*_{date}.jsonl")):
            texts = [each.read_text() for each in (path, written[path.name.rsplit("_", 1)[0]])]
            one, two = ([json.loads(line) for line in ([text] if path.suffix == ".json" else text.split("\n")) if line] for text in texts)
            same(one, two, path.name)
            count += 1
    return count


def test_imported_and_exported_again_every_number_is_equal(tmp_path: Path) -> None:
    made.write(tmp_path / "out", "acme/wren", 0.5)
    made.write(tmp_path / "out", "acme/heron", 0.8, 1, samples=False)
    assert round_trip(tmp_path / "out", tmp_path) == 8


@pytest.mark.skipif("ASSAY_LM_EVAL_OUT" not in os.environ, reason="ASSAY_LM_EVAL_OUT names no folder of lm-eval's")
def test_a_real_folder_of_lm_eval_makes_the_round_trip(tmp_path: Path) -> None:
    assert round_trip(Path(os.environ["ASSAY_LM_EVAL_OUT"]), tmp_path)


def test_the_same_file_is_imported_once(tmp_path: Path) -> None:
    run = bring(tmp_path)
    assert import_lm_eval(tmp_path / "out", place(tmp_path)) == ((run.path, False),)


def test_scores_without_samples_are_kept_but_never_ranked(tmp_path: Path) -> None:
    run = bring(tmp_path, samples=False)
    assert {result["evidence"] for result in run.summary()["results"]} == {"aggregate"}
    assert len(run.summary()["results"]) == 13
    assert not query(tmp_path / "store", "SELECT * FROM leaderboard")
    assert not check(tmp_path / "store", lambda each: recompute(each, Access()))


def test_a_limited_run_is_not_ranked(tmp_path: Path) -> None:
    bring(tmp_path, limit=10.0)
    assert not query(tmp_path / "store", "SELECT * FROM leaderboard")


@pytest.mark.parametrize(
    ("task", "key"), [("places", "acc,none"), ("twins", "mcc,none"), ("texts", "bits_per_byte,none"), ("atlas", "acc,none")]
)
def test_a_score_that_its_samples_do_not_give_is_refused(task: str, key: str, tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    document = json.loads(path.read_text())
    for part in ("results", "groups"):
        if task in document[part]:
            document[part][task][key] += 0.01
    path.write_text(json.dumps(document))
    with pytest.raises(Invalid, match="is stated as"):
        import_lm_eval(tmp_path / "out", place(tmp_path))
    assert not query_runs(tmp_path)


def query_runs(root: Path) -> list[Path]:
    return [path for path in (root / "store" / "runs").iterdir() if (path / "DONE").exists()]


def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    samples = next(path.parent.glob("samples_places_*"))
    samples.write_text("\n".join(samples.read_text().split("\n")[1:]))
    with pytest.raises(AssayError, match="23 items of places, the results say 24"):
        import_lm_eval(tmp_path / "out", place(tmp_path))


def test_an_unknown_aggregation_is_taken_as_a_mean_only_where_it_is_one(tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    document = json.loads(path.read_text())
    for task in ("places", "atlas_north"):
        document["configs"][task]["metric_list"] = [{"metric": "acc", "aggregation": "def custom(arr): ..."}]
    document["results"]["atlas_north"]["acc,none"] = 0.123
    document["groups"].clear()
    document["results"].pop("atlas")
    path.write_text(json.dumps(document))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    found = results(read_run(bundle))
    assert found["places", "acc"]["evidence"] == "complete"
    assert (found["atlas_north", "acc"]["evidence"], found["atlas_north", "acc"]["value"]) == ("aggregate", 0.123)


@pytest.mark.parametrize("text", ["{}", "[]", "nonsense", '{"results": 1, "config": {}}'])
def test_other_files_are_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "results_x.json").write_text(text)
    with pytest.raises(AssayError, match=r"results_x\.json"):
        import_lm_eval(tmp_path, place(tmp_path))
