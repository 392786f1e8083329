"""HELM-style scenarios: exact prompts, published parameters and their metrics."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay import Access, AssayError, ChoiceScores, Choose, Completion, Doc, Generate, Metric, Task, inline
from assay.harness.prompt.render import render
from assay.harness.prompt.shots import choose_examples
from assay.tasks import helm
from assay.tasks._helm import bias as bias
from assay.tasks._helm import math as latex
from assay.tasks._helm import people as people
from assay.tasks._helm import summaries as summaries
from assay.tasks._helm import synthetic as synthetic
from assay.tasks._helm import text as texts
from assay.tasks._helm.common import Derived, DerivedSplit, letter_match

BY_NAME = {task.full_name: task for task in helm.TASKS}


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_worked_examples(name: str) -> None:
    task = BY_NAME[name]
    assert task.worked and task.about and task.licence and task.citation
    for example in task.worked:
        doc = task.doc(example.row)
        assert (doc.prompt, doc.answer) == (example.prompt, example.answer)
        assert not doc.prompt.endswith(" "), "the joint supplies the space"


def test_names_are_unique_and_families_are_made_of_known_tasks() -> None:
    assert len(BY_NAME) == len(helm.TASKS)
    assert len({family.name for family in helm.FAMILIES}) == len(helm.FAMILIES)
    for family in helm.FAMILIES:
        for total in family.totals:
            assert sum(term.weight for term in total.terms) == pytest.approx(1)
            metrics = {task.full_name: {metric.name for metric in task.metrics} for task in family.tasks}
            assert all(term.metric in metrics[term.task] for term in total.terms)


def prompt_of(task: Task, rows: dict[str, list[Any]], shots: int) -> str:
    docs = {split: [task.doc(row) for row in found] for split, found in rows.items()}
    examples = choose_examples(task, shots, docs.get("train", []), docs["test"], 0)
    return render(task, docs["test"][0], examples(0)).prompt


def test_generation_format_is_helms() -> None:
    row = {"text": "Good.", "label": 1}
    prompt = prompt_of(BY_NAME["helm/imdb@helm"], {"train": [{"text": "Bad.", "label": 0}], "test": [row]}, 1)
    assert prompt == "Passage: Bad.\nSentiment: Negative\n\nPassage: Good.\nSentiment:"


def test_joint_format_is_helms() -> None:
    row = helm.OPENBOOKQA.worked[0].row
    other = {**row, "question_stem": "Ice is", "answerKey": "D"}
    prompt = prompt_of(helm.OPENBOOKQA, {"train": [other], "test": [row]}, 1)
    assert prompt == (
        "The following are multiple choice questions (with answers) about common sense.\n\n"
        "Question: Ice is\nA. a cork\nB. an iron nail\nC. a feather\nD. a glass bead\nAnswer: D\n\n"
        "Question: A magnet will pull\nA. a cork\nB. an iron nail\nC. a feather\nD. a glass bead\nAnswer:"
    )
    assert isinstance(helm.OPENBOOKQA.ask, Generate)
    assert helm.OPENBOOKQA.ask.max_tokens == 1


def test_summaries_translations_and_brackets_are_joined_as_in_helm() -> None:
    xsum = prompt_of(helm.XSUM, {"train": [{"document": "A.", "summary": "a"}], "test": [{"document": "B.", "summary": "b"}]}, 1)
    ask = "Summarize the above article in 1 sentence."
    assert xsum == f"###\nArticle: A.\n\n{ask}\na\n\n###\nArticle: B.\n\n{ask}"
    task = BY_NAME["helm/multi30k/en-de@helm-format"]
    pair = {"en": "A dog.", "de": "Ein Hund.", "fr": "Un chien."}
    found = prompt_of(task, {"train": [pair], "test": [{"en": "A cat.", "de": "x", "fr": "y"}]}, 1)
    assert (
        found == "Translate the following sentences from English to German.\nEnglish: A dog.\nGerman: Ein Hund.\n\nEnglish: A cat.\nGerman:"
    )
    dyck = prompt_of(
        BY_NAME["helm/dyck/3@helm"], {"train": [{"input": "( [", "target": "] )"}], "test": [{"input": "{ (", "target": "x"}]}, 1
    )
    assert dyck.endswith("closed properly.\n\nInput: ( [ ] )\nInput: { (")


def test_separate_formats() -> None:
    assert helm.HELLASWAG.ask == Choose(normalize="tokens", ties="first")
    assert helm.OPENBOOKQA_CLASSIC.ask == Choose(calibrate="Answer:", ties="first")
    blimp = BY_NAME["helm/blimp/adjunct_island@helm"]
    rows = [{"sentence_good": "a", "sentence_bad": "b", "pair_id": number} for number in range(4)]
    docs = [blimp.doc(row) for row in rows]
    assert [doc.prompt for doc in docs] == [""] * 4
    assert [doc.answer for doc in docs] == ["a"] * 4
    assert Counter(doc.gold for doc in docs) == {0: 2, 1: 2}, "a model without any preference is at chance, not at 100 %"
    assert len(bias.BLIMP_TASKS) == 67


REASONING = {
    ("pattern_match", "train"): "737a024f1467564c",
    ("pattern_match", "test"): "d1c7238205b4b795",
    ("variable_substitution", "train"): "aefa7f7eaafe45c3",
    ("variable_substitution", "test"): "66c05682f08b790f",
    ("induction", "validation"): "2ea519e07cfbcdcb",
    ("induction", "test"): "cff6f8af01ac19a5",
}
DYCK = {"train": "46c993e859097b47", "test": "8ecfe7af78272333"}
"""Hashes of the items generated by HELM's own scenario classes (crfm-helm 0.5.16)."""


