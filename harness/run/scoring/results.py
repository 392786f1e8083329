"""Scores from stored statistics: one value per task and metric with its confidence interval, and the families' totals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.harness.files.places import Access
from assay.harness.run.prepare import PreparedTask
from assay.harness.run.scoring.signature import dtype_of, with_settings
from assay.harness.run.selection import select_stored
from assay.harness.stats.interval import Interval, Part, score_interval, total_interval, total_weights
from assay.harness.store import Run, StatTable
from assay.harness.store.record import Item, Record
from assay.harness.task.metric import Codes, Metric, mean
from assay.harness.task.output import ChoiceScores
from assay.harness.task.task import Choose, Generate, Loglikelihood, Perplexity, Regress, Task, Term, Total


@dataclass(frozen=True, slots=True)
class Scored:
    """A task with what its scores depend on: its facts from the manifest and its planned items."""

    task: Task
    facts: Mapping[str, Any]
    items: Sequence[Item]


def scored_of(prepared: PreparedTask, failed: int) -> Scored:
    """A prepared task of which `failed` items have no score."""
    return Scored(prepared.task, with_failures(prepared.facts, failed), [each.item for each in prepared.items])


def with_failures(facts: Mapping[str, Any], failed: int) -> Mapping[str, Any]:
    """A task's facts with its evidence: "failed" where items have no score (--allow-failed)."""
    return {**facts, "evidence": "failed"} if failed else facts


def failures(records: Sequence[Record]) -> Counter[str]:
    """The number of failed items by task."""
    return Counter(record.task for record in records if record.status == "error")


Tables = Mapping[tuple[str, str], StatTable]


def score_run(tasks: Sequence[Scored], totals: Sequence[Total], tables: Tables, engine: str, dtype: str = "") -> list[dict[str, Any]]:
    """The results of a run, as `assay run --json` prints them. Tasks with hidden labels have none. `dtype` is for the signatures."""
    results, found = [], {}
    for scored in tasks:
        for position, metric in enumerate(scored.task.metrics):
            table = tables.get((scored.task.full_name, metric.name))
            if table is None:
                continue
            part = part_of(metric, table)
            found[scored.task.full_name, metric.name] = part
            interval = score_interval(*part)
            results.append(task_result(scored, metric, interval, (engine, dtype), main=position == 0))
    for total in totals:
        if all((term.task, term.metric) in found for term in total.terms):
            parts = {term: found[term.task, term.metric] for term in total.terms}
            members = [scored for scored in tasks if any(term.task == scored.task.full_name for term in total.terms)]
            results.append(total_result(total, total_interval(total, parts), members, (engine, dtype)) | unit_of_total(total, parts))
    return results


def part_of(metric: Metric[Any], table: StatTable) -> Part:
    return Part(metric, table.stats, codes(table.groups), codes(table.clusters))


def codes(names: Sequence[str]) -> Codes:
    """Names as consecutive integers."""
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def number(value: float | None) -> float | None:
    """A finite number, or None where the score cannot be computed; NaN never enters a store."""
    return None if value is None or not math.isfinite(value) else float(value)


def task_result(scored: Scored, metric: Metric[Any], interval: Interval, engine: tuple[str, str], main: bool) -> dict[str, Any]:
    facts = scored.facts
    items = interval.n if scored.task.varies is None else len({item.group for item in scored.items})  # not their perturbations
    return {
        "task": scored.task.full_name,
        "metric": metric.name,
        "value": number(interval.value),
        "low": number(interval.low),
        "high": number(interval.high),
        "n": items,
        "shots": facts["shots"],
        "signature": with_settings(signature(scored, metric, engine[0]), [facts], engine[1]),
        "main": main,
        "better": metric.better,
        "unit": unit_of(metric),
        "bounds": [metric.low, metric.high],
        **how(interval),
        "evidence": facts["evidence"],
        "purpose": facts["purpose"],
        **baselines(scored.task, metric, scored.items),
    }


def how(interval: Interval) -> dict[str, Any]:
    """The method of the limits; `reason` where the score is undefined, `wide` with limits that cover more than half of the scale."""
    found: dict[str, Any] = {"method": interval.method}
    if interval.reason:
        found["reason"] = interval.reason
    if interval.wide is not None:
        found["wide"] = list(interval.wide)
    return found


def unit_of(metric: Metric[Any]) -> float | None:
    """The score that counts as 100 points: the upper bound; None where there is none, or lower is better."""
    return float(metric.high) if metric.better == "higher" and metric.high is not None and metric.high > 0 else None


