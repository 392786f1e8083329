"""Limits that an earlier version computed by a method that was replaced since are no problem of a store; wrong scores are."""

from __future__ import annotations

from typing import Any

import pytest

from assay.harness.store.checking import of_earlier_method

STORED = {"value": 0.02, "low": 0.005, "high": 0.06, "method": "wilson"}
NOW = {"value": 0.02, "low": 0.004, "high": 0.058, "method": "clopper-pearson"}


@pytest.mark.parametrize(
    ("stored", "now", "excused"),
    [
        ({}, {}, True),
        ({}, {"low": None, "high": None, "method": "too few items"}, True),
        ({"low": None, "high": None, "wide": [0.0, 0.6], "method": "too few items"}, {}, True),
        ({}, {"method": "wilson"}, False),  # the same method: the limits must be equal
        ({"method": "of nobody"}, {}, False),
        ({"value": 0.03}, {}, False),
        ({"low": 0.03}, {}, False),  # the score lies outside
        ({"low": None}, {}, False),
    ],
)
def test_only_limits_of_a_replaced_method_around_the_right_score_are_excused(
    stored: dict[str, Any], now: dict[str, Any], excused: bool
) -> None:
    assert of_earlier_method(STORED | stored, NOW | now) is excused
