"""Audits a stored run: re-scores a random sample of its items with plain fp32 forward passes and compares with the stored results.

MLPerf's compliance tests do the same with a sample of a submission. Nothing stored is trusted: prompts are rendered again and must
encode to the stored token ids, and the task scores the new outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from assay.harness.checking.repeatability import draw_items
from assay.harness.engines import Settings
from assay.harness.engines.hf.engine import open_engine as open_hf
from assay.harness.errors import AssayError, NotComparable
from assay.harness.files.places import Surroundings
from assay.harness.model.served import is_served
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.evaluate import OpenEngine, prepare
from assay.harness.run.noise import Key, prediction, score_portion
from assay.harness.run.prepare import PreparedItem, PreparedTask
from assay.harness.run.scoring.stored_tasks import check_own
from assay.harness.store import Run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Item, Record
from assay.harness.task.task import Generate

SHARE, LEAST = 0.02, 20
"""Default share of re-scored items, and the minimum number of items."""
TOLERANCES = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.05}
"""Nats per token by the run's dtype: packing and rounding change the last digits of sums."""
TEXTS_MAY_DIFFER = 0.1
"""Allowed share of differing generated texts: after one near tie, all following tokens may differ."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An item whose stored record differs from the audit's."""

    task: str
    item: str
    what: str
    grave: bool


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit. `drift`: largest difference of a token's log-probability, `tolerance`: the allowed one, both in nats.
    `skipped`: items with texts sampled at a temperature, which cannot be repeated."""

    run: str
    items: int
    of: int
    skipped: int
    drift: float
    tolerance: float
    differences: tuple[Difference, ...]
    texts: int = 0

    @property
    def passed(self) -> bool:
        """Whether there is no grave difference, and no more changed texts than near ties explain."""
        changed = sum(not each.grave for each in self.differences)
        return not any(each.grave for each in self.differences) and changed <= max(1, TEXTS_MAY_DIFFER * self.texts)


def audit(
    run: Run, place: Surroundings, watch: RunProgress, share: float = SHARE, seed: int = 0, opener: OpenEngine | None = None
) -> Audit:
    """Re-scores a seeded `share` of a complete run's items (at least 20, or all) and compares with the stored results.

    Raises NotComparable if the model or the data have changed since the run, AssayError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise AssayError(f"share {share} is out of range", where="--share", do="give a number above 0 and at most 1")
    check_own(run)
    stored, items = {(each.task, each.item): each for each in run.records()}, {(each.task, each.id): each for each in run.items()}
    run.summary()  # refuses a run that is not complete
    if is_served(run.manifest["model"]["digest"]):
        raise AssayError("only the server has the weights of a served model", where=run.id, do="audit a run of the weights themselves")
    plan = replace(Plan.from_json(run.manifest["plan"]), engine="hf", dtype="float32", batch=1, data_parallel=1, engine_args=())
    prepared = prepare(plan, place, watch, stored=True)
    if prepared.model.digest != run.manifest["model"]["digest"]:
        raise NotComparable("the model's files have changed since this run", where=run.id, do="restore the weights of the run")
    drawn = draw_items(prepared.tasks, max(LEAST, math.ceil(share * sum(len(task.items) for task in prepared.tasks))), seed)
    parts = [part for part in drawn if not samples_texts(part)]
    skipped = sum(len(part.items) for part in drawn if samples_texts(part))
    if missing := [each.item.id for part in parts for each in part.items if (each.item.task, each.item.id) not in items]:
        raise NotComparable(f"item {missing[0]!r} is not in the run", where=run.id, do="restore the data of the run")
    tolerance = tolerance_of(run)
    settings = Settings("float32", plan.device, plan.budget, 1, seed=plan.seed, plain=True)
    engine = open_hf(prepared.model, settings) if opener is None else opener("hf", prepared.model, settings)
    drift, found = 0.0, list[Difference]()
    try:
        for part in parts:
            watch.begin(f"{part.task.full_name} audited", len(part.items), 0)
            for each in part.items:
                again: dict[Key, Record] = {}
                score_portion([part], [each], engine, again)
                key = (each.item.task, each.item.id)
                moved = logprob_drift(stored[key], again[key])
                drift = max(drift, moved)
                found += differences(each, items[key], stored[key], again[key], moved, tolerance)
                watch.advance(1, 0)
    finally:
        engine.close()
    texts = sum(len(part.items) for part in parts if isinstance(part.task.ask, Generate))
    return Audit(run.id, sum(len(part.items) for part in parts), len(items), skipped, drift, tolerance, tuple(found), texts)


