"""Calibration metrics against the definitions of HELM's library and against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.harness.errors import AssayError
from assay.harness.metrics.calibration import accuracy_by_coverage, calibration, ece, platt, platt_ece, selective_accuracy
from assay.harness.task.doc import Doc
from assay.harness.task.output import ChoiceScores, Completion
from assay.harness.task.task import Choose


def sample(seed: int, n: int, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and answers that are right with that probability less the bias."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.25, 1.0, n)
    return confidence, (rng.uniform(size=n) < confidence - bias).astype(float)


def slow_ece(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """The reference's loops: get_equal_bins, get_bin, plugin_ce with power 1."""
    import bisect

    parts = [list(part) for part in np.array_split(sorted(confidence), min(bins, len(confidence)))]
    edges = sorted({*((parts[i][-1] + parts[i + 1][0]) / 2.0 for i in range(len(parts) - 1)), 1.0})
    binned: list[list[tuple[float, float]]] = [[] for _ in edges]
    for p, right in zip(confidence, correct, strict=True):
        binned[bisect.bisect_left(edges, p)].append((p, right))
    return sum(len(part) / len(confidence) * abs(np.mean([p - right for p, right in part])) for part in binned if part)


@pytest.mark.parametrize("n", [1, 7, 10, 95, 1000])
@pytest.mark.parametrize("bins", [1, 10])
def test_ece_equals_the_reference(n: int, bins: int) -> None:
    confidence, correct = sample(n, n)
    if n == 1 and bins > 1:
        assert math.isnan(ece(confidence, correct, bins)), "one bin"
        return
    assert ece(confidence, correct, bins) == pytest.approx(slow_ece(confidence, correct, bins), abs=1e-12)
    coarse = np.round(confidence, 1)
    assert ece(coarse, correct, bins) == pytest.approx(slow_ece(coarse, correct, bins), abs=1e-12), "ties between bins"


def test_calibrated_answers_have_little_error_and_biased_ones_their_bias() -> None:
    assert ece(*sample(1, 20000), 10) < 0.015
    assert ece(*sample(1, 20000, bias=0.2), 10) == pytest.approx(0.2, abs=0.015)


def test_selective_accuracy() -> None:
    confidence = np.linspace(1, 0.01, 100)
    correct = (np.arange(100) < 9).astype(float)
    assert selective_accuracy(confidence, correct) == pytest.approx(9 / 11), "the reference counts one item more than a tenth"
    assert accuracy_by_coverage(confidence, correct)[-1] == pytest.approx(0.09)
    assert accuracy_by_coverage(np.array([0.5, 0.5, 0.5, 0.5]), np.array([1.0, 0.0, 0.0, 1.0])).tolist() == [0.5] * 4, (
        "ties do not depend on order"
    )


def test_platt_equals_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    confidence, correct = sample(3, 2000, bias=0.15)
    logit = np.log(confidence / (1 - confidence))
    theirs = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(logit[:, None], correct)
    slope, intercept = platt(confidence, correct)
    assert slope == pytest.approx(theirs.coef_[0][0], rel=1e-4)
    assert intercept == pytest.approx(theirs.intercept_[0], rel=1e-4)
    assert platt_ece(confidence, correct, 10) < ece(confidence, correct, 10) / 3


def test_platt_survives_separable_and_constant_answers() -> None:
    confidence = np.array([0.3, 0.4, 0.8, 0.9])
    assert platt_ece(confidence, np.array([0.0, 0.0, 1.0, 1.0]), 10) < 1e-3
    assert math.isnan(platt_ece(confidence, np.ones(4), 10)), "the reference gives 0, but nothing was fitted"
    assert all(map(math.isfinite, platt(np.array([0.0, 1.0, 1.0, 0.5]), np.array([1.0, 1.0, 0.0, 0.0]))))


def test_confidence_follows_the_tasks_normalisation() -> None:
    doc = Doc("q", choices=("a", "long answer"), gold=0)
    output = ChoiceScores(loglikelihoods=(-2.0, -4.0), tokens=(1, 4), pick=1, priors=(-1.0, -6.0))
    by_tokens = calibration(Choose(normalize="tokens"))[0].measure(doc, ChoiceScores((-2.0, -4.0), (1, 4), 1))
    assert by_tokens == pytest.approx((1 / (1 + math.exp(-1.0)), 0.0))
    calibrated = calibration(Choose(calibrate="Answer:"))[0].measure(doc, output)
    assert calibrated == pytest.approx((1 / (1 + math.exp(-3.0)), 0.0))


def test_generated_text_needs_a_probability() -> None:
    metrics = {metric.name: metric for metric in calibration()}
    doc = Doc("q", references=("A",))
    assert metrics["ece_1_bin"].measure(doc, Completion("A", logprob=math.log(0.75))) == pytest.approx((0.75, 1.0))
    with pytest.raises(AssayError, match="no probability"):
        metrics["ece_1_bin"].measure(doc, Completion("A"))
    stats = np.array([[0.75, 1.0], [0.25, 0.0]])
    assert metrics["ece_1_bin"].combine(stats, np.arange(2)) == pytest.approx(0.0)
    assert metrics["ece_10_bin"].combine(stats, np.arange(2)) == pytest.approx(0.25)
