"""Metrics over ranked choices: accuracy, Matthews correlation, F1, and scores of whole groups (a question, a minimal pair).

Confusion metrics store one-hot cells of a gold x pick table, so that every one of them is a function of the mean cells.
Where the formula is 0/0 the score is undefined (NaN), not 0: MCC where all golds or all picks are one class, F1 of a class that
neither occurs nor is picked. `OrZero` gives scikit-learn's 0 instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Codes, Metric, Pooled, Stats, first
from assay.harness.task.output import ChoiceScores

__all__ = ["accuracy", "accuracy_per", "correct_probability", "exact_set", "f1", "macro_f1", "mcc", "pair_parity"]

ROUNDING = 1e-12
"""A mean of one-hot cells below this is a rounding error."""


def gold_of(doc: Doc) -> int:
    """The gold index. Raises AssayError where the label is hidden."""
    if doc.gold is None:
        raise AssayError("no gold label to score against", where=doc.id, do="score a labelled split, or read the predictions")
    return doc.gold


def right(doc: Doc, output: ChoiceScores) -> Stats:
    """1 if the gold choice was picked, else 0."""
    return (float(output.pick == gold_of(doc)),)


accuracy: Metric[ChoiceScores] = Metric("accuracy", right, reads=ChoiceScores)
"""Share of items whose gold choice is picked, under the task's own normalisation of log-likelihoods."""


def accuracy_per(unit: Literal["chars", "bytes", "tokens"]) -> Metric[ChoiceScores]:
    """Accuracy of the choice with the highest log-likelihood per character, byte or token, whatever the task picks by.

    lm-eval calls the first two acc_norm and acc_bytes: lengths are those of the choice without its leading delimiter.
    """

    def measure(doc: Doc, output: ChoiceScores) -> Stats:
        lengths: dict[str, Callable[[], list[int]]] = {
            "chars": lambda: [len(choice) for choice in doc.choices],
            "bytes": lambda: [len(choice.encode()) for choice in doc.choices],
            "tokens": lambda: list(output.tokens),
        }
        rates = [total / max(length, 1) for total, length in zip(output.loglikelihoods, lengths[unit](), strict=True)]
        best = [index for index, rate in enumerate(rates) if math.isclose(rate, max(rates), rel_tol=1e-9)]
        if output.first_wins:
            best = [rates.index(max(rates))]
        return ((gold_of(doc) in best) / len(best),)

    return Metric(f"accuracy_{unit}", measure, reads=ChoiceScores)


def probability(doc: Doc, output: ChoiceScores) -> Stats:
    """The softmax of the log-likelihoods, summed over the choices that count fully."""
    if not doc.targets:
        raise AssayError("no target scores to score against", where=doc.id, do="give Doc(targets=...), 1 for every correct choice")
    weights = np.exp(np.array(output.loglikelihoods) - max(output.loglikelihoods))
    return (float(weights[np.array(doc.targets) == 1].sum() / weights.sum()),)


correct_probability: Metric[ChoiceScores] = Metric("correct_probability", probability, reads=ChoiceScores, signature="softmax")
"""Probability of all correct choices (target score 1) among all choices, as TruthfulQA's mc2."""


def cells(classes: int) -> Callable[[Doc, ChoiceScores], Stats]:
    """A measure that returns the one-hot cells of the gold x pick table, row by row: classes * classes numbers."""

    def measure(doc: Doc, output: ChoiceScores) -> Stats:
        gold = gold_of(doc)
        if not (gold < classes and output.pick < classes):
            raise AssayError(
                f"class {max(gold, output.pick)} in a metric over {classes} classes",
                where=doc.id,
                do="give the metric as many classes as there are choices",
            )
        return tuple(float(cell == gold * classes + output.pick) for cell in range(classes * classes))

    return measure


def square(means: Array) -> Array:
    """Mean cells [..., k * k] as tables [..., k, k]."""
    side = round(means.shape[-1] ** 0.5)
    return means.reshape(*means.shape[:-1], side, side)


