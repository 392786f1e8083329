"""Looks for trouble in a store: damaged files, lost items, results that their items do not give, an index that differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.store.bundle import DONE, JOURNAL, LOCK
from assay.harness.store.consistency import inconsistencies
from assay.harness.store.indexing import bundle_hash, store_bundles
from assay.harness.store.queries import INDEX, query
from assay.harness.store.read import Run, own_name, read_run, sound

TOLERANCE = 1e-9
FIRST = ("value", "low", "high", "n")
"""The fields of a result that are told of first."""
Recompute = Callable[[Run], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a store: which run or file, what, and what to do about it."""

    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f". {self.do}" if self.do else "")


def check(root: Path, recompute: Recompute | None = None) -> tuple[Problem, ...]:
    """All problems of a store; none if it is sound.

    Verifies every hash, the journals' checksums and the item sets; with `recompute` (run to results, as in summary.json) also
    that stored results are what the stored items give; then the index against the bundles.
    """
    root = Path(root)
    problems: list[Problem] = []
    marks: dict[str, str] = {}
    for path in store_bundles(root):
        try:
            run = own_name(read_run(path))
            marks[run.id] = bundle_hash(run)
            problems += check_run(run, recompute)
        except (AssayError, OSError) as error:
            problems.append(problem_of(error, path))
    return (*problems, *check_index(root, marks))


def problem_of(error: Exception, path: Path) -> Problem:
    if isinstance(error, AssayError):
        return Problem(error.where or str(path), error.what, error.do)
    return Problem(str(path), f"cannot be read: {error}")


def check_run(run: Run, recompute: Recompute | None) -> list[Problem]:
    """The problems of one run. Raises AssayError where a file is damaged."""
    for name in run.files:
        run.read(name)
    problems = [Problem(str(run.path), what, "restore the run from a copy") for what in inconsistencies(run)]
    if run.status != "complete":
        return problems
    consistent = not problems
    known = {*run.files, DONE, LOCK, JOURNAL}
    for path in run.path.iterdir():
        if path.name not in known and not path.name.startswith("."):
            problems.append(Problem(str(path), "is no part of the run", "move it away"))
    if recompute is not None and consistent:
        with sound(run.path):
            problems += compare(run, recompute(run))
    return problems


def compare(run: Run, results: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Where stored results differ from those computed again, in any field."""
    listed = run.summary()["results"]
    stored = {(row["task"], row["metric"]): row for row in listed}
    again = {(row["task"], row["metric"]): row for row in results}
    twice = [key for key, times in Counter((row["task"], row["metric"]) for row in listed).items() if times > 1]
    problems = [Problem(str(run.path), f"{metric} of {task} is stored twice", "trust the items") for task, metric in twice]
    for task, metric in sorted(stored.keys() | again.keys()):
        old, new = stored.get((task, metric)), again.get((task, metric))
        if old is None or new is None:
            what = "is stored, but its items do not give it" if new is None else "is not stored, but its items give it"
            problems.append(Problem(str(run.path), f"{metric} of {task} {what}"))
            continue
        for name in sorted(old.keys() | new.keys(), key=lambda each: (FIRST.index(each) if each in FIRST else len(FIRST), each)):
            if not same(old.get(name), new.get(name)):
                what = f"{name} of {metric} on {task} is stored as {old.get(name)}, its items give {new.get(name)}"
                problems.append(Problem(str(run.path), what, "trust the items: results were changed or the metric was"))
    return problems


def same(old: Any, new: Any) -> bool:
    """Equal as JSON: numbers up to their last digits, lists one by one; true is no 1."""
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, int | float) and isinstance(new, int | float):
        return abs(old - new) <= TOLERANCE * max(1.0, abs(old))
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(same, old, new))
    return bool(old == new)


def check_index(root: Path, marks: Mapping[str, str]) -> list[Problem]:
    where = root / INDEX
    if not where.exists():
        return [Problem(str(where), "there is no index", "assay store index")] if marks else []
    counts = "SELECT run_id, count(*) AS stored FROM sample GROUP BY run_id"
    sql = f"SELECT run_id, bundle, status, items, coalesce(stored, 0) FROM run LEFT JOIN ({counts}) USING (run_id)"
    try:
        rows = {run_id: facts for run_id, *facts in query(root, sql)}
    except AssayError as error:
        return [problem_of(error, where)]
    problems = []
    for run_id in sorted(rows.keys() | marks.keys()):
        if run_id not in rows or run_id not in marks:
            what = "is not in the index" if run_id not in rows else "is in the index, but its folder is not in the store"
            problems.append(Problem(run_id, what, "assay store index"))
            continue
        bundle, status, items, stored = rows[run_id]
        if bundle.rstrip("?") != marks[run_id]:
            problems.append(Problem(run_id, "has changed since it was indexed", "assay store index"))
        elif status == "complete" and stored != items:
            what = f"the index holds {stored} of its {items} items"
            problems.append(Problem(run_id, what, f"delete {where.name}, then: assay store index"))
    return problems
