"""Compares two stored runs item by item: whether they are comparable, and by how much their scores differ.

`compare` is pure: it takes Sides, which `side_of` reads from the store. Runs with different items are never intersected silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from assay.harness.decide.items.flipped import flips
from assay.harness.decide.items.margins import Margins, margins_of, probability_difference, smoothed_difference
from assay.harness.decide.mismatch import Mismatch, task_mismatches
from assay.harness.decide.noise_floor import floor_of, noise_of
from assay.harness.decide.shared_items import Key, Paired, Shared, share_items, shared_of
from assay.harness.decide.undefined import UndefinedRow, undefined_row, undefined_total
from assay.harness.errors import AssayError, Incomplete, NotComparable
from assay.harness.files.places import Access
from assay.harness.run.noise import Noise, sentence
from assay.harness.run.scoring.results import codes
from assay.harness.run.scoring.signature import plan_settings, scorers
from assay.harness.run.scoring.stored_tasks import selection_of
from assay.harness.stats.correction import holm
from assay.harness.stats.difference import (
    Difference,
    Levels,
    paired_difference,
    total_difference,
    unit_of,
)
from assay.harness.stats.interval import Part, is_above, total_weights
from assay.harness.store import Run, StatTable
from assay.harness.store.shapes import evidence_of
from assay.harness.task.metric import Array, Metric
from assay.harness.task.task import Term, Total

RULES = {"first": "the first counts", "share": "each of k counts 1/k"}


@dataclass(frozen=True, slots=True)
class Side:
    """A complete run as input of a comparison. `tasks` are the manifest's facts by name, `tables` and `metrics` by (task, metric);
    `statuses` is the final status of each (task, item) that is not "scored"."""

    run: str
    model: str
    digest: str
    purpose: str
    evidence: str
    tasks: Mapping[str, Mapping[str, Any]]
    tables: Mapping[Key, StatTable]
    metrics: Mapping[Key, Metric[Any]]
    totals: tuple[Total, ...] = ()
    statuses: Mapping[Key, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    """Engine, dtype, chat and the plan's other options: where runs are comparable although they differ, a note names each difference."""
    noise: Noise = field(default_factory=dict)
    """Measured run-to-run noise by kind of repetition; empty if the run was not repeated."""
    prompts: Mapping[Key, str] = field(default_factory=dict)
    """The prompt of each (task, item), by which tasks that share items are found."""
    baselines: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)
    """Scores that need no model, `chance` and `majority`, of each (task, metric) where they are known; equal in comparable runs."""
    margins: Mapping[str, Margins] = field(default_factory=dict)
    """Margins of the tasks with ranked choices, by which smoothed accuracy is computed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of one task, or one total. `p_holm` corrects the two-sided p over the main metrics of all tasks."""

    task: str
    metric: str
    main: bool
    total: bool
    baseline: float
    candidate: float
    unit: float
    """The score that equals 100 points: the metric's upper bound, or 1 where it has none."""
    points: float
    """Factor from `difference` to points (100), or to the metric's own unit where it is unbounded (1)."""
    better: str
    difference: Difference
    p_holm: float | None = None
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    causes: Mapping[str, int] = field(default_factory=dict)
    """Number of lost items by status: wrong, unparsed, truncated."""
    floor: float | None = None
    """The noise floor in points (or the metric's own unit): the mean change per item when a run is repeated; None: not measured."""
    signal: bool = True
    """False where the baseline is not shown to be better than chance, so that no loss can be seen."""
    chance: float | None = None
    majority: float | None = None
    smoothed: Difference | None = None
    """The difference in smoothed accuracy, by which a gate decides where there is one; see assay.harness.stats.smoothing."""
    probability: Difference | None = None
    """The difference in the probability of the gold choice."""
    agrees: bool = True
    """False where smoothed and plain accuracy disagree: then `smoothed` has plain accuracy's value."""

    @property
    def judged(self) -> Difference:
        """The difference that a gate decides by."""
        return self.difference if self.smoothed is None else self.smoothed

    @property
    def within_floor(self) -> bool:
        """Whether the difference is not zero and not larger than the noise floor."""
        return self.floor is not None and 0 < abs(self.points * self.difference.delta) <= self.floor * (1 + 1e-9)


@dataclass(frozen=True, slots=True)
class Comparison:
    """All paired differences of two runs. `purpose` and `evidence` are the weaker of the two."""

    baseline: Side
    candidate: Side
    rows: tuple[Row, ...]
    purpose: str
    evidence: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    alpha: float
    undefined: tuple[UndefinedRow, ...] = ()
    """Metrics and totals without a score in one of the runs; they have no row."""
    shared: tuple[Shared, ...] = ()
    candidates: int = 1
    """Number of models of which the candidate may be the best; passes rest on limits at alpha / candidates."""

    @property
    def main(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.main and not row.total)


