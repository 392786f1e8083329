"""Which exemplars stand before a question. The same set for the whole task, unless the protocol draws per item."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

from assay.harness.errors import AssayError
from assay.harness.prompt.item_shots import per_item
from assay.harness.task.doc import Doc
from assay.harness.task.task import Task

Exemplars = Callable[[int], tuple[Doc, ...]]
"""Exemplars of the i-th scored item."""


def choose_exemplars(task: Task, count: int, pool: Sequence[Doc], scored: Sequence[Doc], seed: int) -> Exemplars:
    """The exemplars for every scored item, from `pool` (the docs of `task.shots.split`; all of the scored split for "per_item").

    Raises AssayError where the pool is too small or unlabelled. A question that is scored never becomes an exemplar, except
    where a protocol fixes the rows ("first").
    """
    if count == 0:
        return lambda index: ()
    if task.shots.order == "per_item":
        return per_item(pool, count)
    asked = {doc.prompt for doc in scored} if task.shots.order != "first" else set()
    usable = [doc for doc in pool if doc.labelled and doc.prompt not in asked]
    if len(usable) < count:
        raise AssayError(
            f"{count} shots asked for, but split {task.shots.split!r} has {len(usable)} usable rows",
            where=task.full_name,
            do=f"ask for at most {len(usable)} shots",
        )
    draw = random.Random(f"{seed}:{task.name if task.varies is None else task.varies.of}")
    match task.shots.order:
        case "first":
            chosen = tuple(usable[:count])
        case "balanced":
            chosen = balanced(usable, count, draw)
        case _:
            chosen = tuple(draw.sample(usable, count))
    return lambda index: chosen


def balanced(pool: Sequence[Doc], count: int, draw: random.Random) -> tuple[Doc, ...]:
    """HELM's rule: labels by frequency, ties shuffled; cycle over them, drawing one row each.

    Source: HELM src/helm/benchmark/adaptation/adapters/in_context_learning_adapter.py.
    """
    by_label: dict[str, list[Doc]] = defaultdict(list)
    for doc in pool:
        by_label[str(doc.meta.get("label", doc.answer))].append(doc)
    labels = list(by_label)
    draw.shuffle(labels)
    labels.sort(key=lambda label: -len(by_label[label]))
    for label in labels:
        draw.shuffle(by_label[label])
    chosen: list[Doc] = []
    while len(chosen) < count:
        chosen += [by_label[label].pop() for label in labels if by_label[label]][: count - len(chosen)]
    return tuple(chosen)
