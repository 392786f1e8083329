"""Public reports of wrong scores, each as a small case in our own words and data. Run: pytest tests/cases/test_public_reports.py

The table of results/checks/CASES.md names the report of every test.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases.common import file_of, levels, scored
from fakes import make_model, place, save_lora, sums

from assay import AssayError, Doc, Generate, Perplexity, Plan, Run, Task, exact_match, inline
from assay.harness.checking import check_run, check_task
from assay.harness.decide.compare import compare, side_of
from assay.harness.engines.scripted import constant
from assay.harness.metrics.choice import accuracy_per
from assay.harness.metrics.code import estimate
from assay.harness.metrics.likelihood import bits_per_byte
from assay.harness.metrics.text import final_number, numeric_match
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.prepare import prepare_task
from assay.harness.stats.interval import Part, total_interval
from assay.harness.task.metric import Metric
from assay.harness.task.output import ChoiceScores, Completion
from assay.harness.task.task import Term, Total

TEMPLATE = "{% for turn in messages %}<{{ turn.role }}>\n{{ turn.content }}\n{% endfor %}{% if add_generation_prompt %}<bot>\n{% endif %}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("gold", "text", "right"),
    [
        ("72", "The total is 72 clips, altogether, so it is enough.", 1.0),  # a comma is no number
        ("29", "...the whole order costs $29.00.", 1.0),
        ("8000", r"\boxed{8,000}", 1.0),
        ("9500", r"\boxed{\$9{,}500}", 1.0),
        ("5", "The answer is 25", 0.0),  # a suffix is no match
        ("-5", "5", 0.0),
        ("-5", "the result is -5 exactly", 1.0),
        ("3.14", "33.14", 0.0),
        ("42", "The answer is (42).", 1.0),
        ("42", "Is it 42?", 1.0),
        ("60", "ANSWER: 60%", 1.0),
        ("-3", "It falls to \u22123 degrees", 1.0),
        ("25", "between 20-25", 1.0),
    ],
)
def test_numbers_are_compared_as_numbers(gold: str, text: str, right: float) -> None:
    assert numeric_match().measure(Doc("q", references=(gold,)), Completion(text)) == (right,)


def test_a_comma_counts_as_a_number_under_helms_name_only() -> None:
    doc, said = Doc("q", references=("72",)), Completion("The answer is 72, in total, so the farmer earns that much.")
    assert final_number.measure(doc, said) == (0.0,) and numeric_match().measure(doc, said) == (1.0,)


def test_a_tie_is_no_right_answer(model: Path, tmp_path: Path) -> None:
    rows = "ROWS = [{'n': n} for n in range(40)]\n"
    task = file_of(
        tmp_path,
        rows + "TASKS = (Task('ties', inline(test=ROWS), lambda r: Doc(f'Item {r[\"n\"]}:', choices=('aa', 'bb'), gold=0), Choose(), "
        "(accuracy,)),)",
    )
    (result,) = scored(model, tmp_path, task, answer=constant()).summary()["results"]
    assert result["value"] == 0.5, "an engine that knows nothing scores chance, wherever the gold is"


def test_choices_of_unequal_length_are_all_scored() -> None:
    doc = Doc("q", choices=(" 4", " 27", " six hundred", " 34"), gold=2)
    output = ChoiceScores((-2.9, -5.6, -4.5, -5.4), (1, 2, 3, 2), 0)
    assert accuracy_per("tokens").measure(doc, output) == (1.0,)
    with pytest.raises(ValueError, match="zip"):  # one length too few is an error, never a shorter list of choices
        accuracy_per("tokens").measure(doc, replace(output, tokens=(1, 2, 3)))


def test_calibrated_choices_need_no_help_of_the_author(model: Path, tmp_path: Path) -> None:
    code = (
        "ROWS = [{'n': n} for n in range(12)]\n"
        "TASKS = (Task('pmi', inline(test=ROWS), lambda r: Doc(f'Item {r[\"n\"]} is', choices=('big', 'small'), gold=r['n'] % 2), "
        "Choose(calibrate='Answer:'), (accuracy,)),)"
    )
    run = scored(model, tmp_path, file_of(tmp_path, code))
    for record in run.records():
        sums_, priors = [math.fsum(each) for each in record.output["logprobs"]], record.output["priors"]
        corrected = [total - prior for total, prior in zip(sums_, priors, strict=True)]
        assert record.output["pick"] == int(np.argmax(corrected))


def test_a_reference_that_is_one_text_is_not_read_letter_by_letter() -> None:
    with pytest.raises(AssayError, match=r"references must be a tuple of strings"):
        Doc("Summarise the report.", references="A long summary")  # type: ignore[arg-type]


def test_no_space_comes_between_a_chat_template_and_the_choice(model: Path, tmp_path: Path) -> None:
    (model / "chat_template.jinja").write_text(TEMPLATE)
    tokenizer = open_tokenizer(model)
    prepared = prepare_task(sums(3), Plan(model="m", tasks=("sums",), chat=True), place(tmp_path).access(), tokenizer, 512)
    for item in prepared.items:
        (group,) = item.requests
        sent = [tokenizer.decode((*group.context, *ids)) for ids in group.continuations]
        assert sent == [item.item.prompt + choice for choice in item.doc.choices] and item.item.prompt.endswith("<bot>\n")


def test_a_text_is_conditioned_on_bos_where_the_model_has_one(model: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(model)
    task = Task("text", inline(test=[{"t": "a b c"}]), lambda row: Doc("", references=(row["t"],)), Perplexity(), (bits_per_byte,))
    plan = Plan(model="m", tasks=("text",))
    (item,) = prepare_task(task, plan, place(tmp_path).access(), replace(tokenizer, prefix=(5,), empty=5), 512).items
    assert item.requests[0].context == (5,)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 200])
def test_every_token_of_a_long_text_is_predicted_once(length: int, model: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(model)
    text = ("xyz w" * 60)[:length]
    task = Task("text", inline(test=[{"t": text}]), lambda row: Doc("", references=(row["t"],)), Perplexity(), (bits_per_byte,))
    (item,) = prepare_task(task, Plan(model="m", tasks=("text",)), place(tmp_path).access(), tokenizer, 32).items
    predicted = [token for group in item.requests for token in group.continuations[0]]
    assert tuple(predicted) == tokenizer.encode([text])[0], "none twice, none left out, and the bytes are those of the same text"
    run = scored(make_model(tmp_path / "short", positions=32), tmp_path, file_of(tmp_path, text_task(text)))
    (record,) = run.records()
    assert next(iter(record.stats.values()))[1] == len(text.encode())


def text_task(text: str) -> str:
    return (
        "from assay.harness.metrics.likelihood import bits_per_byte\n"
        f"ROWS = [{{'t': {text!r}}}]\n"
        "TASKS = (Task('long', inline(test=ROWS), lambda r: Doc('', references=(r['t'],)), Perplexity(), (bits_per_byte,)),)"
    )


MIXED = (
    "ROWS = [{'n': n} for n in range(24)]\n"
    "TASKS = (Task('mixed', inline(test=ROWS), lambda r: Doc('word ' * (r['n'] % 9) + f'item {r[\"n\"]} is', "
    "choices=('red', 'green as grass', 'blue'), gold=r['n'] % 3), Choose(), (accuracy,)),)"
)


def test_batch_size_and_padding_change_no_log_likelihood(model: Path, tmp_path: Path) -> None:
    task = file_of(tmp_path, MIXED)
    one, many = (scored(model, tmp_path, task, batch=batch) for batch in (1, 16))
    for first, second in zip(one.records(), many.records(), strict=True):
        assert first.output["pick"] == second.output["pick"]
        pairs = zip(first.output["logprobs"], second.output["logprobs"], strict=True)
        assert all(np.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_pass_at_k_of_one_greedy_sample_is_refused() -> None:
    assert estimate(5, 1, 1) == pytest.approx(0.2) and estimate(5, 1, 5) == 1.0
    with pytest.raises(ValueError, match="needs at least 10 samples, not 1"):
        estimate(1, 1, 10)


def test_an_adapter_without_effect_is_noticed(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = save_lora(tmp_path / "untrained")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: value * 0 if "lora_B" in name else value for name, value in tensors.items()}, folder / "adapter_model.safetensors")
    task = file_of(tmp_path, MIXED)
    access = place(tmp_path).access()
    base, adapted = (side_of(scored(model, tmp_path, task, adapter=adapter), access) for adapter in ("", str(folder)))
    assert any("every item has the same score in both runs although the weights differ" in note for note in compare(base, adapted).notes)


def test_an_adapter_with_missing_keys_is_refused(model: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = save_lora(tmp_path / "half")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: value for name, value in tensors.items() if "lora_B" not in name}, folder / "adapter_model.safetensors")
    with pytest.raises(AssayError, match=r"lora_B|missing"):
        scored(model, tmp_path, file_of(tmp_path, MIXED), adapter=str(folder))


def test_every_prompt_is_measured_against_the_context_not_the_first_of_a_batch(tmp_path: Path) -> None:
    code = (
        "ROWS = [{'n': n} for n in (1, 2, 90, 3)]\n"
        "def doc(r):\n    return Doc('word ' * r['n'] + 'is', references=('x',))\n"
        "TASKS = (Task('lengths', inline(test=ROWS), doc, Generate(20), (exact_match,)),)"
    )
    small = make_model(tmp_path / "small", positions=128)
    with pytest.raises(AssayError, match=r"1 of 4 prompts are longer than the model's context of 128 tokens"):
        scored(small, tmp_path, file_of(tmp_path, code))
    assert not list((tmp_path / "results").glob("runs/*")), "nothing runs, and no prompt is cut to nothing"


def test_a_total_by_size_weighs_every_item_once() -> None:
    right = Metric("accuracy", lambda doc, output: (0.0,))
    part = {
        Term(name, "accuracy", 1.0): Part(right, np.array([[1.0]] * good + [[0.0]] * bad), np.arange(good + bad), np.arange(good + bad))
        for name, good, bad in (("law", 8, 92), ("logic", 9, 1))
    }
    found = total_interval(Total("both", tuple(part), by_size=True), part)
    assert found.value == pytest.approx(17 / 110), "not the mean of 0.08 and 0.9"


def letters(model: Path, folder: Path, said: str) -> Run:
    """Questions that list their options with letters, and whose gold answer is the option's text."""
    code = (
        "ROWS = [{'n': n} for n in range(40)]\n"
        "def doc(r):\n"
        "    options = '\\n'.join(f'{x}. {y} of hill {r[\"n\"]}' for x, y in zip('ABCD', ('spring', 'cave', 'pine', 'stone')))\n"
        "    return Doc(f'What is the {r[\"n\"]}th sight?\\n{options}\\nAnswer:', references=(f'stone of hill {r[\"n\"]}',))\n"
        "TASKS = (Task('sights', inline(test=ROWS), doc, Generate(16), (exact_match,)),)"
    )
    return scored(model, folder, file_of(folder, code), answer=constant(text=said))


