"""Recompute the statistics of a stored run from its outputs, and compare its items with the task's data.

A run stores the rendered prompt, not the Doc's own. The Doc's prompt is known only where the task's rows are on this machine; without
them a metric that reads the prompt cannot be verified.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.run.prepare import PreparedTask, doc_fields, fingerprint, load_task
from assay.harness.run.scoring.measure import choice_scores, correctness, expected_value, measure, text_bytes
from assay.harness.run.scoring.signature import scorers
from assay.harness.run.selection import Selection
from assay.harness.stats.sampling import kept_docs, order_of
from assay.harness.store import Run
from assay.harness.store.bundle import item_set
from assay.harness.store.checking import equal_json
from assay.harness.store.plan import Plan
from assay.harness.store.read import content_errors
from assay.harness.store.record import UNMEASURED, Item, Record
from assay.harness.task.doc import Doc
from assay.harness.task.output import Completion, ExpectedValue, Loglikelihoods, Output, TextLogprob
from assay.harness.task.task import Choose, Generate, Loglikelihood, Perplexity, Regress, Task

UNSTORED_FIELDS = ("prompt", "inputs")
"""Fields of a Doc that a run does not store."""
PROMPT_CHANGES = ("moved", "dropped", "skipped", "cut", "joint")
"""Keys of an item's `doc` that describe its prompt, not its Doc."""


class Inconsistent(AssayError):
    """A stored result contradicts the run's own outputs or the task's data."""


class RecordingDoc(Doc):
    """A Doc that records which fields a metric reads. Without `has_prompt`, reading an unstored field is an error."""

    __slots__ = ("fields_read", "has_prompt")
    fields_read: list[str]
    has_prompt: bool

    def __getattribute__(self, name: str) -> Any:
        if name in (*UNSTORED_FIELDS, "meta"):
            object.__getattribute__(self, "fields_read").append(name)
            if name != "meta" and not object.__getattribute__(self, "has_prompt"):
                raise AttributeError(f"a stored item does not hold its Doc's {name}")
        return object.__getattribute__(self, name)


def recording(doc: Doc, has_prompt: bool) -> RecordingDoc:
    found = object.__new__(RecordingDoc)
    for field in fields(Doc):
        object.__setattr__(found, field.name, getattr(doc, field.name))
    object.__setattr__(found, "fields_read", [])
    object.__setattr__(found, "has_prompt", has_prompt)
    return found


def doc_of(item: Item) -> Doc:
    """The Doc of a stored item, without the fields that are not stored. Raises AssayError where its values fit no Doc."""
    stored = item.doc
    return Doc(
        "",
        item.choices,
        stored.get("gold"),
        tuple(stored.get("targets", ())),
        tuple(stored.get("references", ())),
        stored.get("value"),
        item.id,
        item.group,
        item.cluster,
        stored.get("meta", {}),
    )


def output_of(task: Task, doc: Doc, stored: Mapping[str, Any], joint: str = "") -> Output:
    """The output of a stored record. Raises Inconsistent where its parts contradict each other; KeyError or the like for malformed ones."""
    sums = tuple(math.fsum(values) for values in stored.get("logprobs", ()))
    match task.ask:
        case Choose() as ask:
            priors = tuple(stored.get("priors", ()))
            tokens = tuple(map(len, stored["logprobs"]))
            check_equal(len(sums), len(doc.choices), "log-probabilities", task, doc)
            check_equal(len(priors), len(sums) if ask.calibrate is not None else 0, "priors", task, doc)
            found = choice_scores(ask, doc, sums, tokens, priors)
            check_equal(stored["pick"], found.pick, "choice", task, doc)
            if "tied" in stored:
                check_equal(stored["tied"], list(found.tied), "tied choices", task, doc)
            return found
        case Loglikelihood() as ask:
            greedy = tuple(map(bool, stored.get("greedy", ())))
            check_equal(len(sums), len(doc.choices), "log-probabilities", task, doc)
            check_equal(len(greedy), len(sums) if ask.greedy else 0, "greedy choices", task, doc)
            return Loglikelihoods(sums, tuple(map(len, stored["logprobs"])), greedy)
        case Regress() as ask:
            check_equal(len(sums), len(ask.values), "log-probabilities", task, doc)
            check_equal(stored["value"], expected_value(ask, sums), "value", task, doc)
            return ExpectedValue(float(stored["value"]), sums)
        case Perplexity():
            check_equal(stored["bytes"], text_bytes(doc, joint), "bytes", task, doc)
            return TextLogprob(float(stored["logprob"]), int(stored["tokens"]), int(stored["bytes"]))
        case Generate():
            logprob = stored.get("logprob")
            return Completion(
                str(stored["text"]),
                str(stored["finish"]),
                int(stored["tokens"]),
                math.nan if logprob is None else float(logprob),
                tuple(stored.get("samples", ())),
            )


