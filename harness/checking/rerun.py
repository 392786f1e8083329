"""Repeats a run from its manifest and says, item by item, whether it reproduced."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.run.evaluate import OpenEngine, Watch, evaluate
from assay.harness.run.noise import differences, said
from assay.harness.run.scoring.stored_tasks import check_own
from assay.harness.run.selection import select_stored
from assay.harness.store import read_run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Record


@dataclass(frozen=True, slots=True)
class Reproduction:
    """`changed` names items whose prediction differs; `drift` is the largest difference of a choice's log-probability, in nats."""

    first: Path
    second: Path
    items: int
    changed: tuple[tuple[str, str], ...]
    drift: float

    @property
    def churn(self) -> float:
        """Share of items whose prediction changed."""
        return len(self.changed) / self.items if self.items else 0.0


def rerun(
    bundle: Path, place: Surroundings, watch: Watch | None = None, engine: str = "", opener: OpenEngine = open_engine
) -> Reproduction:
    """Run the same plan again (on another `engine` if named) and compare.

    Raises AssayError where the model's weights are no longer those of the run, or a task is code that nobody named here.
    """
    run = read_run(bundle)
    check_own(run)
    select_stored(run.manifest, place.access(allow_partial=True))  # what a manifest names, no person named
    plan = Plan.from_json(run.manifest["plan"])
    plan = replace(plan, engine=engine or run.manifest["engine"]["name"], repeat_check=False, repeat_engine="")
    again = evaluate(plan, place, watch, opener)
    found = read_run(again)
    if found.manifest["model"]["digest"] != run.manifest["model"]["digest"]:
        raise AssayError("the model's files are not those of this run", where=str(bundle), do="rerun needs the same weights")
    return reproduction(bundle, again, run.records(), found.records())


def reproduction(first: Path, second: Path, before: tuple[Record, ...], after: tuple[Record, ...]) -> Reproduction:
    """Compare two sets of records of the same items. Raises AssayError where the items differ."""
    old = {(record.task, record.item): record for record in before}
    new = {(record.task, record.item): record for record in after}
    if old.keys() != new.keys():
        raise AssayError(f"{len(old.keys() ^ new.keys())} items are in one run only", where=str(second), do="the data have changed")
    changed = tuple(key for key in old if said(old[key].output) != said(new[key].output))
    drift = max((value for key in old for value in differences(old[key].output, new[key].output)), default=0.0)
    return Reproduction(first, second, len(old), changed, drift)
