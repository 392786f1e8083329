"""What was once not HELM's: prompts, metrics and names against crfm-helm 0.5.16 (expected texts are HELM's own output for these rows)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from assay import Completion, Doc, Generate, Metric, Task
from assay.harness.metrics.text import (
    exact_match_indicator,
    final_number,
    numeric_match,
    quasi_exact_match,
    quasi_exact_match_symbols,
)
from assay.harness.prompt.render import render
from assay.tasks import helm
from assay.tasks._helm import people, qa, raft, ranking, reading, summaries, text
from assay.tasks._helm.common import FORMAT, letter_quasi_match
from assay.tasks._helm.legal import LEGAL_TASKS

BY_NAME = {task.full_name: task for task in helm.TASKS}


def score(metric: Metric[Completion], gold: str, response: str) -> float:
    return metric.measure(Doc("q", references=(gold,)), Completion(response))[0]


def prompt_of(task: Task, row: dict[str, Any], *examples: dict[str, Any]) -> str:
    return render(task, task.doc(row), tuple(task.doc(each) for each in examples)).prompt


def test_an_empty_field_of_a_record_is_nan() -> None:
    """Fault 1: a last field without value became a field called `price VAL`, and an empty one had no value."""
    row = {
        "left": "COL name VAL a lamp COL description VAL  COL price VAL",
        "right": "COL name VAL lamp VALUE COL price VAL N/A",
        "label": 0,
    }
    expected = "Product A is name: a lamp. description: nan. price: nan. Product B is name: lamp VALUE. price: nan. Are A and B the same?"
    assert text.matching(row).prompt == f"{expected}\nAnswer:"
    written = {"productA": "name: a lamp. description: nan. price: nan", "productB": "name: lamp VALUE. price: nan", "same": 0}
    assert text.matching(written) == text.matching(row), "the hub's rows are as HELM writes them"


def test_boolq_is_the_original_data_set() -> None:
    """Fault 2: SuperGLUE's passages begin with their title."""
    assert (helm.BOOLQ.rows.repo, helm.BOOLQ.rows.config) == ("google/boolq", "default")  # type: ignore[attr-defined]
    row = {"question": "is a fox a dog", "answer": False, "passage": "Foxes are canids.", "title": "Fox"}
    assert prompt_of(helm.BOOLQ, row) == "Passage: Foxes are canids.\nQuestion: Is a fox a dog?\nAnswer:"
    assert helm.BOOLQ.doc(row).references == ("No",)


@pytest.mark.parametrize(("second", "joined"), [("", "Cook: He stirs.  it."), ("he", "Cook: He stirs. He it.")])
def test_hellaswag_has_two_spaces_where_the_second_context_is_empty(second: str, joined: str) -> None:
    """Fault 3."""
    row = {"activity_label": "Cook", "ctx_a": "He stirs.", "ctx_b": second, "endings": ["it.", "b", "c", "d"], "label": "0"}
    shown = render(helm.HELLASWAG, helm.HELLASWAG.doc(row))
    assert shown.prompt + shown.continuations[0] == joined
    assert bool(helm.HELLASWAG.doc(row).meta) == (not second), "assay check does not take it for a mistake"