def check_equal(stored: Any, found: Any, what: str, task: Task, doc: Doc) -> None:
    if not equal_json(stored, found):
        message = f"the item {doc.id!r} of {task.full_name} stores {stored!r:.60} as its {what}, its output gives {found!r:.60}"
        raise Inconsistent(message, do="score the model again with `assay run`")


def check_record(task: Task, doc: Doc, record: Record, has_prompt: bool, joint: str = "") -> None:
    """Raises Inconsistent where a record's statistics are not those of its output; AssayError where that cannot be verified.

    `has_prompt`: `doc` was read from the task's data. Where a metric reads the prompt (it runs a program, or searches a text), a
    difference may have other causes, so it proves nothing.
    """
    recorded = recording(doc, has_prompt)
    output = output_of(task, doc, record.output, joint)
    stats = measure(task, recorded, output)
    try:
        check_equal(sorted(record.stats), sorted(stats), "metrics", task, doc)
        for name, values in stats.items():
            check_equal(list(record.stats[name]), list(values), name, task, doc)
        check_equal(record.correct, correctness(task, doc, output, stats), "correctness", task, doc)
    except Inconsistent as error:
        if any(name in UNSTORED_FIELDS or not has_prompt for name in recorded.fields_read):
            raise AssayError(error.what, where=error.where, do="score the model again with `assay run` to verify") from None
        raise


FindDocs = Callable[[Task, Mapping[str, Any]], Sequence[Doc] | None]
"""The Docs of a task with these facts, from its data; None where the data are not on this machine, or differ."""


def local_docs(access: Access) -> FindDocs:
    """Finds Docs in the data on this machine. Downloads nothing; reads every split once."""
    known: dict[tuple[str, str], tuple[str, Sequence[Doc]] | None] = {}

    def docs(task: Task, facts: Mapping[str, Any]) -> Sequence[Doc] | None:
        key = (task.full_name, facts["split"])
        if task.shots.order == "source":  # its Docs depend on the run's few-shot examples and chat
            return None
        if key not in known:
            plan = Plan(model="", tasks=(task.full_name,), split=facts["split"], shots=0)
            try:
                loaded = load_task(task, plan, replace(access, offline=True, allow_partial=True))
                known[key] = loaded.rows.digest, loaded.docs
            except AssayError:
                known[key] = None
        found = known[key]
        return found[1] if found is not None and found[0] == facts["data"] else None

    return docs


def check_stored_run(run: Run, selection: Selection, docs: FindDocs) -> None:
    """Raises Inconsistent for items that differ from the data and for statistics that differ from those of their outputs; AssayError
    where that cannot be verified: another version of the task is installed, or a metric needs data that are not on this machine."""
    items = run.items_by_task()
    records = {(record.task, record.item): record for record in run.records()}
    facts = {task["name"]: task for task in run.manifest["tasks"]}
    shard = bool(run.manifest["plan"].get("shard"))
    unverified: AssayError | None = None
    for task in selection.tasks:
        if task.full_name not in facts:
            continue
        stored, planned = facts[task.full_name], items.get(task.full_name, [])
        task = with_ties(task, stored)
        check_task_version(task, stored, planned, shard)
        if not shard and fingerprint(task, stored["split"], planned) != stored["fingerprint"]:
            what = f"the items of {task.full_name} are not those of its fingerprint"
            raise Inconsistent(what, do="score the model again with `assay run`")
        found = docs(task, stored)
        if found is not None:
            check_items(task, stored, planned, found, shard, run.manifest["plan"])
        known = {doc.id: doc for doc in found or ()}
        for item in planned:
            record = records[item.task, item.id]
            try:
                if record.status not in UNMEASURED:
                    doc = known.get(item.id) or doc_of(item)
                    check_record(task, doc, record, has_prompt=bool(known), joint=str(item.doc.get("joint", "")))
            except Inconsistent:
                raise
            except AssayError as error:
                unverified = unverified or error
    if unverified is not None:
        raise unverified


