"""The results of any stored run again, from its items alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.errors import AssayError
from harness.exchange.aggregations import Scorer, statistics
from harness.exchange.lm_eval import results_of
from harness.exchange.selection import is_imported, selection_of
from harness.record import Record
from harness.remeasure import Asked, Lie, docs_here, refuse_lies
from harness.score import rescore
from harness.source import Access
from harness.store import Run
from harness.store.checking import compare, same
from harness.store.read import sound


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


def refuse_imported(run: Run) -> None:
    """The same for imported samples, which hold every metric's value."""
    scorers = {task["name"]: [Scorer(**each) for each in task["scorers"]] for task in run.manifest["imported"]["tasks"]}
    for record in run.records():
        given = given_by(record, scorers.get(record.task, []))
        if record.status != "error" and not (
            given.keys() == record.stats.keys() and all(same(list(record.stats[name]), list(given[name])) for name in given)
        ):
            what = f"the item {record.item!r} of {record.task} has other statistics than its samples give"
            raise Lie(what, do="import the files again")


def given_by(record: Record, scorers: list[Scorer]) -> dict[str, tuple[float, ...]]:
    found = {}
    for scorer in scorers:
        base, _, chosen = scorer.name.partition(",")
        rows = [row for row in record.output["lm_eval"] if row.get("filter", "none") == (chosen or "none")]
        if rows and rows[0].get(base) is not None:
            found[scorer.name] = statistics(scorer, rows[0][base], f"{record.task} {record.item}")
    return found
