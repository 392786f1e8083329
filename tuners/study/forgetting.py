"""Gain and forgetting as arithmetic on scores, without models, methods or stores.

Higher scores are better. The base is always the untuned model, without adapter, on the same items and prompts.
KL to the base is KL(base || tuned) over the full vocabulary, in nats per token: `kl_target` on
the target's prompts, `kl_text` on neutral text (measured in `assay.tuners.training.loss`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay import AssayError
from assay.harness.stats.correction import holm

Matrix = NDArray[np.float64]


class Difference(NamedTuple):
    """A paired difference with its 95% confidence interval and its one-sided p value of "not below zero"."""

    value: float
    low: float
    high: float
    p_drop: float


def paired_difference(before: ArrayLike, after: ArrayLike, clusters: Sequence[str] | None = None) -> Difference:
    """Mean of after - before over items, with an interval by Student's t on cluster sums.

    If no item differs, the interval is the rule of three: +-3/n, for scores in a range of 1.
    """
    from scipy.stats import t as student

    change = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if change.ndim != 1 or not len(change):
        raise AssayError("no paired items to compare", do="score both models on the same items")
    value = float(change.mean())
    _, codes = np.unique(np.asarray(clusters if clusters is not None else np.arange(len(change))), return_inverse=True)
    count = int(codes.max()) + 1
    sums = np.bincount(codes, weights=change - value, minlength=count)
    if count < 2:
        return Difference(value, -1.0, 1.0, 0.5)
    error = math.sqrt(count / (count - 1) * float(np.square(sums).sum())) / len(change)
    if error == 0:
        margin = min(1.0, 3 / count)
        return Difference(value, value - margin, value + margin, 0.5 if value == 0 else float(value > 0))
    reach = float(student.ppf(0.975, count - 1)) * error
    return Difference(value, value - reach, value + reach, float(student.cdf(value / error, count - 1)))


def choice_score(row: Mapping[str, Any]) -> float | None:
    """What a learning rate is chosen by, higher is better: minus the validation loss, or the validation score of earlier versions."""
    loss: float | None = row.get("validation_loss")
    score: float | None = row.get("validation_score")
    return score if loss is None else -loss


def measurable(base: float, chance: float, error: float) -> bool:
    """Whether a retention task can show forgetting: the base is more than three standard errors above chance."""
    return base - chance > 3 * error


def retention(base: float, tuned: float, chance: float) -> float:
    """The remaining share of the score above chance: 1 is all of it, 0 is chance."""
    if base <= chance:
        raise AssayError(
            f"the base ({base:.3f}) is not above chance ({chance:.3f})", do="use a retention task on which the base is above chance"
        )
    return (tuned - chance) / (base - chance)


def significant_drops(differences: Mapping[str, Difference], level: float = 0.05) -> tuple[str, ...]:
    """Tasks whose drop is significant after Holm's correction over all tasks."""
    adjusted = holm([found.p_drop for found in differences.values()])
    return tuple(task for task, p in zip(differences, adjusted, strict=True) if p <= level)


def average_drop_interval(differences: Mapping[str, Difference]) -> tuple[float, float, float]:
    """Average drop with its 95% confidence interval over items, (mean, low, high); tasks are assumed independent."""
    values = [-found.value for found in differences.values()]
    reach = math.sqrt(sum(((found.high - found.low) / 2) ** 2 for found in differences.values())) / len(values)
    mean = float(np.mean(values))
    return mean, mean - reach, mean + reach


def bits_per_byte(nats: float, size: int) -> float:
    """Bits per byte from a text's summed negative log-likelihood in nats and its size in UTF-8 bytes."""
    return nats / math.log(2) / size


def checked(matrix: ArrayLike) -> Matrix:
    """R[i, j], the score on task j after training on tasks 0..i. Raises AssayError unless it is square, at least 2 x 2, and finite."""
    scores = np.asarray(matrix, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2 or not np.isfinite(scores).all():
        raise AssayError(f"not a square matrix of scores: {scores.shape}", do="score every task after each task of the sequence")
    return scores


def average_accuracy(matrix: ArrayLike) -> float:
    """ACC: mean score over tasks after the last one (Lopez-Paz and Ranzato 2017)."""
    return float(checked(matrix)[-1].mean())


def learning_accuracy(matrix: ArrayLike) -> float:
    """Mean over tasks of the score directly after training on the task."""
    return float(np.diag(checked(matrix)).mean())


def backward_transfer(matrix: ArrayLike) -> float:
    """BWT = 1/(T-1) sum_{j<T} R[T,j] - R[j,j]; negative is forgetting (Lopez-Paz and Ranzato 2017, arXiv 1706.08840)."""
    scores = checked(matrix)
    return float((scores[-1] - np.diag(scores))[:-1].mean())


def forward_transfer(matrix: ArrayLike, base: ArrayLike) -> float:
    """FWT = 1/(T-1) sum_{j>1} R[j-1,j] - b[j], b the untuned base's scores (Lopez-Paz and Ranzato 2017)."""
    scores, before = checked(matrix), np.asarray(base, dtype=np.float64)
    return float(np.mean([scores[task - 1, task] - before[task] for task in range(1, len(scores))]))


def forgetting_measure(matrix: ArrayLike) -> float:
    """FM = 1/(T-1) sum_{j<T} max_{l<T} R[l,j] - R[T,j]; positive is forgetting (Chaudhry et al. 2018, arXiv 1801.10112)."""
    scores = checked(matrix)
    return float((scores[:-1].max(axis=0) - scores[-1])[:-1].mean())


def break_even(training: float, in_context: float, tuned: float) -> float:
    """Queries after which tuning is cheaper than few-shot examples, in processed tokens (a backward pass counts as two).

    `in_context` and `tuned` are tokens per query; infinite if the tuned prompt is not shorter.
    """
    return math.ceil(3 * training / (in_context - tuned)) if in_context > tuned else math.inf


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto-optimal (gain, drop) points, by increasing gain."""
    best: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda pair: (-pair[0], pair[1])):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best[::-1]


def drop_at_gain(points: Sequence[tuple[float, float]], wanted: float) -> tuple[float, float]:
    """Bounds (least, most) of the forgetting at a gain, from the frontier of (gain, drop) points and the base at (0, 0); NaN beyond it.

    Assumes that forgetting is an increasing, convex function of gain. Then it is at least that of the last point at or before the gain, and
    at most that of the straight line to the next point. A negative drop (a score that rose) counts as 0.
    """
    line = [(0.0, 0.0), *(point for point in frontier([(gain, max(0.0, drop)) for gain, drop in points]) if point[0] > 0)]
    if wanted < 0 or wanted > line[-1][0]:
        return math.nan, math.nan
    before = [point for point in line if point[0] <= wanted][-1]
    after = next(point for point in line if point[0] >= wanted)
    share = (wanted - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0.0
    return before[1], before[1] + share * (after[1] - before[1])