def with_ties(task: Task, facts: Mapping[str, Any]) -> Task:
    """The task with the tie rule of a stored run; in runs of earlier versions the first choice won."""
    if not isinstance(task.ask, Choose):
        return task
    return replace(task, ask=replace(task.ask, ties=facts.get("ties", "first")))


def check_task_version(task: Task, facts: Mapping[str, Any], items: Sequence[Item], shard: bool) -> None:
    """Raises AssayError where the installed task scores differently from the one that made the run."""
    metrics, stored = scorers(task, items), facts["metrics"]
    if shard and len(metrics) == len(stored):  # the facts also have the rules that items of other shards need
        metrics = [was if was.startswith(now) else now for now, was in zip(metrics, stored, strict=True)]
    now = {"version": task.version, "ask": repr(task.ask), "metrics": metrics}
    for name, value in now.items():
        if facts[name] != value:
            was, is_now = changed(facts[name], value)
            raise AssayError(
                f"{name} was {was}, is {is_now} here", where=task.full_name, do="install the version of the task that made the run"
            )


def changed(was: Any, now: Any) -> tuple[str, str]:
    """Two unequal values as texts; of lists of equal length, only the elements that differ."""
    pairs = list(zip(was, now, strict=True)) if isinstance(was, list) and isinstance(now, list) and len(was) == len(now) else [(was, now)]
    unequal = [pair for pair in pairs if pair[0] != pair[1]]
    return ", ".join(str(old) for old, _ in unequal), ", ".join(str(new) for _, new in unequal)


def check_items(
    task: Task, facts: Mapping[str, Any], planned: Sequence[Item], docs: Sequence[Doc], shard: bool, plan: Mapping[str, Any]
) -> None:
    """Raises Inconsistent where the items are not those that the plan selects (all in a complete run), or differ from their Docs."""
    do = "score the model again with `assay run`"
    known = {doc.id: doc for doc in docs}
    ids = [item.id for item in planned]
    if facts["evidence"] == "complete" and facts["items"] != len(docs):
        what = f"the run claims that the {facts['items']} items of {task.full_name} are all, the data have {len(docs)}"
        raise Inconsistent(what, do=do)
    if facts["evidence"] == "complete" or (task.varies is not None and order_of(plan) == "first"):
        selected = docs[: len(ids)]
    elif task.varies is None:
        selected = [docs[number] for number in kept_docs(docs, Plan.from_json(plan))]
    else:  # the sample is of the originals
        selected = [known[id] for id in ids if id in known]
    if not known.keys() >= set(ids) or (not shard and ids != [doc.id for doc in selected]):
        raise Inconsistent(f"the items of {task.full_name} are not those of the data", do=do)
    if facts["evidence"] == "complete" and any("skipped" in item.doc or "cut" in item.doc for item in planned):
        raise Inconsistent(f"the run of {task.full_name} claims to be complete, but items were skipped or cut", do=do)
    for item in planned:
        doc = known[item.id]
        stored = {name: value for name, value in item.doc.items() if name not in PROMPT_CHANGES}
        gold = doc.answer if doc.labelled else ""
        ours = (item.group, item.cluster, item.choices, item.gold, json.dumps(stored, sort_keys=True))
        if ours != (doc.group, doc.cluster, doc.choices, gold, json.dumps(as_stored(doc), sort_keys=True)):
            raise Inconsistent(f"the item {item.id!r} of {task.full_name} differs from the data", do=do)


def as_stored(doc: Doc) -> Any:
    return json.loads(json.dumps(doc_fields(doc, {})))


def inconsistent_records(tasks: Sequence[PreparedTask], run: Run) -> frozenset[tuple[str, str]]:
    """(task, item) of the records of an unfinished run whose statistics are not those of their outputs; they must be scored again.

    Raises AssayError where the stored items are not those of the tasks.
    """
    prepared = {(each.item.task, each.item.id): (task.task, each) for task in tasks for each in task.items}
    if item_set([each.item for task in tasks for each in task.items]) != item_set(run.items()):
        raise AssayError("the stored items are not those of the tasks", where=str(run.path), do="start a new run")
    found = set()
    for record in run.records():
        if record.status in UNMEASURED:
            continue
        task, each = prepared[record.task, record.item]
        try:
            with content_errors(run.path):
                check_record(task, each.doc, record, has_prompt=True, joint=str(each.item.doc.get("joint", "")))
        except AssayError:
            found.add((record.task, record.item))
    return frozenset(found)
