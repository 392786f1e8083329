"""The tasks of a stored run: found by name, or, for an imported run, made from what its manifest says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.metrics.lm_eval import Scorer, metric_of
from assay.harness.run.selection import Selection, select_stored
from assay.harness.store import Run
from assay.harness.task.doc import Doc
from assay.harness.task.source import Rows
from assay.harness.task.task import Ask, Choose, Generate, Perplexity, Task, Term, Total

ASKS: Mapping[str, Ask] = {"choose": Choose(), "generate": Generate(max_tokens=0), "perplexity": Perplexity()}
"""What an imported task did, as far as others tell: decoding itself is in its fingerprint."""


class Elsewhere:
    """The rows of an imported task: they are where it was run."""

    def splits(self, access: Access) -> tuple[str, ...]:
        return ()

    def load(self, split: str, access: Access) -> Rows:
        raise AssayError("the rows of an imported task are not here", do="score the model again with a task of assay's")

    def at(self, home: Path) -> Elsewhere:
        return self


def unread(row: Any) -> Doc:
    raise AssayError("an imported task reads no rows", do="score the model again with a task of assay's")


def is_imported(manifest: Mapping[str, Any]) -> bool:
    """Whether a run came from another harness's files."""
    return isinstance(manifest.get("imported"), Mapping)


def check_own(run: Run) -> None:
    """Raises AssayError for an imported run: its tasks and its model's files are where it was made, so nothing of it can be asked here."""
    if is_imported(run.manifest):
        what = "was imported: its tasks and its model are not here, so nothing of it can be asked again"
        raise AssayError(what, where=run.id, do="score the model with a task that `assay tasks` lists, and name that run")


def selection_of(run: Run, access: Access) -> Selection:
    """The tasks and totals of a run. Raises AssayError where a task is not installed any more, or is code that nobody named here."""
    if not is_imported(run.manifest):
        return select_stored(run.manifest, access)
    told = run.manifest["imported"]
    tasks = tuple(task_of(each) for each in told["tasks"] if each["scorers"])
    totals = tuple(
        Total(each["name"], tuple(Term(task, metric, weight) for task, metric, weight in each["terms"]), each["by_size"])
        for each in told["totals"]
    )
    return Selection(tasks, totals)


def task_of(told: Mapping[str, Any]) -> Task:
    """A task that can be scored again, but not run."""
    name, _, protocol = str(told["name"]).rpartition("@")
    metrics = tuple(metric_of(Scorer(**each)) for each in told["scorers"])
    return Task(name, Elsewhere(), unread, ASKS[told["ask"]], metrics, protocol=protocol)
