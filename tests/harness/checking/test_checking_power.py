"""`assay check` finds each defect put into 5 % of 1,000 items, and nothing in clean ones. Run: pytest tests/harness/test_checking_power.py

ASSAY_TRIALS=100 asks for more trials than the default one; results/checks/README.md has the table of a full run.
"""

from __future__ import annotations

import os

import pytest

from tests.sim.check_power import CLEAN, DEFECTS, RATE, Defect, fired

TRIALS = int(os.environ.get("ASSAY_TRIALS", "1"))


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_a_defect_is_found(defect: Defect) -> None:
    assert fired(defect, RATE, TRIALS) >= 0.95 * TRIALS


@pytest.mark.parametrize("clean", CLEAN, ids=lambda clean: clean.name)
def test_clean_items_raise_no_alarm(clean: Defect) -> None:
    assert fired(clean, 0.0, TRIALS) <= 0.05 * TRIALS


@pytest.mark.parametrize(
    "defect", [defect for defect in DEFECTS if defect.check in ("gold-leak", "joint", "degenerate")][:4], ids=lambda d: d.name
)
def test_without_the_defect_the_check_is_silent(defect: Defect) -> None:
    assert fired(defect, 0.0, TRIALS) == 0
