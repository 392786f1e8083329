"""Merge the shards of one plan into one run, equal to the run of a single process."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError, Incomplete
from assay.harness.files.places import Surroundings
from assay.harness.run.manifest import summary_of
from assay.harness.run.proof import together
from assay.harness.run.scoring.results import rescore, weakest_evidence
from assay.harness.store import Run, create_bundle, index, open_writer, read_run
from assay.harness.store.plan import Plan
from assay.harness.store.record import Item, Record

MUST_AGREE = ("model", "engine", "tasks", "seed", "chat", "versions")
"""Manifest fields that must be equal in all shards of a run."""


def merge(parts: Sequence[Path], place: Surroundings) -> Path:
    """Merge complete shards into a new run of the store; the shards stay.

    Raises AssayError where shards are missing, given twice or of different runs, Incomplete where one is not finished.
    """
    runs = sorted((read_run(path) for path in parts), key=lambda run: Plan.from_json(run.manifest["plan"]).part())
    check_parts(runs)
    items, records = merged(runs)
    plan = replace(Plan.from_json(runs[0].manifest["plan"]), shard="")
    evidence = [task["evidence"] for task in runs[0].manifest["tasks"]]
    manifest = {
        **{key: value for key, value in runs[0].manifest.items() if key not in ("run", "created_at", "items", "item_set", "schema")},
        "plan": plan.as_json(),
        "plan_digest": plan.digest,
        "evidence": weakest_evidence(evidence),
        "shard": "",
        "parts": [run.id for run in runs],
    }
    bundle = create_bundle(place.results, manifest, items)
    try:
        with open_writer(bundle) as writer:
            writer.append(records)
            writer.finish(merged_summary(read_run(bundle), runs, records, place))
        index(place.results, [bundle])
    except BaseException:
        shutil.rmtree(bundle)  # the shards are still there
        raise
    return bundle


def check_parts(runs: Sequence[Run]) -> None:
    """Raises AssayError or Incomplete unless every shard of one plan is there once and finished."""
    if not runs:
        raise AssayError("no shards to merge", do="name the runs that were made with --shard i/n")
    for run in runs:
        if not run.manifest["plan"].get("shard"):
            raise AssayError("is a whole run, not a shard", where=run.id, do="name runs that were made with --shard i/n")
    first = runs[0]
    places = [Plan.from_json(run.manifest["plan"]).part() for run in runs]
    count = places[0][1]
    missing = [f"{number + 1}/{count}" for number in range(count) if (number, count) not in places]
    if missing or len(places) != count:
        have = ", ".join(run.manifest["plan"].get("shard") or "whole" for run in runs)
        raise AssayError(f"these are not the {count} shards of one run (found: {have})", do=f"missing: {', '.join(missing) or 'none'}")
    for run in runs:
        if run.status != "complete":
            raise Incomplete("this shard is not finished", where=run.id, do=f"assay resume {run.id}")
        for field in MUST_AGREE:
            if run.manifest[field] != first.manifest[field]:
                raise AssayError(f"{field} differs from that of {first.id}", where=run.id, do="merge only shards of one run")


def merged(runs: Sequence[Run]) -> tuple[list[Item], list[Record]]:
    """Items and records of all shards, task by task in the plan's order."""
    order = {task["name"]: number for number, task in enumerate(runs[0].manifest["tasks"])}
    items = sorted((item for run in runs for item in run.items()), key=lambda item: order[item.task])
    found = {(record.task, record.item): record for run in runs for record in run.records()}
    return items, [found[item.task, item.id] for item in items]


def merged_summary(run: Run, parts: Sequence[Run], records: Sequence[Record], place: Surroundings) -> Mapping[str, Any]:
    """The summary of the merged run: tokens and seconds are summed over the shards."""
    tokens, seconds = Counter[str](), Counter[str]()
    summaries = [part.summary() for part in parts]
    for each in summaries:
        tokens.update(each["tokens"])
        seconds.update(each["seconds"])
    engine = summaries[0]["engine"]
    results = rescore(run, place.access(allow_partial=True), engine)
    return summary_of(records, results, engine, tokens, seconds, together([each.get("proof", {}) for each in summaries]))
