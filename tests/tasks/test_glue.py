"""GLUE: exact prompts, label orders, hidden labels, official metrics and the score. Facts are from the data cards and the papers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from assay import Access, AssayError, ChoiceScores, Doc, ExpectedValue, Regress, Task
from assay.harness.prompt.render import render
from assay.harness.run.selection import select
from assay.tasks import glue

PAIR = {"sentence1": "One.", "sentence2": "Two.", "idx": 7}
ROWS = {
    "cola": {"sentence": "One.", "idx": 7},
    "sst2": {"sentence": "One.", "idx": 7},
    "mrpc": PAIR,
    "qqp": {"question1": "One?", "question2": "Two?", "idx": 7},
    "mnli": {"premise": "One.", "hypothesis": "Two.", "idx": 7},
    "mnli_mismatched": {"premise": "One.", "hypothesis": "Two.", "idx": 7},
    "ax": {"premise": "One.", "hypothesis": "Two.", "idx": 7},
    "qnli": {"question": "One?", "sentence": "Two.", "idx": 7},
    "rte": PAIR,
    "wnli": PAIR,
}
MEANING = {
    "cola": ("no", "yes"),  # 0 unacceptable, 1 acceptable
    "sst2": ("negative", "positive"),
    "mrpc": ("no", "yes"),  # 0 not_equivalent, 1 equivalent
    "qqp": ("no", "yes"),  # 0 not_duplicate, 1 duplicate
    "mnli": ("True", "Neither", "False"),  # entailment, neutral, contradiction
    "mnli_mismatched": ("True", "Neither", "False"),
    "ax": ("True", "Neither", "False"),
    "qnli": ("yes", "no"),  # 0 entailment, 1 not_entailment
    "rte": ("True", "False"),  # 0 entailment, 1 not_entailment
    "wnli": ("False", "True"),  # 0 not_entailment, 1 entailment
}


def task(name: str) -> Task:
    return next(task for task in glue.TASKS if task.name == f"glue/{name}")


@pytest.mark.parametrize("member", glue.TASKS, ids=lambda task: task.name)
def test_worked_examples(member: Task) -> None:
    assert member.worked and member.about and member.licence and member.citation
    for example in member.worked:
        doc = member.doc(example.row)
        assert (doc.prompt, doc.answer) == (example.prompt, example.answer)


@pytest.mark.parametrize("name", MEANING)
def test_labels_mean_what_the_data_card_says(name: str) -> None:
    for label, text in enumerate(MEANING[name]):
        assert task(name).doc({**ROWS[name], "label": label}).answer == text


@pytest.mark.parametrize("name", MEANING)
def test_worked_examples_show_every_label(name: str) -> None:
    shown = {example.answer for example in task(name).worked}
    assert shown == set(MEANING[name]) - ({"Neither"} if name == "ax" else set())


@pytest.mark.parametrize("name", [*MEANING, "stsb"])
def test_a_hidden_label_leaves_the_doc_unlabelled(name: str) -> None:
    doc = task(name).doc({**ROWS.get(name, PAIR), "label": -1.0 if name == "stsb" else -1})
    assert not doc.labelled and doc.gold is None and doc.value is None


@pytest.mark.parametrize("name", MEANING)
def test_a_label_out_of_range_is_refused(name: str) -> None:
    with pytest.raises(AssayError, match="out of range"):
        task(name).doc({**ROWS[name], "label": 3})


@pytest.mark.parametrize("member", glue.TASKS, ids=lambda task: task.name)
def test_hostile_text_survives(member: Task) -> None:
    hostile = "a \"quoted\" '''text''' {{x}} {0} C:\\new\n%s é"
    row = {key: hostile if isinstance(value, str) else value for key, value in member.worked[0].row.items()}
    rendered = render(member, member.doc(row))
    assert hostile in rendered.prompt
    assert all(text.startswith(" ") and not text.startswith("  ") for text in rendered.continuations)


@pytest.mark.parametrize(
    ("hypothesis", "shown"), [("It rained ", "It rained. True,"), ("It rained.", "It rained. True,"), ("Did it? ", "Did it?. True,")]
)
def test_mnli_ends_the_hypothesis_with_one_full_stop(hypothesis: str, shown: str) -> None:
    assert shown in task("mnli").doc({"premise": "x", "hypothesis": hypothesis, "label": 0, "idx": 0}).prompt


def test_official_metrics() -> None:
    named = {member.name.removeprefix("glue/"): tuple(metric.name for metric in member.metrics) for member in glue.TASKS}
    assert named["cola"][0] == "mcc" and named["ax"][0] == "mcc"
    assert named["stsb"] == ("pearson", "spearman")
    assert named["mrpc"] == named["qqp"] == ("accuracy", "f1")
    assert all(named[name] == ("accuracy",) for name in ("sst2", "mnli", "mnli_mismatched", "qnli", "rte", "wnli"))


def test_stsb_depends_on_the_model() -> None:
    """With the gold value as the only choice STS-B would score 1 for any model; as a regression it depends on the order."""
    stsb = task("stsb")
    assert isinstance(stsb.ask, Regress) and stsb.ask.answers == tuple("012345") and stsb.ask.values == (0, 1, 2, 3, 4, 5)
    golds = [0.0, 1.5, 3.2, 5.0]
    docs = [stsb.doc({**PAIR, "label": gold}) for gold in golds]
    assert [doc.value for doc in docs] == golds and not docs[0].choices
    for metric in stsb.metrics:
        for estimates, expected in ((golds, 1.0), (golds[::-1], -1.0), ([2.5] * 4, float("nan"))):
            stats = np.array([metric.measure(doc, ExpectedValue(value, ())) for doc, value in zip(docs, estimates, strict=True)])
            assert metric.combine(stats, np.arange(4)) == pytest.approx(expected, abs=0.02, nan_ok=True)


def test_the_score_averages_metrics_then_the_halves_of_mnli_then_nine_tasks() -> None:
    rng = np.random.default_rng(5)
    total = glue.GLUE
    value = {(term.task, term.metric): rng.random() for term in total.terms}

    def of(name: str, *metrics: str) -> float:
        return float(np.mean([value[task(name).full_name, metric] for metric in metrics]))

    nine = [
        of("cola", "mcc"),
        of("sst2", "accuracy"),
        of("mrpc", "accuracy", "f1"),
        of("stsb", "pearson", "spearman"),
        of("qqp", "accuracy", "f1"),
        (of("mnli", "accuracy") + of("mnli_mismatched", "accuracy")) / 2,
        of("qnli", "accuracy"),
        of("rte", "accuracy"),
        of("wnli", "accuracy"),
    ]
    found = total.scale * sum(term.weight * value[term.task, term.metric] for term in total.terms)
    assert found == pytest.approx(100 * np.mean(nine))


def test_names_resolve_and_the_total_needs_every_term() -> None:
    access = Access()
    whole = select(["glue"], access)
    assert len(whole.tasks) == 11 and [total.name for total in whole.totals] == ["glue"]
    assert select(["glue/rte"], access).tasks[0].full_name == "glue/rte@lm-eval"
    assert not select(["glue/rte", "glue/cola"], access).totals


def test_the_diagnostic_set_is_scored_if_labels_are_known() -> None:
    ax = task("ax")
    docs = [ax.doc(example.row) for example in ax.worked]
    stats = np.array([ax.metrics[0].measure(doc, ChoiceScores((), (), doc.gold or 0)) for doc in docs])
    assert stats.shape == (2, 9) and ax.metrics[0].combine(stats, np.arange(2)) == pytest.approx(1.0)
    assert all(term.task != ax.full_name for term in glue.GLUE.terms)


COUNTS = {
    "cola": (322, 721),
    "sst2": (428, 444),
    "mrpc": (129, 279),
    "mnli": (3479, 3123, 3213),
    "qnli": (2702, 2761),
    "rte": (146, 131),
    "wnli": (40, 31),
}


@pytest.mark.data
@pytest.mark.parametrize("name", COUNTS)
def test_real_validation_rows(name: str, data_root: Path) -> None:
    docs: list[Doc] = [task(name).doc(row) for row in task(name).rows.load("validation", Access(data_root)).rows]
    assert tuple(np.bincount([doc.gold for doc in docs if doc.gold is not None])) == COUNTS[name]
    assert len({doc.id for doc in docs}) == len(docs) == sum(COUNTS[name])


@pytest.mark.data
@pytest.mark.parametrize("name", ["cola", "sst2", "stsb", "qnli", "rte", "wnli"])
def test_real_test_rows_are_predictions_only(name: str, data_root: Path) -> None:
    rows = task(name).rows.load("test", Access(data_root)).rows
    assert not any(task(name).doc(row).labelled for row in rows[:200])


@pytest.mark.data
def test_a_missing_split_is_an_error_and_not_replaced(data_root: Path) -> None:
    with pytest.raises(AssayError, match="no split 'validation'"):
        task("qqp").rows.load("validation", Access(data_root))
    with pytest.raises(AssayError, match="no split 'validation_mismatched'"):
        task("mnli_mismatched").rows.load("validation", Access(data_root))
