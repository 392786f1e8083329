"""The results of any stored run again, from its items alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.exchange.lm_eval import results_of
from harness.exchange.selection import is_imported
from harness.score import rescore
from harness.source import Access
from harness.store import Run
from harness.store.checking import compare
from harness.store.read import sound


def verify(access: Access) -> Callable[[Run], str]:
    """Says of a run which stored result its items do not give, or nothing. Raises AssayError where a scorer is not installed."""

    def differing(run: Run) -> str:
        with sound(run.path):
            return next((problem.what for problem in compare(run, recompute(run, access))), "")

    return differing


def recompute(run: Run, access: Access) -> list[dict[str, Any]]:
    """What summary.json must hold. Raises AssayError where a task is unknown."""
    return results_of(run, access) if is_imported(run.manifest) else rescore(run, access)
