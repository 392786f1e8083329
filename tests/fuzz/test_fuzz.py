"""Files that people bring may hold anything: only AssayError, or success, comes out. Run: pytest tests/fuzz

A short round by default. ASSAY_FUZZ_SECONDS=600 runs every fuzzer for ten minutes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzzing import fuzz
from targets import FUZZERS, warm

SECONDS = float(os.environ.get("ASSAY_FUZZ_SECONDS") or 0)


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # a whole run is one
@pytest.mark.parametrize("name", FUZZERS)
def test_only_clear_errors_come_out(name: str) -> None:
    warm(name)
    few = 6 if name == "chat" else 25  # a template takes a process
    report = fuzz(FUZZERS[name], SECONDS, examples=few)
    assert report.executions >= few // 2
    assert not report.findings, "\n\n".join(f"{place}: {shown}" for place, shown in report.findings.items())
    assert not report.unclear, report.unclear
