"""The results of any stored run again, from its items alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.run.scoring.imported import refuse_imported, results_of
from assay.harness.run.scoring.rescore import Asked, Lie, docs_here, refuse_lies
from assay.harness.run.scoring.results import rescore
from assay.harness.run.scoring.stored_tasks import is_imported, selection_of
from assay.harness.store import Run
from assay.harness.store.checking import compare
from assay.harness.store.read import sound


def verify(access: Access) -> Callable[[Run], str]:
    """Says of a run which stored result or statistic its items do not give, or nothing.

    Raises AssayError where that cannot be told: a scorer is not installed, or needs data that are not here.
    """
    docs = docs_here(access)

    def differing(run: Run) -> str:
        with sound(run.path):
            unsure: AssayError | None = None
            try:
                refuse_false(run, access, docs)
            except Lie as lie:
                return lie.what
            except AssayError as error:
                unsure = error
            found = next((problem.what for problem in compare(run, results_again(run, access))), "")
            if unsure is not None and not found:
                raise unsure
            return found

    return differing


def recompute(run: Run, access: Access, docs: Asked | None = None) -> list[dict[str, Any]]:
    """What summary.json must hold. Raises AssayError where a task is unknown, or statistics are not what the stored answers give."""
    with sound(run.path):
        refuse_false(run, access, docs or docs_here(access))
        return results_again(run, access)


def results_again(run: Run, access: Access) -> list[dict[str, Any]]:
    if run.manifest["plan"].get("shard"):  # a part has no score of its own
        return []
    return results_of(run, access) if is_imported(run.manifest) else rescore(run, access)


def refuse_false(run: Run, access: Access, docs: Asked) -> None:
    """Raises Lie where statistics are not what the stored answers give, AssayError where that cannot be told."""
    if is_imported(run.manifest):
        refuse_imported(run)
    else:
        refuse_lies(run, selection_of(run, access), docs)
