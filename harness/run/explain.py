"""What a run will cost, told before any model is loaded: items, tokens with and without sharing, time where earlier runs tell it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.trie import count
from assay.harness.errors import AssayError, Missing
from assay.harness.files.atomic import to_json, write_file
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef, find_model
from assay.harness.prompt.render import render
from assay.harness.prompt.tokens import Tokenizer, open_tokenizer
from assay.harness.run.doctor import pick_engine
from assay.harness.run.evaluate import Watch
from assay.harness.run.prepare import Asked, ask_task, build_items, part_of
from assay.harness.run.selection import select
from assay.harness.store import list_runs, read_run
from assay.harness.store.plan import Plan
from assay.harness.task.task import Task

FORMAT = 1
"""Part of every cache key: raised where the planner counts differently."""
RECENT = 5
"""Runs of the store that tell the rate."""
ENOUGH = 1000
"""Computed tokens from which on a run tells a rate."""


@dataclass(frozen=True, slots=True)
class TaskCost:
    """One task. `logical`: tokens if every continuation were a full prompt of its own. `ideal`: distinct prefixes, each once.

    `generated`: the most tokens that generation may add; no sharing helps there.
    """

    task: str
    items: int
    shots: int
    requests: int
    logical: int
    ideal: int
    generated: int

    @property
    def shared(self) -> float:
        return self.logical / max(self.ideal, 1)


@dataclass(frozen=True, slots=True)
class Rate:
    """Tokens per second that earlier runs computed; `source` says which."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan's cost. `seconds` leaves out opening the engine; None where no earlier run tells a rate."""

    model: str
    digest: str
    parameters: int
    engine: str
    reason: str
    tasks: tuple[TaskCost, ...]
    left_out: tuple[str, ...] = ()
    rate: Rate | None = None

    @property
    def total(self) -> TaskCost:
        """All tasks together; its `shots` mean nothing."""
        sums = [sum(getattr(each, name) for each in self.tasks) for name in ("items", "requests", "logical", "ideal", "generated")]
        return TaskCost("all", sums[0], 0, *sums[1:])

    @property
    def seconds(self) -> float | None:
        total = self.total
        return (total.ideal + total.generated) / self.rate.tokens_per_second if self.rate else None

    def as_json(self) -> dict[str, Any]:
        total = self.total
        return {
            "model": {"name": self.model, "digest": self.digest, "parameters": self.parameters},
            "engine": self.engine,
            "tasks": [{**asdict(each), "shared": round(each.shared, 2)} for each in self.tasks],
            "left_out": list(self.left_out),
            "tokens": {
                "logical": total.logical,
                "ideal": total.ideal,
                "generated_at_most": total.generated,
                "shared": round(total.shared, 2),
            },
            "items": total.items,
            "rate": asdict(self.rate) if self.rate else None,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


def explain(plan: Plan, place: Surroundings, watch: Watch) -> Explanation:
    """Count what a plan asks. Only the tokenizer is opened; counts are kept in assay's cache. Raises AssayError as a run would."""
    access = place.access(plan.allow_partial)
    selection = select(plan.tasks, access)
    watch.stage(f"model {plan.model}")
    model = find_model(
        plan.model,
        adapter=Path(plan.adapter) if plan.adapter else None,
        revision=plan.revision or None,
        cache=place.cache,
        offline=place.offline,
    )
    engine, reason = pick_engine(model, plan.engine)
    tokenizer = open_tokenizer(model.path)
    costs: list[TaskCost] = []
    left_out: list[str] = []
    for task in selection.tasks:
        watch.stage(f"tokens of {task.full_name}")
        try:
            costs.append(cost_of(ask_task(task, plan, access), plan, tokenizer, model.positions, place.cache / "plans"))
        except Missing as error:
            if task.full_name not in selection.members or len(left_out) + 1 == len(selection.tasks):
                raise
            left_out.append(str(error))
    rate = rate_of(place.results, engine, model)
    return Explanation(model.name, model.digest, model.parameters, engine, reason, tuple(costs), tuple(left_out), rate)


def cost_of(asked: Asked, plan: Plan, tokenizer: Tokenizer, positions: int, cache: Path) -> TaskCost:
    """Counted once per tokenizer, rendered texts, shots and limit; a cache that cannot be read or written is done without."""
    path = cache / f"{key_of(asked, plan, tokenizer, positions)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return TaskCost(**json.loads(path.read_text(encoding="utf-8")))
    cost = counted(asked, plan, tokenizer, positions)
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        write_file(path, to_json(asdict(cost), str(path)))
    return cost


def counted(asked: Asked, plan: Plan, tokenizer: Tokenizer, positions: int) -> TaskCost:
    task = asked.task
    every = build_items(task, asked.docs, asked.exemplars, asked.count, plan, tokenizer, positions)
    items = part_of(every, *plan.part())
    distinct = {request.key: request for item in items for request in item.requests}.values()
    groups = [request for request in distinct if isinstance(request, ScoreGroup)]
    prompts = [request for request in distinct if isinstance(request, GenRequest)]
    generated = sum(request.max_tokens for request in prompts)
    logical = sum(item.logical for item in items)
    return TaskCost(task.full_name, len(items), asked.count, len(distinct), logical, count(groups, prompts).ideal, generated)


def key_of(asked: Asked, plan: Plan, tokenizer: Tokenizer, positions: int) -> str:
    """Hash of everything that the counts depend on: the texts themselves, so that no edit of a task or its data is missed."""
    state = hashlib.sha256()
    for part in texts(asked.task, asked, plan, tokenizer, positions):
        state.update(json.dumps(part).encode())
    return state.hexdigest()[:32]


def texts(task: Task, asked: Asked, plan: Plan, tokenizer: Tokenizer, positions: int) -> Iterator[Any]:
    yield [FORMAT, tokenizer.digest, task.full_name, repr(task.ask), asked.count, plan.chat, plan.drop_shots, plan.shard, positions]
    for number, doc in enumerate(asked.docs):
        rendered = render(task, doc, asked.exemplars(number))
        yield [rendered.prompt, rendered.continuations]


def rate_of(results: Path, engine: str, model: ModelRef) -> Rate | None:
    """Computed tokens per second of the latest runs of this model on this engine, else of models with as many parameters."""
    runs = [run for run in list_runs(results) if run.status == "complete" and run.engine == engine][::-1]
    same = [run for run in runs if run.model_digest == model.digest]
    for source, found in (("this model", same), ("models of this size", runs)):
        tokens, seconds, used = 0, 0.0, 0
        for run in found:
            with contextlib.suppress(AssayError, KeyError):
                whole = read_run(run.path)
                computed, spent = whole.summary()["tokens"]["computed"], whole.summary()["seconds"]["engine"]
                if computed >= ENOUGH and spent > 0 and whole.manifest["model"]["parameters"] == model.parameters:
                    tokens, seconds, used = tokens + computed, seconds + spent, used + 1
            if used == RECENT:
                break
        if used:
            return Rate(tokens / seconds, f"{used} earlier {'run' if used == 1 else 'runs'} of {source} on {engine}")
    return None
