"""SuperGLUE: exact prompts, label orders, grouped metrics, the score, and the defects of lm-eval that are fixed here."""

from __future__ import annotations

import ast
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import Access, AssayError, ChoiceScores, Doc, Task
from assay.harness.prompt.render import example_text, render
from assay.harness.run.prepare import with_ids
from assay.harness.run.selection import select
from assay.tasks import superglue
from assay.tasks._record import word_f1

WORKED = {member.name.removeprefix("superglue/"): member.worked for member in superglue.TASKS}
MEANING = {
    "boolq": ("no", "yes"),
    "cb": ("True", "False", "Neither"),  # entailment, contradiction, neutral
    "multirc": ("no", "yes"),
    "rte": ("True", "False"),
    "wic": ("no", "yes"),
    "wsc": ("no", "yes"),
    "axb": ("True", "False"),  # entailment, not_entailment
    "axg": ("True", "False"),
}


def task(name: str) -> Task:
    return next(task for task in superglue.TASKS if task.name == f"superglue/{name}")


def scores(member: Task, docs: list[Doc], picks: list[int]) -> dict[str, float]:
    """The task's metrics as the harness computes them: groups are coded in order of appearance."""
    ready = with_ids(docs, member)
    codes = {group: code for code, group in enumerate(dict.fromkeys(doc.group for doc in ready))}
    groups = np.array([codes[doc.group] for doc in ready])
    return {
        metric.name: metric.combine(
            np.array([metric.measure(doc, ChoiceScores((), (), pick)) for doc, pick in zip(ready, picks, strict=True)]), groups
        )
        for metric in member.metrics
    }


@pytest.mark.parametrize("member", superglue.TASKS, ids=lambda task: task.name)
def test_worked_examples(member: Task) -> None:
    assert member.worked and member.about and member.licence and member.citation
    for example in member.worked:
        doc = member.doc(example.row)
        assert (doc.prompt, doc.answer) == (example.prompt, example.answer)


@pytest.mark.parametrize("name", MEANING)
def test_labels_mean_what_the_data_card_says(name: str) -> None:
    for label, text in enumerate(MEANING[name]):
        assert task(name).doc({**WORKED[name][0].row, "label": label}).answer == text


@pytest.mark.parametrize("name", [*MEANING, "copa"])
def test_a_hidden_label_leaves_the_doc_unlabelled(name: str) -> None:
    assert not task(name).doc({**WORKED[name][0].row, "label": -1}).labelled


@pytest.mark.parametrize("member", superglue.TASKS, ids=lambda task: task.name)
def test_one_space_or_line_break_precedes_every_answer(member: Task) -> None:
    for example in member.worked:
        rendered = render(member, member.doc(example.row))
        for text in rendered.continuations:
            assert not rendered.prompt[-1].isspace() and text[0] == " " and not text[1].isspace()


@pytest.mark.parametrize("name", ["boolq", "cb", "multirc", "rte", "axb", "axg", "copa"])
def test_hostile_text_survives(name: str) -> None:
    hostile = "A \"quoted\" '''text''' {{x}} {0} C:\\new\n%s é"
    row = {key: hostile if isinstance(value, str) and key != "question" else value for key, value in WORKED[name][0].row.items()}
    rendered = render(task(name), task(name).doc(row))
    if name == "copa":
        assert rendered.continuations == (f" a{hostile[1:]}",) * 2
    else:
        assert hostile in rendered.prompt


# --- defects of peers ---------------------------------------------------------------------------------------------------------


def lm_eval_multirc(row: dict[str, Any]) -> tuple[str, list[str], int]:
    """lm-eval 0.4.13, tasks/super_glue/multirc/default.yaml: text, choices, gold."""
    template = "['''{answer}\\nIs the answer correct? yes''', '''{answer}\\nIs the answer correct? no''']"
    choices = ast.literal_eval(template.replace("{answer}", row["answer"]))
    return f"{row['paragraph']}\nQuestion: {row['question']}\nAnswer:", choices, row["label"]


@pytest.mark.parametrize("label", [0, 1])
def test_multirc_gold_is_not_inverted(label: int) -> None:
    row = dict(WORKED["multirc"][0].row, label=label)
    text, choices, gold = lm_eval_multirc(row)
    answer_of_lm_eval = choices[gold].rsplit(" ", 1)[1]
    doc = task("multirc").doc(row)
    assert doc.answer == ("yes" if label else "no")
    assert answer_of_lm_eval != doc.answer
    ours = {doc.prompt + continuation for continuation in render(task("multirc"), doc).continuations}
    assert ours == {f"{text} {choice}" for choice in choices}, "the texts are the peer's, only the gold differs"


