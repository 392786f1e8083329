"""The results of any stored run again, from its items alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from harness.errors import AssayError, Invalid
from harness.exchange.aggregations import Scorer
from harness.exchange.agreement import check_values
from harness.exchange.lm_eval import full_name, results_of
from harness.exchange.lm_eval_items import of_metric, read_item, samples_of
from harness.exchange.outgoing import answered
from harness.exchange.selection import is_imported, selection_of
from harness.record import Item, Record
from harness.remeasure import Asked, Lie, docs_here, refuse_lies
from harness.score import rescore
from harness.source import Access
from harness.store import Run
from harness.store.checking import compare
from harness.store.read import sound


def verify(access: Access) -> Callable[[Run], str]:
    """Says of a run which stored result or statistic its items do not give, or nothing.

    Raises AssayError where that cannot be told: a scorer is not installed, or needs data that are not here.
    """
    docs = docs_here(access)

    def differing(run: Run) -> str:
        with sound(run.path):
            unsure: AssayError | None = None
            try:
                refuse_false(run, access, docs)
            except Lie as lie:
                return lie.what
            except AssayError as error:
                unsure = error
            found = next((problem.what for problem in compare(run, results_again(run, access))), "")
            if unsure is not None and not found:
                raise unsure
            return found

    return differing


def recompute(run: Run, access: Access, docs: Asked | None = None) -> list[dict[str, Any]]:
    """What summary.json must hold. Raises AssayError where a task is unknown, or statistics are not what the stored answers give."""
    with sound(run.path):
        refuse_false(run, access, docs or docs_here(access))
        return results_again(run, access)


def results_again(run: Run, access: Access) -> list[dict[str, Any]]:
    if run.manifest["plan"].get("shard"):  # a part has no score of its own
        return []
    return results_of(run, access) if is_imported(run.manifest) else rescore(run, access)


def refuse_false(run: Run, access: Access, docs: Asked) -> None:
    """Raises Lie where statistics are not what the stored answers give, AssayError where that cannot be told."""
    if is_imported(run.manifest):
        refuse_imported(run)
    else:
        refuse_lies(run, selection_of(run, access), docs)


def refuse_imported(run: Run) -> None:
    """The same for an import: its items and records must be what the samples in them make, and those must agree with themselves."""
    told = run.manifest["imported"]
    document = json.loads(told["document"])
    configs = {full_name(name): config for name, config in (document.get("configs") or {}).items()}
    scorers = {task["name"]: [Scorer(**each) for each in task["scorers"]] for task in told["tasks"]}
    for item, record in answered(run):
        rows, own = samples_of(item, record), scorers[item.task]
        if not rows or as_text(*read_item(item.task, rows, own)) != as_text(item, record):
            raise Lie(f"the item {item.id!r} of {item.task} is not what its samples make", do="import the files again")
        for scorer in own:
            base, kept = of_metric(scorer.name, rows)
            try:
                readable = check_values(base, kept, configs.get(item.task) or {}, f"samples of {item.task}")
            except Invalid as error:
                raise Lie(f"{error.where}: {error.what}", do="import the files again") from None
            if not readable:
                raise Lie(f"which choice of the item {item.id!r} of {item.task} is right cannot be read", do="import the files again")


def as_text(item: Item, record: Record) -> str:
    """What of an imported item comes from its samples; as text, in which lists and tuples are alike."""
    item_part = {field.name: getattr(item, field.name) for field in fields(item) if field.name not in ("shots", "key")}
    return json.dumps([item_part, record.status, record.output, record.stats, record.correct], sort_keys=True, default=list)