def test_what_is_not_helms_says_so_and_is_in_no_total() -> None:
    """Fault 4."""
    own = {"ms_marco", "nq_open", "math", "dialogsum", "flores", "multi30k", "wmt_14", "language_modelling"}
    assert {task.name.split("/")[1] for task in helm.TASKS if task.protocol == FORMAT} == own
    of_helm = {task.full_name for task in helm.TASKS if task.protocol in ("helm", "helm-classic")} | {task.full_name for task in helm.MMLU}
    for family in helm.FAMILIES:
        assert all(term.task in of_helm for total in family.totals for term in total.terms), family.name
    shots = {name: BY_NAME[f"helm/{name}@helm"].shots.count for name in ("xsum", "legalbench/proa", "math/algebra/1", "boolq", "quac")}
    assert shots == {"xsum": 5, "legalbench/proa": 5, "math/algebra/1": 8, "boolq": 5, "quac": 5}
    assert BY_NAME["helm/legalbench/international_citizenship_questions@helm"].shots.count == 4, "HELM shows all four of its rows"
    assert {
        term.task.split("/")[1].split("@")[0] for term in helm.mean_of("x", *helm.groups_of(helm.LITE)).terms if "mmlu" not in term.task
    } == {*("narrative_qa", "natural_qa", "openbookqa", "math", "gsm8k", "legalbench", "med_qa")}


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [("3 + 4 = 7", "It is 7 ", 1), ("3 + 4 = 7", "7\n\n", 1), ("7 ", "", 0), (") )", " ) ", 1), (") )", ") ]", 0), ("a b ", "a b ", 0)],
)
def test_the_response_is_stripped_before_its_last_piece_is_taken(gold: str, response: str, right: int) -> None:
    """Fault 5: a space at the end of a response left nothing to compare. (HELM does not strip the reference: the last case.)"""
    assert score(exact_match_indicator, gold, response) == right


@pytest.mark.parametrize(
    ("gold", "response", "of_helm", "as_number"),
    [
        ("The answer is 18.", "So 18 is the result, just as we computed.", 0, 1),
        ("The answer is 18.", "It costs $18.00", 0, 1),
        ("The answer is 30.", "They leave at 7:30", 0, 0),
        ("The answer is 3.", "3 trips, until 7:30", 0, 1),
        ("The answer is 18.", "18", 1, 1),
    ],
)
def test_helms_pattern_has_helms_name_and_a_sound_metric_stands_beside_it(gold: str, response: str, of_helm: int, as_number: int) -> None:
    """Fault 6."""
    assert score(final_number, gold, response) == of_helm
    assert score(numeric_match(), gold, response) == as_number
    assert [metric.name for metric in helm.GSM8K.metrics] == ["final_number_exact_match", "exact_match_indicator", "numeric_match"]


@pytest.mark.parametrize(
    ("gold", "response", "of_helm", "symbols"),
    [
        ("X + Y = Z", "X - Y * Z", 1, 0),
        ("X + Y = Z", "x + y = Z.", 1, 1),
        ("A", "the", 1, 0),
        ("A", " a ", 1, 1),
        ("+", "-", 1, 0),
        ("the well-known fox.", "Wellknown fox", 1, 1),
        ("yes", "  ", 0, 0),
    ],
)
def test_operators_and_golds_that_normalise_to_nothing_count_beside_helms_metric(
    gold: str, response: str, of_helm: int, symbols: int
) -> None:
    """Fault 7."""
    assert score(quasi_exact_match, gold, response) == of_helm
    assert score(quasi_exact_match_symbols, gold, response) == symbols
    assert quasi_exact_match_symbols in BY_NAME["helm/synthetic_reasoning/induction@helm"].metrics


def test_bias_metrics_are_helms_or_have_a_name_of_ours() -> None:
    """Fault 9. HELM's value for these texts is 0.3: four female words, one male; parts of `son-in-law` and `his/her` do not count."""
    texts = ("She met her femen.", "The son-in-law and his/her dog; he left.", "Girls.")
    stats = np.array([people.GENDER_REPRESENTATION.measure(Doc("q", references=("y",)), Completion(each)) for each in texts])
    assert people.GENDER_REPRESENTATION.combine(stats, np.arange(3)) == pytest.approx(0.3)
    assert all(("helm" in metric.signature) == metric.name.endswith("_representation") for metric in people.PEOPLE)
    assert people.GENDER_PROFESSION.name == "gender_occupation_association" and "assay" in people.GENDER_PROFESSION.signature


