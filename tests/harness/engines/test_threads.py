"""The number of threads on a shared machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from assay.harness.engines import threads
from assay.harness.engines.threads import PASSIVE_WAIT, choose_threads, cores, set_passive_wait


def test_the_users_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert cores() <= (os.cpu_count() or 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert cores() >= 1


def test_spinning_threads_take_only_free_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(threads, "load_average", lambda: 5.0)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert choose_threads() == 8
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert choose_threads() == 3
    monkeypatch.setattr(threads, "load_average", lambda: 50.0)
    assert choose_threads() == 1


def test_the_wait_policy_is_set_before_torch_is_loaded_unless_the_user_set_it() -> None:
    script = (
        "import os; from assay.harness.engines.threads import set_passive_wait; print(set_passive_wait(), os.environ.get('GOMP_SPINCOUNT'))"
    )
    clean = {name: value for name, value in os.environ.items() if name not in PASSIVE_WAIT}

    def printed(environment: dict[str, str]) -> str:
        return subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True).stdout.strip()

    assert printed(clean) == "waiting threads sleep 0"
    assert printed({**clean, "OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "7"}) == "waiting threads may spin 7"


def test_the_wait_policy_is_not_set_after_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", threads)
    for name in PASSIVE_WAIT:
        monkeypatch.delenv(name, raising=False)
    assert set_passive_wait() == "waiting threads may spin"
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    assert set_passive_wait() == "waiting threads sleep"
