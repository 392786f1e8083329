"""One matcher finds repeated items for `check`, tuners and studies. Run: pytest tests/harness/task/test_matching.py"""

from __future__ import annotations

import pytest

from assay import Doc
from assay.harness.task.matching import Matcher, words_of

CAPITALS = (("France", "Paris"), ("Peru", "Lima"), ("Japan", "Tokyo"), ("Chad", "N'Djamena"), ("Cuba", "Havana"), ("Mali", "Bamako"))
TREES = ("alder", "birch", "cedar", "elm", "fir", "holly", "ivy")


def capitals(template: str) -> list[Doc]:
    return [Doc(template.format(country), references=(city,)) for country, city in CAPITALS]


def trees(form: str) -> list[Doc]:
    """Seven questions with four choices: listed in the prompt with letters, as continuations, or with the answer alone."""
    docs = []
    for number, tree in enumerate(TREES):
        question = f"Which bird built its nest in the {tree} behind the house of family {number * 11 + 3}?"
        names = tuple(f"{bird} of {tree} lane" for bird in ("heron", "wren", "crow", "swift"))
        if form == "letters":
            listed = "\n".join(f"{letter}. {name}" for letter, name in zip("ABCD", names, strict=True))
            docs.append(Doc(f"{question}\n{listed}\nAnswer:", choices=tuple("ABCD"), gold=number % 4))
        elif form == "choices":
            docs.append(Doc(f"Q: {question.upper()}", choices=names, gold=number % 4))
        else:
            docs.append(Doc(f"Question: {question}\nAnswer:", references=(names[number % 4],)))
    return docs


@pytest.mark.parametrize(
    "template",
    [
        "Question: What is the capital of {}? Answer:",
        "q - WHAT IS the capital of {}!! a",
        "Name the city. What is the capital of {}? Reply with one word only.",
    ],
)
def test_other_templates_case_and_punctuation_do_not_hide_a_repeated_item(template: str) -> None:
    pairs = Matcher(capitals("Q: What is the capital of {}?\nA:")).matches(capitals(template))
    assert pairs == [(number, number) for number in range(len(CAPITALS))]


@pytest.mark.parametrize("scored", ["letters", "choices", "answer"])
@pytest.mark.parametrize("trained", ["letters", "choices", "answer"])
def test_two_protocols_of_one_benchmark_share_their_items(scored: str, trained: str) -> None:
    assert Matcher(trees(scored)).matches(trees(trained)) == [(number, number) for number in range(len(TREES))]


def test_other_questions_are_no_repeats() -> None:
    cities = capitals("Q: What is the capital of {}?\nA:")
    presidents = [Doc(f"Question: Who is the president of {country}?", references=("a person",)) for country, _ in CAPITALS]
    assert Matcher(cities).matches(presidents) == []
    assert Matcher([Doc(f"max {n} 2 3 =", references=("3",)) for n in "4567891"]).matches([Doc("first 4 2 3 =", references=("4",))]) == []
    strings = [Doc(f"Copy: {text}") for text in ("0 1 1", "1 0 1", "1 1 0", "0 0 1", "1 0 0", "0 1 0")]
    assert Matcher(strings[:3]).matches(strings[3:]) == []


def test_operators_and_brackets_tell_items_apart() -> None:
    assert words_of("3 + 4 =") != words_of("3 - 4 =") and words_of("( [ ]") != words_of("( ( ]")
    assert words_of("A well-known “fact”, isn’t it?") == words_of("a WELL known fact isn't it")
    assert words_of("...") == (".", ".", ".") and words_of("3.5") != words_of("35")


def test_a_shared_passage_is_no_repeat() -> None:
    passage = "The river rises in the northern hills, passes three mills and a ruined bridge, and reaches the sea after ninety miles. "
    questions = ("Where does the river rise?", "How long is the river?", "What does the river pass before it reaches the sea?")
    one, other = ([Doc(f"{passage}{question}", references=(question[:5],)) for question in part] for part in (questions[:2], questions[2:]))
    assert Matcher(one).matches(other) == []


def test_single_rows_of_another_template_are_found_among_rows_of_the_same() -> None:
    """Both sets begin and end alike, as most rows do; two rows of the training set are scored items under a template of their own."""
    words = [f"{a}{b}" for a in ("ba", "do", "fe", "gi", "ku") for b in ("lan", "mor", "nik", "pus", "ral", "sen")]

    def row(number: int, head: str = "") -> Doc:
        return Doc(
            f"Question: {head}{' '.join(words[(number * each + 7 * number) % 30] for each in range(1, 18))}?\nAnswer:", references=("x",)
        )

    scored = [row(number) for number in range(12)]
    trained = [row(number) for number in range(40, 60)] + [row(3, "Read this and reply with a word. "), row(8, "Think first. Then reply. ")]
    found = Matcher(scored).matches(trained)
    assert [(item, other) for item, other in found if other >= 20] == [(3, 20), (8, 21)]
