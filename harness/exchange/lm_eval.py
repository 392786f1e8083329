"""Imports lm-eval's results and samples as a run: every score is recomputed from its samples and must equal the stated one.

Source of the format: lm_eval 0.4.13, loggers/evaluation_tracker.py: results_<date>.json and, with --log_samples,
samples_<task>_<date>.jsonl beside it. A score without samples gets the evidence "aggregate" and is never ranked.
Samples of a run that does not state its number of items get the evidence "partial".
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Invalid
from assay.harness.files.places import Surroundings
from assay.harness.metrics.lm_eval import DEFAULTS, Scorer, metric_of, scorer_of
from assay.harness.run.scoring.imported import full_name, results_of, stated_of
from assay.harness.run.scoring.lm_eval_choices import check_values
from assay.harness.run.scoring.lm_eval_items import (
    AGGREGATE_ITEM,
    Sampled,
    broken_fields,
    nonfinite,
    of_metric,
    read_file,
    read_item,
    read_samples,
)
from assay.harness.store import create_bundle, index, list_runs, open_writer, read_run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Item, Record

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class ReportedTask:
    """One task of a results file, with the scorers of the metrics that can be recomputed from its samples."""

    name: str
    config: Mapping[str, Any]
    stated: Mapping[str, float]
    """Scores by metric name as assay writes it: `acc`, or `exact_match,strict-match` if there is a filter."""
    scorers: tuple[Scorer, ...]
    samples: tuple[Sampled, ...]
    facts: Mapping[str, Any]


def import_lm_eval(path: Path, place: Surroundings) -> tuple[tuple[Path, bool], ...]:
    """Imports every results file of a folder (or one file) into the store: each run's bundle, and whether it is new.

    Raises AssayError for files that are not lm-eval's, Invalid if a score does not equal the one recomputed from its samples.
    """
    files = [path] if path.is_file() else sorted(path.rglob("results_*.json"))
    if not files:
        raise AssayError("there is no results_*.json", where=str(path), do="give the folder of lm-eval's --output_path")
    known = known_imports(place.results)
    found = []
    for file in files:
        data = read_file(file)
        sha256 = hashlib.sha256(data).hexdigest()
        with one_clear_error(file):
            found.append((known[sha256], False) if sha256 in known else (import_file(file, data, sha256, place), True))
    return tuple(found)


@contextmanager
def one_clear_error(file: Path) -> Iterator[None]:
    """Turns every error from an untrusted file of another form into one AssayError."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError, RecursionError) as error:
        what = f"not in lm-eval's format: {error!r:.120}"
        raise AssayError(what, where=str(file), do="import unchanged files of lm-eval") from None


def known_imports(root: Path) -> dict[str, Path]:
    """Bundles by the SHA-256 of the file that they were imported from."""
    found = {}
    for info in list_runs(root):
        if info.status == "complete" and isinstance(imported := read_run(info.path).manifest.get("imported"), Mapping):
            found[str(imported.get("sha256"))] = info.path
    return found


def import_file(file: Path, data: bytes, sha256: str, place: Surroundings) -> Path:
    document = json.loads(data)
    if not all(isinstance(part, dict) for part in (document, document.get("results"), document.get("config"))):
        raise AssayError("not a results file of lm-eval (no results, no config)", where=str(file), do="give a results_*.json of lm-eval")
    groups = document.get("group_subtasks") or {}
    names = [name for name in document["results"] if not (groups.get(name) or name in (document.get("groups") or {}))]
    tasks = [read_task(name, document, file) for name in names]
    items, records = items_and_records(tasks)
    manifest = manifest_of(document, tasks, file, sha256)
    json.dumps([manifest, document], ensure_ascii=False).encode()  # invalid Unicode is refused before anything is written
    place.results.mkdir(parents=True, exist_ok=True)
    bundle = create_bundle(place.results, manifest, items, created=moment(document))
    try:
        with open_writer(bundle) as writer:
            writer.append(records)
            results = results_of(read_run(bundle), place.access())
            verify(results, tasks, document, file)
            seconds = float(document.get("total_evaluation_time_seconds") or 0)
            writer.finish(
                {"results": results, "engine": {}, "tokens": {}, "seconds": {"engine": seconds}, "statuses": {"scored": len(items)}}
            )
        index(place.results, [bundle])
    except BaseException:
        shutil.rmtree(bundle)  # a refused file leaves nothing behind
        raise
    return bundle


