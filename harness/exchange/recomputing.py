"""The results of any stored run again, from its items alone."""

from __future__ import annotations

from typing import Any

from harness.exchange.lm_eval import results_of
from harness.exchange.selection import is_imported
from harness.score import rescore
from harness.source import Access
from harness.store import Run


def recompute(run: Run, access: Access) -> list[dict[str, Any]]:
    """What summary.json must hold. Raises AssayError where a task is unknown."""
    return results_of(run, access) if is_imported(run.manifest) else rescore(run, access)
