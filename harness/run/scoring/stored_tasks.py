"""The tasks of a stored run: found by name, or made from the manifest where the run was imported."""

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
"""How an imported task was scored; the files do not hold its decoding settings, which are part of the fingerprint."""


class NoRows:
    """The source of an imported task, which has no rows on this machine."""

    def splits(self, access: Access) -> tuple[str, ...]:
        return ()

    def load(self, split: str, access: Access) -> Rows:
        raise AssayError("an imported task has no rows on this machine", do="score the model with a task that `assay tasks` lists")

    def at(self, home: Path) -> NoRows:
        return self


def no_doc(row: Any) -> Doc:
    raise AssayError("an imported task reads no rows", do="score the model with a task that `assay tasks` lists")


def is_imported(manifest: Mapping[str, Any]) -> bool:
    """Whether a run was imported from another harness's files."""
    return isinstance(manifest.get("imported"), Mapping)


def check_own(run: Run) -> None:
    """Raises AssayError for an imported run: without its tasks and its model, its items cannot be scored again."""
    if is_imported(run.manifest):
        what = "was imported: its tasks and its model are not on this machine, so its items cannot be scored again"
        raise AssayError(what, where=run.id, do="score the model with a task that `assay tasks` lists, and name that run")


def selection_of(run: Run, access: Access) -> Selection:
    """The tasks and totals of a run. Raises AssayError where a task is not installed any more, or is code that was not named on
    this machine."""
    if not is_imported(run.manifest):
        return select_stored(run.manifest, access)
    imported = run.manifest["imported"]
    tasks = tuple(task_of(each) for each in imported["tasks"] if each["scorers"])
    totals = tuple(
        Total(each["name"], tuple(Term(task, metric, weight) for task, metric, weight in each["terms"]), each["by_size"])
        for each in imported["totals"]
    )
    return Selection(tasks, totals)


def task_of(stored: Mapping[str, Any]) -> Task:
    """A task whose stored items can be scored again, but which cannot be run."""
    name, _, protocol = str(stored["name"]).rpartition("@")
    metrics = tuple(metric_of(Scorer(**each)) for each in stored["scorers"])
    return Task(name, NoRows(), no_doc, ASKS[stored["ask"]], metrics, protocol=protocol)
