"""What lm-eval wrote comes in with every score computed again, and goes out again with every number as it was."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_lm_eval as made
import pytest

from assay.harness.checking.audit import audit
from assay.harness.checking.rerun import rerun
from assay.harness.cli.running import print_run
from assay.harness.decide.compare import compare, side_of
from assay.harness.errors import AssayError, Invalid
from assay.harness.exchange.lm_eval import import_lm_eval
from assay.harness.exchange.lm_eval_export import export_lm_eval
from assay.harness.files.places import Access, Surroundings
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import resume
from assay.harness.run.scoring.lm_eval_choices import possible
from assay.harness.run.scoring.lm_eval_items import Sampled
from assay.harness.run.scoring.verify import recompute, verify
from assay.harness.store import Run, check, index, query, read_run


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
        for task, imported in document["results"].items()
        for key, value in imported.items()
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


def test_prompts_and_responses_are_imported(tmp_path: Path) -> None:
    run = bring(tmp_path)
    sums = query(tmp_path / "store", "SELECT prompt, output, gold, correct FROM samples WHERE task LIKE '%sums%' AND item_id = '0'")
    sample = next(each for each in made.samples_of(0.6, 0)["sums"] if each["doc_id"] == 0)
    assert sums[0][:3] == (sample["arguments"]["gen_args_0"]["arg_0"], sample["resps"][0][0], "1")
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
        imported = read_run(bundle).manifest["imported"]
        first = next(path for path in source.rglob(imported["file"]))
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


def forge(root: Path, task: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Samples of a task changed one by one, and the stated score to what they then give."""
    path = made.write(root / "out", "acme/wren", 0.6)
    samples = next(path.parent.glob(f"samples_{task}_*"))
    rows = [json.loads(line) for line in samples.read_text().split("\n") if line]
    for row in rows:
        change(row)
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = json.loads(path.read_text())
    document["results"][task].update(made.scores_of(rows))
    path.write_text(json.dumps(document))


