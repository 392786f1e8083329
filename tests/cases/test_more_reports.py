"""More public reports of wrong scores, as small cases in our own words and data. Run: pytest tests/cases/test_more_reports.py

The table of results/checks/CASES.md names the report of every test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cases.common import file_of, results, scored
from fakes import make_model, place, save_lora

from assay import AssayError, ChoiceScores, Completion, Doc, Generate, Plan, evaluate, exact_match, read_run
from assay.harness.checking import check_run
from assay.harness.engines.scripted import constant, oracle
from assay.harness.metrics.code import pass_at
from assay.harness.metrics.text import f1_words, quasi_exact_match
from assay.harness.stats.interval import Part, total_interval
from assay.harness.task.metric import Metric
from assay.harness.task.task import Term, Total
from assay.tasks.bbh import PROTOCOLS
from assay.tasks.code import GREEDY, ROW
from assay.tasks.superglue import TASKS as SUPERGLUE
from tests.faulty_server import serving


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


def graded(metric: Metric[Completion], gold: str, text: str) -> float:
    return metric.measure(Doc("q", references=(gold,)), Completion(text))[0]


def test_articles_are_dropped_as_words_not_as_letters() -> None:
    assert graded(quasi_exact_match, "the Spice Girls", "Spice Girls") == 1.0
    assert graded(quasi_exact_match, "Anthea", "nthe") == graded(quasi_exact_match, "a banana", "bnn") == 0.0


@pytest.mark.parametrize("text", ["$B$", "**B**", "(B)", "`B`", "b", r"\boxed{\text{B}}", r"$\boxed{B}$"])
def test_a_letter_may_be_decorated_under_a_tolerant_name(text: str) -> None:
    assert graded(PROTOCOLS["bbh"][1], "(B)", f"First I think.\nThe answer is {text}.") == 1.0


def test_a_repeated_word_counts_once_under_helms_name_only() -> None:
    assert graded(f1_words, "Paris", "Paris Paris Paris Paris") == 1.0, "HELM's rule, which its description states"
    (record,) = (task for task in SUPERGLUE if task.name == "superglue/record")
    f1 = next(metric for metric in record.metrics if metric.name == "f1")
    doc = Doc("q", choices=("x", "y"), targets=(0.0, 1.0), meta={"entities": ["Paris Paris Paris Paris", "Paris"], "answers": ["Paris"]})
    assert f1.measure(doc, ChoiceScores((-1.0, -2.0), (1, 1), 0)) == (pytest.approx(0.4),), "SQuAD's rule"


def test_spaces_around_a_reference_do_not_count() -> None:
    assert graded(exact_match, " Paris", "Paris") == graded(f1_words, " Paris", "Paris") == 1.0


def test_the_indentation_of_a_completion_is_kept(model: Path, tmp_path: Path) -> None:
    doc = GREEDY.doc(ROW)
    assert pass_at(1).measure(doc, Completion(doc.answer)) == (1.0,)
    assert doc.answer.startswith("    "), "the gold completion is indented"
    assert pass_at(1).measure(doc, Completion(doc.answer.lstrip())) == (0.0,), "why spaces must not be stripped"


def test_a_gold_index_out_of_range_is_refused_with_its_row(model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Item {n}:", "choices": ["red", "blue"], "answer": n} for n in (0, 1, 2)]
    (tmp_path / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(AssayError, match=r"row 2.*answer") as caught:
        scored(model, tmp_path, str(tmp_path / "gold.jsonl"), answer=constant())
    assert caught.value.exit_code == 2


def test_stop_strings_are_never_read_letter_by_letter() -> None:
    with pytest.raises(AssayError, match="tuple of non-empty strings"):
        Generate(16, stop="\n\n")  # type: ignore[arg-type]


def test_a_total_and_its_interval_have_the_same_weights() -> None:
    right = Metric("accuracy", lambda doc, output: (0.0,))
    sizes = {"large": (400, 200), "small": (25, 12)}
    parts = {
        Term(name, "accuracy", 0.5): Part(right, np.array([[1.0]] * good + [[0.0]] * (size - good)), np.arange(size), np.arange(size))
        for name, (size, good) in sizes.items()
    }
    found = total_interval(Total("both", tuple(parts)), parts)
    errors = [good / size * (1 - good / size) / size for size, good in sizes.values()]
    half = 1.96 * (sum(errors) / 4) ** 0.5  # the mean of the two, not the error of all 425 items together
    assert found.value == pytest.approx((0.5 + 0.48) / 2)
    assert found.low is not None and found.high is not None and (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("good", "size"), [(1, 132), (14, 307), (131, 132)])
def test_no_score_between_0_and_1_has_an_interval_of_no_width(good: int, size: int) -> None:
    right = Metric("accuracy", lambda doc, output: (0.0,))
    part = Part(right, np.array([[1.0]] * good + [[0.0]] * (size - good)), np.arange(size), np.arange(size))
    found = total_interval(Total("one", (Term("a", "accuracy", 1.0),)), {Term("a", "accuracy", 1.0): part})
    assert found.low is not None and found.high is not None and found.low < good / size < found.high


def test_the_score_of_several_samples_is_their_mean(model: Path, tmp_path: Path) -> None:
    said = iter(["Tails", "Heads"] * 50)
    code = "TASKS = (Task('coin', inline(test=[{'n': n} for n in range(10)]), lambda r: Doc(f'Toss {r[\"n\"]}:', references=('Tails',)), "
    task = file_of(tmp_path, code + "Generate(8, temperature=1.0, samples=10), (exact_match,)),)")
    run = scored(model, tmp_path, task, answer=lambda request: oracle(lambda _: next(said))(request))
    assert results(run)["coin", "exact_match"]["value"] == pytest.approx(0.5), "neither the first nor the most frequent response"


def test_sampling_options_of_the_checkpoint_are_not_used(model: Path, tmp_path: Path) -> None:
    code = "TASKS = (Task('say', inline(test=[{'n': n} for n in range(6)]), lambda r: Doc(f'Say {r[\"n\"]}:', references=('x',)), "
    task = file_of(tmp_path, code + "Generate(12), (exact_match,)),)")
    plain = scored(model, tmp_path, task)
    options = {"do_sample": True, "temperature": 1.5, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "max_new_tokens": 2}
    (model / "generation_config.json").write_text(json.dumps({**options, "eos_token_id": 0}))
    again = scored(model, tmp_path, task)
    one, other = ([record.output["text"] for record in run.records()] for run in (plain, again))
    assert one == other and any(len(text) > 2 for text in one)


def test_an_adapter_is_scored_without_its_dropout(model: Path, tmp_path: Path) -> None:
    code = (
        "TASKS = (Task('pick', inline(test=[{'n': n} for n in range(12)]), lambda r: Doc(f'Item {r[\"n\"]} is', choices=('red', 'blue'), "
        "gold=0), Choose(), (accuracy,)),)"
    )
    folder, task = save_lora(tmp_path / "lora"), file_of(tmp_path, code)
    runs = [scored(model, tmp_path, task, adapter=str(folder))]
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.9}))
    runs += [scored(model, tmp_path, task, adapter=str(folder)) for _ in range(2)]
    base, first, second = ([record.output["logprobs"] for record in run.records()] for run in runs)
    assert base == first == second


def test_an_end_token_that_a_server_returns_as_text_is_noticed(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    code = "TASKS = (Task('yes', inline(test=[{'n': n} for n in range(30)]), lambda r: Doc(f'Say yes {r[\"n\"]}:', references=('yes',)), "
    task = file_of(tmp_path, code + "Generate(8), (exact_match,)),)")
    with serving(answer=lambda prompt: " yes</s>") as state:
        run = read_run(evaluate(Plan(state.address, (task,)), place(tmp_path)))
        mended = read_run(evaluate(Plan(state.address, (task,), stop=("</s>",)), place(tmp_path)))
    assert results(run)["yes", "exact_match"]["value"] == 0.0, "what the server said is what is scored"
    found = {finding.check: finding for each in check_run(run, place(tmp_path).access()) for finding in each.findings}
    assert found["end-token"].level == "E" and "'</s>'" in found["end-token"].what and "--stop" in found["end-token"].do
    assert results(mended)["yes", "exact_match"]["value"] == 1.0


def test_responses_that_begin_with_the_stop_string_are_noticed(model: Path, tmp_path: Path) -> None:
    code = "TASKS = (Task('line', inline(test=[{'n': n} for n in range(30)]), lambda r: Doc(f'Say yes {r[\"n\"]}:', references=('yes',)), "
    run = scored(model, tmp_path, file_of(tmp_path, code + "Generate(8, ('\\n',)), (exact_match,)),)"), answer=constant(text=""))
    found = {finding.check: finding for each in check_run(run, place(tmp_path).access()) for finding in each.findings}
    assert found["degenerate"].level == "E" and "empty" in found["degenerate"].what


def test_an_answer_without_the_asked_form_is_not_simply_wrong(model: Path, tmp_path: Path) -> None:
    code = (
        "from assay.harness.metrics.text import numeric_match\n"
        "TASKS = (Task('sum', inline(test=[{'n': n} for n in range(30)]), "
        "lambda r: Doc(f'{r[\"n\"]} + 1 =', references=(str(r['n'] + 1),)), "
        "Generate(8), (numeric_match(),)),)"
    )
    task = file_of(tmp_path, code)
    statuses = [
        {record.status for record in scored(model, tmp_path, task, answer=constant(text=text)).records()}
        for text in ("", "I am not sure", "99")
    ]
    assert statuses == [{"unparsed"}, {"unparsed"}, {"scored"}]
