"""Estimate the cost of a run before any model is loaded: items, tokens with and without prefix sharing, time from earlier runs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from assay.harness.engines.arguments import positions_with
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.trie import count
from assay.harness.errors import AssayError
from assay.harness.files.atomic import to_json, write_file
from assay.harness.files.places import Surroundings
from assay.harness.model.find import ModelRef
from assay.harness.prompt.render import render
from assay.harness.prompt.served import digest_of_tokenizer, tokenizer_of
from assay.harness.prompt.tokens import Tokenizer
from assay.harness.run.dispatch import RunProgress
from assay.harness.run.doctor import pick_engine
from assay.harness.run.evaluate import find_planned_model, for_each_task
from assay.harness.run.prepare import LoadedTask, build_items, load_task, shard_of
from assay.harness.run.selection import select_planned
from assay.harness.store import list_runs, read_run
from assay.harness.store.plan import Plan

FORMAT = 1
"""Part of every cache key; increase it when the counts change."""
RECENT = 5
"""Number of latest runs that the speed is measured on."""
MIN_TOKENS = 1000
"""Least computed tokens of a run that the speed is measured on."""


@dataclass(frozen=True, slots=True)
class TaskCost:
    """Cost of one task. `logical`: tokens if every continuation were sent as a full prompt of its own; `ideal`: tokens if every distinct
    prefix is computed once; `generated`: the largest number of tokens that generation may add.
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
class Speed:
    """Computed tokens per second in earlier runs; `source` names the runs."""

    tokens_per_second: float
    source: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan's cost. `seconds` excludes starting the engine; None without an earlier run on this engine."""

    model: str
    digest: str
    parameters: int
    engine: str
    reason: str
    tasks: tuple[TaskCost, ...]
    left_out: tuple[str, ...] = ()
    speed: Speed | None = None

    @property
    def total(self) -> TaskCost:
        """The sum over all tasks; its `shots` are 0."""
        sums = [sum(getattr(each, name) for each in self.tasks) for name in ("items", "requests", "logical", "ideal", "generated")]
        return TaskCost("all", sums[0], 0, *sums[1:])

    @property
    def seconds(self) -> float | None:
        total = self.total
        return (total.ideal + total.generated) / self.speed.tokens_per_second if self.speed else None

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
            "rate": asdict(self.speed) if self.speed else None,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
        }


def explain(plan: Plan, place: Surroundings, progress: RunProgress) -> Explanation:
    """Count the items and tokens of a plan. Raises AssayError as a run would.

    Loads no model, and the tokenizer only for prompts whose counts are not in assay's cache.
    """
    access = place.access(plan.allow_partial)
    progress.stage(f"reading model {plan.model}")
    model = find_planned_model(plan, place)
    engine, reason = pick_engine(model, plan.engine)
    digest, tokenizer = digest_of_tokenizer(model), functools.cache(lambda: tokenizer_of(model))

    positions = positions_with(plan.engine_args, model.positions)
    loaded, left_out = for_each_task(select_planned(plan, access), lambda task: load_task(task, plan, access))
    costs = []
    for task, share in zip(loaded, shard_of([len(task.docs) for task in loaded], *plan.part()), strict=True):
        progress.stage(f"counting tokens of {task.task.full_name}")
        path = place.cache / "plans" / f"{key_of(task, share, plan, digest, positions)}.json"
        costs.append(cost_of(path, functools.partial(count_tokens, task, share, plan, tokenizer, positions)))
    reasons = tuple(reason for _, reason in left_out)
    speed = speed_of(place.results, engine, model)
    return Explanation(model.name, model.digest, model.parameters, engine, reason, tuple(costs), reasons, speed)


def cost_of(path: Path, count: Callable[[], TaskCost]) -> TaskCost:
    """The cost of a task, from the cache where these texts were counted with this tokenizer before."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return TaskCost(**json.loads(path.read_text(encoding="utf-8")))
    cost = count()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, to_json(asdict(cost), str(path)))
    return cost


def count_tokens(loaded: LoadedTask, share: slice, plan: Plan, open_tokenizer: Callable[[], Tokenizer], positions: int) -> TaskCost:
    task = loaded.task
    items = build_items(task, loaded.docs, loaded.examples, plan, open_tokenizer(), positions)[share]
    distinct = {request.key: request for item in items for request in item.requests}.values()
    groups = [request for request in distinct if isinstance(request, ScoreGroup)]
    prompts = [request for request in distinct if isinstance(request, GenRequest)]
    generated = sum(request.max_tokens for request in prompts)
    logical = sum(item.logical for item in items)
    return TaskCost(task.full_name, len(items), loaded.count, len(distinct), logical, count(groups, prompts).ideal, generated)


def key_of(loaded: LoadedTask, share: slice, plan: Plan, tokenizer: str, positions: int) -> str:
    """Hash of everything that the counts depend on, the rendered texts included."""
    state = hashlib.sha256()
    task = loaded.task
    begin, end, _ = share.indices(len(loaded.docs))
    head = [FORMAT, tokenizer, task.full_name, repr(task.ask), loaded.count, plan.chat, plan.drop_shots, begin, end, positions]
    chat = [plan.system, plan.template_args, plan.template_date, plan.one_turn, plan.assistant_prefix] if plan.chat else []
    state.update(json.dumps([*head, plan.overlong, *chat]).encode())
    for number, doc in enumerate(loaded.docs):
        rendered = render(task, doc, loaded.examples(number))
        state.update(json.dumps([rendered.prompt, rendered.continuations]).encode())
    return state.hexdigest()[:32]


def speed_of(results: Path, engine: str, model: ModelRef) -> Speed | None:
    """Computed tokens per second of the latest runs of this model on this engine, else of models with as many parameters."""
    runs = [run for run in list_runs(results) if run.status == "complete" and run.engine == engine][::-1]
    same = [run for run in runs if run.model_digest == model.digest]
    for source, found in (("this model", same), ("models of this size", runs)):
        tokens, seconds, used = 0, 0.0, 0
        for run in found:
            with contextlib.suppress(AssayError, KeyError):
                whole = read_run(run.path)
                computed, spent = whole.summary()["tokens"]["computed"], whole.summary()["seconds"]["engine"]
                if computed >= MIN_TOKENS and spent > 0 and whole.manifest["model"]["parameters"] == model.parameters:
                    tokens, seconds, used = tokens + computed, seconds + spent, used + 1
            if used == RECENT:
                break
        if used:
            return Speed(tokens / seconds, f"{used} earlier {'run' if used == 1 else 'runs'} of {source} on {engine}")
    return None
