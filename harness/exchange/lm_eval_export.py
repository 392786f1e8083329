"""Exports a run in lm-eval's format: results_<date>.json and samples_<task>_<date>.jsonl. An imported run is exported unchanged.

Source of the format: lm_eval 0.4.13, loggers/evaluation_tracker.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.exchange.common import jsonl, moment, parts_of, results_of, slug, slugs, write
from assay.harness.run.scoring.imported import full_name, stated_of
from assay.harness.run.scoring.lm_eval_items import samples_of
from assay.harness.run.scoring.stored_tasks import is_imported
from assay.harness.store import Run
from assay.harness.store.read import scored_items
from assay.harness.store.record import Item, Record

SAME = 1e-9


def export_lm_eval(run: Run, folder: Path) -> list[Path]:
    """Writes the files of a run and returns their paths. Raises Incomplete if the run is not complete."""
    results = results_of(run)
    imported = is_imported(run.manifest)
    document, rows = from_import(run, results) if imported else from_assay(run, results)
    place = folder / slug("__".join(parts_of(run.manifest["model"]["name"])))
    date = moment(run).strftime("%Y-%m-%dT%H-%M-%S.%f")
    written = [write(place / f"results_{date}.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")]
    return written + [
        write(place / f"samples_{task.replace('/', '_')}_{date}.jsonl", jsonl(found, allow_nan=imported)) for task, found in rows.items()
    ]


Document = dict[str, Any]
Samples = dict[str, list[dict[str, Any]]]


def from_import(run: Run, results: Sequence[Mapping[str, Any]]) -> tuple[Document, Samples]:
    """The imported document with the scores of the stored items, and the original samples."""
    document = json.loads(run.manifest["imported"]["document"])
    values = {(result["task"], result["metric"]): result["value"] for result in results}
    for each in run.manifest["imported"]["totals"]:
        if (each["name"], "total") in values:  # absent if a task has no score because all its items have errors
            values[full_name(each["group"]), each["metric"]] = values[each["name"], "total"]
    for part in ("results", "groups"):
        for name, scores_of_task in (document.get(part) or {}).items():
            for metric, stated in stated_of(scores_of_task).items():
                value = values.get((full_name(name), metric), stated)
                scores_of_task[metric if metric in scores_of_task else f"{metric},none"] = (
                    stated if not math.isfinite(stated) or math.isclose(stated, value, rel_tol=SAME, abs_tol=SAME) else value
                )
    rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    names = {full_name(name): name for name in document["results"]}
    for item, record in scored_items(run):
        for sampled in samples_of(item, record):
            rows.setdefault(names[item.task], []).append((sampled.line, dict(sampled.row)))
    return document, {task: [row for _, row in sorted(found, key=lambda pair: pair[0])] for task, found in rows.items()}


def from_assay(run: Run, results: Sequence[Mapping[str, Any]]) -> tuple[Document, Samples]:
    """A native run in lm-eval's format; fields that lm-eval does not have are under "assay"."""
    manifest, tables = run.manifest, run.stats()
    names = slugs([result["task"] for result in results] + [task["name"] for task in manifest["tasks"]])
    scores: dict[str, dict[str, Any]] = {}
    higher: dict[str, dict[str, bool]] = {}
    for result in results:
        name, metric = names[result["task"]], result["metric"]
        scores_of_task = scores.setdefault(name, {"name": name, "alias": result["task"], "sample_len": result["n"]})
        table = tables.get((result["task"], metric))
        scores_of_task[f"{metric},none"] = result["value"]
        scores_of_task[f"{metric}_stderr,none"] = "N/A" if table is None else standard_error(result["value"], table.stats)
        higher.setdefault(name, {})[metric] = result["better"] == "higher"
    facts = {names[task["name"]]: task for task in manifest["tasks"]}
    model, plan = manifest["model"], manifest["plan"]
    document = {
        "results": scores,
        "group_subtasks": {name: [] for name in scores},
        "configs": {name: {"task": name, "dataset_path": task["origin"], "num_fewshot": task["shots"]} for name, task in facts.items()},
        "versions": {name: task["version"] for name, task in facts.items()},
        "n-shot": {name: task["shots"] for name, task in facts.items()},
        "higher_is_better": higher,
        "n-samples": {name: {"original": task["items"], "effective": task["items"]} for name, task in facts.items()},
        "config": {
            "model": manifest["engine"]["name"],
            "model_args": {
                "pretrained": model["name"],
                "dtype": plan.get("dtype", "auto"),
                "revision": model["revision"],
                "peft": model["adapter"],
            },
            "model_num_parameters": model["parameters"],
            "model_sha": model["digest"],
            "limit": plan["limit"],
            "random_seed": plan["seed"],
        },
        "date": moment(run).timestamp(),
        "model_source": manifest["engine"]["name"],
        "model_name": model["name"],
        "model_name_sanitized": slug(model["name"]),
        "transformers_version": manifest.get("versions", {}).get("transformers"),
        "total_evaluation_time_seconds": str(run.summary()["seconds"].get("engine", 0)),
        "assay": {"run": run.id, "versions": manifest.get("versions", {}), "results": [dict(result) for result in results]},
    }
    rows: Samples = {}
    means = {
        (result["task"], result["metric"])
        for result in results
        if scores[names[result["task"]]][f"{result['metric']}_stderr,none"] != "N/A"
    }
    for number, (item, record) in enumerate(scored_items(run)):
        metrics = {name: stats[0] for name, stats in record.stats.items() if (item.task, name) in means}
        rows.setdefault(names[item.task], []).append(sample(number, item, record, metrics))
    return document, rows


def standard_error(value: float, stats: Any) -> float | str:
    """lm-eval's standard error of a mean over items; N/A for other scores."""
    count = len(stats)
    if count < 2 or stats.shape[1] != 1 or abs(float(np.mean(stats)) - value) > SAME:
        return "N/A"
    return float(np.std(stats, ddof=1) / math.sqrt(count))


def sample(number: int, item: Item, record: Record, metrics: Mapping[str, float]) -> dict[str, Any]:
    """One item as a line of a samples file, with the metrics whose score is the mean over items. Whether a choice is also the greedy
    one is not known, and stated so."""
    output = record.output
    choices = item.choices if "pick" in output else ()
    contexts: list[dict[str, Any]] = [{"arg_0": item.prompt, "arg_1": choice} for choice in choices] or [
        {"arg_0": item.prompt, "arg_1": {}}
    ]
    if choices:
        sums = [math.fsum(values) for values in output["logprobs"]] if "logprobs" in output else output.get("loglikelihoods", [])
        replies: list[Any] = [[repr(float(total)), "None"] for total in sums]
        resps: list[Any] = [[reply] for reply in replies]
    else:
        replies = [str(output.get("text", output.get("value", output.get("logprob", ""))))]
        resps = [replies]
    return {
        "doc_id": number,
        "doc": {"id": item.id, "group": item.group, "cluster": item.cluster, "task": item.task},
        "target": str(item.doc["gold"]) if choices and "gold" in item.doc else item.gold,
        "arguments": {f"gen_args_{place}": each for place, each in enumerate(contexts)},
        "resps": resps,
        "filtered_resps": replies,
        "filter": "none",
        "metrics": list(metrics),
        **metrics,
    }
