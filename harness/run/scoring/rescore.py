"""Stored answers are measured again: do they give the statistics that a run holds, and are its items those of the data?

What was sent is stored as text, so a Doc's own prompt is not. It is known where the task's rows are here; where they are not, a
metric that reads it can be neither confirmed nor refuted.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.places import Access
from assay.harness.run.prepare import PreparedTask, ask_task, extras, fingerprint
from assay.harness.run.scoring.measure import correctness, expected_value, measure, pick_choice
from assay.harness.run.selection import Selection
from assay.harness.store import Run
from assay.harness.store.bundle import item_set
from assay.harness.store.checking import same
from assay.harness.store.plan import Plan
from assay.harness.store.read import sound
from assay.harness.store.record import Item, Record
from assay.harness.task.doc import Doc
from assay.harness.task.output import ChoiceScores, Completion, ExpectedValue, Output, TextLogprob
from assay.harness.task.task import Choose, Generate, Perplexity, Regress, Task

UNSTORED = ("prompt", "inputs")
HAPPENED = ("moved", "dropped")
"""What an item's `doc` tells beside its Doc: what became of the prompt."""


class Lie(AssayError):
    """A run holds what its own answers, or the data, do not give."""


class Watched(Doc):
    """A Doc that notes what a metric reads of it; one made from a stored item has no prompt to give."""

    __slots__ = ("seen", "whole")
    seen: list[str]
    whole: bool

    def __getattribute__(self, name: str) -> Any:
        if name in (*UNSTORED, "meta"):
            object.__getattribute__(self, "seen").append(name)
            if name != "meta" and not object.__getattribute__(self, "whole"):
                raise AttributeError("a stored item does not hold the question's own text")
        return object.__getattribute__(self, name)


def watched(doc: Doc, whole: bool) -> Watched:
    found = object.__new__(Watched)
    for field in fields(Doc):
        object.__setattr__(found, field.name, getattr(doc, field.name))
    object.__setattr__(found, "seen", [])
    object.__setattr__(found, "whole", whole)
    return found


def doc_of(item: Item) -> Doc:
    """The Doc that an item was made of, as far as it is stored. Raises AssayError where it is none."""
    told = item.doc
    return Doc(
        "",
        item.choices,
        told.get("gold"),
        tuple(told.get("targets", ())),
        tuple(told.get("references", ())),
        told.get("value"),
        item.id,
        item.group,
        item.cluster,
        told.get("meta", {}),
    )


def output_of(task: Task, doc: Doc, stored: Mapping[str, Any]) -> Output:
    """What the model said, from its stored record. Raises Lie where the record's own parts differ; KeyError and such for no record."""
    sums = tuple(math.fsum(values) for values in stored.get("logprobs", ()))
    match task.ask:
        case Choose() as ask:
            priors = tuple(stored.get("priors", ()))
            tokens = tuple(map(len, stored["logprobs"]))
            agree(len(sums), len(doc.choices), "log-probabilities", task, doc)
            agree(len(priors), len(sums) if ask.calibrate is not None else 0, "priors", task, doc)
            pick = pick_choice(ask, doc, sums, tokens, priors)
            agree(stored["pick"], pick, "choice", task, doc)
            return ChoiceScores(sums, tokens, pick, priors)
        case Regress() as ask:
            agree(len(sums), len(ask.values), "log-probabilities", task, doc)
            agree(stored["value"], expected_value(ask, sums), "value", task, doc)
            return ExpectedValue(float(stored["value"]), sums)
        case Perplexity():
            agree(stored["bytes"], len(doc.references[0].encode()), "bytes", task, doc)
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


def agree(stored: Any, found: Any, what: str, task: Task, doc: Doc) -> None:
    if not same(stored, found):
        told = f"the item {doc.id!r} of {task.full_name} holds {stored!r:.60} as its {what}, its answer gives {found!r:.60}"
        raise Lie(told, do="trust the answers; score the model anew")


def unlike(task: Task, doc: Doc, record: Record, whole: bool) -> None:
    """Raises Lie where a record's statistics are not what its answer gives; AssayError where that cannot be told.

    A `whole` doc came from the data. Where the prompt is read (a program that is run, a text that is searched) a difference may have
    other causes: it is no lie, and no confirmation either.
    """
    seen = watched(doc, whole)
    output = output_of(task, doc, record.output)
    stats = measure(task, seen, output)
    try:
        agree(sorted(record.stats), sorted(stats), "metrics", task, doc)
        for name, values in stats.items():
            agree(list(record.stats[name]), list(values), name, task, doc)
        agree(record.correct, correctness(task, doc, output, stats), "correctness", task, doc)
    except Lie as lie:
        if any(name in UNSTORED or not whole for name in seen.seen):
            raise AssayError(lie.what, where=lie.where, do="score the model anew to know") from None
        raise


Asked = Callable[[Task, Mapping[str, Any]], Sequence[Doc] | None]


