"""No item is shown its own question among its few-shot examples, whatever the protocol and the split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from assay import Doc, Generate, Shots, Task, exact_match, inline
from assay.harness.errors import AssayError
from assay.harness.prompt.item_shots import draws
from assay.harness.prompt.shots import choose_examples
from assay.harness.task.matching import question


def docs(*questions: str) -> list[Doc]:
    return [Doc(text, references=(f"answer {n}",), id=f"i{n}") for n, text in enumerate(questions)]


def task(order: Any, split: str = "test") -> Task:
    return Task("t", inline(test=[{}]), lambda row: Doc("q"), Generate(4), (exact_match,), shots=Shots(2, split=split, order=order))


def prompts(examples: Sequence[Doc]) -> list[str]:
    return [doc.prompt for doc in examples]


def test_the_first_rows_of_the_scored_split_are_replaced_for_themselves_only() -> None:
    scored = docs("A?", "B?", "C?", "D?")
    chosen = choose_examples(task("first"), 2, scored, scored, 0)
    assert [prompts(chosen(n)) for n in range(4)] == [["C?", "B?"], ["A?", "C?"], ["A?", "B?"], ["A?", "B?"]]
    assert [chosen.changed(n) for n in range(4)] == [True, True, False, False]


def test_a_copy_of_the_item_in_another_split_is_replaced_too() -> None:
    pool = docs("What is  two, plus two?", "Sky?", "Sea?")
    scored = docs("what is two plus TWO", "Other?")
    for order in ("first", "seeded", "balanced"):
        for seed in range(5):
            chosen = choose_examples(task(order, "train"), 2, pool, scored, seed)
            assert question(scored[0]) not in map(question, chosen(0)) and len(chosen(0)) == 2
            assert chosen(1) == choose_examples(task(order, "train"), 2, pool, scored[1:], seed)(0)
            assert not chosen.changed(1)


def test_operators_and_choices_tell_items_apart() -> None:
    assert question(Doc("2 + 2")) != question(Doc("2 - 2"))
    assert question(Doc("Which?", choices=("a", "b"))) == question(Doc("which", choices=("b", "A")))
    assert question(Doc("Which?", choices=("a", "b"))) != question(Doc("Which?", choices=("a", "c")))
    assert question(Doc("", references=("one text",))) != question(Doc("", references=("another",)))


def test_an_item_has_fewer_examples_where_the_pool_has_no_other() -> None:
    pool = docs("A?", "B?")
    chosen = choose_examples(task("first", "dev"), 2, pool, docs("A?"), 0)
    assert prompts(chosen(0)) == ["B?"] and chosen.changed(0)


def test_a_split_that_is_scored_as_a_whole_gives_no_seeded_examples() -> None:
    scored = docs("A?", "B?", "C?")
    with pytest.raises(AssayError, match=r"0 usable rows.*--shots 0, or a split for few-shot examples that is not scored"):
        choose_examples(task("seeded"), 2, scored, scored, 0)


def test_examples_per_item_skip_copies_of_the_item_and_keep_the_other_draws() -> None:
    pool = docs(*(f"Q{n % 5}?" for n in range(10)))  # every question twice
    chosen = choose_examples(task("per_item"), 4, pool, pool, 0)
    kept = dict(draws([1] * 10, 4))
    for n, doc in enumerate(pool):
        twin = (n + 5) % 10
        drawn = [other for other, _ in kept[n]]
        assert doc.prompt not in prompts(chosen(n)) and len(chosen(n)) == 4
        assert chosen.changed(n) == (twin in drawn)
        assert [pool[other].prompt for other in drawn if other != twin] == [
            example.prompt for example, other in zip(chosen(n), drawn, strict=True) if other != twin
        ]


def test_examples_per_item_are_found_by_id_when_only_some_items_are_scored() -> None:
    pool = docs(*(f"Q{n}?" for n in range(10)))
    whole = choose_examples(task("per_item"), 3, pool, pool, 0)
    some = choose_examples(task("per_item"), 3, pool, [pool[7], pool[2]], 0)
    assert (some(0), some(1)) == (whole(7), whole(2))


def test_the_seed_still_decides_the_fixed_set() -> None:
    pool, scored = docs(*(f"P{n}?" for n in range(50))), [replace(doc, prompt=f"S {doc.prompt}") for doc in docs("x?", "y?")]
    sets = [choose_examples(task("seeded", "train"), 5, pool, scored, seed) for seed in (0, 0, 1)]
    assert sets[0](0) == sets[1](1) != sets[2](0)
