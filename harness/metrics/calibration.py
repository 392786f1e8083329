"""HELM's calibration metrics: how well confidence matches accuracy, over ranked choices or generated text.

The statistics of an item are (confidence, correct). Confidence is the largest softmax probability over the choices, under the
normalisation by which the task picks, or the probability of the generated text. Not reliable below about 300 items.
Sources: HELM basic_metrics.py; the library `uncertainty-calibration` (Kumar et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.metrics.text import exact_match
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Codes, Metric, Stats
from assay.harness.task.output import ChoiceScores, Completion
from assay.harness.task.task import Choose

__all__ = ["calibration"]


def confidence(scores: Array) -> float:
    """Largest softmax probability of scores [k]."""
    weights = np.exp(scores - scores.max())
    return float(weights.max() / weights.sum())


def choice_scores(ask: Choose, doc: Doc, output: ChoiceScores) -> Array:
    """The scores [k] that the task ranks its choices by."""
    lengths = np.ones(len(output.loglikelihoods))
    match ask.normalize:
        case "tokens":
            lengths = np.array(output.tokens, dtype=np.float64)
        case "chars":
            lengths = np.array([max(len(choice), 1) for choice in doc.choices], dtype=np.float64)
        case "bytes":
            lengths = np.array([max(len(choice.encode()), 1) for choice in doc.choices], dtype=np.float64)
    scores = np.array(output.loglikelihoods, dtype=np.float64)
    if output.priors:
        scores = scores - np.array(output.priors)
    return scores / lengths


def confident_choice(ask: Choose) -> Callable[[Doc, ChoiceScores], Stats]:
    """A measure that returns (confidence, correct) of ranked choices."""

    def measure(doc: Doc, output: ChoiceScores) -> Stats:
        if doc.gold is None and not doc.targets:
            raise AssayError("no gold label to score against", where=doc.id, do="score a labelled split")
        right = doc.targets[output.pick] == max(doc.targets) if doc.targets else output.pick == doc.gold
        return (confidence(choice_scores(ask, doc, output)), float(right))

    return measure


def confident_text(doc: Doc, output: Completion) -> Stats:
    """(probability of the generated text, exact match)."""
    if not math.isfinite(output.logprob):
        raise AssayError(
            "no probability of the generated text: this engine returns none", where=doc.id, do="remove the calibration metrics"
        )
    return (math.exp(min(output.logprob, 0.0)), exact_match.measure(doc, output)[0])


def equal_mass_edges(confidences: Array, bins: int) -> Array:
    """Upper edges of bins with nearly equal numbers of items; bins with equal edges are merged."""
    parts = [part for part in np.array_split(np.sort(confidences), min(bins, len(confidences))) if len(part)]
    middles = [(left[-1] + right[0]) / 2 for left, right in pairwise(parts)]
    return np.unique([*middles, 1.0])


def ece(confidences: Array, correct: Array, bins: int) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy over equal-mass bins, weighted by size.

    NaN where several bins are asked for and all confidences are equal, so that there is only one.
    """
    edges = equal_mass_edges(confidences, bins)
    codes = np.searchsorted(edges, confidences)
    if bins > 1 and codes.min() == codes.max():
        return math.nan
    gaps = np.bincount(codes, weights=confidences - correct)
    return float(np.abs(gaps).sum() / len(confidences))


def accuracy_by_coverage(confidences: Array, correct: Array) -> Array:
    """Accuracy [n] of the 1, 2, ... n most confident items; ties share their mean, so the order of items has no effect."""
    order = np.argsort(-confidences, kind="stable")
    codes = np.unique(-confidences[order], return_inverse=True)[1]
    smoothed = (np.bincount(codes, weights=correct[order]) / np.bincount(codes))[codes]
    return np.asarray(np.cumsum(smoothed) / np.arange(1, len(correct) + 1))


def coverage_area(confidences: Array, correct: Array) -> float:
    """Area under the coverage-accuracy curve."""
    return float(accuracy_by_coverage(confidences, correct).mean())


