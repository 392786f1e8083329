"""Checks for questions that contain their own gold answer more often than by chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from assay.harness.checking.finding import LONG, Finding, Level, Place, at_least, contains, ends, short, surprising
from assay.harness.checking.task_data import TaskData
from assay.harness.task.matching import golds, normal
from assay.harness.task.task import Choose, Generate

SHIFTS = (0, 6, 30, 100, 210)
"""Offsets of the other rows whose gold answers estimate chance."""
LEAKY, EXTRACTIVE = 0.02, 0.25
"""Shares of items whose question contains the gold answer, beyond chance. Above the first: an error. Above the second: an extractive
task, such as reading comprehension."""
OWN_WORDS = 0.5
"""A task is extractive if the answers share more than this part of their words with the question."""
Matcher = Callable[[str, str], bool]


def other_rows(row: int, n: int) -> list[int]:
    """Rows other than `row` of `n` > 1 whose gold answers estimate chance."""
    return [(row + 1 + shift % (n - 1)) % n for shift in SHIFTS]


def leak_findings(data: TaskData) -> list[Finding]:
    """Findings for gold answers after the answer cue, and anywhere in the question."""
    if not isinstance(data.task.ask, Choose | Generate) or not all(doc.labelled for doc in data.docs):
        return []
    prompts = [normal(doc.prompt) for doc in data.docs]
    answers = [tuple(text for text in golds(doc) if any(map(str.isalnum, text))) for doc in data.docs]
    name, n = data.task.full_name, len(prompts)
    found: list[Finding] = []
    at_cue = follows_cue(cue_of(prompts, answers))
    rows, chance = matches_and_chance(data, prompts, answers, at_cue)
    last = surprising(len(rows), chance, [text for row in rows for text in answers[row]])
    if last:
        level: Level = "E" if at_least(len(rows) - chance, n) > LEAKY / 20 else "W"
        what = f"{len(rows)} of {n} questions end with their own answer (expected by chance: {chance:.1f})"
        found.append(Finding("gold-leak", level, name, what, "remove the answer from the prompt", places(data, rows)))
    rows, chance = matches_and_chance(data, prompts, answers, contains)
    rows = [row for row in rows if not (last and any(at_cue(prompts[row], text) for text in answers[row]))]
    if surprising(len(rows), chance, [text for row in rows for text in answers[row]]):
        found.append(inside_finding(data, rows, chance, is_extractive(prompts, answers, rows)))
    return found


def cue_of(prompts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> str:
    """The last word of most questions without their own answer (such as "answer:"); empty if there is none."""
    bare = (next((text[: -len(gold)] for gold in own if ends(text, gold)), text) for text, own in zip(prompts, answers, strict=True))
    word, count = Counter(text.split()[-1] if text.strip() else "" for text in bare).most_common(1)[0]
    return word if count > len(prompts) / 2 else ""


def follows_cue(cue: str) -> Matcher:
    """A matcher for texts that end with the cue and an answer."""
    return lambda text, part: bool(cue) and ends(text, part) and text[: -len(part)].rstrip().endswith(cue)


def is_extractive(prompts: Sequence[str], answers: Sequence[tuple[str, ...]], rows: Sequence[int]) -> bool:
    """Whether the task is extractive: many questions contain their answers or most of their words.

    The most frequent answer does not count: it may be "I do not know".
    """
    common = Counter(own[0] for own in answers if own).most_common(1)[0][0]
    other = [index for index, own in enumerate(answers) if own and own[0] != common]
    if not other:
        return False
    words = [(set(prompts[index].split()), set(answers[index][0].split())) for index in other]
    shared = sum(len(question & answer) / len(answer) for question, answer in words) / len(words)
    return shared > OWN_WORDS or len(set(rows) & set(other)) > EXTRACTIVE * len(other)


def inside_finding(data: TaskData, rows: Sequence[int], chance: float, extractive: bool) -> Finding:
    """The finding for answers anywhere in the question; information only if the task is `extractive`."""
    name, n = data.task.full_name, len(data.docs)
    what = f"{len(rows)} of {n} questions contain their own answer (expected by chance: {chance:.1f})"
    if extractive:
        return Finding("gold-leak", "I", name, f"{what}: an extractive task")
    excess = at_least(len(rows) - chance, n)
    long = any(len(text) >= LONG for row in rows for text in golds(data.docs[row]))
    level: Level = "E" if excess > LEAKY else "W" if excess > LEAKY / 2 and long else "I"
    return Finding("gold-leak", level, name, what, "check whether the question leaks the answer", places(data, rows))


def places(data: TaskData, rows: Sequence[int]) -> tuple[Place, ...]:
    return tuple(data.place(row, f"answer {short(data.docs[row].answer, 40)}") for row in rows)


def matches_and_chance(
    data: TaskData, prompts: Sequence[str], answers: Sequence[tuple[str, ...]], matches: Matcher
) -> tuple[list[int], float]:
    """Indices of items whose own answer `matches`, and the number expected by chance.

    Chance is estimated with the answers of other items. With choices, an item counts if exactly one choice matches; by chance
    that is the gold one with its share among all gold answers, or with 1 / k if every item has its own choices.
    """
    docs, n = data.docs, len(data.docs)
    rows, chance = [], 0.0
    fixed = len({doc.choices for doc in docs}) == 1
    shares = Counter(text for found in answers for text in found[:1])
    for index, (doc, text) in enumerate(zip(docs, prompts, strict=True)):
        if doc.choices:
            matching = {choice for choice in map(normal, doc.choices) if choice and any(map(str.isalnum, choice)) and matches(text, choice)}
            if len(matching) == 1:
                chance += shares[next(iter(matching))] / n if fixed else 1 / len(doc.choices)
                if matching & set(answers[index]):
                    rows.append(index)
            continue
        if any(matches(text, gold) for gold in answers[index]):
            rows.append(index)
        if n > 1:
            others = [answers[other] for other in other_rows(index, n)]
            chance += sum(any(matches(text, gold) for gold in golds) for golds in others) / len(others)
    return rows, chance
