"""Re-runs a stored run from its manifest and compares the results per item."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from assay.harness.checking.audit import logprob_drift, tolerance_of
from assay.harness.engines.opening import open_engine
from assay.harness.errors import AssayError
from assay.harness.files.places import Surroundings
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.run.noise import Key, logprob_changes, prediction
from assay.harness.run.scoring.stored_tasks import check_own
from assay.harness.run.selection import select_stored
from assay.harness.store import Run, read_run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Record


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Two runs of one plan. `changed`: (task, item) whose prediction differs; `drift`: largest change of a log-probability in nats.

    `prompts`: (task, item) whose prompt has other token ids; `moved`: (task, item) with a token whose log-probability changed by more than
    `tolerance` nats, which rounding does not explain; `unexplained`: (task, item) whose text changed in runs without log-probabilities,
    so that nothing shows whether rounding explains it.
    """

    first: Path
    second: Path
    items: int
    changed: tuple[Key, ...]
    drift: float
    prompts: tuple[Key, ...] = ()
    moved: tuple[Key, ...] = ()
    unexplained: tuple[Key, ...] = ()
    tolerance: float = 0.0

    @property
    def reproduced(self) -> bool:
        """Whether the same prompts gave the same results, up to rounding. Predictions may change near a tie of log-probabilities."""
        return not (self.prompts or self.moved or self.unexplained)

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
    again = evaluate(plan, place, watch, opener, stored=True)
    found = read_run(again)
    if found.manifest["model"]["digest"] != run.manifest["model"]["digest"]:
        raise AssayError("the model's files have changed since this run", where=str(bundle), do="restore the weights of the run")
    return reproduction(run, found)


def reproduction(first: Run, second: Run) -> Reproduction:
    """Compares two complete runs of the same items. Raises AssayError if the items differ."""
    old = {(record.task, record.item): record for record in first.records()}
    new = {(record.task, record.item): record for record in second.records()}
    if old.keys() != new.keys():
        what = f"{len(old.keys() ^ new.keys())} items are in one run only"
        raise AssayError(what, where=str(second.path), do="restore the first run's data")
    keys = {(item.task, item.id): (item.key, item.prompt) for item in first.items()}
    prompts = tuple((item.task, item.id) for item in second.items() if keys[item.task, item.id] != (item.key, item.prompt))
    tolerance = max(map(tolerance_of, (first, second)))
    moved = tuple(key for key in old if logprob_drift(old[key], new[key]) > tolerance)
    changed = tuple(key for key in old if prediction(old[key].output) != prediction(new[key].output))
    unexplained = tuple(key for key in changed if not (has_logprobs(old[key]) and has_logprobs(new[key])))
    drift = max((value for key in old for value in logprob_changes(old[key].output, new[key].output)), default=0.0)
    return Reproduction(first.path, second.path, len(old), changed, drift, prompts, moved, unexplained, tolerance)


def has_logprobs(record: Record) -> bool:
    """Whether the record holds the log-probabilities of its choices or text; servers may return none."""
    return bool(record.output.get("logprobs")) or record.output.get("logprob") is not None