def moment(document: Mapping[str, Any]) -> datetime | None:
    """When the run was made, if the file states it."""
    date = document.get("date")
    try:
        return datetime.fromtimestamp(date, UTC) if isinstance(date, int | float) and math.isfinite(date) else None
    except (OSError, ValueError, OverflowError):
        raise ValueError(f"date {date!r} is out of range") from None


def read_task(name: str, document: Mapping[str, Any], file: Path) -> ReportedTask:
    config = (document.get("configs") or {}).get(name) or {}
    stated = stated_of(document["results"][name])
    date = file.stem.removeprefix("results_")
    samples = read_samples(file.with_name(f"samples_{name}_{date}.jsonl"), name)
    counts = (document.get("n-samples") or {}).get(name) or {}
    docs = len({sample.doc_id for sample in samples})
    if samples and isinstance(counts.get("effective"), int) and counts["effective"] != docs:
        what = f"the samples have {docs} items of {name}, the results state {counts['effective']}"
        raise AssayError(what, where=str(file), do="import all files of one run, unchanged")
    scorers = [scorer for metric in stated if (scorer := find_scorer(metric, stated[metric], name, config, document, samples))]
    return ReportedTask(name, config, stated, tuple(scorers), samples, facts_of(name, config, document, samples, scorers, docs))


def find_scorer(
    metric: str, stated: float, task: str, config: Mapping[str, Any], document: Mapping[str, Any], samples: Sequence[Sampled]
) -> Scorer | None:
    """The scorer that recomputes the stated score from the samples; None if they do not allow it."""
    base, rows = of_metric(metric, samples)
    if not rows or any(base not in sample.row for sample in rows) or not check_values(base, rows, config, f"samples of {task}"):
        return None
    listed = {entry.get("metric"): entry for entry in config.get("metric_list") or () if isinstance(entry, Mapping)}
    named = listed.get(base, {}).get("aggregation", DEFAULTS.get(base))
    higher = ((document.get("higher_is_better") or {}).get(task) or {}).get(base, True)
    values = [sample.row[base] for sample in rows if not nonfinite(sample.row[base])]
    if not values:
        return None
    classes = max((len(sample.row.get("arguments") or ()) for sample in rows), default=0)
    better = "lower" if higher is False else "higher"
    scorer = scorer_of(metric, str(named), better, values, classes)
    if scorer is not None:
        return scorer
    guess = scorer_of(
        metric, "mean", better, values, classes
    )  # the aggregation is custom code; a plain mean is used if it gives the stated score
    if guess is None:
        return None
    mean = math.fsum(map(float, values)) / len(values)
    return guess if abs(mean - stated) <= TOLERANCE * max(1.0, abs(stated)) else None


