"""Check a store for problems: damaged files, missing items, results that differ from their items, an outdated index."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.store.bundle import DONE, JOURNAL, LOCK, PROOFS, bundle_folders
from assay.harness.store.consistency import inconsistencies
from assay.harness.store.indexing import bundle_hash
from assay.harness.store.queries import INDEX, query
from assay.harness.store.read import Run, check_own_id, content_errors, read_run

TOLERANCE = 1e-9
FIRST_FIELDS = ("value", "low", "high", "n")
"""Fields of a result whose differences are reported first."""
NEWER_FIELDS = frozenset({"value", "low", "high", "method", "reason", "wide"})
"""Fields of a result that earlier versions computed otherwise."""
LIMITS = frozenset({"low", "high", "method", "wide"})
NEWER_METHODS = {
    "wilson": ("clopper-pearson", "too few items"),
    "jackknife": ("Dirichlet posterior of the table", "too few items"),
    "block jackknife": ("half samples, t, bias", "too few items"),
    "too few items": ("clopper-pearson", "Dirichlet posterior of the table", "half samples, t, bias"),
}
"""Methods of limits by the stored method: limits of an earlier method stay as they are if the score is right and between them."""
Recompute = Callable[[Run], Sequence[Mapping[str, Any]]]
"""A function from a run to its results, computed from its items, as in summary.json."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a store: the run or file, what is wrong, and how to fix it."""

    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f". {self.do}" if self.do else "")


def check(root: Path, recompute: Recompute | None = None) -> tuple[Problem, ...]:
    """Return all problems of a store.

    Verifies every hash, the journals' checksums and the item sets; with `recompute` also that the stored results follow from the
    stored items; then compares the index with the bundles.
    """
    root = Path(root)
    problems: list[Problem] = []
    hashes: dict[str, str] = {}
    for path in bundle_folders(root):
        try:
            run = check_own_id(read_run(path))
            hashes[run.id] = bundle_hash(run)
            problems += check_run(run, recompute)
        except (AssayError, OSError) as error:
            problems.append(problem_of(error, path))
    return (*problems, *check_index(root, hashes))


def problem_of(error: Exception, path: Path) -> Problem:
    if isinstance(error, AssayError):
        return Problem(error.where or str(path), error.what, error.do)
    return Problem(str(path), f"cannot be read: {error}")


def check_run(run: Run, recompute: Recompute | None) -> list[Problem]:
    """Return the problems of one run. Raises AssayError if a file is damaged."""
    for name in run.files:
        run.read(name)
    problems = [Problem(str(run.path), what, "restore the run from a copy") for what in inconsistencies(run)]
    if run.status != "complete":
        return problems
    consistent = not problems
    known = {*run.files, DONE, LOCK, JOURNAL, PROOFS}
    for path in run.path.iterdir():
        if path.name not in known and not path.name.startswith("."):
            problems.append(Problem(str(path), "does not belong to the run", "move it to another folder"))
    if recompute is not None and consistent:
        with content_errors(run.path):
            problems += compare_results(run, recompute(run))
    return problems


def compare_results(run: Run, results: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Return every field in which stored results differ from recomputed ones."""
    listed = run.summary()["results"]
    stored = {(row["task"], row["metric"]): row for row in listed}
    recomputed = {(row["task"], row["metric"]): row for row in results}
    twice = [key for key, times in Counter((row["task"], row["metric"]) for row in listed).items() if times > 1]
    problems = [
        Problem(str(run.path), f"{metric} of {task} is stored twice", "restore the run from a copy, or score the model again")
        for task, metric in twice
    ]
    earlier = not all("settings" in task for task in run.manifest["tasks"])
    for task, metric in sorted(stored.keys() | recomputed.keys()):
        old, new = stored.get((task, metric)), recomputed.get((task, metric))
        if old is None or new is None:
            what = "is stored, but does not follow from the items" if new is None else "follows from the items, but is not stored"
            problems.append(Problem(str(run.path), f"{metric} of {task} {what}", "restore the run from a copy, or score the model again"))
            continue
        for name in sorted(
            old.keys() | new.keys(), key=lambda each: (FIRST_FIELDS.index(each) if each in FIRST_FIELDS else len(FIRST_FIELDS), each)
        ):
            excused = name in LIMITS and of_earlier_method(old, new)
            excused = excused or (earlier and name in NEWER_FIELDS and of_earlier_version(old, new))
            if not equal_json(old.get(name), new.get(name)) and not excused:
                what = f"{name} of {metric} on {task} is stored as {old.get(name)}, but is {new.get(name)} when computed from the items"
                problems.append(
                    Problem(
                        str(run.path), what, "the results or the metric have changed: restore the run from a copy, or score the model again"
                    )
                )
    return problems


def of_earlier_version(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a result may differ in NEWER_FIELDS by the rules of versions that did not store a task's `settings`.

    They stored a number for some undefined scores, and limits however much of the scale they covered.
    """
    unlimited = new["low"] is None and new["high"] is None
    return new["value"] is None or (unlimited and equal_json(old["value"], new["value"]))


def of_earlier_method(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether the limits of a result come from a method that another one has replaced, and hold its right score between them."""
    if new.get("method") not in NEWER_METHODS.get(str(old.get("method")), ()) or not equal_json(old.get("value"), new["value"]):
        return False
    low, high = old.get("wide") or (old.get("low"), old.get("high"))
    return low is not None and high is not None and low - TOLERANCE <= new["value"] <= high + TOLERANCE


def equal_json(old: Any, new: Any) -> bool:
    """Whether two JSON values are equal: numbers within TOLERANCE (relative), lists per element; true is not 1."""
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, int | float) and isinstance(new, int | float):
        return abs(old - new) <= TOLERANCE * max(1.0, abs(old))
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(equal_json, old, new))
    return bool(old == new)


def check_index(root: Path, hashes: Mapping[str, str]) -> list[Problem]:
    """Return the differences between the index and the bundles, whose hashes are given by run id."""
    where = root / INDEX
    if not where.exists():
        return [Problem(str(where), "there is no index", "assay store index")] if hashes else []
    counts = "SELECT run_id, count(*) AS stored FROM sample GROUP BY run_id"
    sql = f"SELECT run_id, bundle, status, items, coalesce(stored, 0) FROM run LEFT JOIN ({counts}) USING (run_id)"
    try:
        rows = {run_id: facts for run_id, *facts in query(root, sql)}
    except AssayError as error:
        return [problem_of(error, where)]
    problems = []
    for run_id in sorted(rows.keys() | hashes.keys()):
        if run_id not in rows or run_id not in hashes:
            what = "is not in the index" if run_id not in rows else "is in the index, but its folder is not in the store"
            problems.append(Problem(run_id, what, "assay store index"))
            continue
        bundle, status, items, stored = rows[run_id]
        if bundle.rstrip("?") != hashes[run_id]:
            problems.append(Problem(run_id, "has changed since it was indexed", "assay store index"))
        elif status == "complete" and stored != items:
            what = f"the index has {stored} of its {items} items"
            problems.append(Problem(run_id, what, f"delete {where.name}, then: assay store index"))
    return problems