def test_summaries_are_separated_by_a_blank_line_and_examples_come_from_short_articles() -> None:
    """Fault 10."""
    row = {"document": "B.", "summary": "b"}
    ask = "Summarize the above article in 1 sentence."
    expected = f"###\nArticle: A.\n\n{ask}\na\n\n###\nArticle: B.\n\n{ask}"
    assert prompt_of(helm.XSUM, row, {"document": "A.", "summary": "a"}) == expected
    assert helm.XSUM.ask == Generate(64, ("###",), temperature=0.3)
    dialogue = {"dialogue": "#Person1#: Tea?", "summaries": ["Tea."]}
    assert "Tea.\n\n###\nDialogue" in prompt_of(summaries.DIALOGSUM, dialogue, dialogue)

    def news(words: int, told: int = 11, start: str = "word") -> dict[str, str]:
        return {"document": " ".join([start, *["word"] * (words - 1)]), "summary": " ".join(["told"] * told)}

    notice = "Media playback is unsupported on your device"
    rows = [news(49), news(150, 10), news(60, 13), news(100, 11, notice), news(151), news(150), news(60, 12)]
    assert list(summaries.fit_for_examples(rows)) == rows[5:]
    assert list(summaries.short_articles([{"article": "a " * n} for n in (49, 50, 150, 151)])) == [{"article": "a " * n} for n in (50, 150)]


def test_legalbench_has_the_instructions_and_nouns_of_its_settings_file() -> None:
    """Fault 10."""
    ends = {task.name.split("/")[-1]: (task.layout.instructions[-36:], task.worked[0].prompt.split("\n")[-1]) for task in LEGAL_TASKS}
    assert ends == {
        "abercrombie": ("f mark for the following products.\n\n", "Type:"),
        "corporate_lobbying": ("it was enacted (by saying Yes or No).\n\n"[-36:], "Label:"),
        "function_of_decision_section": ("utes a decree resolving the dispute.\n\n"[-36:], "Function:"),
        "international_citizenship_questions": ("January 1st, 2020. Answer Yes or No.\n\n"[-36:], "Answer:"),
        "proa": ("right of action? Answer Yes or No.\n\n"[-36:], "Answer:"),
    }


def page(answers: tuple[str, ...]) -> dict[str, Any]:
    """A row of Natural Questions with one annotator."""
    start = "<html><p>\u00a0Tom &amp; <b>"
    web = f"{start}{', '.join(answers)}</b>.</p></html>"
    at = [web.encode().find(each.encode()) for each in answers]
    spans = {"start_byte": at, "end_byte": [begin + len(each.encode()) for begin, each in zip(at, answers, strict=True)]}
    annotations = {"long_answer": [{"start_byte": 6, "end_byte": len(web.encode()) - 7}], "short_answers": [spans]}
    return {"question": {"text": "who is it"}, "document": {"html": web}, "annotations": annotations}


def test_natural_questions_are_split_and_cut_as_in_helm() -> None:
    rows = [page(("Ann",)), page(()), page(("Zoë", "Eve")), page(("Eve", "Eve"))]
    train, scored = (list(reading.with_answers(rows, split)) for split in ("train", "validation"))
    assert [row["answers"] for row in train] == [["Ann"], ["Eve"]] and [row["answers"] for row in scored] == [["Zoë", "Eve"]]
    assert reading.NATURAL_QA_OPEN.doc(scored[0]).prompt == "Passage:  Tom & Zoë, Eve.\n\nQuestion: Who is it?\nAnswer:"
    assert reading.NATURAL_QA_CLOSED.doc(train[1]).references == ("Eve",)


def test_references_of_quac_and_letters_of_med_qa() -> None:
    assert reading.quac({"prompt": "Question: x", "references": ["CANNOTANSWER", "", None]}).references == (
        "CANNOTANSWER",
        *reading.REFUSALS,
    )
    assert reading.quac({"prompt": "Question: x", "references": ["b", "a", "b"]}).references == ("b", "a")
    doc = qa.med_qa({"question": "q", "options": {"A": 'An embolus\n"', "B": "embolus", "C": "c", "D": "embolus"}, "answer_idx": "B"})
    assert "A. An embolus\nB." in doc.prompt and doc.references == ("B", "D")
    measured = functools.partial(letter_quasi_match.measure, doc)
    assert [measured(Completion(each))[0] for each in ("A", " B", "C", "E", "", "The")] == [1, 1, 0, 0, 0, 0]


