"""BIG-bench's exemplars: for every item its own, other items of the same pool, each with one of its right answers.

Source: package `bigbench` 1.0.0, api/json_task.py, make_nshot_dataset. One RandomState(42) first shuffles the pool, then serves its
items in that order, so the exemplars of an item depend on the whole pool, never on how many items are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc

SEED = 42


def draws(answers: Sequence[int], count: int) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Every item once, in the reference's order, with `count` pairs (another item, which of its answers).

    `answers` holds the number of right answers per item.
    """
    state = np.random.RandomState(SEED)
    for index in map(int, state.permutation(len(answers))):
        places = [int(place) for place in state.permutation(len(answers) - 1)[:count]]
        others = [place + (place >= index) for place in places]
        yield index, tuple((other, int(state.randint(answers[other]))) for other in others)


def with_answer(doc: Doc, number: int) -> Doc:
    """The doc as an exemplar that ends in one of its references, which for BIG-bench need not be the text of a choice."""
    if not doc.references:
        return doc
    return replace(doc, choices=(), gold=None, targets=(), references=(doc.references[number],))


def per_item(pool: Sequence[Doc], count: int) -> Callable[[int], tuple[Doc, ...]]:
    """Exemplars of the i-th item of the pool, drawn as far as asked. Raises AssayError where the pool is too small."""
    if len(pool) < count + 1:
        raise AssayError(f"{count} shots asked for, but there are only {len(pool)} items", do=f"ask for at most {len(pool) - 1} shots")
    source = draws([max(1, len(doc.references)) for doc in pool], count)
    drawn: dict[int, tuple[tuple[int, int], ...]] = {}

    def exemplars(index: int) -> tuple[Doc, ...]:
        while index not in drawn:
            drawn.update((next(source),))
        return tuple(with_answer(pool[other], number) for other, number in drawn[index])

    return exemplars
