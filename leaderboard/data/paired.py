"""Compares two models or runs item by item: the statistics of `assay compare` and `assay gate` on every metric and total.

Metrics come from the installed tasks. Where a task is not installed, or is code that nobody allowed here, the scores that are means
over items are compared from the store alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.decide.compare import Comparison, Row, Side, compare, mismatches, side_of
from assay.harness.decide.decision import Decision, gate
from assay.harness.decide.policy import Policy
from assay.harness.decide.stored_gate import gates
from assay.harness.errors import AssayError
from assay.harness.files.places import surroundings
from assay.harness.stats.rule import mde80
from assay.harness.store import Run, read_run
from assay.harness.store.bundle import ITEMS, SAMPLES
from assay.harness.store.shapes import evidence_of
from assay.harness.task.metric import Metric
from assay.leaderboard.data import frames
from assay.leaderboard.data.bundles import loglikelihoods
from assay.leaderboard.data.formats import unit_of

SETTINGS = (
    "engine.name",
    "plan.dtype",
    "plan.seed",
    "plan.chat",
    "plan.limit",
    "plan.shots",
    "model.tokenizer",
    "versions.torch",
    "versions.vllm",
)
ALPHA = 0.05
COLUMNS = (
    *("Task", "Metric", "Main", "Baseline", "Candidate", "Difference", "Low", "High", "p", "p (Holm)", "MDE80"),
    *("Gained", "Lost", "Items", "Note"),
)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Two sides compared. `blocked` says why a task cannot be compared; `settings` are those that differ (name, baseline, candidate);
    `runs` are the two runs of each task. Without a comparable task, `comparison` and `decision` are None."""

    comparison: Comparison | None
    decision: Decision | None
    blocked: Mapping[str, str]
    settings: tuple[tuple[str, str, str], ...]
    runs: Mapping[str, tuple[str, str]]

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.comparison.rows if self.comparison else ()


def judged_smoothed(root: Path, runs: Mapping[str, tuple[str, str]]) -> bool:
    """Whether a recorded gate of two of these runs judged tasks by smoothed accuracy. `runs`: baseline and candidate of each task."""
    try:
        entries = gates(root)
    except AssayError:
        return False  # the page Gates skips the malformed line
    smoothed = [each for each in entries if isinstance(each.get("policy"), dict) and each["policy"].get("estimator") == "smoothed"]
    return any((each["baseline"]["run"], each["candidate"]["run"]) in set(runs.values()) for each in smoothed)


def pairing(root: Path, first: Mapping[str, str], second: Mapping[str, str]) -> Pairing:
    """Compares two models or runs, each as the bundle of every task (relative to `root`; the key "" stands for all tasks of a run)."""
    ones, twos = (merged(root, each) for each in (first, second))
    one, two = ones[0], twos[0]
    common = [name for name in one.tasks if name in two.tasks]
    blocked: dict[str, str] = {}
    for found in mismatches(one, two, common):
        blocked.setdefault(found.task, str(found).removeprefix(f"{found.task}: "))
    for task, metric in one.tables:
        if task in common and (task, metric) not in two.tables:
            blocked.setdefault(task, f"the candidate has no {metric}")
    kept = [name for name in common if name not in blocked]
    runs = {name: (ones[1][name], twos[1][name]) for name in common}
    settings = differing(ones[2], twos[2])
    if not kept:
        return Pairing(None, None, blocked, settings, runs)
    found_comparison = compare(one, two, tasks=kept, alpha=ALPHA)
    alone = replace(found_comparison, left_out=())  # the verdict is on the common tasks
    decision = gate(alone, Policy()) if any(row.main for row in alone.rows) else None
    return Pairing(found_comparison, decision, blocked, settings, runs)