def digest(rows: tuple[Any, ...]) -> str:
    return hashlib.sha256("\x00".join(f"{row['input']}\x01{row['target']}" for row in rows).encode()).hexdigest()[:16]


def test_synthetic_reasoning_items_are_helms_own() -> None:
    assert {key: digest(synthetic.reasoning_split(*key)) for key in REASONING} == REASONING
    assert [len(synthetic.reasoning_split("induction", split)) for split in synthetic.SIZES] == [1000, 5000, 5000]


def test_dyck_words_are_helms_own_and_close() -> None:
    assert {split: digest(rows) for split, rows in synthetic.dyck_rows(3).items()} == DYCK
    for row in synthetic.dyck_rows(3)["test"]:
        word = (row["input"] + row["target"]).replace(" ", "")
        assert synthetic.closing_of(word) == ""
        assert row["target"]


def test_a_contrast_pair_counts_only_if_both_are_correct() -> None:
    rows = list(texts.both_versions([{"original": "a", "original_label": 1, "contrast": "b", "contrast_label": 0}] * 1))
    docs = [texts.imdb(row) for row in rows]
    assert docs[0].group == docs[1].group != ""
    stats = np.array([texts.WORST_OF_PAIR.measure(doc, Completion("Positive")) for doc in docs])
    assert texts.WORST_OF_PAIR.combine(stats, np.array([0, 0])) == 0.0
    assert stats.mean() == 0.5


def test_dialogues_become_one_item_with_three_references() -> None:
    rows = [{"id": f"test_0_{n}", "dialogue": "d", "summary": f"s{n}", "topic": ""} for n in (1, 2, 3)]
    (item,) = summaries.one_per_dialogue(rows)
    assert summaries.dialogsum(item).references == ("s1", "s2", "s3")
    assert summaries.dialogsum(rows[0]).references == ("s1",)


def bbq_row(**changes: Any) -> dict[str, Any]:
    return {**bias.BBQ_ROW, **changes}


def test_bbq_bias_follows_the_published_equations() -> None:
    doc = bias.bbq(bbq_row())
    assert {key: doc.meta[key] for key in ("target", "other", "unknown")} == {"target": "A", "other": "B", "unknown": "C"}
    clear = {"context_condition": "disambig", "label": 1}
    items = [
        (bias.bbq(bbq_row()), "A"),  # stereotype
        (bias.bbq(bbq_row()), "C"),  # right
        (bias.bbq(bbq_row(question_polarity="nonneg")), "A"),  # against it
        (bias.bbq(bbq_row(question_polarity="nonneg")), "B"),  # with it
        (bias.bbq(bbq_row(**clear)), "B"),  # right, against it
        (bias.bbq(bbq_row(**clear)), "A"),  # with it
    ]
    stats = np.array([bias.AMBIGUOUS_BIAS.measure(doc, Completion(text)) for doc, text in items])
    accuracy = 2 / 6
    assert bias.AMBIGUOUS_BIAS.combine(stats, np.arange(6)) == pytest.approx(abs(2 * 2 / 3 - 1) * (1 - accuracy))
    assert bias.CLEAR_BIAS.combine(stats, np.arange(6)) == pytest.approx(0.0)
    assert bias.AMBIGUOUS_BIAS.combine(np.zeros((3, 5)), np.arange(3)) == 0.0
    assert bias.AMBIGUOUS_BIAS.measure(bias.bbq(bbq_row()), Completion("The")) == (0.0,) * 5, "what is no answer leans nowhere"
    assert letter_match.measure(bias.bbq(bbq_row()), Completion(" C\n")) == (1.0,)


def scored(metric: Metric[Completion], *texts: str) -> float:
    doc = Doc("x", references=("y",))
    return metric.combine(np.array([metric.measure(doc, Completion(text)) for text in texts]), np.arange(len(texts)))


def test_representation_of_groups() -> None:
    assert scored(people.GENDER_REPRESENTATION, "She met her mother.", "He left. They stayed.", "The heron") == pytest.approx(0.25)
    assert math.isnan(scored(people.GENDER_REPRESENTATION, "The heron")), "HELM gives None"
    race = people.RACE_REPRESENTATION
    assert scored(race, "Ms. Chen", "Mr Garcia") == pytest.approx(1 / 3), "4/9 and 5/9: the lists are not equally long"
    assert scored(race, "Wilson and Johnson") == pytest.approx(race.high or 0)


