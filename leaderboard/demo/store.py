"""Writes the generated store: runs of twelve invented models on invented tasks, most of them incomplete, as in a real team's store."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.harness.stats.interval import score_interval
from assay.harness.store import create_bundle, index, open_writer
from assay.harness.store.record import Item, Record
from assay.harness.task.metric import Metric
from assay.leaderboard.data.paired import not_measured
from assay.leaderboard.demo.content import TASKS, Invented, Question
from assay.leaderboard.demo.gates import write_gates
from assay.leaderboard.demo.studies import write_studies

NOUNS = 'The nouns are the words after "the" and "a".'
FIRST = datetime(2026, 11, 22, 20, 10, tzinfo=UTC)
"""When the first run was made: before the gates of gates.py, which decide on the runs."""
COSTLY = ("reasoning", "summary")
"""Families that most models were not run on."""


@dataclass(frozen=True, slots=True)
class Invention:
    """One model. `ability` on the scale of the tasks' difficulty, `better` at some families; `lacks` names families without a run."""

    name: str
    parameters: int
    ability: float
    better: Mapping[str, float] = field(default_factory=dict)
    lacks: tuple[str, ...] = COSTLY
    adapter: str = ""
    tasks: tuple[str, ...] = ()
    """Only these tasks; empty: all."""


MODELS = (
    Invention("acme/otter-13b", 13_000_000_000, 1.75, lacks=()),
    Invention("acme/otter-7b", 7_000_000_000, 1.3),
    Invention("acme/otter-1b", 1_100_000_000, 0.2),
    Invention("beta/heron-8b", 8_000_000_000, 1.65, {"arithmetic": -0.3, "words": 0.5}, ()),
    Invention("beta/heron-3b", 3_200_000_000, 0.75),
    Invention("beta/heron-3b+tuned/lora-0/result", 3_200_000_000, 0.7, {"arithmetic": 0.7, "words": -1.0}, adapter="tuned/lora-0/result"),
    Invention("delta/wren-4b-thinking", 4_000_000_000, 1.1, {"reasoning": 1.3, "arithmetic": 0.6}, ()),
    Invention("delta/wren-500m", 500_000_000, -0.5),
    Invention("finch-2b/step-1000", 2_000_000_000, -0.7),
    Invention("finch-2b/step-2000", 2_000_000_000, 0.1),
    Invention("finch-2b/step-3000", 2_000_000_000, 0.5, lacks=()),
    Invention("kite-large", 0, 1.5, lacks=(*COSTLY, "clock")),
)


def generator(*names: object) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(str(name).encode()) for name in names])


def questions(task: Invented) -> list[Question]:
    draw = random.Random(task.name)
    return [task.write(draw, number + 1) for number in range(task.items)]


def items_of(task: Invented, asked: Sequence[Question]) -> list[Item]:
    """The planned items, two per cluster."""
    found = []
    for number, each in enumerate(asked):
        choices = sorted((each.answer, *each.wrong)) if each.wrong else []
        gold: dict[str, Any] = {"gold": choices.index(each.answer)} if choices else {"references": [each.answer]}
        ids = f"{number:03d}"
        cluster = f"{task.name} {number // 2}"
        found.append(Item(task.name, ids, ids, cluster, each.prompt, tuple(choices), each.answer, gold, (), f"k{number}"))
    return found


def scores_of(task: Invented, model: Invention) -> NDArray[np.float64]:
    """The item scores of a model [N]: how easy an item is for all models, how it suits this one, and luck where there are choices."""
    family = task.name.split("/")[0]
    hard = task.difficulty + generator(task.name).normal(0, 0.8, task.items)
    draw = generator(task.name, model.name)
    known = model.ability + model.better.get(family, 0.0) + draw.normal(0, 0.55, task.items) - hard
    if task.metric == "token_f1":
        return np.round(np.clip(0.62 + 0.22 * known, 0, 1) * 4) / 4
    return ((known > 0) | (draw.random(task.items) < task.chance)).astype(float)


def record_of(task: Invented, item: Item, asked: Question, score: float, model: Invention) -> Record:
    draw = random.Random(f"{model.name} {item.task} {item.id}")
    output: dict[str, Any]
    if item.choices:
        gold = int(item.doc["gold"])
        pick = gold if score else draw.choice([n for n in range(len(item.choices)) if n != gold])
        sums = [round(-0.4 - draw.random() - (0 if n == pick else 1.2 + 2 * draw.random()), 3) for n in range(len(item.choices))]
        output = {"loglikelihoods": sums, "tokens": [1] * len(sums), "pick": pick, "priors": [], "tied": [], "first_wins": False}
    else:
        text = response(task, asked, score, draw)
        output = {"text": text, "finish": "stop", "tokens": len(text.split()), "logprob": -0.3 * len(text.split()), "samples": []}
        if "thinking" in model.name:
            thought = f"{asked.worked or NOUNS} Let me check that again. Yes."
            output["thoughts"] = [{"text": thought, "tokens": len(thought.split()), "seconds": 0.5, "cut": False}]
    return Record(item.task, item.id, "scored", output, {task.metric: (score,)}, score, logical=96, computed=41, seconds=0.01)


