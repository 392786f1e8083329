"""Checks for scored items that are also few-shot examples or training items, exactly, with other words or under another template."""

from __future__ import annotations

from assay.harness.checking.finding import Finding, Place, graded
from assay.harness.checking.task_data import TaskData
from assay.harness.task.matching import Matcher, question


def few_shot_overlap(data: TaskData) -> list[Finding]:
    """Findings for items whose own question is among their few-shot examples."""
    if not any(data.few_shot):
        return []
    examples = list({id(doc): doc for found in data.few_shot for doc in found}.values())
    numbers = {id(doc): number for number, doc in enumerate(examples)}
    twins: dict[int, set[int]] = {}
    for item, other in Matcher(data.docs).matches(examples):
        twins.setdefault(item, set()).add(other)
    same: list[Place] = []
    near: list[Place] = []
    for index, (doc, own) in enumerate(zip(data.docs, data.few_shot, strict=True)):
        shown = next((each for each in own if numbers[id(each)] in twins.get(index, ())), None)
        if shown is not None:
            (same if question(shown) == question(doc) else near).append(data.place(index, f"few-shot example {shown.id}"))
    name, n = data.task.full_name, len(data.docs)
    found = []
    if same:
        what = f"{len(same)} of {n} items have their own question among their few-shot examples"
        found.append(Finding("shot-is-test", "E", name, what, "draw few-shot examples from another split", tuple(same)))
    if near:
        what = f"{len(near)} of {n} items have their own question in other words or under another template among their few-shot examples"
        found.append(Finding("shot-is-test", graded(len(near), n, 0, 0.01) or "W", name, what, "remove the near copies", tuple(near)))
    return found


def training_overlap(data: TaskData) -> list[Finding]:
    """Findings for items that are also in the split for few-shot examples and training."""
    twins: dict[int, str] = {}
    for item, other in Matcher(data.docs).matches(data.pool) if data.pool else ():
        twins.setdefault(item, data.pool[other].id)
    places = tuple(data.place(number, f"same as {twin}") for number, twin in sorted(twins.items()))
    if not places:
        return []
    n = len(data.docs)
    level = graded(len(places), n, 0.005) or "I"
    what = f"{len(places)} of {n} items are also in {data.pool_split!r}"
    do = "remove them from the training split: tuning on them inflates scores"
    return [Finding("train-overlap", level, data.task.full_name, what, do, places)]


def overlap_findings(data: TaskData) -> list[Finding]:
    return [*few_shot_overlap(data), *training_overlap(data)]
