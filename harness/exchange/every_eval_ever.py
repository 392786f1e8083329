"""Exports a run as Every Eval Ever 0.3.0: a JSON object of scores, and a JSON line per item and score.

Source: package every_eval_ever 0.3.0 (MIT), schemas/eval.schema.json and instance_level_eval.schema.json; files lie in
data/<collection>/<developer>/<model>/<uuid>.json with <uuid>_samples.jsonl beside it.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.harness.exchange.common import dataset_of, jsonl, moment, parts_of, results_of, write
from assay.harness.run.scoring.stored_tasks import is_imported
from assay.harness.store import Run
from assay.harness.store.read import scored_items
from assay.harness.store.record import Item, Record
from assay.harness.store.tables import output_text

VERSION = "0.3.0"
COLLECTION = "assay"


def export_every_eval_ever(run: Run, folder: Path) -> list[Path]:
    """Writes both files of a run and returns their paths. The same run gives the same files. Raises Incomplete if it is not complete."""
    results = results_of(run)
    developer, model = parts_of(run.manifest["model"]["name"])
    name = uuid_of(run)
    home = f"data/{COLLECTION}/{developer}/{model}"
    rows = instances(run, results)
    text = jsonl(rows)
    path = f"{home}/{name}_samples.jsonl"
    details = {"format": "jsonl", "file_path": path, "hash_algorithm": "sha256", "total_rows": len(rows)}
    found = {**aggregate(run, results), "detailed_evaluation_results": {**details, "checksum": hashlib.sha256(text.encode()).hexdigest()}}
    written = [write(folder / home / f"{name}.json", json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")]
    return [*written, write(folder / path, text)]


def uuid_of(run: Run) -> str:
    """A version 4 UUID made from a hash of the run's id and items instead of random bits."""
    digest = hashlib.sha256(f"{run.id} {run.manifest['item_set']}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def model_id(run: Run) -> str:
    return "/".join(parts_of(run.manifest["model"]["name"]))


def evaluation_id(run: Run) -> str:
    return f"{COLLECTION}/{model_id(run)}/{int(moment(run).timestamp())}"


def result_id(task: str, metric: str) -> str:
    return f"{task}|{metric}"


def aggregate(run: Run, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    manifest = run.manifest
    imported = manifest.get("imported", {})
    versions = manifest.get("versions", {})
    library = (
        {"name": "lm_eval", "version": imported["version"]} if is_imported(manifest) else {"name": "assay", "version": versions["assay"]}
    )
    model, engine = manifest["model"], manifest["engine"]["name"]
    developer, _ = parts_of(model["name"])
    stamp = str(int(moment(run).timestamp()))
    tasks = {task["name"]: task for task in manifest["tasks"]}
    facts = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown",
        "name": model["name"],
        "digest": model["digest"],
        "revision": model["revision"],
        "adapter": model["adapter"],
        "parameters": model["parameters"],
        "dtype": manifest["plan"].get("dtype", "auto"),
    }
    inference = {"name": engine} | ({"version": versions[engine]} if engine in versions else {})
    return {
        "schema_version": VERSION,
        "evaluation_id": evaluation_id(run),
        "evaluation_timestamp": stamp,
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": f"assay run {run.id}",
            "source_type": "evaluation_run",
            "source_organization_name": "not stated",
            "evaluator_relationship": "other",
        },
        "eval_library": {**library, "additional_details": texts({"exported_by": f"assay {versions.get('assay', '')}".strip()})},
        "model_info": {
            "name": model["name"],
            "id": model_id(run),
            **({} if developer == "unknown" else {"developer": developer}),
            "inference_engine": inference,
            "additional_details": texts(facts),
        },
        "evaluation_results": [entry(result, tasks.get(result["task"]), stamp, manifest["seed"]) for result in results],
    }


def texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """The facts as texts, which the schema requires, without unknown ones."""
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def entry(result: Mapping[str, Any], task: Mapping[str, Any] | None, stamp: str, seed: int) -> dict[str, Any]:
    """One score with its interval, its data and its metric."""
    uncertainty: dict[str, Any] = {} if result["n"] is None else {"num_samples": result["n"]}
    if result["low"] is not None and result["high"] is not None:
        uncertainty["confidence_interval"] = {
            "lower": result["low"],
            "upper": result["high"],
            "confidence_level": 0.95,
            "method": result["method"],
        }
    details = {"signature": result["signature"], "evidence": result["evidence"], "purpose": result["purpose"]}
    return {
        "evaluation_result_id": result_id(result["task"], result["metric"]),
        "evaluation_name": result["task"],
        "source_data": source_of(result["task"], task),
        "evaluation_timestamp": stamp,
        "metric_config": metric_of(result),
        "score_details": {"score": result["value"], "details": texts(details), "uncertainty": uncertainty},
        "generation_config": {"additional_details": texts({"num_fewshot": result["shots"], "seed": seed})},
    }


def source_of(name: str, task: Mapping[str, Any] | None) -> dict[str, Any]:
    dataset = dataset_of(task) if task else None
    if task is None or dataset is None:
        return {"dataset_name": name, "source_type": "other"}
    facts = texts({"config": dataset.config, "revision": dataset.revision, "data_digest": task["data"], "fingerprint": task["fingerprint"]})
    return {
        "dataset_name": name,
        "source_type": "hf_dataset",
        "hf_repo": dataset.id,
        "hf_split": str(task["split"]),
        "samples_number": int(task["items"]),
        "additional_details": facts,
    }


def metric_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """The metric; its bounds only where the result states them."""
    found = {"metric_id": result["metric"], "metric_name": result["metric"], "lower_is_better": result["better"] == "lower"}
    if "bounds" not in result:
        return found
    low, high = result["bounds"]
    ends = {"min_score": "-Infinity" if low is None else low, "max_score": "Infinity" if high is None else high}
    return {**found, "score_type": "continuous", **ends}


def instances(run: Run, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per item and score: the item's score if the metric has one, else whether the response is correct."""
    metrics: dict[str, list[str]] = {}
    for result in results:
        metrics.setdefault(result["task"], []).append(result["metric"])
    found = []
    for item, record in scored_items(run):
        for metric in metrics.get(item.task, ()):
            score = score_of(record, metric)
            if score is not None:
                found.append(instance(run, item, record, metric, score))
    return found


def score_of(record: Record, metric: str) -> float | None:
    stats = record.stats.get(metric)
    if stats is None:
        return None
    return stats[0] if len(stats) == 1 else record.correct


def instance(run: Run, item: Item, record: Record, metric: str, score: float) -> dict[str, Any]:
    answer = output_text(record.output, item.choices)
    mark = hashlib.sha256(json.dumps({"raw": item.prompt, "reference": [item.gold]}, sort_keys=True).encode()).hexdigest()
    right = record.correct if record.correct is not None else score
    return {
        "schema_version": VERSION,
        "evaluation_id": evaluation_id(run),
        "model_id": model_id(run),
        "evaluation_name": item.task,
        "evaluation_result_id": result_id(item.task, metric),
        "sample_id": item.id,
        "sample_hash": mark,
        "interaction_type": "single_turn",
        "input": {"raw": item.prompt, "reference": [item.gold], "choices": list(item.choices) or None},
        "output": {"raw": [answer]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": answer,
                "extraction_method": "log-likelihood" if "pick" in record.output else "text",
                "is_terminal": True,
            }
        ],
        "evaluation": {"score": score, "is_correct": right >= 1.0},
        "metadata": texts({"group": item.group, "cluster": item.cluster, "status": record.status}),
    }
