"""Choice and regression metrics equal scikit-learn and scipy on random predictions, also when resampled as one matrix product."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from assay import AssayError, ChoiceScores, Doc, ExpectedValue, Metric
from assay.harness.metrics.choice import (
    OrZero,
    accuracy,
    accuracy_per,
    exact_set,
    f1,
    f1_of_label_1,
    macro_f1,
    matthews,
    mcc,
    pair_parity,
)
from assay.harness.metrics.regression import pearson, spearman
from assay.harness.task.metric import Pooled

CHOICES = ("red", "green", "blue", "white")


def doc(gold: int | None, classes: int = 4, group: str = "") -> Doc:
    return Doc("?", choices=CHOICES[:classes], gold=gold, group=group)


def chosen(pick: int) -> ChoiceScores:
    return ChoiceScores((0.0,) * 4, (1,) * 4, pick)


def table(metric: Metric[Any], golds: Any, picks: Any, classes: int) -> np.ndarray:
    return np.array([metric.measure(doc(int(g), classes), chosen(int(p))) for g, p in zip(golds, picks, strict=True)])


def score(metric: Metric[Any], golds: Any, picks: Any, classes: int) -> float:
    return metric.combine(table(metric, golds, picks, classes), np.arange(len(golds)))


def reference_mcc(golds: Any, picks: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of a single label
        return float(sklearn_metrics.matthews_corrcoef(golds, picks))


REFERENCE: list[tuple[Metric[Any], int, Callable[[Any, Any], float]]] = [
    (accuracy, 4, sklearn_metrics.accuracy_score),
    (mcc(), 2, reference_mcc),
    (mcc(3), 3, reference_mcc),
    (f1, 2, lambda gold, pick: sklearn_metrics.f1_score(gold, pick, zero_division=0)),
    (
        macro_f1(3),
        3,
        lambda gold, pick: sklearn_metrics.f1_score(gold, pick, labels=range(3), average="macro", zero_division=0),
    ),
]


@pytest.mark.parametrize(("metric", "classes", "reference"), REFERENCE, ids=lambda value: getattr(value, "name", None))
def test_equals_scikit_learn(metric: Metric[Any], classes: int, reference: Callable[[Any, Any], float]) -> None:
    rng = np.random.default_rng(7)
    for size in (1, 2, 3, 5, 20, 300):
        for _ in range(20):
            golds, picks = rng.integers(classes, size=size), rng.integers(classes, size=size)
            picks = np.where(rng.random(size) < 0.4, golds, picks)
            found = score(metric, golds, picks, classes)
            expected = math.nan if undefined_by_counting(metric.name, golds, picks, classes) else reference(golds, picks)
            assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)


def undefined_by_counting(name: str, golds: Any, picks: Any, classes: int) -> bool:
    """Whether the textbook formula is 0/0."""
    seen = set(golds) | set(picks)
    if name == "mcc":
        return len(set(golds)) == 1 or len(set(picks)) == 1
    return {"f1": 1 not in seen, "macro_f1": len(seen) < classes}.get(name, False)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40))
def test_degenerate_tables_are_undefined_and_never_zero(pairs: list[tuple[int, int]]) -> None:
    golds, picks = [g for g, _ in pairs], [p for _, p in pairs]
    if len(set(golds)) == 1 or len(set(picks)) == 1:
        assert math.isnan(score(mcc(), golds, picks, 2)) and mcc().undefined
    expected = math.nan if not (sum(golds) or sum(picks)) else sklearn_metrics.f1_score(golds, picks)
    assert score(f1, golds, picks, 2) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_another_tools_zero_can_be_kept() -> None:
    means = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert OrZero(matthews)(means).tolist() == [0.0] and OrZero(f1_of_label_1)(means).tolist() == [0.0]


@pytest.mark.parametrize("share", [1 / 3, 3 / 7, 0.1, 1 / 49])
def test_one_class_is_undefined_although_means_are_rounded(share: float) -> None:
    means = np.array([[share, 0.0, 1 - share, 0.0]])
    assert np.isnan(mcc().combine.finish(means)).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("metric", "classes", "reference"), REFERENCE, ids=lambda value: getattr(value, "name", None))
def test_resampling_is_a_matrix_product(metric: Metric[Any], classes: int, reference: Callable[[Any, Any], float]) -> None:
    rng = np.random.default_rng(3)
    golds, picks = rng.integers(classes, size=40), rng.integers(classes, size=40)
    stats = table(metric, golds, picks, classes)
    draws = rng.integers(40, size=(25, 40))
    weights = np.stack([np.bincount(draw, minlength=40) for draw in draws]) / 40
    assert isinstance(metric.combine, Pooled)
    found = metric.combine.finish((weights @ stats).reshape(5, 5, -1))
    assert found.shape == (5, 5)
    expected = [reference(golds[draw], picks[draw]) for draw in draws]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-12)


def test_accuracy_per_length_ranks_by_rate() -> None:
    item = Doc("?", choices=("no", "perhaps", "né"), gold=1)
    output = ChoiceScores((-2.0, -3.5, -1.6), (1, 7, 1), pick=2)
    assert accuracy.measure(item, output) == (0.0,)
    assert accuracy_per("chars").measure(item, output) == (1.0,)  # -1.0, -0.5, -0.8
    assert accuracy_per("tokens").measure(item, output) == (1.0,)  # -2.0, -0.5, -1.6
    accented = ChoiceScores((-2.0, -3.5, -1.2), (1, 7, 1), pick=2)
    assert accuracy_per("chars").measure(item, accented) == (1.0,)  # -1.0, -0.5, -0.6
    assert accuracy_per("bytes").measure(item, accented) == (0.0,)  # -1.0, -0.5, -0.4


def test_the_first_of_equal_rates_wins_where_the_protocol_says_so() -> None:
    item = Doc("?", choices=("ab", "abcd"), gold=0)
    assert accuracy_per("chars").measure(item, ChoiceScores((-1.0, -2.0), (1, 1), pick=0, first_wins=True)) == (1.0,)
    assert accuracy_per("chars").measure(item, ChoiceScores((-1.0, -2.0), (1, 1), pick=0)) == (0.5,)


def test_exact_set_needs_every_item_of_a_group() -> None:
    groups = np.array([0, 0, 1, 1, 2])
    stats = np.array([[1.0], [1.0], [1.0], [0.0], [1.0]])
    assert exact_set.combine(stats, groups) == pytest.approx(2 / 3)
    shuffled = np.array([3, 0, 4, 2, 1])
    assert exact_set.combine(stats[shuffled], groups[shuffled]) == pytest.approx(2 / 3)


def test_pair_parity_reads_picks_and_needs_no_gold() -> None:
    picks = [0, 0, 1, 0, 1, 1]
    stats = np.array([pair_parity.measure(doc(None), chosen(pick)) for pick in picks])
    assert pair_parity.combine(stats, np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(2 / 3)


def test_folds_give_one_row_per_group_in_the_order_of_the_codes() -> None:
    combine = exact_set.combine
    assert isinstance(combine, Pooled) and combine.fold is not None
    rows = combine.fold(np.array([[0.0], [1.0], [1.0]]), np.array([1, 0, 1]))
    assert rows.tolist() == [[1.0], [0.0]]


@pytest.mark.parametrize("metric", [accuracy, mcc(), f1, macro_f1(3), exact_set], ids=lambda metric: metric.name)
def test_a_hidden_label_is_an_error_never_a_wrong_answer(metric: Metric[Any]) -> None:
    with pytest.raises(AssayError, match="no gold"):
        metric.measure(doc(None, 2), chosen(0))


def test_a_class_outside_the_table_is_an_error() -> None:
    with pytest.raises(AssayError, match="class 3"):
        f1.measure(doc(0), chosen(3))


def pairs(x: Any, y: Any, metric: Metric[Any]) -> np.ndarray:
    return np.array([metric.measure(Doc("?", value=float(b)), ExpectedValue(float(a), ())) for a, b in zip(x, y, strict=True)])


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(ties: bool) -> None:
    rng = np.random.default_rng(11)
    for size in (3, 10, 500):
        for _ in range(20):
            y = rng.uniform(0, 5, size)
            x = 2.5 + 0.3 * (y - 2.5) + rng.normal(size=size) * rng.uniform(0, 2)
            if ties:
                x, y = np.round(x * 2) / 2, np.round(y)
            if len(set(x)) == 1 or len(set(y)) == 1:
                continue
            every = np.arange(size)
            assert pearson.combine(pairs(x, y, pearson), every) == pytest.approx(scipy_stats.pearsonr(x, y).statistic, abs=1e-9)
            assert spearman.combine(pairs(x, y, spearman), every) == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-12)


def test_correlation_with_a_constant_is_undefined_without_a_warning() -> None:
    for x, y in (([2.1, 2.1, 2.1], [1, 2, 3]), ([1, 2, 3], [0.3, 0.3, 0.3]), ([0, 0], [0, 0]), ([1], [2])):
        for metric in (pearson, spearman):
            assert math.isnan(metric.combine(pairs(x, y, metric), np.arange(len(x))))


def test_pearson_is_vectorised_and_keeps_nan_to_the_degenerate_draws() -> None:
    stats = pairs([1.0, 2.0, 4.0], [1.5, 1.0, 5.0], pearson)
    weights = np.array([[1, 1, 1], [3, 0, 0], [1, 2, 0]]) / 3
    assert isinstance(pearson.combine, Pooled)
    found = pearson.combine.finish(weights @ stats)
    assert np.isnan(found).tolist() == [False, True, False]
    assert found[2] == pytest.approx(-1.0)


def test_a_perfect_correlation_does_not_exceed_one() -> None:
    x = np.random.default_rng(0).normal(size=1000) + 100
    assert pearson.combine(pairs(x, x, pearson), np.arange(1000)) <= 1.0


def test_a_hidden_value_is_an_error() -> None:
    with pytest.raises(AssayError, match="no gold value"):
        pearson.measure(Doc("?"), ExpectedValue(1.0, ()))
