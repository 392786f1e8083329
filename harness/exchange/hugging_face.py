"""Exports a run for a model's page on the Hugging Face hub: `.eval_results/*.yaml`, or the older model-index of a model card.

Source: huggingface/hub-docs, docs/hub/eval-results.md and modelcard.md. Only main release scores on all items are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.exchange.common import dataset_of, moment, publishable, slug, summary_line, write
from assay.harness.store import Run


def export_hf_yaml(run: Run, folder: Path) -> list[Path]:
    """Writes `.eval_results/assay.yaml`. Raises AssayError if no score is on a data set of the hub."""
    tasks = {task["name"]: task for task in run.manifest["tasks"]}
    found = []
    for result in publishable(run):
        dataset = dataset_of(tasks[result["task"]])
        if dataset is None:
            continue
        revision = {"revision": dataset.revision} if dataset.revision else {}
        found.append(
            {
                "dataset": {"id": dataset.id, "task_id": dataset.config, **revision},
                "value": result["value"],
                "date": moment(run).date().isoformat(),
                "notes": f"{result['metric']}; {summary_line(result)}",
            }
        )
    if not found:
        raise AssayError("no score is on a data set of the hub", where=run.id, do="use --format model-index")
    return [write(folder / ".eval_results" / "assay.yaml", yaml(found))]


def export_model_index(run: Run, folder: Path) -> list[Path]:
    """Writes a model card's front matter with the scores as README.md. Raises AssayError if the file exists."""
    path = folder / "README.md"
    if path.exists():
        raise AssayError("the file exists already", where=str(path), do="choose another folder with --to, then copy the model-index")
    tasks = {task["name"]: task for task in run.manifest["tasks"]}
    name = str(run.manifest["model"]["name"])
    entries = [{"name": slug(name.rsplit("/", 1)[-1]), "results": [indexed(result, tasks[result["task"]]) for result in publishable(run)]}]
    return [write(path, f"---\nmodel-index:\n{yaml(entries)}---\n")]


def indexed(result: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    dataset = dataset_of(task)
    data: dict[str, Any] = {"name": result["task"], "type": dataset.id if dataset else slug(result["task"]), "split": str(task["split"])}
    if dataset:
        data |= {"config": dataset.config} | ({"revision": dataset.revision} if dataset.revision else {})
    metric = {"type": result["metric"], "value": result["value"], "name": f"{result['metric']} ({summary_line(result)})"}
    return {"task": {"type": "text-generation", "name": result["task"]}, "dataset": data, "metrics": [metric]}


def yaml(value: Any, depth: int = 0) -> str:
    """Lists and mappings as YAML blocks; every text in double quotes, as JSON and YAML both allow."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        return "".join(f"{pad}{key}:{inline(inner, depth)}" for key, inner in value.items())
    return "".join(f"{pad}- {yaml(inner, depth + 1).lstrip()}" for inner in value)


def inline(value: Any, depth: int) -> str:
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        return "\n" + yaml(value, depth + 1)
    return f" {json.dumps(value)}\n"
