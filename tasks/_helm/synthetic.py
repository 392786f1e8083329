"""HELM's synthetic scenarios: pattern reasoning and Dyck words. No data are needed: rows are generated from HELM's parameters.

Random numbers are drawn in HELM's order, so the items equal those of its scenarios (seed 42). Sources: crfm-helm 0.5,
scenarios/synthetic_reasoning_scenario.py (after Wu et al. 2021, LIME) and scenarios/dyck_language_scenario.py (after Suzgun et al. 2019).
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from assay import Doc, Generate, Layout, Shots, Task, exact_match, made
from assay.harness.metrics.text import exact_match_indicator, quasi_exact_match, quasi_exact_match_symbols
from assay.tasks._helm.common import FIVE_SHOTS, ask_after, instructions, scenario, worked

if TYPE_CHECKING:
    from assay.harness.task.doc import Row

ANIMALS = ["zebra", "cobra", "stork", "penguin", "shark", "lion", "buffalo", "whale", "seal", "eagle", "horse", "rat"]
FRUITS = ["apple", "peach", "watermelon", "banana", "grape", "kiwi", "pear", "strawberry", "blueberry", "blackberry"]
WORDS = ANIMALS + FRUITS
SYMBOLS, SIGNS = ["X", "Y", "Z"], ["+", "-", "*", "="]
MODES = ("pattern_match", "variable_substitution", "induction")
SIZES = {"train": range(0, 1000), "validation": range(1000, 6000), "test": range(6000, 11000)}
SEED = 42
LICENCE = "Apache-2.0"


def draw(state: np.random.RandomState, among: list[str], size: int) -> list[str]:
    """`state.choice(among, size)`, without converting the list to an array."""
    return [among[index] for index in state.randint(0, len(among), size=size).tolist()]


def shuffled(state: np.random.RandomState, signs: list[str], symbols: list[str]) -> list[str]:
    pattern = symbols + signs
    state.shuffle(pattern)
    return pattern


def substitution(state: np.random.RandomState, symbols: list[str]) -> dict[str, str]:
    """One or two words for each symbol."""
    return {symbol: " ".join(draw(state, WORDS, state.randint(1, 3))) for symbol in symbols}


def filled(pattern: list[str], words: dict[str, str]) -> str:
    return " ".join(words.get(piece, piece) for piece in pattern)


@functools.lru_cache(maxsize=3)
def reasoning(mode: str) -> tuple[Row, ...]:
    """All 11,000 items of a mode, drawn in HELM's order."""
    state = np.random.RandomState(SEED)
    rows: list[Row] = []
    for _ in range(SIZES["test"].stop):
        symbols = draw(state, SYMBOLS, state.randint(2, 4))
        distinct = sorted(set(symbols))
        signs = draw(state, SIGNS, state.randint(2, 4))
        pattern = shuffled(state, signs, symbols)
        words, others = substitution(state, distinct), substitution(state, distinct)
        rule, result = " ".join(pattern), filled(pattern, words)
        if mode == "induction":
            rows.append({"input": f"Two results: {result} | {filled(pattern, others)}", "target": f"Rule: {rule}"})
        elif mode == "variable_substitution":
            listed = " , ".join(f'{symbol} by " {words[symbol]} "' for symbol in distinct)
            rows.append({"input": f"Rules: {rule} | Substitutions: {listed}", "target": result})
        else:
            rules = [*(" ".join(shuffled(state, signs, distinct)) for _ in range(3)), rule]
            state.shuffle(rules)
            rows.append({"input": f"Rules: {' | '.join(rules)} | Result: {result}", "target": rule})
    return tuple(rows)


def reasoning_split(mode: str, split: str) -> tuple[Row, ...]:
    return reasoning(mode)[SIZES[split].start : SIZES[split].stop]


def read_reasoning(row: Row) -> Doc:
    return Doc(ask_after(row["input"], "", "Target"), references=(row["target"],), inputs=(row["input"],))


EXAMPLES = {
    "pattern_match": ("Rules: X + Y | Y = X | X X - | Y * Y | Result: lion + pear", "X + Y"),
    "variable_substitution": ('Rules: X + X = Y | Substitutions: X by " lion " , Y by " pear kiwi "', "lion + lion = pear kiwi"),
    "induction": ("Two results: lion + rat | pear + kiwi", "Rule: X + Y"),
}
ABOUTS = {
    "pattern_match": "Which of four patterns produced this string?",
    "variable_substitution": "Substitute words into a pattern.",
    "induction": "Find the pattern behind two strings.",
}