def merged(root: Path, bundles: Mapping[str, str]) -> tuple[Side, dict[str, str], list[Mapping[str, Any]]]:
    """One side made of the runs of a model; the run id of each task; the manifests."""
    whole = bundles.get("")
    wanted = {task: root / path for task, path in bundles.items() if task}
    runs = {path: read_run(path) for path in ([root / whole] if whole else dict.fromkeys(wanted.values()))}
    sides = {path: read_side(run) for path, run in runs.items()}
    place = {task: path for path, side in sides.items() for task in side.tasks if wanted.get(task, path) == path}
    place = {task: path for task, path in place.items() if not wanted or task in wanted}
    parts = list(sides.values())
    base = parts[0]

    def keyed(name: str) -> dict[Any, Any]:
        return {key: value for path, side in sides.items() for key, value in getattr(side, name).items() if place.get(key[0]) == path}

    side = replace(
        base,
        run=", ".join(each.run for each in parts),
        purpose="smoke" if any(each.purpose == "smoke" for each in parts) else "release",
        evidence=next((each.evidence for each in parts if each.evidence != "complete"), "complete"),
        tasks={task: sides[path].tasks[task] for task, path in place.items()},
        tables=keyed("tables"),
        metrics=keyed("metrics"),
        statuses=keyed("statuses"),
        prompts=keyed("prompts"),
        baselines=keyed("baselines"),
        totals=tuple(total for each in parts for total in each.totals),
        settings={name: value for name, value in base.settings.items() if all(each.settings.get(name) == value for each in parts)},
        noise=base.noise if len(parts) == 1 else {},
    )
    return side, {task: sides[path].run for task, path in place.items()}, [run.manifest for run in runs.values()]


def read_side(run: Run) -> Side:
    """A run as `assay compare` reads it; from the store alone where its tasks are not installed here."""
    try:
        return side_of(run, surroundings().access(allow_partial=True))
    except AssayError:
        if run.status != "complete":
            raise
        return stored_side(run)


def stored_side(run: Run) -> Side:
    """A run without its tasks' code: only the scores that are means over items, recognised by their value, have a metric."""
    manifest, summary = run.manifest, run.summary()
    results = {(str(each["task"]), str(each["metric"])): each for each in summary.get("results", ()) if isinstance(each, dict)}
    tables = run.stats()
    metrics, kept, baselines = {}, {}, {}
    for key, table in tables.items():
        facts = results.get(key, {})
        value = facts.get("value")
        if value is None or abs(float(table.stats[:, 0].mean()) - float(value)) > 1e-9 * max(1.0, abs(float(value))):
            continue
        better, stored = str(facts.get("better") or "higher"), facts.get("unit")
        unit = unit_of(key[1], better, 0.0 if "unit" in facts and stored is None else stored)
        kept[key] = replace(table, stats=table.stats[:, :1])
        metrics[key] = Metric(key[1], not_measured, better=better, low=0.0 if unit else None, high=unit)
        if facts.get("chance") is not None:
            baselines[key] = {"chance": float(facts["chance"])}
    model, plan = manifest["model"], manifest["plan"]
    settings = {"engine": manifest["engine"]["name"], "dtype": str(plan.get("dtype")), "chat": str(plan.get("chat"))}
    return Side(
        run=run.id,
        model=model["name"],
        digest=model["digest"],
        purpose=manifest["purpose"],
        evidence=evidence_of(manifest, summary),
        tasks={task["name"]: task for task in manifest["tasks"]},
        tables=kept,
        metrics=metrics,
        settings=settings,
        baselines=baselines,
    )


def not_measured(doc: Any, output: Any) -> tuple[float, ...]:
    raise NotImplementedError("only stored statistics are compared")


def differing(ones: Sequence[Mapping[str, Any]], twos: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, str], ...]:
    """Settings that differ between two sides: name and the values of each."""

    def values(manifests: Sequence[Mapping[str, Any]], name: str) -> str:
        return ", ".join(dict.fromkeys(shortened(nested_value(each, name)) for each in manifests))

    pairs = ((name, values(ones, name), values(twos, name)) for name in SETTINGS)
    return tuple(each for each in pairs if each[1] != each[2])


def nested_value(value: Any, name: str) -> Any:
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def direction(row: Row) -> str:
    """better, worse, or not significant: Holm-corrected p above ALPHA."""
    if row.p_holm is None or row.p_holm > ALPHA:
        return "not significant"
    return "better" if row.difference.delta > 0 else "worse"


