"""Gold answers that stand in their own question, beyond what chance puts there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from assay.harness.checking.finding import LONG, Finding, Level, Place, at_least, contains, ends, normal, short, surprising
from assay.harness.checking.items import golds
from assay.harness.checking.material import Material
from assay.harness.task.task import Choose, Generate

SHIFTS = (0, 6, 30, 100, 210)
"""Whose gold stands in for chance: that of the rows so many (and one) further on."""
LEAKY, EXTRACTIVE = 0.02, 0.25
"""Share of items whose gold stands in the question, beyond chance: from the first an error; from the second on the answer is meant to
be read out of the question, as in reading comprehension."""
OWN_WORDS = 0.5
"""Answers that share more of their words than this with the question are made of it: rearranged, repeated or read out."""
Fires = Callable[[str, str], bool]


def leak_findings(material: Material) -> list[Finding]:
    """Answers after the answer cue, and anywhere in the question."""
    if not isinstance(material.task.ask, Choose | Generate) or not all(doc.labelled for doc in material.docs):
        return []
    prompts = [normal(doc.prompt) for doc in material.docs]
    answers = [tuple(text for text in golds(doc) if any(map(str.isalnum, text))) for doc in material.docs]
    name, n = material.task.full_name, len(prompts)
    found: list[Finding] = []
    at_cue = after(cue_of(prompts, answers))
    rows, chance = compared(material, prompts, answers, at_cue)
    last = surprising(len(rows), chance, [text for row in rows for text in answers[row]])
    if last:
        level: Level = "E" if at_least(len(rows) - chance, n) > LEAKY / 20 else "W"
        what = f"{len(rows)} of {n} questions end with their own answer (by chance: {chance:.1f})"
        found.append(Finding("gold-leak", level, name, what, "keep the answer out of the prompt", places(material, rows)))
    rows, chance = compared(material, prompts, answers, contains)
    rows = [row for row in rows if not (last and any(at_cue(prompts[row], text) for text in answers[row]))]
    if surprising(len(rows), chance, [text for row in rows for text in answers[row]]):
        found.append(inside(material, rows, chance, read_out(prompts, answers, rows)))
    return found


def cue_of(prompts: Sequence[str], answers: Sequence[tuple[str, ...]]) -> str:
    """The word that most questions end with, their own answer aside ("answer:"); nothing where there is none."""
    bare = (next((text[: -len(gold)] for gold in own if ends(text, gold)), text) for text, own in zip(prompts, answers, strict=True))
    word, count = Counter(text.split()[-1] if text.strip() else "" for text in bare).most_common(1)[0]
    return word if count > len(prompts) / 2 else ""


def after(cue: str) -> Fires:
    """Whether a text ends with an answer right after the cue."""
    return lambda text, part: bool(cue) and ends(text, part) and text[: -len(part)].rstrip().endswith(cue)


def read_out(prompts: Sequence[str], answers: Sequence[tuple[str, ...]], rows: Sequence[int]) -> bool:
    """Whether answers are meant to be read out of the question: many stand there, or are made of its words.

    The most frequent answer aside, which may be "I do not know".
    """
    common = Counter(own[0] for own in answers if own).most_common(1)[0][0]
    other = [index for index, own in enumerate(answers) if own and own[0] != common]
    if not other:
        return False
    words = [(set(prompts[index].split()), set(answers[index][0].split())) for index in other]
    shared = sum(len(asked & right) / len(right) for asked, right in words) / len(words)
    return shared > OWN_WORDS or len(set(rows) & set(other)) > EXTRACTIVE * len(other)


def inside(material: Material, rows: Sequence[int], chance: float, meant: bool) -> Finding:
    """The finding for answers anywhere in the question; no fault where that is `meant`."""
    name, n = material.task.full_name, len(material.docs)
    what = f"{len(rows)} of {n} questions hold their own answer (by chance: {chance:.1f})"
    if meant:
        return Finding("gold-leak", "I", name, f"{what}: it is read out of them")
    excess = at_least(len(rows) - chance, n)
    telling = any(len(text) >= LONG for row in rows for text in golds(material.docs[row]))
    level: Level = "E" if excess > LEAKY else "W" if excess > LEAKY / 2 and telling else "I"
    return Finding("gold-leak", level, name, what, "see whether the answer is given away", places(material, rows))


def places(material: Material, rows: Sequence[int]) -> tuple[Place, ...]:
    return tuple(material.place(row, f"answer {short(material.docs[row].answer, 40)}") for row in rows)


def compared(material: Material, prompts: Sequence[str], answers: Sequence[tuple[str, ...]], fires: Fires) -> tuple[list[int], float]:
    """Indices of items for which `fires` on their own answer, and how many would by chance.

    Chance is the same question asked of other items' answers. Of listed choices only one that stands in the text alone counts; by
    chance it is the right one as often as it is right elsewhere, or one in k where every item has its own choices.
    """
    docs, n = material.docs, len(material.docs)
    rows, chance = [], 0.0
    fixed = len({doc.choices for doc in docs}) == 1
    shares = Counter(text for found in answers for text in found[:1])
    for index, (doc, text) in enumerate(zip(docs, prompts, strict=True)):
        if doc.choices:
            there = {choice for choice in map(normal, doc.choices) if choice and any(map(str.isalnum, choice)) and fires(text, choice)}
            if len(there) == 1:
                chance += shares[next(iter(there))] / n if fixed else 1 / len(doc.choices)
                if there & set(answers[index]):
                    rows.append(index)
            continue
        if any(fires(text, gold) for gold in answers[index]):
            rows.append(index)
        if n > 1:
            others = [answers[(index + 1 + shift % (n - 1)) % n] for shift in SHIFTS]
            chance += sum(any(fires(text, gold) for gold in golds) for golds in others) / len(others)
    return rows, chance
