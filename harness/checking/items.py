"""Faults of the items themselves: duplicates, choices that cannot be told apart, spaces that spoil the scoring."""

from __future__ import annotations

import unicodedata
from collections import defaultdict

from assay.harness.checking.finding import Finding, Level, Place, graded, normal, short
from assay.harness.checking.material import Material
from assay.harness.prompt.render import Rendered, joint_after
from assay.harness.task.doc import Doc
from assay.harness.task.task import Choose, Perplexity

SOME = 0.02
"""Share of items (its lower bound) from which on a fault of single items is one of the task."""
SPACELESS = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def question(doc: Doc) -> tuple[str, ...]:
    """What is asked, in normal form: the prompt with its choices in any order; the text itself where there is no prompt."""
    return (normal(doc.prompt), *sorted(map(normal, doc.choices)), *(map(normal, doc.references) if not doc.prompt else ()))


def golds(doc: Doc) -> tuple[str, ...]:
    """All right answers in normal form."""
    texts = doc.references if doc.references and not doc.choices else (doc.answer,)
    return tuple(filter(None, map(normal, texts)))


def duplicates(material: Material) -> list[Finding]:
    """Items that ask the same; worse where their answers differ."""
    by_question: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, doc in enumerate(material.docs):
        if any(asked := question(doc)):
            by_question[asked].append(index)
    same: list[Place] = []
    other: list[Place] = []
    for indices in by_question.values():
        first, *rest = indices
        one = material.docs[first]
        for index in rest:
            doc = material.docs[index]
            if doc.group == one.group:
                continue
            clash = doc.labelled and one.labelled and doc.prompt == one.prompt and not agree(doc, one)
            if doc.cluster == one.cluster and not (clash and doc.choices):  # resampled together, as it should be
                continue
            note = f"as row {material.numbers[first]}" + (
                f", which answers {short(one.answer, 30)}, not {short(doc.answer, 30)}" if clash else ""
            )
            (other if clash else same).append(material.place(index, note))
    name, n = material.task.full_name, len(material.docs)
    found = []
    if same:
        what = f"{len(same)} of {n} items repeat another; {n - len(same) - len(other)} are distinct"
        do = "drop them, or give equal items one cluster, so that intervals are honest"
        found.append(Finding("dup-items", graded(len(same), n, 0.005) or "I", name, what, do, tuple(same)))
    if other:
        what = f"{len(other)} of {n} items repeat another with a different answer"
        one_right = isinstance(material.task.ask, Choose)  # of generated texts several may be right
        do = "one of the two is wrong" if one_right else "give all answers to one item, or give equal items one cluster"
        level = graded(len(other), n, 0.002, 0.01 if one_right else 1.0) or "I"
        found.append(Finding("dup-items", level, name, what, do, tuple(other)))
    return found


def agree(one: Doc, other: Doc) -> bool:
    """Whether two docs have an answer in common."""
    if one.value is not None or other.value is not None:
        return one.value == other.value
    return bool(set(golds(one)) & set(golds(other))) or not (golds(one) and golds(other))


def choices(material: Material) -> list[Finding]:
    """Choices that no score can tell apart, or that are empty."""
    if not isinstance(material.task.ask, Choose):
        return []
    equal: list[Place] = []
    vain: list[Place] = []
    empty: list[Place] = []
    for index, doc in enumerate(material.docs):
        texts = [choice.strip() for choice in doc.choices]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        decides = doc.labelled and doc.answer.strip() in twice and not one_target(doc)
        if twice:
            (equal if decides else vain).append(material.place(index, f"choice {short(twice[0], 40)} stands twice"))
        if "" in texts:
            empty.append(material.place(index, f"choice {texts.index('')} is empty"))
    name, n = material.task.full_name, len(material.docs)
    cases = (
        (equal, "hold their right answer twice: it cannot be told from a wrong one", graded(len(equal), n, 0, SOME)),
        (vain, "have two equal wrong choices", graded(len(vain), n, 0.01) or ("I" if vain else None)),
        (empty, "have an empty choice", graded(len(empty), n, 0, SOME)),
    )
    return [
        Finding("choices", level, name, f"{len(places)} of {n} items {what}", "mend the choices", tuple(places))
        for places, what, level in cases
        if level is not None
    ]


def one_target(doc: Doc) -> bool:
    """Whether every choice that equals the right one is right too."""
    return (
        bool(doc.targets)
        and len({score for choice, score in zip(doc.choices, doc.targets, strict=True) if choice.strip() == doc.answer.strip()}) == 1
    )


def joints(material: Material) -> list[Finding]:
    """Doubled and missing space where the answer meets the prompt, and around instructions and exemplars."""
    doubled, missing, trailing = [], [], []
    for index, (doc, sent) in enumerate(zip(material.docs, material.prompts, strict=True)):
        for text in answers(material, doc, sent):
            if len(text) > 1 and (text[0].isspace() or sent.prompt[-1:].isspace()) and text[1 if text[0].isspace() else 0].isspace():
                doubled.append(material.place(index, f"{short(sent.prompt[-20:])} then {short(text, 30)}"))
                break
            if sent.prompt and text and needs_space(sent.prompt[-1], text[0]):
                missing.append(material.place(index, f"{short(sent.prompt[-20:])} then {short(text, 30)}"))
                break
            if text.strip() and text[-1].isspace() and not isinstance(material.task.ask, Perplexity):
                trailing.append(material.place(index, short(text, 30)))
                break
    name, n, layout = material.task.full_name, len(material.docs), material.task.layout
    apart = "W" if len(missing) > 0.9 * n else graded(len(missing), n, 0, SOME)  # everywhere: the layout that its author chose
    cases: tuple[tuple[list[Place], str, str, Level | None], ...] = (
        (doubled, "doubled white space before the answer", "leave the space to the layout's joint", graded(len(doubled), n, 0, SOME)),
        (missing, "no space between prompt and answer", "keep the layout's joint, or end the prompt in a space", apart),
        (trailing, "white space after the answer", "strip the answers", graded(len(trailing), n, 0.005) or ("I" if trailing else None)),
    )
    found = [
        Finding("joint", level, name, f"{len(places)} of {n} items: {what}", do, tuple(places))
        for places, what, do, level in cases
        if level is not None
    ]
    begins = all(doc.prompt[:1].isspace() for doc in material.docs)
    if layout.instructions and not (layout.instructions[-1].isspace() or begins):
        found.append(Finding("joint", "W", name, "instructions run into the first question", "end them in white space"))
    if any(material.shown) and not (layout.separator or begins):
        found.append(Finding("joint", "W", name, "exemplars run into each other", "give the layout a separator"))
    return found


def answers(material: Material, doc: Doc, sent: Rendered) -> tuple[str, ...]:
    """The texts that meet the prompt, joint included: what is scored, or the gold answer as an exemplar would show it."""
    if sent.continuations:
        return sent.continuations
    return (joint_after(doc.prompt, material.task.layout) + doc.answer,) if doc.labelled else ()


def needs_space(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to words that are written apart."""
    if not right.isalnum() or not (left.isalnum() or left in ".,:;!?)"):
        return False
    return not any(
        unicodedata.east_asian_width(character) in "WF" or unicodedata.name(character, "").startswith(SPACELESS)
        for character in (left, right)
    )


def item_findings(material: Material) -> list[Finding]:
    return [*duplicates(material), *choices(material), *joints(material)]
