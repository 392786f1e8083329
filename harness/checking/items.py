"""Checks of the items: duplicates, equal or empty choices, white space between prompt and answer."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict

from assay.harness.checking.finding import Finding, Level, Place, graded, short
from assay.harness.checking.task_data import TaskData
from assay.harness.prompt.render import Rendered, joint_after
from assay.harness.task.doc import Doc
from assay.harness.task.matching import agree, normal
from assay.harness.task.task import Choose, Generate, Perplexity

SOME = 0.02
"""Share of faulty items (lower bound) above which the finding is an error."""
SPACELESS = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


def question(doc: Doc) -> tuple[str, ...]:
    """The normalised question: the prompt with its choices in sorted order; the references if there is no prompt."""
    return (normal(doc.prompt), *sorted(map(normal, doc.choices)), *(map(normal, doc.references) if not doc.prompt else ()))


def duplicates(data: TaskData) -> list[Finding]:
    """Items with the same question, and those among them with different answers."""
    by_question: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, doc in enumerate(data.docs):
        if any(key := question(doc)):
            by_question[key].append(index)
    same: list[Place] = []
    other: list[Place] = []
    for indices in by_question.values():
        first, *rest = indices
        one = data.docs[first]
        for index in rest:
            doc = data.docs[index]
            if doc.group == one.group:
                continue
            clash = doc.labelled and one.labelled and doc.prompt == one.prompt and not agree(doc, one)
            if doc.cluster == one.cluster and not (clash and doc.choices):  # resampled together: intervals are right
                continue
            note = f"same as row {data.numbers[first]}" + (
                f", whose answer is {short(one.answer, 30)}, not {short(doc.answer, 30)}" if clash else ""
            )
            (other if clash else same).append(data.place(index, note))
    name, n = data.task.full_name, len(data.docs)
    found = []
    if same:
        what = f"{len(same)} of {n} items repeat another; {n - len(same) - len(other)} are distinct"
        do = "remove them, or give equal items one cluster: intervals are too narrow otherwise"
        found.append(Finding("dup-items", graded(len(same), n, 0.005) or "I", name, what, do, tuple(same)))
    if other:
        what = f"{len(other)} of {n} items repeat another with a different answer"
        one_right = isinstance(data.task.ask, Choose)  # several generated texts may be correct
        do = "correct the wrong one" if one_right else "list all answers as references of one item, or give equal items one cluster"
        level = graded(len(other), n, 0.002, 0.01 if one_right else 1.0) or "I"
        found.append(Finding("dup-items", level, name, what, do, tuple(other)))
    return found


def choices(data: TaskData) -> list[Finding]:
    """Equal choices and empty choices."""
    if not isinstance(data.task.ask, Choose):
        return []
    equal: list[Place] = []
    wrong: list[Place] = []
    empty: list[Place] = []
    for index, doc in enumerate(data.docs):
        texts = [choice.strip() for choice in doc.choices]
        twice = sorted({text for text in texts if texts.count(text) > 1})
        decides = doc.labelled and doc.answer.strip() in twice and not one_target(doc)
        if twice:
            (equal if decides else wrong).append(data.place(index, f"choice {short(twice[0], 40)} is listed twice"))
        if "" in texts:
            empty.append(data.place(index, f"choice {texts.index('')} is empty"))
    name, n = data.task.full_name, len(data.docs)
    cases = (
        (equal, "list their correct answer twice, once as wrong", graded(len(equal), n, 0, SOME)),
        (wrong, "have two equal wrong choices", graded(len(wrong), n, 0.01) or ("I" if wrong else None)),
        (empty, "have an empty choice", graded(len(empty), n, 0, SOME)),
    )
    return [
        Finding("choices", level, name, f"{len(places)} of {n} items {what}", "fix the choices", tuple(places))
        for places, what, level in cases
        if level is not None
    ]


def one_target(doc: Doc) -> bool:
    """Whether all choices equal to the correct one have the same target score."""
    return (
        bool(doc.targets)
        and len({score for choice, score in zip(doc.choices, doc.targets, strict=True) if choice.strip() == doc.answer.strip()}) == 1
    )


def joints(data: TaskData) -> list[Finding]:
    """Double, missing and trailing white space between prompt and answer, and around instructions and few-shot examples.

    `Doc.meta["double_space"]` says that the protocol's reference has the double space too.
    """
    doubled: list[Place] = []
    of_protocol: list[Place] = []
    missing, trailing = [], []
    for index, (doc, sent) in enumerate(zip(data.docs, data.prompts, strict=True)):
        for text in answers(data, doc, sent):
            if len(text) > 1 and (text[0].isspace() or sent.prompt[-1:].isspace()) and text[1 if text[0].isspace() else 0].isspace():
                places = of_protocol if doc.meta.get("double_space") else doubled
                places.append(data.place(index, f"{short(sent.prompt[-20:])} then {short(text, 30)}"))
                break
            if sent.prompt and text and needs_space(sent.prompt[-1], text[0]):
                missing.append(data.place(index, f"{short(sent.prompt[-20:])} then {short(text, 30)}"))
                break
            if text.strip() and text[-1].isspace() and not isinstance(data.task.ask, Perplexity):
                trailing.append(data.place(index, short(text, 30)))
                break
    name, n, layout = data.task.full_name, len(data.docs), data.task.layout
    level_missing = "W" if len(missing) > 0.9 * n else graded(len(missing), n, 0, SOME)  # everywhere: chosen by the layout's author
    cases: tuple[tuple[list[Place], str, str, Level | None], ...] = (
        (doubled, "double space before the answer", "remove the space of the prompt or the joint", graded(len(doubled), n, 0, SOME)),
        (of_protocol, "double space before the answer, as in the protocol", "leave it", "I" if of_protocol else None),
        (missing, "no space between prompt and answer", "keep the layout's joint, or end the prompt with a space", level_missing),
        (trailing, "white space after the answer", "strip the answers", graded(len(trailing), n, 0.005) or ("I" if trailing else None)),
    )
    found = [
        Finding("joint", level, name, f"{len(places)} of {n} items: {what}", do, tuple(places))
        for places, what, do, level in cases
        if level is not None
    ]
    begins = all(doc.prompt[:1].isspace() for doc in data.docs)
    if layout.instructions and not (layout.instructions[-1].isspace() or begins):
        found.append(Finding("joint", "W", name, "no space after the instructions", "end them with white space"))
    if any(data.few_shot) and not (layout.separator or begins):
        found.append(Finding("joint", "W", name, "no separator between few-shot examples", "set the layout's separator"))
    return found


def prompt_ends(data: TaskData) -> list[Finding]:
    """Prompts that end in other white space than most, or in a space before a generated answer: they change the answer's first token."""
    layout, ask = data.task.layout, data.task.ask
    if isinstance(ask, Perplexity) or layout.trim:
        return []
    generated = isinstance(ask, Generate)
    ends = [doc.prompt[len(doc.prompt.rstrip()) :] for doc in data.docs]
    between = ends if generated else [end or joint_after(doc.prompt, layout) for end, doc in zip(ends, data.docs, strict=True)]
    usual = Counter(between).most_common(1)[0][0] if between else ""
    odd = [n for n, end in enumerate(between) if end != usual or (generated and end.endswith((" ", "\t")))]
    if not odd:
        return []
    what = f"{len(odd)} of {len(between)} prompts end in " + ("other white space than most" if usual not in (" ", "\t") else "a space")
    do = "strip the prompts: white space before the answer changes its first token"
    places = tuple(data.place(n, short(data.docs[n].prompt[-20:])) for n in odd)
    return [Finding("joint", "W", data.task.full_name, what, do, places)]


def answers(data: TaskData, doc: Doc, sent: Rendered) -> tuple[str, ...]:
    """The texts that follow the prompt, joint included: the scored continuations, or the gold answer as in a few-shot example."""
    if sent.continuations:
        return sent.continuations
    return (joint_after(doc.prompt, data.task.layout) + doc.answer,) if doc.labelled else ()


def needs_space(left: str, right: str) -> bool:
    """Whether two neighbouring characters need a space between them."""
    if not right.isalnum() or not (left.isalnum() or left in ".,:;!?)"):
        return False
    return not any(
        unicodedata.east_asian_width(character) in "WF" or unicodedata.name(character, "").startswith(SPACELESS)
        for character in (left, right)
    )


def item_findings(data: TaskData) -> list[Finding]:
    return [*duplicates(data), *choices(data), *joints(data), *prompt_ends(data)]
