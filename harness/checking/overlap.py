"""Checks for scored items that are also few-shot examples or training items, exactly or with up to two different words."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from assay.harness.checking.finding import Finding, graded, normal
from assay.harness.checking.items import agree, question
from assay.harness.checking.task_data import TaskData
from assay.harness.task.doc import Doc

GRAM = 13
"""Length in words of the n-grams that near duplicates share: the one used for decontamination since GPT-3."""
ALIKE = 0.8
WORDS = 2
"""Near duplicates have at least the Jaccard similarity ALIKE of their 13-grams and at most WORDS different words on either side."""
COMMON = 5
"""A 13-gram in more texts than this belongs to a template or a shared passage."""


def grams(text: str) -> set[int]:
    words = text.split()
    return {hash(tuple(words[at : at + GRAM])) for at in range(len(words) - GRAM + 1)}


class TextIndex:
    """An index of texts by their 13-grams that finds near duplicates."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)
        self.index: dict[int, list[int]] = defaultdict(list)
        for number, text in enumerate(self.texts):
            for gram in grams(text):
                self.index[gram].append(number)

    def near(self, text: str) -> int | None:
        """The number of a near duplicate of `text`, or None."""
        own = grams(text)
        found = (self.index.get(gram, ()) for gram in own)
        shared = Counter(number for numbers in found if len(numbers) <= COMMON for number in numbers)
        for number, _ in shared.most_common(3):
            theirs = grams(self.texts[number])
            common = len(own & theirs)
            if common >= ALIKE * (len(own) + len(theirs) - common) and close(text, self.texts[number]):
                return number
        return None


def close(one: str, other: str) -> bool:
    """Whether two texts differ in at most WORDS words on either side."""
    left, right = Counter(one.split()), Counter(other.split())
    return max((left - right).total(), (right - left).total()) <= WORDS


def few_shot_overlap(data: TaskData) -> list[Finding]:
    """Findings for items whose own question is among their few-shot examples."""
    unique = {id(doc): doc for docs in (data.docs, *data.few_shot) for doc in docs}
    questions = {key: question(doc) for key, doc in unique.items()}
    indexed: tuple[tuple[str, ...], TextIndex] = (), TextIndex(())
    same, near = [], []
    for index, (doc, examples) in enumerate(zip(data.docs, data.few_shot, strict=True)):
        if not examples:
            continue
        twin = next((each for each in examples if questions[id(each)] == questions[id(doc)]), None)
        if twin is not None:
            same.append(data.place(index, f"few-shot example {twin.id}"))
            continue
        prompts = tuple(each.prompt for each in examples)
        if prompts != indexed[0]:
            indexed = prompts, TextIndex(map(normal, prompts))
        number = indexed[1].near(normal(doc.prompt))
        if number is not None and agree(doc, examples[number]):
            near.append(data.place(index, f"few-shot example {examples[number].id}"))
    name, n = data.task.full_name, len(data.docs)
    found = []
    if same:
        what = f"{len(same)} of {n} items have their own question among their few-shot examples"
        found.append(Finding("shot-is-test", "E", name, what, "draw few-shot examples from another split", tuple(same)))
    if near:
        what = f"{len(near)} of {n} items have their own question with up to two other words among their few-shot examples"
        found.append(Finding("shot-is-test", graded(len(near), n, 0, 0.01) or "W", name, what, "remove the near copies", tuple(near)))
    return found


def training_overlap(data: TaskData) -> list[Finding]:
    """Findings for items that are also in the split for few-shot examples and training."""
    places = tuple(data.place(number, f"same as {twin}") for number, twin in sorted(twins(data.docs, data.pool).items()))
    if not places:
        return []
    n = len(data.docs)
    level = graded(len(places), n, 0.005) or "I"
    what = f"{len(places)} of {n} items are also in {data.pool_split!r}"
    do = "remove them from the training split: tuning on them inflates scores"
    return [Finding("train-overlap", level, data.task.full_name, what, do, places)]


def twins(docs: Sequence[Doc], pool: Sequence[Doc]) -> dict[int, str]:
    """Numbers of docs whose question is in the pool, exactly or with up to two other words and the same answer; ids of their twins."""
    found: dict[int, str] = {}
    exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, doc in enumerate(docs):
        exact[question(doc)].append(number)
    index = TextIndex(normal(doc.prompt) for doc in docs)
    for other in pool:
        key = question(other)
        for number in exact.get(key, ()) if any(key) else ():
            found.setdefault(number, other.id)
        near = index.near(key[0])
        if near is not None and (not docs[near].labelled or not other.labelled or agree(docs[near], other)):
            found.setdefault(near, other.id)
    return found


def overlap_findings(data: TaskData) -> list[Finding]:
    return [*few_shot_overlap(data), *training_overlap(data)]