def reasoning_task(mode: str) -> Task:
    text, answer = EXAMPLES[mode]
    return scenario(
        f"synthetic_reasoning/{mode}",
        rows=made(functools.partial(reasoning_split, mode), *SIZES),
        doc=read_reasoning,
        ask=Generate(50, ("\n",)),
        metrics=(quasi_exact_match, exact_match, quasi_exact_match_symbols),
        split="test",
        shots=FIVE_SHOTS,
        layout=Layout(instructions=instructions("Please solve the following problem.")),
        worked=worked({"input": text, "target": answer}, f"{text}\nTarget:", answer),
        about=f"{ABOUTS[mode]} HELM's main metric ignores + - * =; the two others do not.",
        licence=LICENCE,
        citation="Liang et al. 2022, HELM; after Wu et al. 2021, LIME",
    )


OPENING, CLOSING = "([{<", ")]}>"
P, Q, MAX_DEPTH = 0.5, 0.25, 100
LENGTHS = {"train": (3, 4, 50), "test": (500, 52, 100)}
"""Items, shortest and longest word of each split."""


def random_integers(below: int) -> Iterator[int]:
    """An infinite stream of RandomState(42).randint(below), drawn in blocks for speed."""
    state = np.random.RandomState(SEED)
    while True:
        yield from state.randint(below, size=4096).tolist()


class Dyck:
    """HELM's generator of Dyck words, with the two random streams that HELM seeds globally."""

    __slots__ = ("draw", "kinds")

    def __init__(self, pairs: int) -> None:
        self.draw = random.Random(SEED)
        self.kinds = random_integers(pairs)

    def word(self, depth: int = 0, longest: int = 100) -> str:
        """A balanced word: (S) with probability p, SS with q, else empty. Inner words have at most 100 characters."""
        if depth > MAX_DEPTH:
            return ""
        chance = self.draw.random()
        if chance < P:
            kind = next(self.kinds)
            found = OPENING[kind] + self.word(depth + 1) + CLOSING[kind]
        elif chance < P + Q:
            found = self.word(depth) + self.word(depth)
        else:
            found = ""
        return found if len(found) <= longest else ""

    def item(self, shortest: int, longest: int) -> tuple[str, str]:
        """The start of a word and its one to three missing closing brackets (more if opening brackets are cut off too)."""
        while True:
            word = self.word(0, longest)
            if len(word) < shortest:
                continue
            wanted = self.draw.randint(1, 3)
            depth = 0
            for place in reversed(range(len(word))):
                depth += 1 if word[place] in CLOSING else -1
                if depth == wanted:
                    if place:
                        return word[:place], closing_of(word[:place])
                    break


def closing_of(start: str) -> str:
    """The brackets that close an unfinished word."""
    stack: list[str] = []
    for char in start:
        if char in OPENING:
            stack.append(CLOSING[OPENING.index(char)])
        else:
            stack.pop()
    return "".join(reversed(stack))


@functools.lru_cache(maxsize=4)
def dyck_rows(pairs: int) -> dict[str, tuple[Row, ...]]:
    source = Dyck(pairs)
    seen: set[str] = set()
    made_rows: dict[str, tuple[Row, ...]] = {}
    for split, (count, shortest, longest) in LENGTHS.items():
        rows: list[Row] = []
        while len(rows) < count:
            start, end = source.item(shortest, longest)
            if start not in seen:
                seen.add(start)
                rows.append({"input": " ".join(start), "target": " ".join(end)})
        made_rows[split] = tuple(rows)
    return made_rows


def dyck_split(pairs: int, split: str) -> tuple[Row, ...]:
    return dyck_rows(pairs)[split]


def read_dyck(row: Row) -> Doc:
    return Doc(f"Input: {row['input']}", references=(row["target"],))


def dyck_task(pairs: int) -> Task:
    return scenario(
        f"dyck/{pairs}",
        rows=made(functools.partial(dyck_split, pairs), "train", "test"),
        doc=read_dyck,
        ask=Generate(5, ("\n",)),
        metrics=(exact_match_indicator, exact_match),
        split="test",
        shots=Shots(3, order="balanced"),
        layout=Layout(
            instructions=instructions(
                "Please complete the rest of the following Dyck sequences, making sure that the parentheses are closed properly."
            ),
            separator="\n",
        ),
        worked=worked({"input": "( [ ] (", "target": ") )"}, "Input: ( [ ] (", ") )"),
        about=f"Close an unfinished word over {pairs} kinds of brackets. HELM's main metric scores the last bracket, exact_match all.",
        licence=LICENCE,
        citation="Suzgun et al. 2019, Memory-Augmented Recurrent Neural Networks Can Learn Generalized Dyck Languages",
    )


REASONING_TASKS = tuple(reasoning_task(mode) for mode in MODES)
DYCK_TASKS = (dyck_task(3),)
SYNTHETIC_TASKS: tuple[Task, ...] = (*REASONING_TASKS, *DYCK_TASKS)
