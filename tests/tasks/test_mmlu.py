"""MMLU: subjects and categories, the prompts of its three protocols, the averages; and the smoke rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from assay import Access, AssayError, Completion, Task
from assay.harness.prompt.render import render
from assay.harness.prompt.shots import choose_examples
from assay.harness.run.selection import select
from assay.tasks import mmlu, smoke


@pytest.mark.parametrize("member", (*mmlu.TASKS[:1], *mmlu.TASKS[57:58], *mmlu.TASKS[-1:]), ids=lambda task: task.full_name)
def test_worked_examples(member: Task) -> None:
    assert member.about and member.licence and member.citation
    for example in member.worked:
        doc = member.doc(example.row)
        assert (doc.prompt, doc.answer) == (example.prompt, example.answer)


def test_every_task_has_a_worked_example_that_holds() -> None:
    assert all(task.doc(example.row).prompt == example.prompt for task in mmlu.TASKS for example in task.worked)
    assert all(task.worked for task in mmlu.TASKS)


def test_57_subjects_in_four_categories() -> None:
    sizes = {key: len(subjects) for key, subjects in mmlu.SUBJECTS.items()}
    assert sizes == {
        "stem": 19,
        "humanities": 13,
        "social_sciences": 12,
        "other": 13,
    }
    assert len(set(mmlu.ALL_SUBJECTS)) == 57
    assert Counter(task.protocol for task in mmlu.TASKS) == {"lm-eval": 57, "continuation": 57, "helm": 5}


ROWS = [{"question": f" Q{n}? ", "subject": "high_school_physics", "choices": ["w", "x", "y", "z"], "answer": n % 4} for n in range(7)]


def prompt(task: Task, shots: int) -> str:
    docs = [task.doc(row) for row in ROWS]
    return render(task, docs[6], choose_examples(task, shots, docs[:5], docs[6:], 0)(0)).prompt


def test_letters_with_the_first_dev_rows_in_order() -> None:
    head = "The following are multiple choice questions (with answers) about high school physics.\n\n"
    body = "\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    task = mmlu.LETTER_TASKS["high_school_physics"]
    assert prompt(task, 0) == f"{head}Q6?{body}"
    assert prompt(task, 2) == f"{head}Q0?{body} A\n\nQ1?{body} B\n\nQ6?{body}"
    assert render(task, task.doc(ROWS[0])).continuations == (" A", " B", " C", " D")


def test_continuation_does_not_show_the_choices() -> None:
    task = mmlu.CONTINUATION_TASKS["high_school_physics"]
    head = "The following are questions (with answers) about high school physics.\n\n"
    assert prompt(task, 1) == f"{head}Question: Q0?\nAnswer: w\n\nQuestion: Q6?\nAnswer:"
    assert render(task, task.doc(ROWS[0])).continuations == (" w", " x", " y", " z")


def test_helm_generates_one_letter_after_five_examples() -> None:
    task = mmlu.HELM_TASKS["econometrics"]
    assert (task.shots.count, task.shots.order, task.shots.split) == (5, "balanced", "dev")
    text = prompt(task, 5)
    assert text.startswith("The following are multiple choice questions (with answers) about econometrics.\n\nQuestion:  Q")
    assert text.endswith("\n\nQuestion:  Q6? \nA. w\nB. x\nC. y\nD. z\nAnswer:")
    assert text.count("Answer: ") == 5


@pytest.mark.parametrize(
    ("response", "score", "parsed"), [(" C", 1, True), ("C\n", 1, True), (" B", 0, True), (" The", 0, False), ("", 0, False)]
)
def test_helm_counts_other_responses_as_wrong_and_unparsed(response: str, score: float, parsed: bool) -> None:
    task = mmlu.HELM_TASKS["econometrics"]
    (metric,) = task.metrics
    doc = task.doc(ROWS[2])
    assert metric.parses is not None
    assert metric.measure(doc, Completion(response)) == (score,) and metric.parses(doc, Completion(response)) is parsed


def test_helm_accepts_every_letter_with_the_correct_text() -> None:
    doc = mmlu.joint({"question": "?", "choices": ["x", "y", "x", "z"], "answer": 2})
    assert doc.references == ("A", "C")


def test_a_hidden_answer_leaves_the_doc_unlabelled() -> None:
    for task in (mmlu.TASKS[0], mmlu.TASKS[57], mmlu.TASKS[-1]):
        assert not task.doc({**ROWS[0], "answer": -1}).labelled
    with pytest.raises(AssayError, match="out of range"):
        mmlu.letters({**ROWS[0], "answer": 4})


def test_micro_counts_items_and_macro_counts_subjects() -> None:
    totals = {total.name: total for total in mmlu.FAMILIES[0].totals}
    micro, macro = totals["mmlu/micro@lm-eval"], totals["mmlu/macro@lm-eval"]
    assert micro.by_size and {term.weight for term in micro.terms} == {1.0} and len(micro.terms) == 57
    assert not macro.by_size and sum(term.weight for term in macro.terms) == pytest.approx(1)
    assert {name: len(total.terms) for name, total in totals.items()} == {
        "mmlu/micro@lm-eval": 57,
        "mmlu/macro@lm-eval": 57,
        "mmlu/stem@lm-eval": 19,
        "mmlu/humanities@lm-eval": 13,
        "mmlu/social_sciences@lm-eval": 12,
        "mmlu/other@lm-eval": 13,
    }


@pytest.mark.parametrize(
    ("name", "count", "first", "totals"),
    [
        ("mmlu", 57, "mmlu/abstract_algebra@lm-eval", 6),
        ("mmlu@continuation", 57, "mmlu/abstract_algebra@continuation", 6),
        ("mmlu@helm", 5, "mmlu/abstract_algebra@helm", 1),
        ("mmlu/stem", 19, "mmlu/abstract_algebra@lm-eval", 1),
        ("mmlu/anatomy", 1, "mmlu/anatomy@lm-eval", 0),
        ("mmlu/anatomy@continuation", 1, "mmlu/anatomy@continuation", 0),
        ("mmlu/econometrics@helm", 1, "mmlu/econometrics@helm", 0),
    ],
)
def test_names_resolve(name: str, count: int, first: str, totals: int) -> None:
    found = select([name], Access())
    assert (len(found.tasks), found.tasks[0].full_name, len(found.totals)) == (count, first, totals)


@pytest.mark.data
def test_real_sizes_of_the_categories(data_root: Path) -> None:
    sizes = {}
    for key, subjects in mmlu.SUBJECTS.items():
        sizes[key] = sum(len(mmlu.LETTER_TASKS[subject].rows.load("test", Access(data_root)).rows) for subject in subjects)
    assert sizes == {"stem": 3153, "humanities": 4705, "social_sciences": 3077, "other": 3107}


@pytest.mark.data
def test_real_dev_rows_give_five_examples_to_every_helm_subject(data_root: Path) -> None:
    for task in mmlu.HELM_TASKS.values():
        dev, test = ([task.doc(row) for row in task.rows.load(split, Access(data_root)).rows] for split in ("dev", "test"))
        assert len(choose_examples(task, 5, dev, test, 0)(0)) == 5


# --- the smoke rows ------------------------------------------------------------------------------------------------------------

MEMBERS = [task for task in smoke.TASKS if task.name.startswith(("smoke/glue/", "smoke/superglue/", "smoke/mmlu"))]
"""The smoke tasks of GLUE, SuperGLUE and MMLU."""


@pytest.mark.parametrize("member", MEMBERS, ids=lambda task: task.name)
def test_smoke_rows_are_balanced_labelled_and_not_few_shot_examples(member: Task) -> None:
    docs = [member.doc(row) for row in member.rows.load(member.split, Access()).rows]
    pool = [member.doc(row) for row in member.rows.load(member.shots.split, Access()).rows]
    assert member.purpose == "smoke" and len(docs) >= 6 and len(pool) >= 2
    assert all(doc.labelled for doc in docs + pool)
    assert len({doc.content for doc in docs + pool}) == len(docs + pool)
    golds = [doc.gold for doc in docs if doc.gold is not None]
    if golds:
        counts = np.bincount(golds)
        assert counts.max() - counts.min() <= 2


@pytest.mark.parametrize("member", MEMBERS, ids=lambda task: task.name)
def test_smoke_rows_have_the_schema_of_the_real_rows(member: Task) -> None:
    for split in (member.split, member.shots.split):
        for row in member.rows.load(split, Access()).rows:
            assert set(row) == set(member.worked[0].row)


@pytest.mark.data
def test_no_smoke_row_is_copied_from_the_data(data_root: Path) -> None:
    access = Access(data_root, allow_partial=True)
    originals = {task.name: task for task in (*smoke.glue.TASKS, *smoke.superglue.TASKS)}
    for member in MEMBERS:
        splits = (member.split, member.shots.split)
        ours = {member.doc(row).prompt for split in splits for row in member.rows.load(split, Access()).rows}
        real = [originals[member.name.removeprefix("smoke/")]] if "mmlu" not in member.name else mmlu.TASKS[:57]
        for task in real:
            for split in (task.split, task.shots.split):
                assert not ours & {task.doc(row).prompt for row in task.rows.load(split, access).rows}