def tolerance_of(run: Run) -> float:
    """Accepted difference of a token's log-probability in nats, by the dtype of a complete run."""
    return TOLERANCES.get(str(run.summary()["engine"].get("dtype", "")), max(TOLERANCES.values()))


def samples_texts(part: PreparedTask) -> bool:
    """Whether the task samples texts at a temperature, which cannot be repeated."""
    return isinstance(part.task.ask, Generate) and part.task.ask.temperature > 0


def logprob_drift(one: Record, other: Record) -> float:
    """Largest difference of a token's log-probability in nats; infinite if the shapes differ. Of a text, the mean over its tokens."""
    left, right = one.output.get("logprobs") or (), other.output.get("logprobs") or ()
    if [len(values) for values in left] != [len(values) for values in right]:
        return math.inf
    whole = one.output.get("logprob"), other.output.get("logprob")
    if None not in whole and "text" in one.output and one.output["text"] == other.output.get("text"):
        return float(abs(whole[0] - whole[1]) / max(1, one.output["tokens"]))  # type: ignore[operator]
    return max((abs(a - b) for first, second in zip(left, right, strict=True) for a, b in zip(first, second, strict=True)), default=0.0)


def differences(each: PreparedItem, item: Item, stored: Record, again: Record, moved: float, tolerance: float) -> list[Difference]:
    """Differences from the stored record. A changed choice is allowed only if both choices tie within the tolerance."""

    def difference(what: str, grave: bool = True) -> Difference:
        return Difference(item.task, item.id, what, grave)

    if each.item.prompt != item.prompt:
        return [difference("the prompt is not the stored one")]
    if each.item.key != item.key:
        return [difference("the prompt encodes to other token ids than the stored ones")]
    if (each.item.gold, each.item.choices) != (item.gold, item.choices):
        return [difference("gold or choices differ from the data")]
    if again.status == "error":
        return [difference(f"cannot be scored: {again.error}")]
    found = []
    if moved > tolerance:
        found.append(difference(f"a log-probability differs by {moved:.3g} nats"))
    if "bytes" in stored.output and abs(stored.output["logprob"] - again.output["logprob"]) > tolerance * stored.output["tokens"]:
        found.append(difference(f"log-probability stored as {stored.output['logprob']:.6g}, is {again.output['logprob']:.6g}"))
    before, now = prediction(stored.output), prediction(again.output)
    if before != now and "pick" in stored.output:
        if not tied(again.output["logprobs"], before, now, tolerance):
            found.append(difference(f"choice stored as {before}, is {now}"))
    elif before != now:
        found.append(difference(f"text stored as {str(before)!r:.60}, is {str(now)!r:.60}", grave=False))
    elif not same(stored.stats, again.stats):
        found.append(difference(f"statistics stored as {dict(stored.stats)!r:.80}, are {dict(again.stats)!r:.80}"))
    return found


def tied(logprobs: Sequence[Sequence[float]], one: int, other: int, tolerance: float) -> bool:
    """Whether rounding alone can swap two choices, with sums or means of log-probabilities."""
    first, second = logprobs[one], logprobs[other]
    slack = tolerance * (len(first) + len(second))
    return abs(sum(first) - sum(second)) <= slack or abs(sum(first) / len(first) - sum(second) / len(second)) <= 2 * tolerance


def same(one: Mapping[str, tuple[float, ...]], other: Mapping[str, tuple[float, ...]]) -> bool:
    """Whether statistics are equal up to the noise of log-probabilities."""
    if one.keys() != other.keys():
        return False
    return all(len(one[name]) == len(other[name]) and all(map(near, one[name], other[name])) for name in one)


def near(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=0.01, abs_tol=0.05)