def test_multirc_answers_are_text_not_python() -> None:
    row = dict(WORKED["multirc"][0].row, answer="C:\\new")
    assert "C:\\new" not in lm_eval_multirc(row)[1][0]
    assert "Answer: C:\\new\n" in task("multirc").doc(row).prompt
    quoted = dict(row, answer="he said '''no'''")
    with pytest.raises(SyntaxError):
        lm_eval_multirc(quoted)
    assert "he said '''no'''" in task("multirc").doc(quoted).prompt


def test_copa_has_one_space_and_lm_eval_two() -> None:
    row = WORKED["copa"][0].row
    peer = "The plant died because" + " " + " nobody watered it."
    ours = example_text(task("copa").doc(row), task("copa").layout)
    assert "  " in peer and "  " not in ours and peer.split() == ours.split()


def test_wsc_has_no_stray_quote() -> None:
    for example in WORKED["wsc"]:
        question = task("wsc").doc(example.row).prompt.splitlines()[1]
        assert question.startswith("Question: ") and question.count('"') == 4


# --- grouped and official metrics ----------------------------------------------------------------------------------------------


def answer_doc(paragraph: int, question: int, answer: int, label: int) -> Doc:
    place = {"paragraph": paragraph, "question": question, "answer": answer}
    return task("multirc").doc({"paragraph": "P.", "question": f"Q{question}?", "answer": f"a{answer}", "idx": place, "label": label})


def test_multirc_f1a_pools_answers_and_em_counts_questions() -> None:
    golds = [(0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 1), (0, 1, 1, 1), (1, 2, 0, 0)]
    docs = [answer_doc(*gold) for gold in golds]
    found = scores(task("multirc"), docs, [1, 0, 1, 0, 1])
    assert found["f1a"] == pytest.approx(2 * 2 / (3 + 3))  # 2 hits of 3 gold and 3 picked
    assert found["em"] == pytest.approx(1 / 3)  # only question 0 is all right
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert [doc.cluster for doc in docs] == ["0", "0", "0", "0", "1"]


