"""Recompute the results of an imported run from its items, and check the items against the samples they were read from."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from assay.harness.errors import Invalid
from assay.harness.files.places import Access
from assay.harness.metrics.lm_eval import Scorer
from assay.harness.run.scoring.lm_eval_choices import check_values
from assay.harness.run.scoring.lm_eval_items import of_metric, read_item, samples_of
from assay.harness.run.scoring.rescore import Inconsistent
from assay.harness.run.scoring.results import Scored, score_run
from assay.harness.run.scoring.stored_tasks import selection_of
from assay.harness.store import Run, stats_of
from assay.harness.store.read import scored_items
from assay.harness.store.record import Item, Record

NOT_SCORES = ("alias", "name", "samples", "sample_len", "sample_count", " ", "")
"""Keys of a task's results that are not scores."""


def full_name(task: str) -> str:
    """The name of an imported task in this store."""
    return f"lm_eval/{task}@imported"


def stated_of(results: Mapping[str, Any]) -> dict[str, float]:
    """Scores by metric, NaN included, without standard errors. lm-eval writes `metric,filter`, with `none` for no filter."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in results.items()
        if key not in NOT_SCORES and "_stderr" not in key.split(",")[0] and isinstance(value, int | float) and not isinstance(value, bool)
    }


def results_of(run: Run, access: Access) -> list[dict[str, Any]]:
    """The results computed from an imported run's items, then the scores that lm-eval only states (evidence "aggregate")."""
    selection = selection_of(run, access)
    facts = {task["name"]: task for task in run.manifest["tasks"]}
    items = run.items_by_task()
    scored = [Scored(task, facts[task.full_name], items.get(task.full_name, [])) for task in selection.tasks]
    found = score_run(scored, selection.totals, stats_of(run.path), run.manifest["engine"]["name"])
    given = {(result["task"], result["metric"]) for result in found}
    totals = {(each["group"], each["metric"]) for each in run.manifest["imported"]["totals"]}
    document = json.loads(run.manifest["imported"]["document"])
    known = stated_values(run.manifest["imported"], document)
    broken = Counter((record.task, name) for record in run.records() for name in record.output.get("undefined", ()))
    for result in found:
        value, base = known.get((result["task"], result["metric"]), 0.0), result["metric"].split(",")[0]
        if not math.isfinite(value):
            count = broken[result["task"], base]
            why = f"{base} of {count} of {count + result['n']} items is not a finite number" if count else ""
            result |= unstated(value, why)
    for name, results in document["results"].items():
        for metric, value in stated_of(results).items():
            if (full_name(name), metric) not in given and (name, metric) not in totals:
                found.append(aggregate(name, metric, value, document))
    return found


def stated_values(imported: Mapping[str, Any], document: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """What lm-eval states for every task, and for every group that is a total here."""
    found = {(full_name(name), metric): value for name, each in document["results"].items() for metric, value in stated_of(each).items()}
    groups = document.get("groups") or {}
    return found | {(each["name"], "total"): stated_of(groups[each["group"]])[each["metric"]] for each in imported["totals"]}


def unstated(value: float, why: str = "") -> dict[str, Any]:
    """The fields of a result that lm-eval states as NaN or infinity."""
    return {"value": None, "low": None, "high": None, "method": "undefined", "reason": why or f"lm-eval states {value}"}


def aggregate(name: str, metric: str, value: float, document: Mapping[str, Any]) -> dict[str, Any]:
    """A result with a score that lm-eval states without items; it cannot be verified."""
    higher = ((document.get("higher_is_better") or {}).get(name) or {}).get(metric.split(",")[0], True)
    counts = (document.get("n-samples") or {}).get(name) or {}
    return {
        "task": full_name(name),
        "metric": metric,
        "value": value,
        "low": None,
        "high": None,
        "n": counts.get("effective") if isinstance(counts.get("effective"), int) else None,
        "shots": (document.get("n-shot") or {}).get(name),
        "signature": f"{full_name(name)}|stated by lm-eval {document.get('lm_eval_version')}, not computed from items",
        "main": False,
        "better": "lower" if higher is False else "higher",
        "method": "stated",
        "evidence": "aggregate",
        "purpose": "release",
        **({} if math.isfinite(value) else unstated(value)),
    }


def check_imported(run: Run) -> None:
    """Raises Inconsistent where items or records differ from the stored samples, or samples contradict their log-likelihoods."""
    imported = run.manifest["imported"]
    document = json.loads(imported["document"])
    configs = {full_name(name): config for name, config in (document.get("configs") or {}).items()}
    scorers = {task["name"]: [Scorer(**each) for each in task["scorers"]] for task in imported["tasks"]}
    for item, record in scored_items(run):
        rows, own = samples_of(item, record), scorers[item.task]
        if not rows or as_text(*read_item(item.task, rows, own)) != as_text(item, record):
            raise Inconsistent(f"the item {item.id!r} of {item.task} differs from its samples", do="import the files again")
        for scorer in own:
            base, kept = of_metric(scorer.name, rows)
            try:
                readable = check_values(base, kept, configs.get(item.task) or {}, f"samples of {item.task}")
            except Invalid as error:
                raise Inconsistent(f"{error.where}: {error.what}", do="import the files again") from None
            if not readable:
                raise Inconsistent(f"the item {item.id!r} of {item.task} does not say which choice is right", do="import the files again")


def as_text(item: Item, record: Record) -> str:
    """The part of an imported item that comes from its samples, as JSON, where lists and tuples are equal."""
    item_part = {field.name: getattr(item, field.name) for field in fields(item) if field.name not in ("shots", "key")}
    return json.dumps([item_part, record.status, record.output, record.stats, record.correct], sort_keys=True, default=list)