def side_of(run: Run, access: Access) -> Side:
    """Reads a stored run. Raises Incomplete if it is not complete or an item has an error, AssayError if the installed scorers are
    not those of the run."""
    if run.status != "complete":
        raise Incomplete("the run is not complete", where=run.id, do=f"assay resume {run.id}")
    samples = run.table("samples.parquet", ("task", "item_id", "prompt", "status", "record"))
    columns = [samples[name].to_pylist() for name in ("task", "item_id", "prompt", "status")]
    statuses = {(task, item): status for task, item, _, status in zip(*columns, strict=True) if status != "scored"}
    if failed := [key for key, status in statuses.items() if status == "error"]:
        raise Incomplete(f"{len(failed)} items have errors, the first: {' '.join(failed[0])}", where=run.id, do=f"assay rerun {run.id}")
    manifest = run.manifest
    facts = {task["name"]: task for task in manifest["tasks"]}
    selection = selection_of(run, access)
    metrics = {}
    items = run.items_by_task() if any(metric.rule for task in selection.tasks for metric in task.metrics) else {}
    for task in selection.tasks:
        now = scorers(task, items.get(task.full_name, []))
        if task.full_name in facts and now != list(facts[task.full_name]["metrics"]):
            what = f"the run used the scorers {facts[task.full_name]['metrics']}, this version of assay has {now}"
            raise AssayError(what, where=f"{run.id} {task.full_name}", do=f"assay rerun {run.id}")
        metrics.update({(task.full_name, metric.name): metric for metric in task.metrics})
    tables = run.stats()
    if unknown := [key for key in tables if key not in metrics]:
        raise AssayError(f"no scorer for {unknown[0][1]}", where=f"{run.id} {unknown[0][0]}", do="install the plugin that defines the task")
    plan = manifest["plan"]
    settings = {"engine": manifest["engine"]["name"], "dtype": str(plan["dtype"]), "chat": str(plan["chat"]), **plan_settings(plan)}
    model = manifest["model"]
    return Side(
        run=run.id,
        model=model["name"],
        digest=model["digest"],
        purpose=manifest["purpose"],
        evidence=evidence_of(manifest, run.summary()),
        tasks=facts,
        tables=tables,
        metrics=metrics,
        totals=selection.totals,
        statuses=statuses,
        settings=settings,
        noise=noise_of(run),
        prompts={(task, item): prompt for task, item, prompt, _ in zip(*columns, strict=True)},
        baselines={(each["task"], each["metric"]): known for each in run.summary()["results"] if (known := without_model(each))},
        margins=margins_of(run, samples, selection.tasks, tables),
    )