def response(task: Invented, asked: Question, score: float, draw: random.Random) -> str:
    """A text that deserves the score."""
    if task.metric == "token_f1":
        words = asked.answer.split()
        kept = round(score * len(words))
        return " ".join([*words[:kept], *["thing", "river", "stone", "cloud"][: len(words) - kept]])
    if score:
        return f"{asked.worked} The answer is {asked.answer}." if draw.random() < 0.5 else asked.answer
    wrong = draw.choice([name for name in ("Ada", "Ben", "Chloe", "Dan") if name != asked.answer])
    if asked.answer.isdigit():
        wrong = str(int(asked.answer) + draw.choice([1, 2] if asked.answer == "0" else [-1, 1]))
    return f"The answer is {wrong}." if draw.random() < 0.6 else wrong


def result_of(task: Invented, values: NDArray[np.float64], purpose: str) -> dict[str, Any]:
    numbers = np.arange(len(values))
    found = score_interval(Metric(task.metric, not_measured), values[:, None], numbers, numbers // 2)
    facts: dict[str, Any] = {"task": task.name, "metric": task.metric, "value": found.value, "low": found.low}
    facts |= {"high": found.high, "n": len(values), "shots": 0, "signature": f"{task.name}|v1", "main": True}
    return facts | {"better": "higher", "unit": 1.0, "evidence": "complete", "purpose": purpose, "chance": task.chance or None}


def facts_of(task: Invented, purpose: str) -> dict[str, Any]:
    ask = "Choose()" if task.chance else "Generate(max_tokens=64)"
    facts: dict[str, Any] = {
        "name": task.name,
        "version": 1,
        "split": "test",
        "data": "generated",
        "shots": 0,
        "shots_order": "",
        "ask": ask,
    }
    facts |= {"metrics": [task.metric], "items": task.items, "evidence": "complete", "purpose": purpose, "labelled": True}
    return facts | {"fingerprint": f"{zlib.crc32(task.name.encode()):08x}", "boundary_moved": 0, "shots_dropped": 0}


def manifest_of(model: Invention, tasks: Sequence[Invented], purpose: str) -> dict[str, Any]:
    digest = f"{zlib.crc32(model.name.encode()):08x}{zlib.crc32(model.name[::-1].encode()):08x}"
    served = not model.parameters
    return {
        "plan": {"model": model.name, "tasks": [task.name for task in tasks], "seed": 0, "dtype": "auto", "chat": False, "limit": None},
        "model": {
            "name": model.name,
            "path": "(generated)",
            "digest": f"served-{digest}" if served else digest,
            "adapter": model.adapter,
            "parameters": model.parameters or None,
            "tokenizer": "generated",
        },
        "engine": {"name": "generated"},
        "tasks": [facts_of(task, purpose) for task in tasks],
        "purpose": purpose,
        "evidence": "complete",
    }


def chosen_tasks(model: Invention) -> list[Invented]:
    kept = [task for task in TASKS if task.name.split("/")[0] not in model.lacks]
    return [task for task in kept if task.name in model.tasks] if model.tasks else kept


def write_run(root: Path, model: Invention, part: float = 1.0, purpose: str = "release", created: datetime | None = None) -> Path:
    """A run of a model, `created` then (None: now); interrupted after a `part` of its items if that is below 1."""
    tasks = chosen_tasks(model)
    asked = {task.name: questions(task) for task in tasks}
    items = {task.name: items_of(task, asked[task.name]) for task in tasks}
    scores = {task.name: scores_of(task, model) for task in tasks}
    records = [
        record_of(task, item, each, float(score), model)
        for task in tasks
        for item, each, score in zip(items[task.name], asked[task.name], scores[task.name], strict=True)
    ]
    bundle = create_bundle(root, manifest_of(model, tasks, purpose), [item for task in tasks for item in items[task.name]], created)
    with open_writer(bundle) as writer:
        writer.append(records[: int(len(records) * part)])
        if part == 1.0:
            tokens = {"logical": 96 * len(records), "computed": 41 * len(records), "cached": 0}
            cost = 2e-12 * (model.parameters or 3e9) * (4 if "thinking" in model.name else 1)
            seconds = {"engine": cost * len(records), "last_attempt": 1.0}
            results = [result_of(task, scores[task.name], purpose) for task in tasks]
            writer.finish({"results": results, "engine": {}, "tokens": tokens, "seconds": seconds})
    return bundle


def inventions() -> Iterator[tuple[Invention, float, str]]:
    """Every run of the store with the part that was finished and its purpose: the models, a smoke run, and an interrupted run."""
    yield from ((model, 1.0, "release") for model in MODELS)
    yield Invention("acme/otter-1b", 1_100_000_000, 0.2, tasks=("letters/first@demo",)), 1.0, "smoke"
    yield Invention("acme/otter-30b", 30_000_000_000, 2.0), 0.4, "release"


def write_store(root: Path) -> Path:
    """Writes the runs, studies, gates and index into a new folder."""
    bundles = {
        model.name: write_run(root, model, part, purpose, FIRST + timedelta(minutes=50 * number) if part == 1.0 else None)
        for number, (model, part, purpose) in enumerate(reversed(list(inventions())))
    }
    write_studies(root)
    write_gates(root, bundles)
    index(root)
    return root


if __name__ == "__main__":
    write_store(Path(sys.argv[1]))
