"""Recompute the results of any stored run from its items, without the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.run.scoring.imported import check_imported, results_of
from assay.harness.run.scoring.rescore import FindDocs, Inconsistent, check_stored_run, local_docs
from assay.harness.run.scoring.results import rescore
from assay.harness.run.scoring.stored_tasks import is_imported, selection_of
from assay.harness.store import Run
from assay.harness.store.checking import compare_results
from assay.harness.store.read import content_errors


def verify(access: Access) -> Callable[[Run], str]:
    """A function from a run to its first result or statistic that differs from what its items give; empty where all agree.

    The function raises AssayError where that cannot be verified: a scorer is not installed, or needs data that are not on this machine.
    """
    docs = local_docs(access)

    def first_difference(run: Run) -> str:
        with content_errors(run.path):
            unverified: AssayError | None = None
            try:
                check_statistics(run, access, docs)
            except Inconsistent as error:
                return error.what
            except AssayError as error:
                unverified = error
            found = next((problem.what for problem in compare_results(run, results_from_items(run, access))), "")
            if unverified is not None and not found:
                raise unverified
            return found

    return first_difference


def recompute(run: Run, access: Access, docs: FindDocs | None = None) -> list[dict[str, Any]]:
    """The results that summary.json must hold. Raises AssayError where a task is unknown, or statistics differ from the stored outputs'."""
    with content_errors(run.path):
        check_statistics(run, access, docs or local_docs(access))
        return results_from_items(run, access)


def results_from_items(run: Run, access: Access) -> list[dict[str, Any]]:
    if run.manifest["plan"].get("shard"):  # a shard has no score of its own
        return []
    return results_of(run, access) if is_imported(run.manifest) else rescore(run, access)


def check_statistics(run: Run, access: Access, docs: FindDocs) -> None:
    """Raises Inconsistent where statistics differ from those of the stored outputs, AssayError where that cannot be verified."""
    if is_imported(run.manifest):
        check_imported(run)
    else:
        check_stored_run(run, selection_of(run, access), docs)
