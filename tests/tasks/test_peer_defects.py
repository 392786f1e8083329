"""Defects of other harnesses, each reproduced in a few lines: their implementation fails the check and ours passes.

The inverted gold of MultiRC, its answers read as Python, and COPA's doubled space: tests/tasks/test_superglue.py. BIG-bench Hard's
extractors: tests/tasks/test_bbh.py. Run: pytest tests/tasks/test_peer_defects.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from assay import Access, AssayError, ChoiceScores, Doc, ExpectedValue, accuracy
from assay.harness.metrics.choice import f1
from assay.harness.metrics.text import ter
from assay.harness.prompt.perturb import metrics_of
from assay.harness.stats.interval import score_interval
from assay.tasks import bigbench, glue, superglue

FOUR = np.arange(4)


def spread_of_models(scores: list[float]) -> float:
    """How well a task separates models: 0 if it gives every model the same score."""
    return max(scores) - min(scores)


def test_stsb_separates_models_and_a_single_choice_does_not() -> None:
    """lighteval: the rounded gold score is the only choice, and accuracy the metric."""
    golds = [0.0, 1.6, 3.2, 5.0]
    models = [golds, golds[::-1], [2.0, 2.5, 2.4, 2.6]]

    def peer(estimates: list[float]) -> float:
        docs = [Doc("p", choices=(f"{gold:.0f}", ""), gold=0) for gold in golds]
        only = [ChoiceScores((value,), (1,), 0) for value in estimates]  # the best of one choice
        return float(np.mean([accuracy.measure(doc, output)[0] for doc, output in zip(docs, only, strict=True)]))

    def ours(estimates: list[float]) -> float:
        pearson = glue.STSB.metrics[0]
        docs = [glue.STSB.doc({"sentence1": "a", "sentence2": "b", "label": gold, "idx": n}) for n, gold in enumerate(golds)]
        stats = [pearson.measure(doc, ExpectedValue(value, ())) for doc, value in zip(docs, estimates, strict=True)]
        return pearson.combine(np.array(stats), FOUR)

    assert spread_of_models([peer(model) for model in models]) == 0
    assert peer(models[1]) == 1.0 and spread_of_models([ours(model) for model in models]) > 1.9


def test_the_prompt_of_wsc_has_every_quote_closed() -> None:
    """lighteval writes an unclosed quotation mark before "Question:"."""
    row = superglue.WSC.worked[0].row
    peer = (
        f'Passage: {row["text"]}\n"Question: In the passage above, does the pronoun "{row["span2_text"]}" refer to "{row["span1_text"]}"?'
    )
    assert peer.count('"') % 2 == 1
    assert superglue.WSC.doc(row).prompt.count('"') % 2 == 0


SUBTASKS = (
    "contradictions",
    "emergent_properties",
    "fanciful_fictional_combinations",
    "homonyms",
    "invented_words",
    "surprising_uncommon_combinations",
)
HELM_LISTS = SUBTASKS[:5]


def made_conceptual_combinations(folder: Path) -> Path:
    """A task folder with the six subtasks, with content written for this test."""
    head = {"name": "conceptual_combinations", "description": "Made.", "metrics": ["multiple_choice_grade"]}
    head["preferred_score"] = "multiple_choice_grade"
    examples = [{"input": f"Item {n}", "target_scores": {"yes": n % 2, "no": 1 - n % 2}} for n in range(4)]
    for name in SUBTASKS:
        path = folder / "google__BIG-bench" / "conceptual_combinations" / name / "task.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**head, "name": name, "examples": examples}))
    main = folder / "google__BIG-bench" / "conceptual_combinations" / "task.json"
    main.write_text(json.dumps({**head, "subtasks": [f"conceptual_combinations:{name}" for name in SUBTASKS]}))
    return folder


def test_a_task_has_all_its_subtasks_as_they_are_read_from_its_folder(tmp_path: Path) -> None:
    """HELM's list of BIG-bench Lite misses one subtask."""
    family = bigbench.find_family("bigbench/conceptual_combinations", Access(made_conceptual_combinations(tmp_path)))
    assert family is not None
    ours = {task.name.rpartition("/")[2] for task in family.tasks}
    assert set(SUBTASKS) - set(HELM_LISTS) == {"surprising_uncommon_combinations"}
    assert ours == set(SUBTASKS) and len(family.totals[0].terms) == 6


def test_a_hidden_label_is_not_a_gold_index() -> None:
    """lm-eval uses -1 as a gold index and counts every answer as wrong."""
    row = {"sentence": "It rained.", "label": -1, "idx": 0}
    peer = [float(pick == row["label"]) for pick in (0, 1)]
    assert peer == [0.0, 0.0]
    doc = glue.COLA.doc(row)
    assert not doc.labelled
    with pytest.raises(AssayError, match="no gold label"):
        accuracy.measure(doc, ChoiceScores((0.0, 0.0), (1, 1), 0))


def test_an_interval_covers_the_spread_of_repeated_samples() -> None:
    """lighteval reports the standard error of the bootstrap mean, which shrinks with the number of resamples."""
    draw = np.random.default_rng(0)
    gold, pick = draw.integers(0, 2, 300), draw.integers(0, 2, 300)
    stats = np.eye(4)[gold * 2 + pick]
    scores = np.array([f1.combine(stats[draw.integers(0, 300, 300)], np.arange(300)) for _ in range(400)])
    peer = scores.std(ddof=1) / np.sqrt(len(scores))
    found = score_interval(f1, stats, np.arange(300), np.arange(300))
    assert found.low is not None and found.high is not None
    half = (found.high - found.low) / 2
    assert 2 * peer < scores.std(ddof=1) / 5
    assert half == pytest.approx(1.96 * scores.std(ddof=1), rel=0.15)


def test_the_worst_case_of_an_error_rate_is_the_larger_one() -> None:
    """HELM takes the minimum over perturbations for every metric."""
    counts = np.array([[0, 0, 1, 10], [1, 0, 6, 10]])  # edits of ten words: 1 as it is, 6 with typos
    peer = min(10.0, 60.0)
    worst = metrics_of(ter(), ("typos",))[0].combine(counts, np.array([0, 0]))
    assert peer == 10.0 and worst == pytest.approx(60.0)
