"""The peak after a reset does not depend on what the process did before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from assay.tuners.training.memory import CLEAR

SCRIPT = """
from assay.tuners.training.memory import reset_peak, peak_memory

def work(pieces):
    return len([bytearray(100_000) for _ in range(pieces)])

found = []
for pieces in (100, 3000, 100):
    reset_peak()
    work(pieces)
    found.append(peak_memory())
print(*found)
"""


@pytest.mark.skipif(not CLEAR.exists(), reason="only Linux can reset the peak")
def test_what_earlier_work_freed_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", str(1 << 30))  # as in the workers of a study: the heap keeps what is freed
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 30))
    root = Path(__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=True).stdout
    first, large, again = map(int, output.split())
    assert large > first + 250e6
    assert again < first + 50e6
