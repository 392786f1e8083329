"""Questions that are asked and also shown or trained on: exactly, or but for a word or two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from assay.harness.checking.finding import Finding, Place, graded, normal
from assay.harness.checking.items import agree, question
from assay.harness.checking.material import Material
from assay.harness.task.doc import Doc

GRAM = 13
"""Words in a row that two texts must share to be looked at: the length used for decontamination since GPT-3."""
ALIKE = 0.8
WORDS = 2
"""Near duplicates share this much of their 13-grams (Jaccard) and differ in at most so many words on either side."""
COMMON = 5
"""A 13-gram in more texts than this belongs to a template or a shared passage."""


def grams(text: str) -> set[int]:
    words = text.split()
    return {hash(tuple(words[at : at + GRAM])) for at in range(len(words) - GRAM + 1)}


class Shelf:
    """Texts by their 13-grams, to find near duplicates of others."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = list(texts)
        self.index: dict[int, list[int]] = defaultdict(list)
        for number, text in enumerate(self.texts):
            for gram in grams(text):
                self.index[gram].append(number)

    def near(self, text: str) -> int | None:
        """The number of a near duplicate of `text`, if there is one."""
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


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of docs, each normalised once."""

    known: dict[int, tuple[str, ...]]

    def of(self, doc: Doc) -> tuple[str, ...]:
        if id(doc) not in self.known:
            self.known[id(doc)] = question(doc)
        return self.known[id(doc)]


def shown_items(material: Material) -> list[Finding]:
    """Items whose own question is among their exemplars."""
    asked = Asked({})
    shelves: dict[tuple[str, ...], Shelf] = {}
    same, near = [], []
    for index, (doc, shown) in enumerate(zip(material.docs, material.shown, strict=True)):
        if not shown:
            continue
        twin = next((each for each in shown if asked.of(each) == asked.of(doc)), None)
        if twin is not None:
            same.append(material.place(index, f"exemplar {twin.id}"))
            continue
        ids = tuple(each.prompt for each in shown)
        if ids not in shelves:
            shelves.clear()
            shelves[ids] = Shelf(normal(each.prompt) for each in shown)
        number = shelves[ids].near(normal(doc.prompt))
        if number is not None and agree(doc, shown[number]):
            near.append(material.place(index, f"exemplar {shown[number].id}"))
    name, n = material.task.full_name, len(material.docs)
    found = []
    if same:
        what = f"{len(same)} of {n} items are shown their own question and answer"
        found.append(Finding("shot-is-test", "E", name, what, "draw exemplars from another split", tuple(same)))
    if near:
        what = f"{len(near)} of {n} items are shown their own question but for a word or two"
        found.append(Finding("shot-is-test", graded(len(near), n, 0, 0.01) or "W", name, what, "drop the near copies", tuple(near)))
    return found


def trained_items(material: Material) -> list[Finding]:
    """Items that the split for exemplars and training holds too."""
    places = overlaps(material.docs, material.pool, [material.place(index) for index in range(len(material.docs))])
    if not places:
        return []
    n = len(material.docs)
    level = graded(len(places), n, 0.005) or "I"
    what = f"{len(places)} of {n} items also stand in {material.pool_split!r}"
    do = "drop them from the training split; a gain from tuning on it is not a gain"
    return [Finding("train-overlap", level, material.task.full_name, what, do, tuple(places))]


def overlaps(docs: Sequence[Doc], pool: Sequence[Doc], places: Sequence[Place]) -> list[Place]:
    """The places of those docs whose question, or all but a word or two of it, is in the pool with the same answer."""
    twins: dict[int, str] = {}
    exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, doc in enumerate(docs):
        exact[question(doc)].append(index)
    shelf = Shelf(normal(doc.prompt) for doc in docs)
    for other in pool:
        asked = question(other)
        for index in exact.get(asked, ()) if any(asked) else ():
            twins.setdefault(index, other.id)
        number = shelf.near(asked[0])
        if number is not None and (not docs[number].labelled or not other.labelled or agree(docs[number], other)):
            twins.setdefault(number, other.id)
    return [Place(places[index].row, places[index].item, f"as {twin}") for index, twin in sorted(twins.items())]


def overlap_findings(material: Material) -> list[Finding]:
    return [*shown_items(material), *trained_items(material)]
