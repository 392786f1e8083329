"""The tables of faults name tests that exist, and every public report has one. Run: pytest tests/cases/test_table.py"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
RESULTS = TESTS.parent / "results"
TEXT = (RESULTS / "checks" / "CASES.md").read_text()


@pytest.mark.parametrize("table", ["checks/CASES.md", "models/FAULTS.md"])
def test_every_named_test_exists(table: str) -> None:
    named = re.findall(r"`((?:cases|contracts|harness|tasks)/[\w/]+\.py)(?:::(test_\w+))?`", (RESULTS / table).read_text())
    assert len(named) > 30
    missing = [(file, test) for file, test in named if f"def {test}" not in (TESTS / file).read_text()]
    assert missing == []


def test_every_report_has_a_test() -> None:
    lines = [line for line in TEXT.splitlines() if re.match(r"\| [\w.-]+/[\w.-]+#\d+", line)]
    files = ("cases/test_public_reports.py", "cases/test_more_reports.py", "harness/checking/test_checking_runs.py", "tasks/test_bbh.py")
    source = "".join((TESTS / file).read_text() for file in files)
    tests = [re.findall(r"(test_\w+)`", line)[-1] for line in lines]
    assert len(lines) >= 36 and all(f"def {test}(" in source for test in tests)