def table(found: Pairing) -> Any:
    """One row per metric, in points, then the tasks that cannot be compared; MDE80 is the loss detected with 80 % power."""

    def numbers(row: Row) -> dict[str, Any]:
        d, scale = row.difference, row.points
        first = {"Task": row.task, "Metric": row.metric, "Main": row.main}
        scores = {"Baseline": scale * row.baseline / row.unit, "Candidate": scale * row.candidate / row.unit}
        ends = {"Difference": scale * d.delta, "Low": scale * d.low, "High": scale * d.high}
        tests = {"p": d.p, "p (Holm)": row.p_holm, "MDE80": scale * float(mde80(d.se, ALPHA))}
        return first | scores | ends | tests | {"Gained": d.wins, "Lost": d.losses, "Items": d.n, "Note": d.method}

    rows = [numbers(row) for row in found.rows]
    rows += [{"Task": task, "Main": True, "Note": f"not comparable: {why}"} for task, why in found.blocked.items()]
    shown = frames.DataFrame(rows, columns=list(COLUMNS))
    numeric = [name for name in COLUMNS if name not in ("Task", "Metric", "Main", "Note")]
    return shown.assign(**{name: np.asarray(shown[name], dtype=np.float64) for name in numeric})


Margins = Mapping[tuple[str, str], float]
"""By task and item: the log-likelihood of the gold choice less that of the best other choice, nats."""


@dataclass(frozen=True, slots=True)
class Changed:
    """`margins` are those of the baseline and the candidate, None where the choices were not ranked by log-likelihood."""

    task: str
    item: str
    margins: tuple[float, float] | None

    @property
    def change(self) -> float:
        return abs(self.margins[1] - self.margins[0]) if self.margins else 0.0


@dataclass(frozen=True, slots=True)
class Deciding:
    """`lost` are the items on which the candidate scores lower, `gained` those on which it scores higher, most decisive first; `items`
    is the number compared."""

    lost: tuple[Changed, ...]
    gained: tuple[Changed, ...]
    items: int


def deciding(root: Path, found: Pairing, bundles: Mapping[str, str]) -> Deciding:
    """Orders the items whose score changed: the task with the most of them (less those that changed the other way) first, in it the
    largest change of the margin. `bundles` are folders by run, relative to `root`."""
    rows = [row for row in found.rows if row.main and not row.total]
    wanted = {(row.task, item) for row in rows for item in (*row.lost, *row.gained)}
    sides: tuple[dict[tuple[str, str], float], ...] = ({}, {})
    for side, known in enumerate(sides):
        run_of = {task: runs[side] for task, runs in found.runs.items()}
        for run in dict.fromkeys(run_of.values()):
            known.update(margins(root / bundles[run], {key for key in wanted if run_of[key[0]] == run}))

    def ordered(name: str, other: str) -> Iterator[Changed]:
        for row in sorted(rows, key=lambda row: len(getattr(row, other)) - len(getattr(row, name))):
            yield from sorted(items_of(row, getattr(row, name), sides), key=lambda item: -item.change)

    return Deciding(tuple(ordered("lost", "gained")), tuple(ordered("gained", "lost")), sum(row.difference.n for row in rows))


def items_of(row: Row, items: Sequence[str], sides: Sequence[Margins]) -> list[Changed]:
    found = [tuple(side[row.task, item] for side in sides if (row.task, item) in side) for item in items]
    return [Changed(row.task, item, (each[0], each[1]) if len(each) == 2 else None) for item, each in zip(items, found, strict=True)]


def margins(bundle: Path, wanted: set[tuple[str, str]]) -> Margins:
    """The margins of some items of a run; only of those with a gold choice and ranked choices. A damaged run has none."""
    if not wanted:
        return {}
    try:
        run = read_run(bundle)
        docs = texts(run.table(ITEMS, ("task", "id", "doc")), wanted)
        records = texts(run.table(SAMPLES, ("task", "item_id", "record")), wanted)
    except AssayError:
        return {}
    known = {key: margin_of(json.loads(text), json.loads(docs[key]).get("gold")) for key, text in records.items()}
    return {key: margin for key, margin in known.items() if margin is not None}


def margin_of(output: Mapping[str, Any], gold: Any) -> float | None:
    """The margin of one stored output; None if the choice was picked by another score, such as one per character."""
    values, pick = loglikelihoods(output), output.get("pick")
    if not isinstance(gold, int) or not isinstance(pick, int) or len(values) < 2 or not 0 <= gold < len(values):
        return None
    if not 0 <= pick < len(values) or values[pick] < max(values):
        return None
    return values[gold] - max(values[:gold] + values[gold + 1 :])


def texts(table: Any, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The texts of the third column by task and item, the first two."""
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return {(task, item): text for task, item, text in rows if (task, item) in wanted}
