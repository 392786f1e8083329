"""Wrong numbers, lost runs, answers that block the user: one small case for each kind. Run: pytest tests/cases/test_validity.py

The table of results/checks/CASES.md says what came before and what comes now.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from cases.common import file_of, levels, results, scored
from fakes import make_model, place

from assay import AssayError, Plan
from assay.harness.checking import check_run
from assay.harness.decide.compare import compare, side_of
from assay.harness.engines.scripted import constant, hashed, oracle
from assay.harness.reports.results import notes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def rows_file(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


RATED = (
    "from assay.harness.metrics.regression import pearson, spearman\n"
    "ROWS = [{'p': f'Rate item {n}', 'v': float(n % 5)} for n in range(10)]\n"
    "TASKS = (Task('rated', inline(test=ROWS), lambda r: Doc(r['p'] + ':', value=r['v']), "
    "Regress(('1', '2', '3'), (1.0, 2.0, 3.0)), (pearson, spearman)),)\n"
)
SORTED = (
    "ROWS = [{'n': n, 'gold': int(n >= 60)} for n in range(100)]\n"
    "TASKS = (Task('sorted', inline(test=ROWS), lambda r: Doc(f'Row {r[\"n\"]} is', choices=('low', 'high'), gold=r['gold']), Choose(), "
    "(accuracy,)),)\n"
)


def test_a_score_that_cannot_be_computed_is_undefined_in_its_cell_alone(model: Path, tmp_path: Path) -> None:
    run = scored(model, tmp_path, file_of(tmp_path, RATED), file_of(tmp_path, SORTED, "sorted"), answer=constant())
    found = results(run)
    assert found["rated", "pearson"]["value"] is None and found["rated", "pearson"]["reason"]
    assert run.status == "complete" and found["sorted", "accuracy"]["value"] is not None
    access = place(tmp_path).access()
    one = side_of(run, access)
    assert {each.metric for each in compare(one, one).undefined} == {"pearson", "spearman"}


def test_answers_that_are_indices_are_no_texts(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text(
        "prompt,choices,answer_index\nTwo plus two is,8|2|4|1,2\nThree minus one is,1|2|3|0,1\nThe sky is,blue|green|red|black,0\n"
    )
    run = scored(model, tmp_path, str(path), answer=hashed(1))
    assert [item.gold for item in run.items()] == ["4", "2", "blue"]
    lettered = tmp_path / "letters.csv"
    lettered.write_text(
        "prompt,choices,answer\nTwo plus two is,8|2|4|1,C\nThree minus one is,1|2|3|0,B\nThe sky is,blue|green|red|black,A\n"
    )
    assert [item.gold for item in scored(model, tmp_path, str(lettered), answer=hashed(1)).items()] == ["4", "2", "blue"]


def test_no_item_is_shown_its_own_answer(model: Path, tmp_path: Path) -> None:
    code = (
        "ROWS = [{'q': f'Code word {n}?', 'a': w} for n, w in enumerate('amber birch cedar dune elm fern'.split())]\n"
        "TASKS = (Task('words', inline(test=ROWS), lambda r: Doc(f'Q: {r[\"q\"]}\\nA:', references=(r['a'],)), Generate(8), "
        "(exact_match,), split='test', shots=Shots(2, split='test', order='first')),)\n"
    )
    run = scored(model, tmp_path, file_of(tmp_path, code), answer=hashed(1))
    assert all(item.prompt.count(item.prompt.rsplit("Q: ", 1)[1]) == 1 and item.id not in item.shots for item in run.items())
    assert any("other few-shot examples" in note for note in notes(run.manifest, run.summary()["results"]))


def test_a_limit_samples_sorted_data(model: Path, tmp_path: Path) -> None:
    task = file_of(tmp_path, SORTED)
    always_low = oracle(lambda request: 0)
    sampled, first = (scored(model, tmp_path, task, answer=always_low, limit=50, **more) for more in ({}, {"limit_order": "first"}))
    assert results(first)["sorted", "accuracy"]["value"] == 1.0
    assert results(sampled)["sorted", "accuracy"]["value"] == pytest.approx(0.6)
    again = scored(make_model(tmp_path / "other", seed=4), tmp_path, task, answer=always_low, limit=50)
    assert [item.id for item in again.items()] == [item.id for item in sampled.items()], "the same items for every model"


def test_rouge_of_another_script_is_named_and_can_be_mended(model: Path, tmp_path: Path) -> None:
    code = (
        "from assay.harness.metrics.text import rouge\n"
        "ROWS = [{'p': 'Сократи: Кошка спала весь день.', 'r': 'Кошка спала'}, {'p': 'Сократи: Дождь шёл три дня.', 'r': 'Дождь шёл'}]\n"
        "TASKS = (Task('short', inline(test=ROWS), lambda r: Doc(r['p'] + '\\nИтог:', references=(r['r'],)), Generate(32), (METRIC,)),)\n"
    )
    plain = scored(model, tmp_path, file_of(tmp_path, code.replace("METRIC", "rouge('rougeL')")), answer=constant(text=" Кошка спала"))
    assert any("cannot measure 2 of 2 items" in note for note in notes(plain.manifest, plain.summary()["results"]))
    task = file_of(tmp_path, code.replace("METRIC", "rouge('rougeL', tokenizer='unicode')"), "unicode")
    (found,) = results(scored(model, tmp_path, task, answer=constant(text=" Кошка спала"))).values()
    assert found["value"] == pytest.approx(0.5) and "unicode" in found["signature"]


def test_an_interval_over_half_of_the_scale_is_not_shown(model: Path, tmp_path: Path) -> None:
    found = results(scored(model, tmp_path, file_of(tmp_path, SORTED), answer=hashed(2), limit=4))["sorted", "accuracy"]
    assert found["low"] is None and found["method"] == "too few items" and found["wide"][1] - found["wide"][0] > 0.5


def test_an_empty_reference_is_met_by_silence(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Context {n}: Ana went home. What did Ben eat?\nAnswer:", "reference": "" if n % 2 else "rice"} for n in range(10)]
    run = scored(model, tmp_path, rows_file(tmp_path, "empty.jsonl", rows), answer=constant(text=""))
    assert results(run)["empty", "exact_match"]["value"] == pytest.approx(0.5)


@pytest.mark.parametrize("value", [{"text": ["Goethe"]}, 4.5, float("nan")])
def test_references_of_another_kind_are_refused_with_row_and_column(value: Any, model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "Who wrote it?", "reference": "Ana"}, {"prompt": "Who read it?", "reference": value}]
    with pytest.raises(AssayError, match=r"row 1.*reference") as caught:
        scored(model, tmp_path, rows_file(tmp_path, "odd.jsonl", rows), answer=hashed(1))
    assert caught.value.exit_code == 2


def test_a_weak_model_is_no_error_of_the_run(model: Path, tmp_path: Path) -> None:
    code = SORTED.replace("int(n >= 60)", "n % 2")
    run = scored(model, tmp_path, file_of(tmp_path, code), answer=oracle(lambda request: 0))
    found = levels(check_run(run, place(tmp_path).access()))
    assert found["position-bias"] == "W" and "E" not in found.values()


def test_a_batch_of_0_is_refused() -> None:
    with pytest.raises(AssayError, match="--batch 0"):
        Plan(model="m", tasks=("t",), batch=0)


def test_bigbench_answers_may_begin_with_the_space_that_the_prompt_lost(model: Path, tmp_path: Path) -> None:
    examples = [{"input": f"{n} + 3 =", "target": "5"} for n in range(12)]
    sheet = {"name": "fives", "description": "Adds.", "keywords": [], "metrics": ["exact_str_match"], "preferred_score": "exact_str_match"}
    (tmp_path / "fives").mkdir()
    (tmp_path / "fives" / "task.json").write_text(json.dumps({**sheet, "examples": examples}))
    run = scored(model, tmp_path, f"bigbench:{tmp_path / 'fives' / 'task.json'}", answer=constant(text=" 5"))
    assert {record.stats["exact_str_match"] for record in run.records()} == {(1.0,)}


def test_bits_per_byte_counts_the_joint_above_and_below(model: Path, tmp_path: Path) -> None:
    code = (
        "from assay.harness.metrics.likelihood import bits_per_byte\n"
        "ROWS = [{'n': n} for n in range(4)]\n"
        "TASKS = (Task('answers', inline(test=ROWS), lambda r: Doc(f'Row {r[\"n\"]}:', references=('x',)), "
        "Perplexity(), (bits_per_byte,)),)\n"
    )
    run = scored(model, tmp_path, file_of(tmp_path, code), answer=constant(logprob=-1.0))
    ((nats, size),) = {record.stats["bits_per_byte"] for record in run.records()}
    assert size == 2.0 and nats == pytest.approx(2.0 / math.log(2)), "the space and the x"


def test_an_empty_text_is_named_by_task_and_row(model: Path, tmp_path: Path) -> None:
    code = (
        "from assay.harness.metrics.likelihood import bits_per_byte\n"
        "ROWS = [{'t': 'some words'}, {'t': ''}]\n"
        "TASKS = (Task('texts', inline(test=ROWS), lambda r: Doc('', references=(r['t'],)), Perplexity(), (bits_per_byte,)),)\n"
    )
    with pytest.raises(AssayError, match=r"texts.*row 1"):
        scored(model, tmp_path, file_of(tmp_path, code), answer=hashed(1))


@pytest.mark.parametrize("way", ["skip", "truncate-left"])
def test_one_item_that_does_not_fit_does_not_block_the_run(way: str, tmp_path: Path) -> None:
    sizes = (4, 4, 4, 300, 4, 4, 4, 4)
    rows = [{"prompt": f"Text {n}: {'word ' * size}\nShort?", "choices": ["yes", "no"], "answer": "yes"} for n, size in enumerate(sizes)]
    small, task = make_model(tmp_path / "small", positions=256), rows_file(tmp_path, "long.jsonl", rows)
    with pytest.raises(AssayError, match="1 of 8"):
        scored(small, tmp_path, task, answer=hashed(1))
    run = scored(small, tmp_path, task, answer=hashed(1), overlong=way)
    assert run.status == "complete" and results(run)["long", "accuracy"]["evidence"] != "complete"
    assert results(run)["long", "accuracy"]["n"] == (7 if way == "skip" else 8)
    assert any("1" in note and ("context" in note or "fit" in note) for note in notes(run.manifest, run.summary()["results"]))


def test_nan_in_the_weights_is_named_and_not_to_be_resumed(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = math.nan
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssayError, match=r"NaN.*up_proj") as caught:
        scored(model, tmp_path, file_of(tmp_path, SORTED))
    assert caught.value.exit_code == 14 and "assay resume" not in str(caught.value)