def selective_accuracy(confidences: Array, correct: Array) -> float:
    """Accuracy on the tenth of the items with the highest confidence (one more item than 10 %, as in the reference)."""
    return float(accuracy_by_coverage(confidences, correct)[len(correct) // 10])


def platt(confidences: Array, correct: Array) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of `correct` on the log-odds of confidence, by Newton's method.

    A ridge of 1e-10 (the reference's C=1e10) keeps separable data finite. Source: Platt (1999).
    """
    clipped = np.clip(confidences, 1e-12, 1 - 1e-12)
    design = np.stack([np.log(clipped / (1 - clipped)), np.ones(len(clipped))], axis=1)
    ridge = np.array([1e-10, 0.0])
    weights = np.zeros(2)

    def loss(at: Array) -> float:
        logits = design @ at
        return float((np.logaddexp(0, logits) - correct * logits).sum() + 0.5 * (ridge * at * at).sum())

    current = loss(weights)
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -700, 700)))
        gradient = design.T @ (chance - correct) + ridge * weights
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(ridge + 1e-12)
        step = np.linalg.lstsq(curvature, gradient, rcond=None)[0]
        size = 1.0
        while loss(weights - size * step) > current and size > 1e-10:
            size /= 2
        weights = weights - size * step
        previous, current = current, loss(weights)
        if previous - current <= 1e-14 * max(1.0, abs(current)):
            break
    return float(weights[0]), float(weights[1])


def recalibrated(confidences: Array, correct: Array) -> Array:
    """Confidence after Platt scaling on the same items."""
    slope, intercept = platt(confidences, correct)
    clipped = np.clip(confidences, 1e-12, 1 - 1e-12)
    return np.asarray(1 / (1 + np.exp(-(slope * np.log(clipped / (1 - clipped)) + intercept))))


def platt_ece(confidences: Array, correct: Array, bins: int) -> float:
    """ECE after Platt scaling; NaN where all items are right or all are wrong (the reference gives 0): nothing can be fitted."""
    if correct.min() == correct.max():
        return math.nan
    return ece(recalibrated(confidences, correct), correct, bins)


@dataclass(frozen=True, slots=True)
class Curve:
    """Combines (confidence, correct) [n, 2] with a function that needs all items, not only sums."""

    score: Callable[[Array, Array], float]

    def __call__(self, stats: Array, groups: Codes) -> float:
        return self.score(stats[:, 0], stats[:, 1])


def undefined(name: str) -> str:
    """Why a calibration score is undefined."""
    one_bin = "all confidences are equal, so there is only one bin"
    return f"all items are right or all are wrong, or {one_bin}" if name.startswith("platt") else one_bin


SCORES: tuple[tuple[str, Callable[[Array, Array], float], str], ...] = (
    ("ece_10_bin", partial(ece, bins=10), "lower"),
    ("ece_1_bin", partial(ece, bins=1), "lower"),
    ("selective_acc@10", selective_accuracy, "higher"),
    ("selective_cov_acc_area", coverage_area, "higher"),
    ("platt_ece_10_bin", partial(platt_ece, bins=10), "lower"),
    ("platt_ece_1_bin", partial(platt_ece, bins=1), "lower"),
)


def calibration(ask: Choose | None = None) -> tuple[Metric[ChoiceScores], ...] | tuple[Metric[Completion], ...]:
    """The calibration metrics for tasks that rank choices with `ask`, or for generated text where it is None."""
    if ask is None:
        return tuple(
            Metric(name, confident_text, Curve(score), better, reads=Completion, signature="helm|p(text)", undefined=undefined(name))
            for name, score, better in SCORES
        )
    measure, signature = confident_choice(ask), f"helm|softmax-max|{ask.normalize}"
    return tuple(
        Metric(name, measure, Curve(score), better, reads=ChoiceScores, signature=signature, undefined=undefined(name))
        for name, score, better in SCORES
    )