def test_association_of_groups_with_occupations() -> None:
    metric = people.GENDER_PROFESSION
    assert scored(metric, "Her mother and her aunt walked. The doctor slept.", "A nurse.") == pytest.approx(0.5)
    assert scored(metric, "She is a nurse.", "He is a nurse.", "He is a doctor, his brother a doctor.") == pytest.approx(0.25)
    assert math.isnan(scored(metric, "He stays.", "A nurse.")), "no group with the profession"


@pytest.mark.parametrize(
    ("gold", "response", "right"),
    [
        (r"so \boxed{\frac{1}{2}}", r"hence $\boxed{0.5}$.", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{1/2}", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{\dfrac12}", True),
        (r"\boxed{\sqrt{3}}", r"\boxed{\sqrt3}", True),
        (r"\boxed{(3, \frac{\pi}{2})}", r"\boxed{\left(3,\frac{\pi}{2}\right)}", True),
        (r"\boxed{5}", r"\boxed{x = 5}", True),
        (r"\boxed{10}", r"\boxed{10\%}", True),
        (r"\boxed{27}", r"first \boxed{3}, then \boxed{27}", True),
        (r"\boxed{27}", r"\boxed{72}", False),
        (r"\boxed{27}", "27", False),
        (r"\boxed{27}", r"\boxed{27", False),
        ("27", r"\boxed{27}", True),
    ],
)
def test_math_equivalence(gold: str, response: str, right: bool) -> None:
    assert latex.math_equivalent.measure(Doc("q", references=(gold,)), Completion(response)) == (float(right),)


def test_letters_alone_parse() -> None:
    assert letter_match.parses is not None
    assert letter_match.parses(Doc("q", references=("A",)), Completion(" B"))
    assert not letter_match.parses(Doc("q", references=("A",)), Completion(" The"))


def test_calibration_metrics_are_reported_with_accuracy() -> None:
    names = [metric.name for metric in helm.HELLASWAG.metrics]
    assert names[:3] == ["accuracy", "ece_10_bin", "ece_1_bin"]
    doc = helm.HELLASWAG.doc(helm.HELLASWAG.worked[0].row)
    output = ChoiceScores((-4.0, -8.0, -9.0, -9.0), (4, 2, 3, 3), 0)
    assert helm.HELLASWAG.metrics[1].measure(doc, output)[1] == 1.0


def test_rows_that_replace_a_split_need_allow_partial() -> None:
    source = Derived({"dev": DerivedSplit(((inline(train=[{"a": 1}]), "train"),), stand_in=True)})
    with pytest.raises(AssayError, match="replaces a missing split"):
        source.load("dev", Access())
    assert not source.load("dev", Access(allow_partial=True)).complete
    assert Derived({"test": DerivedSplit(((inline(train=[]), "test"),))}).splits(Access()) == ()


MISSING = (
    *(f"bbq/{name}@" for name in ("Gender_identity", "Race_ethnicity", "Race_x_SES", "Race_x_gender", "SES")),
    *(
        "boolq@",
        "med_qa@",
        "cnn_dailymail@",
        "narrative_qa@",
        "natural_qa/",
        "quac@",
        "civil_comments/",
        "ms_marco@",
        "raft/",
        "wmt_14/",
        "/math/",
        "xsum@",
    ),
    "legalbench/",
)
"""Tasks whose rows the mirror does not have."""


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(name for name in BY_NAME if not any(part in name for part in MISSING)))
def test_public_rows_read(name: str) -> None:
    task = BY_NAME[name]
    access = Access(Path(os.environ["ASSAY_DATA"]), allow_partial=True)
    split = task.split or next(split for split in ("test", "dev") if split in task.rows.splits(access))
    docs = [task.doc(row) for row in task.rows.load(split, access).rows]
    assert len(docs) >= 4
    assert all(doc.labelled for doc in docs)
    if task.shots.count:
        pool = [task.doc(row) for row in task.rows.load(task.shots.split, access).rows]
        assert len(choose_examples(task, task.shots.count, pool, docs[:20], 0)(0)) == task.shots.count


@pytest.mark.parametrize(
    ("gold", "text", "original", "tolerant"),
    [
        ("1000", "1,000", 0, 1),
        ("12,345", "12345", 0, 1),
        ("90", "90°", 0, 1),
        ("90", "90^\\circ", 1, 1),
        ("-5", "\u22125", 0, 1),
        ("5", "\u22125", 0, 0),
        ("10", "10.0", 0, 1),
        ("\\text{Evelyn}", "Evelyn", 0, 1),
        ("1,2", "12", 0, 0),
        ("3,4", "34", 0, 0),
        ("12345678901234567", "12345678901234568", 0, 0),
        ("\\frac12", "\\frac{1}{2}", 1, 1),
    ],
)
def test_spelling_of_numbers_counts_under_the_original_name_only(gold: str, text: str, original: int, tolerant: int) -> None:
    doc, said = Doc("q", references=(f"It is $\\boxed{{{gold}}}$.",)), Completion(f"So \\boxed{{{text}}}.")
    assert latex.math_equivalent.measure(doc, said) == (original,)
    assert latex.math_tolerant.measure(doc, said) == (tolerant,)
