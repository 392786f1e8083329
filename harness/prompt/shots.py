"""Choose the few-shot examples of a task: one set for all items, unless the protocol draws per item."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from assay.harness.errors import AssayError
from assay.harness.prompt.item_shots import FewShotExamples, item_examples
from assay.harness.task.doc import Doc
from assay.harness.task.matching import question, words_of
from assay.harness.task.task import Task

__all__ = ["FewShotExamples", "choose_examples"]


def choose_examples(task: Task, count: int, pool: Sequence[Doc], scored: Sequence[Doc], seed: int) -> FewShotExamples:
    """Choose few-shot examples for every scored item from `pool` (the docs of `task.shots.split`; all of the scored split for "per_item").

    No item has itself or an item with the same question among its examples: the pool's next row takes the place of such a row, whatever the
    protocol. A scored question is an example of no item, unless the protocol fixes the rows ("first"). Raises AssayError if the pool has
    too few labelled rows.
    """
    if count == 0 or task.shots.order == "source":
        return FewShotExamples(lambda index: ())
    if task.shots.order == "per_item":
        return item_examples(pool, count, scored)
    excluded = {doc.prompt for doc in scored} if task.shots.order != "first" else set()
    usable = [doc for doc in pool if doc.labelled and doc.prompt not in excluded]
    if len(usable) < count:
        raise AssayError(
            f"{count} shots requested, but split {task.shots.split!r} has {len(usable)} usable rows",
            where=task.full_name,
            do=f"use --shots {len(usable)}" if usable else "use --shots 0, or a split for few-shot examples that is not scored",
        )
    draw = random.Random(f"{seed}:{task.name if task.varies is None else task.varies.of}")
    match task.shots.order:
        case "first":
            chosen = tuple(usable[:count])
        case "balanced":
            chosen = balanced_sample(usable, count, draw)
        case _:
            chosen = tuple(draw.sample(usable, count))
    taken = set(map(id, chosen))
    return without_own_answers(chosen, [doc for doc in usable if id(doc) not in taken], scored)


def without_own_answers(chosen: tuple[Doc, ...], rest: Sequence[Doc], scored: Sequence[Doc]) -> FewShotExamples:
    """`chosen` for every item but those whose question it shows: their rows of that question are replaced by the next of `rest`.

    Where `rest` has no other row, the item has fewer examples.
    """
    shown = set(map(question, chosen))
    prompts = {asked[0] for asked in shown}
    own = {index: asked for index, doc in enumerate(scored) if words_of(doc.prompt) in prompts and (asked := question(doc)) in shown}
    if not own:
        return FewShotExamples(lambda index: chosen)

    def examples(index: int) -> tuple[Doc, ...]:
        if index not in own:
            return chosen
        others = (doc for doc in rest if question(doc) != own[index])
        kept = (doc if question(doc) != own[index] else next(others, None) for doc in chosen)
        return tuple(doc for doc in kept if doc is not None)

    return FewShotExamples(examples, own.__contains__)


def balanced_sample(pool: Sequence[Doc], count: int, draw: random.Random) -> tuple[Doc, ...]:
    """Draw rows by HELM's rule: cycle over the labels by frequency (ties shuffled), drawing one row of each.

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