def unit_of_total(total: Total, parts: Mapping[Term, Part]) -> dict[str, float | None]:
    """The total of a perfect model; None where a term has no upper bound."""
    weights = total_weights(total, {term: len(part.stats) for term, part in parts.items()})
    best = [unit_of(part.metric) for part in parts.values()]
    if any(each is None for each in best):
        return {"unit": None}
    return {"unit": round(math.fsum(weights[term] * (each or 0.0) for term, each in zip(parts, best, strict=True)), 9)}


def total_result(total: Total, interval: Interval, members: Sequence[Scored], engine: tuple[str, str]) -> dict[str, Any]:
    evidence = [scored.facts["evidence"] for scored in members]
    head = f"{total.name}|total of {len(members)} tasks|{'by size' if total.by_size else 'equal weights'}|engine:{engine[0]}"
    shots = {scored.facts["shots"] for scored in members}
    return {
        "task": total.name,
        "metric": "total",
        "value": number(interval.value),
        "low": number(interval.low),
        "high": number(interval.high),
        "n": interval.n,
        "shots": shots.pop() if len(shots) == 1 else None,
        "signature": with_settings(head, [scored.facts for scored in members], engine[1]),
        "main": True,
        "better": "higher",
        **how(interval),
        "evidence": weakest_evidence(evidence),
        "purpose": members[0].facts["purpose"],
    }


def weakest_evidence(evidence: Sequence[str]) -> str:
    """The evidence of several tasks together: "failed" before "partial" before "limited" before "overlong" before "complete"."""
    return next((word for word in ("failed", "partial", "limited", "overlong") if word in evidence), "complete")


def signature(scored: Scored, metric: Metric[Any], engine: str) -> str:
    """Everything that a score depends on, in one line that is stored with it (as in sacrebleu)."""
    facts = scored.facts
    scorer = next((text for text in facts["metrics"] if text.startswith(f"{metric.name} ")), "").removeprefix(f"{metric.name} ")
    parts = [
        scored.task.full_name,
        f"v{facts['version']}",
        f"split:{facts['split']}",
        f"shots:{facts['shots']}{' ' + facts['shots_order'] if facts['shots_order'] else ''}",
        f"ask:{short_ask(scored.task)}" + (f" ties:{facts['ties']}" if "ties" in facts else ""),
        f"metric:{metric.name}" + (f"[{scorer.replace('|', ',')}]" if scorer else ""),
        f"n:{facts['items']}",
        f"engine:{engine}",
    ]
    return "|".join(parts)


def short_ask(task: Task) -> str:
    match task.ask:
        case Choose() as ask:
            return f"choose {ask.normalize}" + (" calibrated" if ask.calibrate is not None else "")
        case Loglikelihood():
            return "loglikelihood"
        case Regress():
            return "regress"
        case Perplexity():
            return "perplexity"
        case Generate() as ask:
            return f"generate {ask.max_tokens}" + (f" t={ask.temperature:g}x{ask.samples}" if ask.temperature else "")


def baselines(task: Task, metric: Metric[Any], items: Sequence[Item]) -> dict[str, float]:
    """`chance`: the score of a uniform guess; `majority`: that of always picking the most frequent gold. Only where they are known.

    Guessing gives a correlation of 0, and an accuracy of 1/k on k choices with one gold. F1 and calibration have no such score.
    """
    if (metric.low, metric.high) == (-1.0, 1.0):
        return {"chance": 0.0}
    reads_choices = metric.reads in (None, ChoiceScores) and isinstance(task.ask, Choose)
    is_accuracy = reads_choices and metric.combine is mean and metric.better == "higher" and (metric.low, metric.high) == (0, 1)
    if not is_accuracy or task.varies is not None or any("gold" not in item.doc for item in items):
        return {}
    chance = math.fsum(1 / len(item.choices) for item in items) / len(items)
    same = len({item.choices for item in items}) == 1
    share = Counter(item.doc["gold"] for item in items).most_common(1)[0][1] / len(items) if same else None
    return {"chance": chance} | ({"majority": share} if share is not None else {})


def rescore(run: Run, access: Access, engine: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Results recomputed from a stored run's statistics, without the model. Raises AssayError where a task is unknown.

    `engine`: the engine's facts, where the run has no summary yet.
    """
    selection = select_stored(run.manifest, access)
    items = run.items_by_task()
    failed = failures(run.records())
    facts = {task["name"]: with_failures(task, failed[task["name"]]) for task in run.manifest["tasks"]}
    scored = [Scored(task, facts[task.full_name], items.get(task.full_name, [])) for task in selection.tasks if task.full_name in facts]
    dtype = dtype_of(run.summary()["engine"] if engine is None else engine, run.manifest["plan"])
    return score_run(scored, selection.totals, run.stats(), run.manifest["engine"]["name"], dtype)