def docs_here(access: Access) -> Asked:
    """The docs of a task as its data on this machine give them, by its facts; None where the data are not here, or are others.

    Nothing is fetched. Every split is read once.
    """
    known: dict[tuple[str, str], tuple[str, Sequence[Doc]] | None] = {}

    def docs(task: Task, facts: Mapping[str, Any]) -> Sequence[Doc] | None:
        key = (task.full_name, facts["split"])
        if key not in known:
            plan = Plan(model="", tasks=(task.full_name,), split=facts["split"], shots=0)
            try:
                asked = ask_task(task, plan, replace(access, offline=True, allow_partial=True))
                known[key] = asked.rows.digest, asked.docs
            except AssayError:
                known[key] = None
        found = known[key]
        return found[1] if found is not None and found[0] == facts["data"] else None

    return docs


def refuse_lies(run: Run, selection: Selection, docs: Asked) -> None:
    """Raises Lie for items that are not those of the data and for statistics that their answers do not give; AssayError where that
    cannot be told here: another version of the task is installed, or a metric needs data that are not here."""
    items: dict[str, list[Item]] = defaultdict(list)
    for item in run.items():
        items[item.task].append(item)
    records = {(record.task, record.item): record for record in run.records()}
    facts = {task["name"]: task for task in run.manifest["tasks"]}
    shard = bool(run.manifest["plan"].get("shard"))
    unsure: AssayError | None = None
    for task in selection.tasks:
        if task.full_name not in facts:
            continue
        told, planned = facts[task.full_name], items[task.full_name]
        refuse_other_version(task, told)
        if not shard and fingerprint(task, told["split"], planned) != told["fingerprint"]:
            raise Lie(f"the items of {task.full_name} are not those of its fingerprint", do="score the model anew")
        true = docs(task, told)
        if true is not None:
            refuse_other_items(task, told, planned, true, shard)
        known = {doc.id: doc for doc in true or ()}
        for item in planned:
            record = records[item.task, item.id]
            try:
                if record.status != "error":
                    unlike(task, known.get(item.id) or doc_of(item), record, whole=bool(known))
            except Lie:
                raise
            except AssayError as error:
                unsure = unsure or error
    if unsure is not None:
        raise unsure


def refuse_other_version(task: Task, facts: Mapping[str, Any]) -> None:
    now = {
        "version": task.version,
        "ask": repr(task.ask),
        "metrics": [f"{metric.name} {metric.signature}".strip() for metric in task.metrics],
    }
    for name, value in now.items():
        if facts[name] != value:
            what = f"{name} was {facts[name]!r:.80}, is {value!r:.80} here"
            raise AssayError(what, where=task.full_name, do="install the version of the task that made the run")


def refuse_other_items(task: Task, facts: Mapping[str, Any], planned: Sequence[Item], docs: Sequence[Doc], shard: bool) -> None:
    """Raises Lie where items are not the first of the data, or all of them where the run says so; or ask for another answer."""
    known = {doc.id: doc for doc in docs}
    ids = [item.id for item in planned]
    if facts["evidence"] == "complete" and facts["items"] != len(docs):
        what = f"the run says that the {facts['items']} items of {task.full_name} are all, the data have {len(docs)}"
        raise Lie(what, do="score the model anew")
    if not known.keys() >= set(ids) or (not shard and ids != [doc.id for doc in docs[: len(ids)]]):
        raise Lie(f"the items of {task.full_name} are not those of the data", do="score the model anew")
    for item in planned:
        doc = known[item.id]
        stored = {name: value for name, value in item.doc.items() if name not in HAPPENED}
        gold = doc.answer if doc.labelled else ""
        told = (item.group, item.cluster, item.choices, item.gold, json.dumps(stored, sort_keys=True))
        if told != (doc.group, doc.cluster, doc.choices, gold, json.dumps(as_stored(doc), sort_keys=True)):
            raise Lie(f"the item {item.id!r} of {task.full_name} is not that of the data", do="score the model anew")


def as_stored(doc: Doc) -> Any:
    return json.loads(json.dumps(extras(doc, 0, 0)))


def altered(tasks: Sequence[PreparedTask], run: Run) -> frozenset[tuple[str, str]]:
    """(task, item) of the records of an unfinished run whose statistics are not what their answers give: they are asked again.

    Raises AssayError where the run's items are not those that its tasks give.
    """
    prepared = {(each.item.task, each.item.id): (task.task, each.doc) for task in tasks for each in task.items}
    if item_set([each.item for task in tasks for each in task.items]) != item_set(run.items()):
        raise AssayError("the stored items are not those of the tasks", where=str(run.path), do="start a new run")
    found = set()
    for record in run.records():
        if record.status == "error":
            continue
        task, doc = prepared[record.task, record.item]
        try:
            with sound(run.path):
                unlike(task, doc, record, whole=True)
        except AssayError:
            found.add((record.task, record.item))
    return frozenset(found)