def test_passages_are_ranked_by_answer_and_likelihood_as_in_helm() -> None:
    """Two queries; the values are those of HELM's sorting and of trec_eval's recip_rank and ndcg_cut_10."""
    answers = [
        ("q1", 1, "No", -0.1),  # a sure no is the last of the nos
        ("q1", 0, " yes\n", -2.0),  # second
        ("q1", 0, "YES", -0.5),  # first
        ("q1", 1, "No", -3.0),  # third: an unsure no
        ("q1", 0, "Maybe", -0.01),  # last
        ("q2", 1, "Yes", -1.0),
        ("q2", 0, "Yes", -1.0),  # equal: the order stays
    ]
    docs = [
        ranking.ms_marco({"id": query, "query": query, "passage": str(n), "relevance": right})
        for n, (query, right, *_) in enumerate(answers)
    ]
    stats = [ranking.RR_10.measure(doc, Completion(text, logprob=logprob)) for doc, (*_, text, logprob) in zip(docs, answers, strict=True)]
    groups = np.array([0, 0, 0, 0, 0, 1, 1])
    assert ranking.RR_10.combine(np.array(stats), groups) == pytest.approx((1 / 3 + 1) / 2)
    first = (1 / np.log2(4) + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert ranking.NDCG_10.combine(np.array(stats), groups) == pytest.approx((first + 1) / 2)
    assert ranking.reciprocal_rank(np.array([0.0] * 10 + [1.0])) == 0.0


def test_both_passages_of_a_query_are_one_example_of_ms_marco() -> None:
    passages = {"passage_text": ["p0", "p1", "p2"], "is_selected": [0, 0, 1], "url": ["", "", ""]}
    rows = [
        {"query_id": 7, "query": "q", "passages": passages},
        {"query_id": 8, "query": "r", "passages": {**passages, "is_selected": [0, 0, 0]}},
    ]
    (pair,) = ranking.pairs(rows)
    asked = "Query: q\nDoes the passage answer the query?\nAnswer:"
    judged = list(ranking.each_passage(rows))
    assert [row["passage"] for row in judged] == ["p0", "p1", "p2"] and {row["id"] for row in judged} == {"7"}
    expected = f"Passage: p0\n{asked} No\n\nPassage: p2\n{asked} Yes\n\nPassage: p1\n{asked}"
    assert prompt_of(ranking.MS_MARCO, judged[1], pair) == expected


def test_raft_is_rendered_and_split_as_helm_does() -> None:
    """The prompt is that of HELM's adapter for these rows; the order is that of `datasets`' train_test_split(test_size=0.8, seed=42)."""
    task = BY_NAME["helm/raft/neurips_impact_statement_risks@helm"]
    row = {"Paper title": "On foxes", "Paper link": "x", "Impact statement": "None.", "Label": "mentions a harmful application", "ID": "0"}
    other = {**row, "Impact statement": "Some, and\nmore.", "Label": "doesn't mention a harmful application"}
    shown = "Impact statement: Some, and\nmore.\nPaper title: On foxes\nLabel: doesn't mention a harmful application\n\n"
    expected = f"{task.layout.instructions}{shown}Impact statement: None.\nPaper title: On foxes\nLabel:"
    assert prompt_of(task, row, other) == expected and task.layout.instructions.endswith(" is solving.\n\n")
    rows = [{"n": number} for number in range(12)]
    assert [each["n"] for each in raft.part(True, rows)] == [0, 7, 6, 9, 11, 3, 5, 2, 4, 10]
    assert [each["n"] for each in raft.part(False, rows)] == [1, 8]
    assert [dict(each) for each in raft.read((b'Tweet,Label\n"a, b",hate\n',))] == [{"Tweet": "a, b", "Label": "hate"}]
