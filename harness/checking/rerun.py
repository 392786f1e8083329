"""Re-runs a stored run from its manifest and compares the results per item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.run.noise import logprob_changes, prediction
from assay.harness.run.scoring.stored_tasks import check_own
from assay.harness.run.selection import select_stored
from assay.harness.store import read_run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Record


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Two runs of one plan. `changed`: (task, item) whose prediction differs; `drift`: largest change of a log-probability in nats."""

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
    bundle: Path, place: Surroundings, watch: RunProgress | None = None, engine: str = "", opener: OpenEngine = open_engine
) -> Reproduction:
    """Runs the same plan again (on `engine`, if given) and compares with the stored run.

    Raises AssayError if the model's weights have changed since the run, or a task is code that the user did not name.
    """
    run = read_run(bundle)
    check_own(run)
    select_stored(run.manifest, place.access(allow_partial=True))  # refuses code that only the manifest names
    plan = Plan.from_json(run.manifest["plan"])
    plan = replace(plan, engine=engine or run.manifest["engine"]["name"], repeat_check=False, repeat_engine="")
    again = evaluate(plan, place, watch, opener)
    found = read_run(again)
    if found.manifest["model"]["digest"] != run.manifest["model"]["digest"]:
        raise AssayError("the model's files have changed since this run", where=str(bundle), do="restore the weights of the run")
    return reproduction(bundle, again, run.records(), found.records())


def reproduction(first: Path, second: Path, before: tuple[Record, ...], after: tuple[Record, ...]) -> Reproduction:
    """Compares two sets of records of the same items. Raises AssayError if the items differ."""
    old = {(record.task, record.item): record for record in before}
    new = {(record.task, record.item): record for record in after}
    if old.keys() != new.keys():
        raise AssayError(f"{len(old.keys() ^ new.keys())} items are in one run only", where=str(second), do="restore the first run's data")
    changed = tuple(key for key in old if prediction(old[key].output) != prediction(new[key].output))
    drift = max((value for key in old for value in logprob_changes(old[key].output, new[key].output)), default=0.0)
    return Reproduction(first, second, len(old), changed, drift)
