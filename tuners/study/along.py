"""Scores a model along its training run, in memory: gain and KL after some steps, and the retention tasks at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from assay import Access, AssayError, Metric, ModelRef, Plan, Task
from assay.harness.run.stages import Engine, PreparedTask, Tokenizer, open_live, prepare_task, score_item, send_requests
from assay.tuners.study.forgetting import bits_per_byte
from assay.tuners.study.scoring import Score, codes, difference, drops_row, mean_of_items, or_zero
from assay.tuners.study.trial import Row, StudySetup, Trial, reference
from assay.tuners.training.batches import Example
from assay.tuners.training.loss import kl_of, log_probabilities, loss_of
from assay.tuners.training.method import Module
from assay.tuners.training.state import write_atomic

FILE = "points.json"


def prepare_live(task: Task, model: ModelRef, access: Access, tokenizer: Tokenizer, limit: int | None, chat: bool) -> PreparedTask:
    """The items of a task as the pipeline scores them, rendered and encoded once for all runs."""
    plan = Plan(model=str(model.path), tasks=(task.full_name,), engine="hf", dtype="float32", limit=limit, chat=chat, shots=0)
    return prepare_task(task, plan, access, tokenizer, model.positions)


@dataclass(slots=True)  # house: collects the points of one run
class RunPath:
    """The points of one run, in the order of its steps, kept in a file of the trial's folder while it runs."""

    setup: StudySetup
    trial: Trial
    model: Module
    folder: Path
    points: dict[int, Row] = field(default_factory=dict)
    last: dict[str, Score] = field(default_factory=dict)
    opened: Engine | None = None

    def __post_init__(self) -> None:
        if (self.folder / FILE).is_file():  # of an interrupted run that is resumed
            self.points = {row["step"]: row for row in json.loads((self.folder / FILE).read_text())}

    def engine(self) -> Engine:
        """The engine over the model, opened and tested once."""
        if self.opened is None:
            assert self.setup.model is not None
            self.opened = open_live(self.model, self.setup.model)
        return self.opened

    def measure(self, step: int) -> None:
        """Score the model as it is now."""
        self.last = live_scores(self.engine(), self.setup, (self.trial.target,))
        row = {"step": step, **gain_row(self.setup, self.trial, self.last), **text_row(self.setup, self.model)}
        self.points = {**{at: point for at, point in self.points.items() if at < step}, step: row}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / FILE, json.dumps(list(self.points.values())).encode(), "the run starts again")

    def row(self) -> Row:
        """The trial's columns: those of the last point, the drops on the retention tasks, the scores of single items, and all points."""
        self.model.eval()
        final = list(self.points.values())[-1]
        kept = live_scores(self.engine(), self.setup, self.setup.retain) if self.setup.retain else {}
        target = self.setup.tasks[self.trial.target].full_name
        before = self.setup.before[target]
        (self.folder / FILE).unlink()
        return {
            "metric": before.metric, "target_base": before.value, "items": len(before.clusters),
            **{name: value for name, value in final.items() if name != "step"}, **drops_row(self.setup.before, kept, self.setup.metric),
            "item_scores": dict(self.last[target].items), "points": list(self.points.values()),
        }  # fmt: skip


def live_scores(engine: Engine, setup: StudySetup, names: Sequence[str]) -> dict[str, Score]:
    """The main metric of these tasks by full name, on the base's items."""
    found = {}
    for name in names:
        before = setup.before[setup.tasks[name].full_name]
        metric = setup.metric(before)
        assert metric is not None
        found[before.task] = live_score(engine, setup.live[before.task], before, or_zero(metric))
    return found


def live_score(engine: Engine, prepared: PreparedTask, before: Score, metric: Metric[Any]) -> Score:
    """The score of one task. Raises Incomplete if the engine does not answer, AssayError from a metric that fails."""
    stats: dict[str, tuple[float, ...]] = {}
    nats: list[float] = []

    def finished(each: Any, replies: Sequence[Any]) -> None:
        record = score_item(prepared.task, each, replies)
        if metric.name not in record.stats:
            raise AssayError(record.error or "no score", where=f"{before.task}, {each.item.id}", do="leave out this item or its task")
        stats[each.item.id] = record.stats[metric.name]
        logprobs, gold = record.output.get("logprobs"), each.item.doc.get("gold")
        if logprobs and isinstance(gold, int):
            nats.append(-sum(logprobs[gold]))

    send_requests(prepared.items, engine, finished, {}, frozenset())
    ids = list(before.clusters)
    bare = replace(before, run="", invalid=None, spread=None, nats=fmean(nats) if nats else None)
    if mean_of_items(metric):
        items = {item: stats[item][0] / before.unit for item in ids}
        return replace(bare, value=fmean(items.values()), items=items)
    table = np.array([stats[item] for item in ids], dtype=np.float64)
    value = float(metric.combine(table, codes([before.groups[item] for item in ids]))) / before.unit
    return replace(bare, value=value, stats={item: stats[item] for item in ids})


def gain_row(setup: StudySetup, trial: Trial, scores: Mapping[str, Score]) -> Row:
    """Gain on the target with its 95% confidence interval over items, and the mean negative log-likelihood of the gold answer."""
    before = setup.before[setup.tasks[trial.target].full_name]
    after = scores[before.task]
    gain = difference(before, after, setup.metric(before))
    row: Row = {"target_score": after.value, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
    return row | ({"target_nats": after.nats} if after.nats is not None else {})


def text_row(setup: StudySetup, model: Module) -> Row:
    """KL(base || tuned) and the change in bits per byte on the neutral texts; without any, KL on the prompts of the retention tasks."""
    row: Row = {}
    if not setup.text and setup.probes:
        row["kl_base"] = kl_of(reference(setup, "kl_base", setup.probes), log_probabilities(model, setup.probes))
    if setup.text:
        row["kl_text"], row["delta_bits_per_byte"] = text_change(setup, model, "kl_text", setup.text, setup.bytes_per_token)
    more = {name: text_change(setup, model, f"kl_text of {name}", *text) for name, text in setup.more_text.items()}
    if more:
        row |= {"kl_more_texts": {name: kl for name, (kl, _) in more.items()}}
        row |= {"delta_bits_per_byte_more_texts": {name: bits for name, (_, bits) in more.items()}}
    return row


def text_change(setup: StudySetup, model: Module, name: str, examples: Sequence[Example], bytes_per_token: float) -> tuple[float, float]:
    """KL in nats per token, and the change in bits per byte."""
    base, logs = reference(setup, name, examples), log_probabilities(model, examples)
    return kl_of(base, logs), bits_per_byte(loss_of(logs, examples) - loss_of(base, examples), 1) / bytes_per_token


def validation_loss(setup: StudySetup, trial: Trial, model: Module) -> float:
    """Mean loss in nats per answer token on the held-out rows, by which learning rates are chosen."""
    examples = setup.validation[trial.target]
    return loss_of(log_probabilities(model, examples), examples)
