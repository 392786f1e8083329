"""Makes a store with scripted responses of several models, from fixed seeds, without running a model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.store import create_bundle, index, open_writer, query
from assay.harness.store.record import Item, Record

HOSTILE = (
    "<img src=x onerror=alert(1)>![pixel](http://evil.example/p.png)[go](javascript:alert(1))"
    ":red[x]$x^2$'; DROP TABLE run; --\x1b[31m\u202egnp"
)
TASKS = {"letters/first@own": 60, "letters/last@own": 80, "numbers/add@own": 50}
MODELS = {"acme/Otter-7B": 0.78, "acme/Otter-1B": 0.62, "beta/Heron-3B": 0.76, "beta/Wren-300M": 0.4}


@dataclass(frozen=True)
class Made:
    """The content of one run."""

    model: str
    skill: float
    tasks: Mapping[str, int]
    seed: int = 0
    digest: str = ""
    adapter: str = ""
    purpose: str = "release"
    evidence: str = "complete"
    fingerprint: str = "f1"
    output: str = ""
    parameters: int = 7_000_000_000


def items_of(tasks: Mapping[str, int]) -> list[Item]:
    """Questions with four choices, two per cluster."""
    return [
        Item(
            task,
            f"i{n:04d}",
            f"i{n:04d}",
            f"c{n // 2}",
            f"Question {n} of {task}: which word comes {n % 7} places after 'ant'?\nAnswer:",
            ("ant", "bee", "cat", "dog"),
            "abcd"[n % 4] and ("ant", "bee", "cat", "dog")[n % 4],
            {"gold": n % 4},
            (),
            f"k{n}",
        )
        for task, count in tasks.items()
        for n in range(count)
    ]


def record_of(item: Item, made: Made) -> Record:
    """A record that is right if the model's skill exceeds the item's difficulty, which all models share."""
    number = int(item.id[1:])
    difficulty = np.random.default_rng([number, len(item.task)]).random()
    luck = np.random.default_rng([number, made.seed, sum(map(ord, item.task))]).normal(0, 0.12)
    gold = int(item.doc["gold"])
    right = made.skill + luck > difficulty
    pick = gold if right else (gold + 1 + number % 3) % 4
    output: dict[str, Any] = {"pick": pick, "loglikelihoods": [-0.5 if n == pick else -2.0 - n for n in range(4)], "tokens": [1, 1, 1, 1]}
    if made.output:
        output = {"text": made.output, "finish": "stop", "tokens": 9}
    return Record(item.task, item.id, "scored", output, {"accuracy": (float(right),)}, float(right), logical=40, computed=22, seconds=0.01)


def manifest_of(made: Made) -> dict[str, Any]:
    return {
        "plan": {"model": made.model, "tasks": list(made.tasks), "seed": 0, "dtype": "auto", "chat": False, "limit": None},
        "model": {
            "name": made.model,
            "path": "/nowhere",
            "digest": made.digest or f"digest-{made.model}"[:90],
            "adapter": made.adapter,
            "parameters": made.parameters,
            "tokenizer": "t",
        },
        "engine": {"name": "scripted"},
        "tasks": [
            {
                "name": task,
                "version": 1,
                "split": "test",
                "data": "d",
                "shots": 0,
                "shots_order": "",
                "ask": "Choose()",
                "metrics": ["accuracy"],
                "items": count,
                "evidence": made.evidence,
                "purpose": made.purpose,
                "fingerprint": f"{made.fingerprint}-{task}"[:24],
                "labelled": True,
                "boundary_moved": 0,
                "shots_dropped": 0,
            }
            for task, count in made.tasks.items()
        ],
        "purpose": made.purpose,
        "evidence": made.evidence,
    }


def results_of(made: Made, records: Sequence[Record]) -> list[dict[str, Any]]:
    found = []
    for task in made.tasks:
        right = [record.correct or 0.0 for record in records if record.task == task]
        value, half = float(np.mean(right)), 1.96 * float(np.std(right)) / len(right) ** 0.5
        ends = {"low": max(0.0, value - half), "high": min(1.0, value + half)}
        facts = {"task": task, "metric": "accuracy", "value": value, **ends, "n": len(right), "shots": 0, "signature": f"{task}|v1"}
        found.append(facts | {"main": True, "better": "higher", "evidence": made.evidence, "purpose": made.purpose, "chance": 0.25})
    return found


def make_run(root: Path, made: Made, finish: bool = True, part: float = 1.0) -> Path:
    """A run, complete or half written."""
    items = items_of(made.tasks)
    bundle = create_bundle(root, manifest_of(made), items)
    with open_writer(bundle) as writer:
        writer.append([record_of(item, made) for item in items[: int(len(items) * part)]])
        if finish:
            records = writer.records()
            tokens = {"logical": 40 * len(items), "computed": 22 * len(items), "cached": 0}
            seconds = {"engine": 0.01 * len(items) * made.parameters / 1e9, "last_attempt": 1.0}
            writer.finish({"results": results_of(made, records), "engine": {}, "tokens": tokens, "seconds": seconds})
    return bundle


SIZES = {"7B": 7e9, "1B": 1e9, "3B": 3e9, "300M": 3e8}


def make_store(root: Path, hostile: bool = False, studies: bool = True) -> Path:
    """Four models on three tasks, a copy, an adapter that lacks a task, another version of a task, a smoke run and a running one."""
    for number, (name, skill) in enumerate(MODELS.items()):
        make_run(root, Made(name, skill, TASKS, seed=number, parameters=int(SIZES[name.rsplit("-", 1)[1]])))
    make_run(root, Made("acme/Otter-1B-copy", 0.62, TASKS, seed=1, parameters=10**9))
    some = dict(list(TASKS.items())[:2])
    make_run(root, Made("acme/Otter-1B", 0.7, some, seed=9, digest="tuned", adapter="/runs/lora-otter", parameters=10**9))
    make_run(root, Made("beta/Old-3B", 0.7, {"numbers/add@own": 50}, seed=4, fingerprint="old"))
    make_run(root, Made("beta/Old-3B", 0.7, {"numbers/add@own": 50}, seed=4, purpose="smoke", digest="smoked"))
    if hostile:
        make_run(root, Made(HOSTILE + "x" * 4096, 0.5, TASKS, seed=6, digest="h" + HOSTILE, output=HOSTILE * 3))
    make_run(root, Made("acme/Otter-13B", 0.8, TASKS, seed=7), finish=False, part=0.4)
    index(root)
    make_gates(root)
    if studies:
        make_study(root)
    return root


def make_gates(root: Path) -> None:
    """Writes three gate decisions in the format of `assay gate`."""
    runs = query(root, "SELECT run_id, model, model_digest FROM runs WHERE status = 'complete' ORDER BY created_at")
    base, *others = runs
    entries = []
    for number, (verdict, ends) in enumerate({"pass": (-0.6, 1.4), "inconclusive": (-2.2, 1.8), "regressed": (-9.0, -3.0)}.items()):
        run = others[number]
        sides = {name: {"run": r[0], "model": r[1], "digest": r[2]} for name, r in (("candidate", run), ("baseline", base))}
        facts = {
            "key": f"k{number}",
            "at": f"2026-11-2{number}T10:00:00+00:00",
            **sides,
            "verdict": verdict,
            "attempt": 1 + number,
            "tried": 1,
        }
        limits = {"delta": sum(ends) / 2, "low": ends[0], "high": ends[1], "lost": ["numbers/add@own"] if verdict == "regressed" else []}
        entries.append({**facts, **limits, "policy": {"margin": 1.0, "task_margin": 3.0, "alpha": 0.05}})
    (root / "gates.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))


METHODS = {
    "full": ("full", 0.14, -0.06, 7_000_000_000, 14_000_000_000),
    "bitfit": ("selective", 0.05, -0.004, 900_000, 1_800_000),
    "lora": ("reparameterization", 0.12, -0.02, 8_000_000, 16_000_000),
    "dora": ("reparameterization", 0.11, -0.03, 8_600_000, 17_000_000),
    "bottleneck": ("additive", 0.09, -0.015, 12_000_000, 24_000_000),
    "in_context": ("in_context", 0.04, 0.0, 0, 0),
}


def make_study(root: Path) -> None:
    """One study of six methods at three learning rates with two seeds, on one target and two retention tasks, as studies write it."""
    import pyarrow
    import pyarrow.parquet

    chance = np.random.default_rng(4)
    rows: list[dict[str, Any]] = []
    for method, (family, gain, drop, trainable, saved) in METHODS.items():
        for rate in (1e-5, 1e-4, 1e-3) if family != "in_context" else (None,):
            for seed in (0, 1) if rate else (0,):
                factor = {1e-5: 0.5, 1e-4: 1.0, 1e-3: 0.8, None: 1.0}[rate]
                value, drops = gain * factor + float(chance.normal(0, 0.006)), [-drop * factor * each for each in (0.8, 1.2)]
                facts = {
                    "study": "toy",
                    "method": method,
                    "family": family,
                    "lr": rate,
                    "seed": seed,
                    "role": "grid",
                    "target": "letters/first@own",
                }
                ends = {"gain": value, "gain_low": value - 0.03, "gain_high": value + 0.03, "average_drop": sum(drops) / 2}
                more = {
                    "average_drop_low": sum(drops) / 2 - 0.02,
                    "average_drop_high": sum(drops) / 2 + 0.02,
                    "mitigation": "none",
                    "labels": "true",
                }
                kept = {
                    "drops": json.dumps(dict(zip(("letters/last@own", "numbers/add@own"), drops, strict=True))),
                    "selected": rate in (1e-4, None),
                }
                costs = {
                    "trainable_parameters": trainable,
                    "saved_bytes": saved,
                    "peak_memory": 3_000_000_000,
                    "seconds": 60.0,
                    "status": "done",
                }
                rows.append(facts | ends | more | kept | costs | {"shots": 4 if rate is None else None})
    rows.append(rows[0] | {"labels": "random", "gain": 0.01, "role": "control"})
    rows.append(
        {
            "study": "toy",
            "method": "ia3",
            "family": "additive",
            "lr": 1.0,
            "seed": 0,
            "role": "grid",
            "target": "letters/first@own",
            "status": "diverged",
        }
    )
    path = root / "studies" / "toy" / "trials.parquet"
    path.parent.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