def test_cb_macro_f1_is_the_mean_of_three_classes_and_undefined_if_one_is_absent() -> None:
    docs = [task("cb").doc({**WORKED["cb"][0].row, "idx": n, "label": label}) for n, label in enumerate([0, 0, 1, 1])]
    assert scores(task("cb"), docs, [0, 0, 1, 2])["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert math.isnan(scores(task("cb"), docs, [0, 0, 1, 1])["macro_f1"])


def test_gender_parity_counts_pairs_with_equal_predictions() -> None:
    docs = [task("axg").doc({**WORKED["axg"][0].row, "idx": n, "label": n // 2 % 2}) for n in range(6)]
    assert [doc.group for doc in docs] == ["pair-0", "pair-0", "pair-1", "pair-1", "pair-2", "pair-2"]
    found = scores(task("axg"), docs, [0, 0, 1, 0, 1, 1])
    assert found["gender_parity"] == pytest.approx(2 / 3) and found["accuracy"] == pytest.approx(3 / 6)


RECORD = WORKED["record"][0].row


def test_record_scores_each_entity_once_and_accepts_any_gold_answer() -> None:
    doc = task("record").doc(dict(RECORD, entities=[*RECORD["entities"], "Graz"]))
    assert doc.meta["entities"] == ["Graz", "Ivo Klee", "Klee", "Lena Roth", "Roth"]
    assert doc.targets == (0, 0, 0, 1, 1) and len(doc.choices) == 5
    metrics = {metric.name: metric for metric in task("record").metrics}
    f1 = [metrics["f1"].measure(doc, ChoiceScores((), (), pick))[0] for pick in range(5)]
    assert f1 == pytest.approx([0, 0, 0, 1, 1])
    assert [metrics["em"].measure(doc, ChoiceScores((), (), pick))[0] for pick in range(5)] == [0, 0, 0, 1, 1]


def test_record_gives_part_credit_by_words() -> None:
    doc = task("record").doc(dict(RECORD, answers=["Lena Roth"]))
    f1, em = task("record").metrics
    assert f1.measure(doc, ChoiceScores((), (), 4)) == (pytest.approx(2 / 3),) and em.measure(doc, ChoiceScores((), (), 4)) == (0.0,)


@pytest.mark.parametrize(
    ("found", "gold", "expected"),
    [
        ("The U.S.", "us", 1.0),
        ("an  apple", "Apple", 1.0),
        ("new new york", "new york", 0.8),  # a multiset: 2 shared of 3 and 2
        ("", "", 1.0),
        ("the", "x", 0.0),
        ("Rome", "Paris", 0.0),
    ],
)
def test_word_f1_is_squads(found: str, gold: str, expected: float) -> None:
    assert word_f1(found, gold) == pytest.approx(expected)


def test_record_without_answers_is_unlabelled() -> None:
    doc = task("record").doc(dict(RECORD, answers=[]))
    assert not doc.labelled
    with pytest.raises(AssayError, match="no gold"):
        task("record").metrics[0].measure(doc, ChoiceScores((), (), 0))


def test_record_without_highlights() -> None:
    assert task("record").doc(dict(RECORD, passage="A story. ")).prompt == "A story.\n\n  -"


def test_wsc_marks_the_pronoun_by_word_index() -> None:
    row = {"text": 'He said " no " ( loudly ) , and he left', "span1_text": "He", "span2_text": "he", "span2_index": 10, "idx": 0}
    assert task("wsc").doc(row).prompt.splitlines()[0] == 'Passage: He said"no"(loudly), and *he* left'


def test_the_score_averages_metrics_then_eight_tasks() -> None:
    rng = np.random.default_rng(6)
    total = superglue.SUPERGLUE
    value = {(term.task, term.metric): rng.random() for term in total.terms}
    eight = [
        float(np.mean([value[task(name).full_name, metric] for metric in metrics]))
        for name, metrics in {
            "boolq": ["accuracy"],
            "cb": ["accuracy", "macro_f1"],
            "copa": ["accuracy"],
            "multirc": ["f1a", "em"],
            "record": ["f1", "em"],
            "rte": ["accuracy"],
            "wic": ["accuracy"],
            "wsc": ["accuracy"],
        }.items()
    ]
    found = total.scale * sum(term.weight * value[term.task, term.metric] for term in total.terms)
    assert found == pytest.approx(100 * np.mean(eight))


def test_names_resolve() -> None:
    found = select(["superglue"], Access())
    assert len(found.tasks) == 10 and [total.name for total in found.totals] == ["superglue"]
    assert select(["superglue/wsc"], Access()).tasks[0].full_name == "superglue/wsc@lm-eval"


COUNTS = {
    "boolq": (1237, 2033),
    "cb": (23, 28, 5),
    "copa": (55, 45),
    "multirc": (2773, 2075),
    "rte": (146, 131),
    "wic": (319, 319),
    "wsc": (66, 38),
}


@pytest.mark.data
@pytest.mark.parametrize("name", COUNTS)
def test_real_validation_rows(name: str, data_root: Path) -> None:
    docs = [task(name).doc(row) for row in task(name).rows.load("validation", Access(data_root)).rows]
    assert tuple(np.bincount([doc.gold for doc in docs if doc.gold is not None])) == COUNTS[name]
    assert len({doc.id for doc in docs}) == len(docs)


@pytest.mark.data
def test_real_multirc_has_953_questions_on_83_paragraphs(data_root: Path) -> None:
    docs = [task("multirc").doc(row) for row in task("multirc").rows.load("validation", Access(data_root)).rows]
    assert len({doc.group for doc in docs}) == 953 and len({doc.cluster for doc in docs}) == 83


@pytest.mark.data
def test_real_axg_pairs_differ_only_in_gendered_words(data_root: Path) -> None:
    rows = task("axg").rows.load("test", Access(data_root)).rows
    docs = [task("axg").doc(row) for row in rows]
    assert set(Counter(doc.group for doc in docs).values()) == {2} and len(docs) == 356
    gendered = {"his", "her", "he", "she", "him"}
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first["hypothesis"], first["label"]) == (second["hypothesis"], second["label"])
        words = zip(first["premise"].split(), second["premise"].split(), strict=True)
        assert {word.strip(".,") for pair in words if pair[0] != pair[1] for word in pair} <= gendered


@pytest.mark.data
def test_real_record_rows_have_an_answer_among_their_entities(data_root: Path) -> None:
    docs = [task("record").doc(row) for row in task("record").rows.load("train", Access(data_root, allow_partial=True)).rows]
    assert len(docs) == 64 and all(sum(doc.targets) >= 1 and "@placeholder" not in doc.choices[0] for doc in docs)
