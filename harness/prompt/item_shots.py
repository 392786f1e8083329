"""Few-shot examples of BIG-bench: every item gets other items of the same pool, each with one of its correct answers.

Source: package `bigbench` 1.0.0, api/json_task.py, make_nshot_dataset. One RandomState(42) shuffles the pool, then draws for the items
in that order, so the few-shot examples of an item depend on the whole pool, not on how many items are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc

SEED = 42


def draws(answers: Sequence[int], count: int) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Yield every item once, in the reference's order, with `count` pairs (index of another item, index of one of its answers).

    `answers` is the number of correct answers per item.
    """
    state = np.random.RandomState(SEED)
    for index in map(int, state.permutation(len(answers))):
        places = [int(place) for place in state.permutation(len(answers) - 1)[:count]]
        others = [place + (place >= index) for place in places]
        yield index, tuple((other, int(state.randint(answers[other]))) for other in others)


def with_answer(doc: Doc, number: int) -> Doc:
    """Return the doc as a few-shot example that ends in one of its references, which in BIG-bench may differ from every choice."""
    if not doc.references:
        return doc
    return replace(doc, choices=(), gold=None, targets=(), references=(doc.references[number],))


def item_examples(pool: Sequence[Doc], count: int) -> Callable[[int], tuple[Doc, ...]]:
    """Return a function from the index of an item of the pool to its few-shot examples. Raises AssayError if the pool is too small."""
    if len(pool) < count + 1:
        raise AssayError(
            f"{count} shots requested, but there are only {len(pool)} items", do=f"use --shots {max(0, len(pool) - 1)} or less"
        )
    source = draws([max(1, len(doc.references)) for doc in pool], count)
    drawn: dict[int, tuple[tuple[int, int], ...]] = {}

    def examples(index: int) -> tuple[Doc, ...]:
        while index not in drawn:
            drawn.update((next(source),))
        return tuple(with_answer(pool[other], number) for other, number in drawn[index])

    return examples
