"""How many threads a shared machine allows."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.engines.threads import QUIET, cores


def test_the_users_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert cores() <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert cores() >= 1


@pytest.mark.parametrize("before", ["", "import torch; "])
def test_the_wait_policy_is_set_only_while_it_still_counts_and_never_over_the_users(before: str) -> None:
    pytest.importorskip("torch")
    script = f"{before}import os; from harness.engines.threads import wait_quietly; print(wait_quietly(), os.environ.get('GOMP_SPINCOUNT'))"
    clean = {name: value for name, value in os.environ.items() if name not in QUIET}

    def told(environment: dict[str, str]) -> str:
        return subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True).stdout.strip()

    if before:
        assert told(clean) == "torch was already loaded: wait policy left as it was None"
    else:
        assert told(clean) == "wait policy passive 0"
        assert told({**clean, "OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "7"}) == "wait policy active 7"
