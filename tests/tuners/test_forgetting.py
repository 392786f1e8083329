"""Forgetting's arithmetic on matrices and scores made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay import AssayError
from assay.tuners.study import forgetting as f

R = [[0.90, 0.20, 0.10], [0.95, 0.80, 0.30], [0.60, 0.75, 0.85]]
"""Row: after training task 0, 1, 2; column: score on that task."""


def test_sequence_measures_by_hand() -> None:
    assert f.average_accuracy(R) == pytest.approx((0.60 + 0.75 + 0.85) / 3)
    assert f.learning_accuracy(R) == pytest.approx((0.90 + 0.80 + 0.85) / 3)
    assert f.backward_transfer(R) == pytest.approx((-0.30 - 0.05) / 2)
    assert f.forward_transfer(R, [0.1, 0.15, 0.05]) == pytest.approx((0.05 + 0.25) / 2)
    assert f.forgetting_measure(R) == pytest.approx((0.35 + 0.05) / 2), "the best earlier score counts, not the first"


def test_no_forgetting_is_exactly_zero() -> None:
    same = np.tile([0.3, 0.6], (2, 1))
    assert f.backward_transfer(same) == f.forgetting_measure(same) == 0
    zero = f.paired_difference([1, 0, 1], [1, 0, 1])
    assert zero.value == 0 and zero.low < 0 < zero.high and zero.p_drop == 0.5


@pytest.mark.parametrize("matrix", [[[1.0]], [[1.0, 2.0]], [[1.0, math.nan], [0.0, 1.0]]])
def test_bad_matrices_are_refused(matrix: list[list[float]]) -> None:
    with pytest.raises(AssayError, match="square"):
        f.backward_transfer(matrix)


def test_retention_is_what_is_left_above_chance() -> None:
    assert f.retention(0.75, 0.5, 0.25) == pytest.approx(0.5)
    assert f.retention(0.75, 0.25, 0.25) == 0
    with pytest.raises(AssayError, match="not above chance"):
        f.retention(0.25, 0.2, 0.25)


def test_tasks_at_chance_cannot_show_forgetting() -> None:
    assert not f.measurable(0.28, 0.25, 0.02)
    assert f.measurable(0.40, 0.25, 0.02)


def test_paired_difference_is_students_t_on_items_and_on_clusters() -> None:
    before, after = [1.0, 1, 1, 0, 1, 0, 1, 1], [0.0, 1, 0, 0, 1, 1, 0, 1]
    change = np.array(after) - np.array(before)
    error = change.std(ddof=1) / math.sqrt(8)
    found = f.paired_difference(before, after)
    assert found.value == pytest.approx(-0.25)
    assert (found.high - found.low) / 2 == pytest.approx(2.364624 * error, rel=1e-5)
    twice = f.paired_difference(before * 2, after * 2, clusters=[str(n) for n in range(8)] * 2)
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high)), "repeating items inside clusters adds no evidence"
    assert f.paired_difference([1.0] * 20, [0.0] * 20).p_drop == 0


def test_significance_is_corrected_over_tasks() -> None:

    found = {"lost": f.Difference(-0.1, -0.15, -0.05, 0.001), "close": f.Difference(-0.1, -0.2, 0.0, 0.04)}
    assert f.significant_drops(found) == ("lost", "close")
    assert f.significant_drops({**found, "third": f.Difference(0.0, -0.1, 0.1, 0.5)}) == ("lost",)


def test_bits_and_break_even() -> None:
    assert f.bits_per_byte(math.log(2) * 12, 4) == pytest.approx(3)
    assert f.break_even(training=1000, in_context=130, tuned=30) == 30
    assert f.break_even(training=1000, in_context=30, tuned=50) == math.inf


def test_drop_at_a_matched_gain_is_between_the_point_before_and_the_line() -> None:
    points = [(0.1, 0.05), (0.2, 0.04), (0.4, 0.2), (0.3, 0.3)]
    assert f.frontier(points) == [(0.2, 0.04), (0.4, 0.2)]
    assert f.drop_at_gain(points, 0.3) == (0.04, pytest.approx(0.12))
    assert f.drop_at_gain(points, 0.1) == (0.0, pytest.approx(0.02)), "the base at the origin is a point"
    assert f.drop_at_gain(points, 0.4) == (0.2, 0.2) and f.drop_at_gain(points, 0.0) == (0.0, 0.0)
    assert all(math.isnan(end) for end in f.drop_at_gain(points, 0.5))


@pytest.mark.parametrize("power", [1, 2, 3])
def test_any_growth_that_is_straight_or_faster_lies_within(power: int) -> None:
    points = [(gain, 5 * gain**power) for gain in (0.05, 0.3)]
    for wanted in np.linspace(0.0, 0.3, 31):
        least, most = f.drop_at_gain(points, float(wanted))
        assert least - 1e-12 <= 5 * wanted**power <= most + 1e-12


def test_scores_that_rose_are_no_forgetting() -> None:
    assert f.drop_at_gain([(0.1, -0.08), (0.4, -0.02)], 0.2) == (0.0, 0.0)
    assert f.drop_at_gain([(0.1, -0.08), (0.4, 0.03)], 0.3) == (0.0, pytest.approx(0.02))