def facts_of(
    name: str, config: Mapping[str, Any], document: Mapping[str, Any], samples: Sequence[Sampled], scorers: Sequence[Scorer], docs: int
) -> dict[str, Any]:
    """The task's entry in the manifest, in the form of a native run."""
    counts = (document.get("n-samples") or {}).get(name) or {}
    original, effective = (counts.get(word) if type(counts.get(word)) is int else None for word in ("original", "effective"))
    limited = (document["config"].get("limit") or 0) > 0 or (original is not None and docs < original)
    evidence = "aggregate" if not samples else "limited" if limited else "complete"
    if evidence == "complete" and None in (original, effective):
        evidence = "partial"  # the file does not state that these are all items
    if evidence == "complete" and any(map(broken_fields, samples)):
        evidence = "partial"  # an item without a finite value
    version = (document.get("versions") or {}).get(name)
    shots = (document.get("n-shot") or {}).get(name)
    data = sorted(json.dumps([sample.doc_id, sample.row.get("doc"), sample.row.get("target")], sort_keys=True) for sample in samples)
    prompts = sorted(json.dumps([sample.doc_id, sample.filter, sample.row.get("arguments")], sort_keys=True) for sample in samples)
    marks = [hashlib.sha256("\n".join(each).encode()).hexdigest()[:24] for each in (data, prompts)]
    metrics = [f"{metric.name} {metric.signature}".strip() for metric in map(metric_of, scorers)]
    head = json.dumps([name, version, shots, marks, metrics])
    return {
        "name": full_name(name),
        "version": version,
        "split": str(config.get("test_split") or config.get("validation_split") or ""),
        "origin": f"{config.get('dataset_path', '')}{'/' + str(config['dataset_name']) if config.get('dataset_name') else ''}",
        **(
            {"dataset": {"id": str(config["dataset_path"]), "config": str(config.get("dataset_name") or "default")}}
            if on_hub(config)
            else {}
        ),
        "data": marks[0],
        "shots": shots if isinstance(shots, int) else 0,
        "shots_order": "",
        "ask": f"{ask_of(samples)} {json.dumps(config.get('generation_kwargs') or {}, sort_keys=True)}",
        "metrics": metrics,
        "items": docs,
        "evidence": evidence,
        "purpose": "release",
        "labelled": True,
        "boundary_moved": 0,
        "shots_dropped": 0,
        "fingerprint": hashlib.sha256(head.encode()).hexdigest()[:24],
    }


def on_hub(config: Mapping[str, Any]) -> bool:
    """Whether the task's data are a data set of the hub, not local files."""
    path = config.get("dataset_path")
    return isinstance(path, str) and path not in ("", "json", "csv", "parquet", "text") and not path.startswith((".", "/"))


def ask_of(samples: Sequence[Sampled]) -> str:
    return samples[0].ask if samples else "choose"


def items_and_records(tasks: Sequence[ReportedTask]) -> tuple[list[Item], list[Record]]:
    """Items and records of all tasks; if no task has samples, one item with an error that says so, because a run needs an item."""
    items, records = [], []
    for task in tasks:
        by_doc: dict[Any, list[Sampled]] = {}
        for sample in task.samples:
            by_doc.setdefault(sample.doc_id, []).append(sample)
        for rows in by_doc.values():
            item, record = read_item(full_name(task.name), rows, task.scorers)
            items.append(item)
            records.append(record)
    if not items and tasks:
        name = full_name(tasks[0].name)
        items, records = (
            [Item(name, AGGREGATE_ITEM, AGGREGATE_ITEM, AGGREGATE_ITEM, "")],
            [Record(name, AGGREGATE_ITEM, "error", error="imported without samples")],
        )
    return items, records