def matthews(means: Array) -> Array:
    """Matthews correlation, or its generalisation R_K to k classes (Gorodkin 2004), of mean cells [..., k * k]."""
    table = square(means)
    gold, pick = table.sum(axis=-1), table.sum(axis=-2)
    covariance = np.trace(table, axis1=-2, axis2=-1) - (gold * pick).sum(axis=-1)
    spread = (1 - (gold**2).sum(axis=-1)) * (1 - (pick**2).sum(axis=-1))
    return np.where(spread > ROUNDING, covariance / np.sqrt(np.maximum(spread, ROUNDING)), np.nan)


def f1_by_class(means: Array) -> Array:
    """F1 of every class against the rest [..., k]; NaN for a class that neither occurs nor is picked."""
    table = square(means)
    hits = np.diagonal(table, axis1=-2, axis2=-1)
    either = table.sum(axis=-1) + table.sum(axis=-2)
    return np.where(either > ROUNDING, 2 * hits / np.maximum(either, ROUNDING), np.nan)


def f1_of_label_1(means: Array) -> Array:
    positive: Array = f1_by_class(means)[..., 1]
    return positive


def f1_averaged(means: Array) -> Array:
    averaged: Array = f1_by_class(means).mean(axis=-1)
    return averaged


@dataclass(frozen=True, slots=True)
class OrZero:
    """A `finish` with 0 where it is undefined, as scikit-learn has it, for scores that must equal another tool's."""

    finish: Callable[[Array], Array]

    def __call__(self, means: Array) -> Array:
        return np.nan_to_num(self.finish(means), nan=0.0)


def mcc(classes: int = 2) -> Metric[ChoiceScores]:
    """Matthews correlation of gold and pick, in [-1, 1]; undefined where either is constant."""
    why = "Matthews correlation needs at least two classes among the gold labels and two among the predictions"
    return Metric("mcc", cells(classes), Pooled(matthews), low=-1.0, reads=ChoiceScores, signature=f"classes:{classes}", undefined=why)


f1: Metric[ChoiceScores] = Metric(
    "f1",
    cells(2),
    Pooled(f1_of_label_1),
    reads=ChoiceScores,
    signature="positive:1",
    undefined="label 1 is neither among the gold labels nor among the predictions",
)
"""F1 of label 1 in a two-class task; undefined where it neither occurs nor is picked."""


def macro_f1(classes: int) -> Metric[ChoiceScores]:
    """Unweighted mean of the one-vs-rest F1 of all `classes`; undefined where one of them neither occurs nor is picked."""
    why = f"one of the {classes} classes is neither among the gold labels nor among the predictions"
    return Metric("macro_f1", cells(classes), Pooled(f1_averaged), reads=ChoiceScores, signature=f"classes:{classes}", undefined=why)


def extremes(values: Array, groups: Codes) -> tuple[Array, Array]:
    """Smallest and largest value of every group."""
    count = int(groups.max()) + 1
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, groups, values)
    np.maximum.at(high, groups, values)
    return low, high


def all_right(stats: Array, groups: Codes) -> Array:
    """1 for every group whose items are all right, else 0 [groups, 1]."""
    return extremes(stats[:, 0], groups)[0][:, None]


def all_equal(stats: Array, groups: Codes) -> Array:
    """1 for every group whose statistics are equal, else 0 [groups, 1]."""
    low, high = extremes(stats[:, 0], groups)
    equal: Array = (low == high).astype(np.float64)[:, None]
    return equal


exact_set: Metric[ChoiceScores] = Metric("exact_set", right, Pooled(first, all_right), reads=ChoiceScores, signature="by:group")
"""Share of groups (`Doc.group`) of which every item is right, as MultiRC's exact match by question."""


def picked(doc: Doc, output: ChoiceScores) -> Stats:
    """The index of the picked choice."""
    return (float(output.pick),)


pair_parity: Metric[ChoiceScores] = Metric("pair_parity", picked, Pooled(first, all_equal), reads=ChoiceScores, signature="by:group")
"""Share of groups (`Doc.group`, such as minimal pairs) that get the same pick for every item; needs no gold."""