def test_the_sample_file_has_the_fields_that_the_forgeries_change(tmp_path: Path) -> None:
    rows = made.samples_of(0.6, 0)["places"]
    assert {(row["acc"], row["acc_norm"]) for row in rows} == {(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}


@pytest.mark.parametrize(
    ("task", "metric", "value"),
    [("places", "acc", 1.0), ("places", "acc_norm", 1.0), ("places", "acc", True), ("twins", "f1", None), ("twins", "mcc", None)],
)
def test_samples_that_contradict_their_log_likelihoods_are_refused(task: str, metric: str, value: Any, tmp_path: Path) -> None:
    forge(tmp_path, task, lambda row: row.update({metric: row[metric][::-1] if value is None else value}))
    with pytest.raises(Invalid, match=f"{metric} of item .* is .*, its log-likelihoods give"):
        import_lm_eval(tmp_path / "out", place(tmp_path))
    assert not list((tmp_path / "store").glob("runs/*"))


def copy_of(bundle: Path, root: Path) -> Path:
    shutil.copytree(bundle, root / "runs" / bundle.name)
    return root


def test_an_unchanged_import_is_ranked_from_a_copy(tmp_path: Path) -> None:
    made.write(tmp_path / "out", "acme/wren", 0.6)
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    copied = copy_of(bundle, tmp_path / "copied")
    assert index(copied, verify=verify(Access())).trouble == {}
    wanted = "SELECT task, metric, value FROM leaderboard ORDER BY ALL"
    assert query(copied, wanted) == query(tmp_path / "store", wanted) != []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda row: row.update(acc=1.0), "its log-likelihoods give"),
        (lambda row: row.update(acc=1.0, target="elsewhere"), "does not say which choice is right"),
        (lambda row: row.update(acc=5.0), "expected a value from 0 to 1"),
    ],
)
def test_a_copied_import_is_held_against_its_log_likelihoods(
    change: Callable[[Any], None], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy's hashes and scores are consistent: it was imported without the check of values."""
    forge(tmp_path, "places", change)
    with monkeypatch.context() as forger:
        forger.setattr("assay.harness.exchange.lm_eval.check_values", lambda *rest: True)
        ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    copied = copy_of(bundle, tmp_path / "copied")
    assert says in index(copied, verify=verify(Access())).trouble[bundle.name]
    assert query(copied, "SELECT * FROM scores") == []


def test_a_copied_import_shows_what_its_samples_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.write(tmp_path / "out", "acme/wren", 0.6)
    with monkeypatch.context() as forger:
        forger.setattr("assay.harness.run.scoring.lm_eval_items.output_of", lambda sample: {"text": "brilliant"})
        ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    copied = copy_of(bundle, tmp_path / "copied")
    assert "differs from its samples" in index(copied, verify=verify(Access())).trouble[bundle.name]


@pytest.mark.parametrize(("task", "metric"), [("places", "acc"), ("places", "acc_norm"), ("sums", "exact_match")])
@pytest.mark.parametrize("value", [5.0, -0.1])
def test_a_share_lies_between_none_and_all(task: str, metric: str, value: float, tmp_path: Path) -> None:
    forge(tmp_path, task, lambda row: row.update({metric: value}))
    with pytest.raises(Invalid, match="expected a value from 0 to 1"):
        import_lm_eval(tmp_path / "out", place(tmp_path))


def test_where_the_right_choice_cannot_be_read_the_score_is_only_stated(tmp_path: Path) -> None:
    forge(tmp_path, "places", lambda row: row.update({"target": "elsewhere", "acc": 1.0}))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    assert results(read_run(bundle))["places", "acc"]["evidence"] == "aggregate"
    assert not query(tmp_path / "store", "SELECT * FROM leaderboard WHERE task LIKE '%places%'")


def choice(target: str, *choices: tuple[str, float], contexts: tuple[str, ...] = (), **more: Any) -> Sampled:
    asked = {f"gen_args_{n}": {"arg_0": (contexts or ("Q:",) * 9)[n], "arg_1": text} for n, (text, _) in enumerate(choices)}
    return Sampled(0, "none", 1, {"target": target, "arguments": asked, "resps": [[[repr(s), "False"]] for _, s in choices], **more})


AB = ((" a", -1.0), (" bcde", -2.0))


@pytest.mark.parametrize(
    ("metric", "sample", "allowed"),
    [
        ("acc", choice("0", *AB), {1.0}),
        ("acc", choice("1", *AB), {0.0}),
        ("acc", choice("a", *AB), {1.0}),
        ("acc", choice(" bcde", *AB), {0.0}),
        ("acc", choice("[0, 1]", *AB), {1.0}),
        ("acc", choice("[1, 2]", *AB), {0.0}),
        ("acc", choice("7", *AB), {0.0}),  # an index that is out of range is never right
        ("acc", choice("-1", *AB), {0.0}),
        ("acc", choice("True", *AB), {0.0}),
        ("acc", choice("1", (" 1", -1.0), (" 2", -2.0)), {0.0, 1.0}),  # an index or a text: the file does not say
        ("acc", choice("neither", *AB), set()),
        ("acc", choice("0", (" a", float("nan")), (" b", -1.0)), {1.0}),  # as numpy's argmax has it
        ("acc", choice("0", (" a", -1.0), (" b", -1.0)), {1.0}),  # the first of equals
        ("acc_norm", choice("1", *AB), {1.0}),
        ("acc_norm", choice("0", (" a", -1.0), (" bb", -1.6)), {0.0, 1.0}),  # 1 and 2 letters, or 2 and 3 under a chat template
        ("acc_bytes", choice("1", (" aaa", -3.0), (" éé", -3.4)), {1.0}),
        ("acc_norm", choice("1", (" aaa", -3.0), (" éé", -3.4)), {0.0}),
        ("acc", choice("0", *AB, contexts=("Q one:", "Q two:")), None),
        ("acc", choice("0", *AB, (" a", -9.0), (" bcde", -0.1), contexts=("Q:", "Q:", "", ""), acc_mutual_info=0.0), {1.0}),
        ("acc", choice(" word", (" word", -1.0)), {0.0}),  # one continuation: whether it is the greedy one
        ("brier_score", choice("0", *AB), None),
    ],
)
def test_what_an_item_may_score_follows_from_its_log_likelihoods(metric: str, sample: Sampled, allowed: set[float] | None) -> None:
    found = possible(metric, sample, " ")
    assert (None if found is None else set(found)) == allowed


def test_a_task_whose_own_code_judges_is_taken_as_it_says(tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    document = json.loads(path.read_text())
    samples = next(path.parent.glob("samples_places_*"))
    rows = [json.loads(line) for line in samples.read_text().split("\n") if line]
    samples.write_text("".join(json.dumps({**row, "acc": 0.25}) + "\n" for row in rows))  # as TruthfulQA's shares of probability
    document["results"]["places"]["acc,none"] = 0.25
    document["configs"]["places"]["process_results"] = "def process_results(doc, results): ..."
    path.write_text(json.dumps(document))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    assert results(read_run(bundle))["places", "acc"]["value"] == 0.25


@pytest.mark.parametrize("counts", [None, {}, {"effective": 24}, {"original": 24}, {"original": "24", "effective": "24"}])
def test_a_run_that_does_not_say_how_many_items_there_are_is_no_whole_one(counts: Any, tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    document = json.loads(path.read_text())
    document["n-samples"]["places"] = counts
    path.write_text(json.dumps(document))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    run = read_run(bundle)
    found = results(run)
    assert (run.manifest["evidence"], found["places", "acc"]["evidence"], found["twins", "acc"]["evidence"]) == (
        "partial",
        "partial",
        "complete",
    )
    assert not query(tmp_path / "store", "SELECT * FROM leaderboard WHERE task LIKE '%places%'")


LONE = "\ud800"


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(date=1e17),
        lambda document: document.update(date=-1e15),
        lambda document: document.update(model_name=LONE),
        lambda document: document.update(lm_eval_version=f"0.4{LONE}"),
        lambda document: document["results"].update({"x" * 5000: {"acc,none": 1.0}}),
        lambda document: document["results"].update({"../up": {"acc,none": 1.0}}),
        lambda document: document["results"]["places"].update({f"acc{LONE},none": 1.0}),
    ],
    ids=range(7),
)
def test_invalid_values_are_refused_and_leave_nothing_behind(change: Callable[[Any], None], tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    for _ in range(2):
        with pytest.raises(AssayError, match=r"results_|samples_"):
            import_lm_eval(tmp_path / "out", place(tmp_path))
    assert not list((tmp_path / "store").glob("runs/*"))


def test_a_sample_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    forge(tmp_path, "places", lambda row: row["doc"].update(note=LONE))
    with pytest.raises(AssayError, match=r"samples_places_.*:1: not a sample"):
        import_lm_eval(tmp_path / "out", place(tmp_path))


def spoil(root: Path, task: str, value: float, numbers: tuple[int, ...], **stated: float) -> Path:
    """Samples of a task whose accuracy is not a number, and the stated scores that follow."""
    path = made.write(root / "out", "acme/wren", 0.6)
    samples = next(path.parent.glob(f"samples_{task}_*"))
    rows = [json.loads(line) for line in samples.read_text().split("\n") if line]
    for number in numbers:
        rows[number]["acc"] = value
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = json.loads(path.read_text())
    document["results"][task].update(stated)
    path.write_text(json.dumps(document))
    return samples


def test_one_nan_item_is_marked_and_takes_only_its_own_score_along(tmp_path: Path) -> None:
    samples = spoil(tmp_path, "places", math.nan, (3,), **{"acc,none": math.nan})
    original = samples.read_text()
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    run = read_run(bundle)
    found = results(run)
    assert found["places", "acc"]["value"] is None
    assert re.fullmatch(r"acc of 1 of \d+ items is not a finite number", found["places", "acc"]["reason"])
    assert found["places", "acc"]["evidence"] == "partial" and found["places", "acc_norm"]["value"] is not None
    (broken,) = [record for record in run.records() if record.error]
    assert broken.error == "acc in lm-eval's samples: not a finite number" and "acc" not in broken.stats and "acc_norm" in broken.stats
    assert check(tmp_path / "store", lambda run: recompute(run, place(tmp_path).access())) == ()
    back = next(path for path in export_lm_eval(run, tmp_path / "back") if path.name.startswith("samples_places"))
    assert lines_of(back.read_text()) == lines_of(original)


def lines_of(text: str) -> list[str]:
    """The rows as JSON with sorted keys, in which NaN equals NaN."""
    return [json.dumps(json.loads(line), sort_keys=True) for line in text.split("\n") if line]


def test_a_nan_score_comes_in_without_a_value(tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    for samples in path.parent.glob("samples_*"):
        samples.unlink()
    document = json.loads(path.read_text())
    document["results"]["places"]["acc,none"] = math.nan
    path.write_text(json.dumps(document))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    found = results(read_run(bundle))["places", "acc"]
    assert (found["value"], found["evidence"], found["reason"]) == (None, "aggregate", "lm-eval states nan")


def test_log_likelihoods_of_nan_keep_lm_evals_pick_and_are_marked(tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    samples = next(path.parent.glob("samples_places_*"))
    rows = [json.loads(line) for line in samples.read_text().split("\n") if line]
    wrong = next(row for row in rows if row["acc"] == 0.0 and row["acc_norm"] == 0.0)
    other = next(at for at in range(len(wrong["resps"])) if str(at) != wrong["target"])
    wrong["resps"][other] = [["nan", "False"]]
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    run = read_run(bundle)
    (broken,) = [record for record in run.records() if record.error]
    assert broken.error.startswith("resps in lm-eval's samples") and broken.output["pick"] == other and broken.stats["acc"] == (0.0,)
    assert results(run)["places", "acc"]["evidence"] == "partial"


def test_an_import_whose_indexing_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise AssayError("cannot be written", do="free some space")

    monkeypatch.setattr("assay.harness.exchange.lm_eval.index", full)
    with pytest.raises(AssayError, match="cannot be written"):
        bring(tmp_path)
    assert not list((tmp_path / "store").glob("runs/*"))


@pytest.mark.parametrize("size", [None, 135_000_000, "big", -1])
def test_an_imported_run_is_resumed_and_shown_like_any(size: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    document = json.loads(path.read_text())
    document["config"]["model_num_parameters"] = size
    path.write_text(json.dumps(document))
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place(tmp_path))
    print_run(read_run(resume(bundle, place(tmp_path))), place(tmp_path), as_json=False)
    shown = capsys.readouterr().out
    assert "acme/wren" in shown and ("135M parameters" if size == 135_000_000 else "size unknown") in shown
    print_run(read_run(bundle), place(tmp_path), as_json=True)
    assert json.loads(capsys.readouterr().out)["run"] == bundle.name


def query_runs(root: Path) -> list[Path]:
    return [path for path in (root / "store" / "runs").iterdir() if (path / "DONE").exists()]


def test_an_imported_run_cannot_be_scored_again(tmp_path: Path) -> None:
    run = bring(tmp_path)
    for again in (lambda: audit(run, place(tmp_path), NoProgress()), lambda: rerun(run.path, place(tmp_path))):
        with pytest.raises(AssayError, match=rf"{run.id}: was imported: .* score the model with a task"):
            again()


def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    path = made.write(tmp_path / "out", "acme/wren", 0.6)
    samples = next(path.parent.glob("samples_places_*"))
    samples.write_text("\n".join(samples.read_text().split("\n")[1:]))
    with pytest.raises(AssayError, match="23 items of places, the results state 24"):
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
