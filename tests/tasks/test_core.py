"""The suite `core`: contexts of WinoGrande, answers in generated texts, probabilities, and the tasks that run through lm-eval."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
from fakes import place

from assay import AssayError, ChoiceScores, Completion, Loglikelihoods, Task
from assay.harness.prompt.encoding import encode, further_pairs
from assay.harness.prompt.perturb import perturbed
from assay.harness.prompt.render import example_text, render, render_chat
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.selection import select
from assay.harness.store.plan import Plan
from assay.tasks import core
from assay.tasks._core.answers import flexible_match, strict_match
from assay.tasks._core.choices import HELLASWAG, LAMBADA, PIQA, TRUTHFULQA_MC2, WINOGRANDE
from assay.tasks._core.generated import GSM8K, MATH_500, MATH_500_CHAT, MMLU_PRO_TASKS
from tests.harness.prompt.chat_models import CHATML, make_chat_tokenizer

PIECE = {"sentence": "The mug broke the shelf because the _ was heavy.", "option1": "shelf", "option2": "mug", "answer": "2"}


@pytest.mark.parametrize("member", core.TASKS, ids=lambda task: task.full_name)
def test_worked_examples(member: Task) -> None:
    assert member.worked and member.about and member.licence and member.citation
    for example in member.worked:
        doc = member.doc(example.row)
        assert (doc.prompt, doc.answer) == (example.prompt, example.answer)


def test_the_names_that_papers_use_are_found(tmp_path: Path) -> None:
    access = place(tmp_path).access()
    for name in ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa", "boolq", "lambada_openai", "gsm8k"):
        assert len(select([name], access).tasks) == 1, name
    assert len(select(["core"], access).tasks) == 11 + 57
    assert len(select(["mmlu_pro"], access).tasks) == 14


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="lm-eval is installed")
def test_tasks_that_run_through_lm_eval_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="lm-eval is not installed") as error:
        select(["core-instruct"], place(tmp_path).access())
    assert "pip install 'assay[lm-eval]'" in str(error.value)


def test_winogrande_scores_the_rest_of_the_sentence_after_both_options() -> None:
    doc = WINOGRANDE.doc(PIECE)
    assert doc.contexts == ("The mug broke the shelf because the shelf", "The mug broke the shelf because the mug")
    assert doc.choices == ("was heavy.", "was heavy.") and doc.gold == 1
    metric = WINOGRANDE.metrics[0]
    assert metric.measure(doc, Loglikelihoods((-5.0, -4.0), (2, 2))) == (1.0,)
    assert metric.measure(doc, Loglikelihoods((-4.0, -4.0), (2, 2))) == (0.0,), "the first of equal ones counts"


def test_an_example_of_winogrande_has_the_gold_option() -> None:
    example, doc = WINOGRANDE.doc(PIECE), WINOGRANDE.doc({**PIECE, "answer": "1"})
    assert example_text(example, WINOGRANDE.layout) == "The mug broke the shelf because the mug was heavy."
    assert render(WINOGRANDE, doc, [example]).prompt == (
        "The mug broke the shelf because the mug was heavy.\n\nThe mug broke the shelf because the shelf"
    )
    messages, choices = render_chat(WINOGRANDE, doc, [example])
    assert [each["content"] for each in messages[:2]] == ["The mug broke the shelf because the mug", "was heavy."]
    assert choices == ("was heavy.",), "those of the first context"


def test_few_shot_examples_stand_before_every_context(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(make_chat_tokenizer(tmp_path / "model", CHATML))
    doc, shots = WINOGRANDE.doc(PIECE), [(WINOGRANDE.doc({**PIECE, "answer": "1"}),)]
    for plan in (Plan(model="m", tasks=("t",)), Plan(model="m", tasks=("t",), chat=True)):
        (first,) = encode(WINOGRANDE, [doc], shots, plan, tokenizer)[1]
        ((second,),) = further_pairs(WINOGRANDE, [doc], shots, plan, tokenizer)
        texts = [tokenizer.decode(list(pair.context)) for pair in (first, second)]
        assert [text.count("because the shelf") for text in texts] == [2, 1] and texts[1].count("because the mug") == 1
        assert first.continuations == second.continuations


def test_a_perturbation_changes_both_contexts_alike() -> None:
    task = perturbed(WINOGRANDE, ["lowercase"])
    assert task.varies is not None
    original, changed = task.varies.make(task.doc(PIECE))
    assert changed.contexts == tuple(context.lower() for context in original.contexts) and changed.prompt == changed.contexts[0]


def test_the_probability_of_all_true_answers() -> None:
    row = {"question": "q", "mc1_targets": {}, "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}
    doc = TRUTHFULQA_MC2.doc(row)
    (share,) = TRUTHFULQA_MC2.metrics[0].measure(doc, ChoiceScores(tuple(map(math.log, (0.2, 0.1, 0.1))), (1, 1, 1), 0))
    assert share == pytest.approx(0.75)
    far = ChoiceScores((-2000.0, -2001.0, -2000.0), (1, 1, 1), 0)
    assert TRUTHFULQA_MC2.metrics[0].measure(doc, far)[0] == pytest.approx((1 + math.exp(-1)) / (2 + math.exp(-1)))


def test_lambada_scores_the_last_word_with_the_space_before_it() -> None:
    doc = LAMBADA.doc({"text": "He looked.\n\nThen  left"})
    assert (doc.prompt, doc.choices) == ("He looked.\n\nThen ", (" left",))
    assert render(LAMBADA, doc).continuations == (" left",)
    accuracy, perplexity = LAMBADA.metrics
    output = Loglikelihoods((-2.0,), (1,), (True,))
    assert accuracy.measure(doc, output) == (1.0,) and perplexity.measure(doc, output) == (2.0,)


def test_hellaswag_is_cleaned_as_lm_eval_cleans_it() -> None:
    row = {"activity_label": "Baking", "ctx_a": "Mix.", "ctx_b": "", "endings": ["a [step] b", " c", "d", "e"], "label": ""}
    doc = HELLASWAG.doc(row)
    assert doc.prompt == "Baking: Mix." and doc.choices == ("a b", "c", "d", "e") and doc.gold is None


def test_hidden_labels_are_none() -> None:
    assert PIQA.doc({"goal": "g", "sol1": "a", "sol2": "b", "label": -1}).gold is None
    assert WINOGRANDE.doc({**PIECE, "answer": ""}).gold is None


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("So it is 12.\n#### 12", 1.0, 1.0),
        ("So it is 1,2\n#### $12", 0.0, 1.0),
        ("She has 12 pears.", 0.0, 1.0),
        ("12 and then 13", 0.0, 0.0),
        ("#### 12\n#### 13", 1.0, 0.0),
        ("none", 0.0, 0.0),
    ],
)
def test_the_answer_of_gsm8k(text: str, strict: float, flexible: float) -> None:
    doc = GSM8K.doc({"question": "q", "answer": "3 bags of 4 are <<3*4=12>>12.\n#### 12"})
    assert strict_match.measure(doc, Completion(text)) == (strict,)
    assert flexible_match.measure(doc, Completion(text)) == (flexible,)


def test_mmlu_pro_reads_the_first_letter_after_answer_is() -> None:
    row = {"question": "q?", "options": ["a", "b"], "answer": "B", "cot_content": "", "category": "law"}
    doc = MMLU_PRO_TASKS[8].doc(row)
    metric = MMLU_PRO_TASKS[8].metrics[0]
    scores = [metric.measure(doc, Completion(text))[0] for text in ("the answer is (B)", "answer is B, not: answer is A", "(B)", "")]
    assert scores == [1.0, 1.0, 0.0, 0.0]
    assert metric.parses is not None and not metric.parses(doc, Completion("(B)"))


def test_math_500_reads_what_stands_between_dollar_signs_and_in_chats_the_box() -> None:
    row = {"problem": "p", "solution": "so $\\boxed{\\frac{1}{2}}$"}
    (dollars,), doc = MATH_500.metrics, MATH_500.doc(row)
    assert doc.references == ("\\frac{1}{2}",)
    assert dollars.measure(doc, Completion("it is $\\frac12$.")) == (1.0,) and dollars.measure(doc, Completion("1/2")) == (1.0,)
    (box,), doc = MATH_500_CHAT.metrics, MATH_500_CHAT.doc(row)
    assert box.measure(doc, Completion("it is $\\boxed{\\frac12}$.")) == (1.0,) and box.measure(doc, Completion("it is 1/2")) == (0.0,)
