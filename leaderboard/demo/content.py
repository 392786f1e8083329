"""Invented tasks: questions with four choices, questions to answer in text, and sentences to summarise."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

WORDS = (
    *("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "juniper"),
    *("kelp", "lagoon", "meadow", "nectar", "orchid", "pebble", "quartz", "reed", "slate", "thorn"),
)
NAMES = ("Ada", "Ben", "Chloe", "Dan", "Eva", "Finn")
MAKERS = ("glorb", "snib", "tavit", "wug", "zindle", "marn", "quop", "feld")
SHOTS = "Question: Which word comes first in the alphabet: reed, cedar or slate?\nAnswer: cedar\n\n"


@dataclass(frozen=True, slots=True)
class Question:
    """`wrong` are three other choices; empty if the answer is generated. `worked` is the reasoning that leads to the answer."""

    prompt: str
    answer: str
    wrong: tuple[str, ...] = ()
    worked: str = ""


@dataclass(frozen=True, slots=True)
class Invented:
    """One task. `difficulty` is the ability at which half of the items are known; `chance` the score of guessing."""

    name: str
    items: int
    difficulty: float
    write: Callable[[random.Random, int], Question]
    metric: str = "accuracy"
    chance: float = 0.25


def near(draw: random.Random, answer: int) -> tuple[str, ...]:
    return tuple(str(answer + step) for step in draw.sample([-11, -10, -2, -1, 1, 2, 9, 10, 12], 3))


def arithmetic(sign: str) -> Callable[[random.Random, int], Question]:
    def write(draw: random.Random, number: int) -> Question:
        high = 25 if sign == "×" else 400
        a, b = draw.randint(3, high), draw.randint(3, high)
        a, b = max(a, b), min(a, b)
        answer = {"+": a + b, "−": a - b, "×": a * b}[sign]
        return Question(f"Question: What is {a} {sign} {b}?\nAnswer:", str(answer), near(draw, answer))

    return write


def letters(place: int) -> Callable[[random.Random, int], Question]:
    def write(draw: random.Random, number: int) -> Question:
        word = draw.choice([each for each in WORDS if len(set(each)) >= 4])
        others = sorted({each for each in word if each != word[place]})
        which = {0: "first", -1: "last", 2: "third"}[place]
        return Question(f"{SHOTS}Question: What is the {which} letter of '{word}'?\nAnswer:", word[place], tuple(draw.sample(others, 3)))

    return write


def order(draw: random.Random, number: int) -> Question:
    four = draw.sample(WORDS, 4)
    first, *others = sorted(four)
    return Question(f"{SHOTS}Question: Which word comes first in the alphabet: {', '.join(four)}?\nAnswer:", first, tuple(others))


def plural(draw: random.Random, number: int) -> Question:
    stem = draw.choice(MAKERS)
    text = f"This is one {stem}. Here are {draw.randint(2, 9)} more"
    return Question(f"Complete the sentence ({number}). {text} …", f"{stem}s", (stem, f"{stem}en", f"{stem}ses"))


def tense(draw: random.Random, number: int) -> Question:
    stem, name = draw.choice(MAKERS), draw.choice(NAMES)
    text = f"Today {name} likes to {stem}. Yesterday, all day, {name}"
    return Question(f"Complete the sentence ({number}). {text} …", f"{stem}ed", (f"{stem}s", f"{stem}ing", f"will {stem}"))


def clock(step: int) -> Callable[[random.Random, int], Question]:
    def write(draw: random.Random, number: int) -> Question:
        start, minutes = draw.randint(0, 1439), draw.choice([35, 50, 75, 95, 140])
        word = "after" if step > 0 else "before"

        def shown(at: int) -> str:
            return f"{at // 60 % 24:02d}:{at % 60:02d}"

        right = (start + step * minutes) % 1440
        wrong = tuple(shown((right + gap) % 1440) for gap in (60, -60, 10))
        return Question(f"Question: What time is it {minutes} minutes {word} {shown(start)}?\nAnswer:", shown(right), wrong)

    return write


def chain(draw: random.Random, number: int) -> Question:
    people = draw.sample(NAMES, 4)
    facts = [f"{one} is taller than {two}." for one, two in pairwise(people)]
    shuffled = draw.sample(facts, 3)
    worked = " ".join(facts) + f" So the order is {' > '.join(people)}, and the shortest is {people[-1]}."
    return Question(f"{' '.join(shuffled)}\nQuestion {number}: Who is the shortest?\nAnswer:", people[-1], worked=worked)


def counting(draw: random.Random, number: int) -> Question:
    word = "".join(draw.choices("abcde", k=12))
    letter = draw.choice("abcde")
    places = [str(place + 1) for place, each in enumerate(word) if each == letter]
    worked = f"The letter {letter} is at the places {', '.join(places) or 'none'}: {len(places)} in all."
    return Question(f"Question: How often does '{letter}' occur in '{word}'?\nAnswer:", str(len(places)), worked=worked)


def keywords(draw: random.Random, number: int) -> Question:
    four = draw.sample(WORDS, 4)
    text = f"Between the {four[0]} and the {four[1]} they found a {four[2]}, which {draw.choice(NAMES)} took for a {four[3]}."
    return Question(f"Text {number}: {text}\nThe four nouns, in order:", " ".join(four))


TASKS = (
    Invented("arithmetic/add@demo", 100, 0.3, arithmetic("+")),
    Invented("arithmetic/subtract@demo", 100, 0.6, arithmetic("−")),
    Invented("arithmetic/multiply@demo", 100, 2.0, arithmetic("×")),
    Invented("letters/first@demo", 100, -2.2, letters(0)),
    Invented("letters/last@demo", 100, -0.4, letters(-1)),
    Invented("letters/third@demo", 100, 0.9, letters(2)),
    Invented("words/order@demo", 100, 0.1, order),
    Invented("words/plural@demo", 100, -0.9, plural),
    Invented("words/tense@demo", 100, 0.0, tense),
    Invented("clock/earlier@demo", 100, 1.1, clock(-1)),
    Invented("clock/later@demo", 100, 0.8, clock(1)),
    Invented("reasoning/chain@demo", 80, 0.9, chain, "exact_match", 0.0),
    Invented("reasoning/count@demo", 80, 1.2, counting, "exact_match", 0.0),
    Invented("summary/keywords@demo", 80, 0.2, keywords, "token_f1", 0.0),
)