def without_model(result: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a result that need no model: a uniform guess, and always the most frequent answer."""
    return {name: float(result[name]) for name in ("chance", "majority") if result.get(name) is not None}


def mismatches(baseline: Side, candidate: Side, tasks: Sequence[str]) -> tuple[Mismatch, ...]:
    """Why two runs cannot be compared. Per task: the first of FIELDS that differs, after the settings that may have caused it; per
    metric: the number of items that one run lacks. Settings alone are no reason: a random seed is never used where nothing is drawn."""
    found = []
    for name in tasks:
        found += task_mismatches(name, baseline.tasks[name], candidate.tasks[name])
        for key, table in baseline.tables.items():
            if key[0] == name and (other := candidate.tables.get(key)) is not None:
                first, second = set(table.item_ids), set(other.item_ids)
                if first != second:
                    extra = sorted(first ^ second)
                    found.append(
                        Mismatch(
                            name, f"items ({len(extra)} in one only)", *((extra[0] if extra[0] in s else None) for s in (first, second))
                        )
                    )
    return tuple(found)


def compare(
    baseline: Side, candidate: Side, *, tasks: Sequence[str] = (), alpha: float = 0.05, candidates: int = 1, seed: int = 0
) -> Comparison:
    """Paired differences, candidate minus baseline, over `tasks` (default: all that both have). `candidates`: see Comparison.

    Raises NotComparable naming the first differing field; AssayError for an unknown task.
    """
    every = [*baseline.tasks, *(name for name in candidate.tasks if name not in baseline.tasks)]
    if unknown := [name for name in tasks if name not in every]:
        raise AssayError(f"neither run has the task {unknown[0]!r}", do=f"choose from {', '.join(every[:5])}")
    chosen = [name for name in every if name in baseline.tasks and name in candidate.tasks and (not tasks or name in tasks)]
    if not chosen:
        raise NotComparable("no task in common", where=f"{baseline.run} and {candidate.run}", do="evaluate both on the same tasks")
    if differing := mismatches(baseline, candidate, chosen):
        more = f" (and {len(differing) - 1} more)" if len(differing) > 1 else ""
        raise NotComparable(f"{differing[0]}{more}", do=f"assay compare {baseline.run} {candidate.run} --why")
    keys = [key for key in baseline.tables if key[0] in chosen]
    if missing := [key for key in keys if key not in candidate.tables]:
        raise NotComparable(f"the candidate has no {missing[0][1]}", where=missing[0][0], do=f"assay rerun {candidate.run}")
    parts = {key: paired(baseline, candidate, key) for key in keys}
    levels = Levels(alpha, candidates)
    mains = {name: key[1] for name in reversed(chosen) for key in reversed(keys) if key[0] == name}
    undefined = [found for key in keys if (found := undefined_row(key, parts[key][1], parts[key][2], main=mains[key[0]] == key[1]))]
    gone = {(each.task, each.metric) for each in undefined}
    known = {key: part for key, part in parts.items() if key not in gone}
    rows = [task_row(key, part, candidate, mains[key[0]] == key[1], levels, seed) for key, part in known.items()]
    noise = floor_of(baseline.noise, candidate.noise)
    rows = [replace(row, floor=noise.get((row.task, row.metric))) for row in corrected(rows)]
    totals = [total for total in baseline.totals if all((term.task, term.metric) in parts for term in total.terms)]
    undefined += [found for total in totals if (found := undefined_total(total, undefined))]
    unset = {each.task for each in undefined if each.total}
    groups, together = share_items(baseline.tables, baseline.prompts, baseline.tasks, known)
    joined = {task for group in groups for task in group}
    rows = [row if row.task in joined or not row.main else with_margins(row, baseline, candidate, parts, levels, seed) for row in rows]
    defined = [total for total in totals if total.name not in unset]
    rows += [replace(total_row(total, together, groups, levels, seed), floor=total_floor(total, parts, rows)) for total in defined]
    shared = tuple(each for group in groups if (each := shared_of(group, mains, together, seed)) is not None)
    return Comparison(
        baseline=baseline,
        candidate=candidate,
        rows=tuple(rows),
        purpose="smoke" if "smoke" in (baseline.purpose, candidate.purpose) else "release",
        evidence=evidence(baseline, candidate, chosen),
        left_out=tuple(name for name in every if name not in chosen),
        notes=notes(baseline, candidate, [name for name in chosen if name not in mains])
        + tuple(map(str, undefined))
        + unchanged(baseline, candidate, parts)
        + tuple(map(str, shared))
        + noise_notes(baseline, candidate, rows),
        alpha=alpha,
        undefined=tuple(undefined),
        shared=shared,
        candidates=candidates,
    )


def evidence(baseline: Side, candidate: Side, tasks: Sequence[str]) -> str:
    """The weaker evidence of two runs; complete where both skipped or cut the same items (other items are never compared)."""
    same = all(baseline.tasks[name].get("overlong") == candidate.tasks[name].get("overlong") for name in tasks)
    if baseline.evidence == candidate.evidence == "overlong" and same:
        return "complete"
    return weaker(baseline.evidence, candidate.evidence)


def weaker(one: str, two: str) -> str:
    """The weaker of two kinds of evidence: "complete" is the strongest."""
    return one if one != "complete" else two


def notes(baseline: Side, candidate: Side, unlabelled: Sequence[str]) -> tuple[str, ...]:
    """Notes on tasks that were not compared, on differing settings and on identical weights."""
    found = [f"{name}: no labels, not compared" for name in unlabelled]
    for name in dict.fromkeys((*baseline.settings, *candidate.settings)):
        value, other = (side.settings.get(name, "the default") for side in (baseline, candidate))
        if other != value:
            found.append(f"{name} is {value} in the baseline and {other} in the candidate: the differences include its effect")
    for name in baseline.tasks.keys() & candidate.tasks.keys():
        rules = [RULES[side.tasks[name].get("ties", "first")] for side in (baseline, candidate)]
        if rules[0] != rules[1]:
            found.append(f"{name}: equally good choices: {rules[0]} in the baseline and {rules[1]} in the candidate")
    if baseline.digest == candidate.digest:
        found.append("both runs have the same weights: every difference is engine noise")
    return tuple(found)


def unchanged(baseline: Side, candidate: Side, parts: Mapping[Key, Paired]) -> tuple[str, ...]:
    """A note where other weights gave the same score on every item: an adapter or a checkpoint may not have taken effect."""
    same = all(np.array_equal(part.stats, stats) for _, part, stats in parts.values())
    if baseline.digest == candidate.digest or not same:
        return ()
    return ("every item has the same score in both runs although the weights differ: check that the adapter or checkpoint has an effect",)


def total_floor(total: Total, parts: Mapping[Key, Paired], rows: Sequence[Row]) -> float | None:
    """The largest change of a total that the noise floors of its tasks allow, in points; None if one was not measured."""
    found = {(row.task, row.metric): row for row in rows}
    weights = total_weights(total, {term: len(parts[term.task, term.metric][1].stats) for term in total.terms})
    whole = 0.0
    for term in total.terms:
        row = found[term.task, term.metric]
        if row.floor is None:
            return None
        whole += abs(weights[term]) * row.unit / total.scale * row.floor / row.points
    return 100 * whole


def noise_notes(baseline: Side, candidate: Side, rows: Sequence[Row]) -> tuple[str, ...]:
    """The measured noise of both runs, or that there is none, and every main difference within the noise floor."""
    found = []
    for name, side in (("baseline", baseline), ("candidate", candidate)):
        found += [f"noise floor: the {name}, {sentence(kind, noise)}" for kind, noise in side.noise.items()]
    if not found:
        return ("noise floor: not measured (assay run --repeat-check measures it)",)
    below = [row for row in rows if row.main and row.within_floor]
    found += [
        f"{row.task}: the difference of {row.points * row.difference.delta:+.2f} is within the noise floor of {row.floor:.2f}"
        for row in below
    ]
    return tuple(found)


def paired(baseline: Side, candidate: Side, key: Key) -> Paired:
    """Item ids, the baseline's part and the candidate's statistics in the same order."""
    one, two = baseline.tables[key], candidate.tables[key]
    stats = two.stats
    if one.item_ids != two.item_ids:
        place = {item: index for index, item in enumerate(two.item_ids)}
        stats = stats[[place[item] for item in one.item_ids]]
    return one.item_ids, Part(baseline.metrics[key], one.stats, codes(one.groups), codes(one.clusters)), stats


def task_row(key: Key, pair: Paired, candidate: Side, main: bool, levels: Levels, seed: int) -> Row:
    _, part, stats = pair
    metric, difference = part.metric, paired_difference(part, stats, levels=levels, seed=seed)
    gained, lost, causes = flips(key[0], pair, candidate.statuses) if main else ((), (), {})
    known = candidate.baselines.get(key, {})
    return Row(
        task=key[0],
        metric=key[1],
        main=main,
        total=False,
        baseline=float(metric.combine(part.stats, part.groups)),
        candidate=float(metric.combine(stats, part.groups)),
        unit=unit_of(metric),
        points=100.0 if difference.bounded else 1.0,
        better=metric.better,
        difference=difference,
        gained=gained,
        lost=lost,
        causes=causes,
        signal="chance" not in known or is_above(part, known["chance"]),
        chance=known.get("chance"),
        majority=known.get("majority"),
    )


def with_margins(row: Row, baseline: Side, candidate: Side, parts: Mapping[Key, Paired], levels: Levels, seed: int) -> Row:
    """The row with the differences in smoothed accuracy and in the gold choice's probability, where both runs have margins."""
    one, two = baseline.margins.get(row.task), candidate.margins.get(row.task)
    if one is None or two is None or row.metric != "accuracy":
        return row
    ids, part, stats = parts[row.task, row.metric]
    order = candidate.tables[row.task, row.metric].item_ids
    if order != ids:
        place = {item: at for at, item in enumerate(order)}
        two = two.ordered([place[item] for item in ids])
    found, agrees = smoothed_difference((part, stats, row.difference), one, two, levels, seed)
    return replace(row, smoothed=found, agrees=agrees, probability=probability_difference(part, one, two, levels, seed))


def total_row(total: Total, parts: Mapping[Key, Paired], groups: Sequence[Sequence[str]], levels: Levels, seed: int) -> Row:
    chosen: dict[Term, tuple[Part, Array]] = {term: parts[term.task, term.metric][1:] for term in total.terms}
    difference = total_difference(total, chosen, levels=levels, groups=groups, seed=seed)
    scores = total_values(total, chosen)
    return Row(total.name, "total", True, True, *scores, unit=total.scale, points=100.0, better="higher", difference=difference)


def total_values(total: Total, chosen: Mapping[Term, tuple[Part, Array]]) -> tuple[float, float]:
    weights = total_weights(total, {term: len(part.stats) for term, (part, _) in chosen.items()})
    one = sum(weights[term] * float(part.metric.combine(part.stats, part.groups)) for term, (part, _) in chosen.items())
    two = sum(weights[term] * float(part.metric.combine(stats, part.groups)) for term, (part, stats) in chosen.items())
    return one, two


def corrected(rows: Sequence[Row]) -> list[Row]:
    """Rows with Holm-corrected p-values over the main metrics."""
    family = [row.difference.p for row in rows if row.main]
    adjusted = iter(holm(family).tolist())
    return [replace(row, p_holm=next(adjusted)) if row.main else row for row in rows]
