"""Few-shot examples of BIG-bench: every item gets other items of the same pool, each with one of its correct answers.

Source: package `bigbench` 1.0.0, api/json_task.py, make_nshot_dataset. One RandomState(42) shuffles the pool, then draws for the items
in that order, so the few-shot examples of an item depend on the whole pool, not on how many items are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.matching import question

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


@dataclass(frozen=True, slots=True)
class FewShotExamples:
    """A function from the index of a scored item to its few-shot examples."""

    of: Callable[[int], tuple[Doc, ...]]
    changed: Callable[[int], bool] = lambda index: False
    """Whether the item's own question was among the examples of its protocol, so that others took their place."""

    def __call__(self, index: int) -> tuple[Doc, ...]:
        return self.of(index)


def item_examples(pool: Sequence[Doc], count: int, scored: Sequence[Doc] = ()) -> FewShotExamples:
    """The few-shot examples of every item of `scored` (default: of the pool), which are items of the pool.

    An example that the reference draws and that has the item's own question is replaced by the next row of the pool that has another.
    Raises AssayError if the pool is too small.
    """
    if len(pool) < count + 1:
        raise AssayError(
            f"{count} shots requested, but there are only {len(pool)} items", do=f"use --shots {max(0, len(pool) - 1)} or less"
        )
    source = draws([max(1, len(doc.references)) for doc in pool], count)
    questions = [question(doc) for doc in pool]
    rows = {doc.id: row for row, doc in enumerate(pool) if doc.id}
    drawn: dict[int, tuple[tuple[int, int], ...]] = {}

    def draw(index: int) -> tuple[int, tuple[tuple[int, int], ...]]:
        row = rows.get(scored[index].id, index) if scored else index
        while row not in drawn:
            drawn.update((next(source),))
        return row, drawn[row]

    def changed(index: int) -> bool:
        row, pairs = draw(index)
        return any(questions[other] == questions[row] for other, _ in pairs)

    def of(index: int) -> tuple[Doc, ...]:
        row, pairs = draw(index)
        taken = {row, *(other for other, _ in pairs)}
        others = ((n, 0) for n in range(len(pool)) if n not in taken and questions[n] != questions[row])
        kept = (pair if questions[pair[0]] != questions[row] else next(others, None) for pair in pairs)
        return tuple(with_answer(pool[pair[0]], pair[1]) for pair in kept if pair is not None)

    return FewShotExamples(of, changed)