def manifest_of(document: Mapping[str, Any], tasks: Sequence[ReportedTask], file: Path, sha256: str) -> dict[str, Any]:
    config = document["config"]
    arguments = config.get("model_args")
    name = str(document.get("model_name") or config.get("model") or "unknown")
    identity = [
        document.get("model_source"),
        name,
        config.get("model_sha"),
        config.get("model_revision"),
        config.get("model_dtype"),
        arguments,
    ]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    evidence = [task.facts["evidence"] for task in tasks]
    engine = f"lm-eval {config.get('model', '')}".strip()
    plan = Plan(model=name, tasks=tuple(full_name(task.name) for task in tasks), seed=int(config.get("random_seed") or 0), engine=engine)
    return {
        "plan": {**plan.as_json(), "dtype": str(config.get("model_dtype") or ""), "chat": document.get("chat_template") is not None},
        "plan_digest": plan.digest,
        "model": {
            "name": name,
            "path": name,
            "digest": f"imported-{digest[:40]}",
            "revision": str(config.get("model_revision") or ""),
            "adapter": str(arguments.get("peft", "")) if isinstance(arguments, Mapping) else "",
            "parameters": count_of(config.get("model_num_parameters")),
            "positions": count_of(document.get("max_length")),
            "tokenizer": "",
        },
        "engine": {"name": engine, "reason": "imported"},
        "tasks": [task.facts for task in tasks],
        "purpose": "release",
        "evidence": next((word for word in ("aggregate", "partial", "limited") if word in evidence), "complete"),
        "shard": "",
        "seed": int(config.get("random_seed") or 0),
        "chat": document.get("chat_template") is not None,
        "versions": {"lm_eval": str(document.get("lm_eval_version")), "transformers": str(document.get("transformers_version"))},
        "machine": {},
        "imported": {
            "from": "lm-eval",
            "version": str(document.get("lm_eval_version")),
            "file": file.name,
            "sha256": sha256,
            "tasks": [
                {"name": full_name(task.name), "ask": ask_of(task.samples), "scorers": [each.as_json() for each in task.scorers]}
                for task in tasks
            ],
            "totals": totals_of(document, tasks),
            "document": json.dumps(document),
        },
    }


def count_of(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def totals_of(document: Mapping[str, Any], tasks: Sequence[ReportedTask]) -> list[dict[str, Any]]:
    """lm-eval's groups as totals: the mean over members weighted by size, or unweighted if that is closer to the stated score."""
    members = {task.name: task for task in tasks}
    subtasks: Mapping[str, Any] = document.get("group_subtasks") or {}
    found = []
    for group, results in (document.get("groups") or {}).items():
        leaves = [members[name] for name in leaves_of(group, subtasks) if name in members]
        for position, (metric, value) in enumerate(stated_of(results).items()):
            if not leaves or any(metric not in {scorer.name for scorer in leaf.scorers} for leaf in leaves):
                continue
            sizes = [leaf.facts["items"] for leaf in leaves]
            scores = [leaf.stated[metric] for leaf in leaves]
            by_size = math.fsum(size * score for size, score in zip(sizes, scores, strict=True)) / sum(sizes)
            whole = abs(by_size - value) <= abs(math.fsum(scores) / len(scores) - value)
            terms = [[leaf.facts["name"], metric, 1.0 if whole else 1.0 / len(leaves)] for leaf in leaves]
            name = full_name(group if position == 0 else f"{group}:{metric}")
            found.append({"name": name, "group": group, "metric": metric, "terms": terms, "by_size": whole})
    return found


def leaves_of(group: str, subtasks: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> list[str]:
    if group in seen or not subtasks.get(group):
        return [group]
    found = [leaf for name in subtasks[group] for leaf in leaves_of(str(name), subtasks, seen | {group})]
    return list(dict.fromkeys(found))


def verify(results: Sequence[Mapping[str, Any]], tasks: Sequence[ReportedTask], document: Mapping[str, Any], file: Path) -> None:
    """Raises Invalid if a recomputed score is not the one that the file states."""
    stated = {(full_name(task.name), metric): value for task in tasks for metric, value in task.stated.items()}
    groups = document.get("groups") or {}
    for each in totals_of(document, tasks):
        stated[each["name"], "total"] = stated_of(groups[each["group"]])[each["metric"]]
    for result in results:
        reported, value = stated.get((result["task"], result["metric"])), result["value"]
        if (
            result["evidence"] != "aggregate"
            and reported is not None
            and value is not None
            and abs(reported - value) > TOLERANCE * max(1.0, abs(reported))
        ):
            what = f"{result['metric']} of {result['task']} is stated as {reported}, but its samples give {value}"
            raise Invalid(what, where=str(file), do="restore the unchanged results and samples, then import again")