def test_letters_in_place_of_the_option_they_stand_for_are_noticed(model: Path, tmp_path: Path) -> None:
    run = letters(model, tmp_path, " (D)")
    assert run.summary()["results"][0]["value"] == 0.0
    found = [finding for each in check_run(run, place(tmp_path).access()) for finding in each.findings if finding.check == "unparsed"]
    assert [finding.level for finding in found] == ["E"] and "name a listed option by its letter" in found[0].what


def test_picks_that_depend_on_the_length_of_a_choice_are_named(model: Path, tmp_path: Path) -> None:
    run = scored(model, tmp_path, file_of(tmp_path, MIXED))
    found = levels(check_run(run, place(tmp_path).access()))
    assert found.get("norm-flip") == "I" and "E" not in found.values()


def test_an_answer_after_a_stop_string_is_an_error_of_the_task() -> None:
    ask = Generate(64, stop=("\n",))
    rows = [{"n": n} for n in range(30)]
    task = Task("poem", inline(test=rows), lambda r: Doc(f"Line {r['n']}:", references=(f"one\ntwo {r['n']}",)), ask, (exact_match,))
    found = check_task(task, place(Path()).access())
    assert {finding.check: finding.level for finding in found.findings}["oracle"] == "E"


def test_no_number_of_a_results_file_is_nan(model: Path, tmp_path: Path) -> None:
    def refuse(text: str) -> Any:
        raise AssertionError(text)

    run = scored(model, tmp_path, file_of(tmp_path, MIXED), limit=1)
    for name in ("manifest.json", "summary.json"):
        json.loads((run.path / name).read_text(), parse_constant=refuse)
