"""Rows with other field values: does the answer's own field show in the prompt, and do hostile values survive?"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assay.harness.checking.finding import Finding, Level, Place
from assay.harness.checking.material import Material
from assay.harness.errors import AssayError
from assay.harness.prompt.render import render
from assay.harness.store.provenance import clock
from assay.harness.task.doc import Doc, Row
from assay.harness.task.task import Task

ROWS, LEAVES, SECONDS = 3, 16, 2.0
"""Rows and fields per row that are tried; the time that one long value may take."""
CANARY = "Zqv7 canary"
LENGTHY = "100,000 characters"
HOSTILE: Mapping[str, str] = {
    "line breaks": "One\ntwo\r\n\n\nthree",
    "a NUL": "Nul\0inside",
    "braces": "{x} {{y}} {% raw %} {} %s $z \\1",
    LENGTHY: "Long " + "word " * 19_998 + "words",
    "right-to-left marks": "\u202e\u05e9\u05dc\u05d5\u05dd\u200f end",
    "nothing": "",
}
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A text in a row that reaches the Doc: `prompt` and `answer` say where it shows."""

    path: Path
    prompt: bool
    answer: bool
    rest: str
    """The prompt without it."""

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths to the texts in a row; of a list the first element stands for all."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list | tuple) and value:
        yield from leaves(value[0], (*path, 0))


def put(value: Any, path: Path, text: str) -> Any:
    """A copy of a row with one text replaced."""
    if not path:
        return text
    if isinstance(value, Mapping):
        return {key: put(inner, path[1:], text) if key == path[0] else inner for key, inner in value.items()}
    return type(value)(put(inner, path[1:], text) if at == path[0] else inner for at, inner in enumerate(value))


def attempt(task: Task, row: Row, path: Path, text: str) -> Doc | Exception:
    """The Doc of the row with another text, asked as the task would ask it; or what went wrong."""
    try:
        doc = task.doc(put(row, path, text))
        render(task, doc)
        return doc
    except Exception as error:  # the author's code may raise anything
        return error


def field_of(task: Task, row: Row, path: Path) -> Field | None:
    """The field, if a harmless other text in it is taken."""
    doc = attempt(task, row, path, CANARY)
    if isinstance(doc, Exception):
        return None
    answer = doc.labelled and doc.gold is None and not doc.targets and CANARY in doc.answer
    return Field(path, CANARY in doc.prompt, answer, doc.prompt.replace(CANARY, ""))


def field_findings(material: Material) -> list[Finding]:
    """Fields that give the answer away, and hostile values that break the task."""
    task, count = material.task, len(material.rows)
    numbers = sorted({0, count // 2, count - 1})[:ROWS]
    tried: dict[int, list[Field]] = {}
    for number in numbers:
        paths = list(leaves(material.rows[number]))[:LEAVES]
        found = (field_of(task, material.rows[number], path) for path in paths)
        tried[number] = [field for field in found if field is not None]
    return [*given_away(task, tried), *hostile(task, material, tried)]


def given_away(task: Task, tried: Mapping[int, list[Field]]) -> list[Finding]:
    """The gold answer's own field stands in the prompt. A task whose prompt is nothing but that field is one of copying."""
    both = [(number, field) for number, fields in tried.items() for field in fields if field.prompt and field.answer]
    if not both:
        return []
    names = ", ".join(sorted({field.name for _, field in both}))
    if len(tried) > 1 and len(both) == len(tried) and len({field.rest for _, field in both}) == 1:
        return [
            Finding("gold-leak", "I", task.full_name, f"the prompt holds the answer's field {names} and nothing else: a task of copying")
        ]
    places = tuple(Place(number, note=f"field {field.name}") for number, field in both)
    what = f"the field {names} stands in the prompt and is the answer"
    return [Finding("gold-leak", "E", task.full_name, what, "leave it out of the prompt", places)]


def arrived(text: str, prompt: str) -> bool:
    """Whether a text stands in the prompt: as it is, or every word of it (white space may be tidied, words may be marked), but then
    without anything that looks like a template."""
    if text in prompt or " ".join(text.split()) in prompt:
        return True
    words = re.compile(r"\w+")
    return "{" not in text and not Counter(words.findall(text.casefold())) - Counter(words.findall(prompt.casefold()))


def hostile(task: Task, material: Material, tried: Mapping[int, list[Field]]) -> list[Finding]:
    """Hostile values in fields that reach the prompt: the doc function must not fail, and the text must arrive as it is."""
    failed: dict[str, list[Place]] = defaultdict(list)
    changed: dict[str, list[Place]] = defaultdict(list)
    for number, fields in tried.items():
        for field in fields:
            if not field.prompt:
                continue
            for kind, text in HOSTILE.items():
                started = clock()
                doc = attempt(task, material.rows[number], field.path, text)
                slow = clock() - started > SECONDS
                if isinstance(doc, AssayError):  # refused in so many words
                    continue
                if isinstance(doc, Exception) or slow:
                    note = f"{type(doc).__name__}: {doc}" if isinstance(doc, Exception) else f"took over {SECONDS:g} s"
                    failed[kind].append(Place(number, note=f"field {field.name}: {note:.120}"))
                elif not arrived(text, doc.prompt):
                    changed[kind].append(Place(number, note=f"field {field.name}"))
    name, do = task.full_name, "treat field values as plain text"
    found = [
        Finding("hostile", "E", name, f"the doc function fails on {kind} in a field", do, tuple(places)) for kind, places in failed.items()
    ]
    for kind, places in changed.items():
        level: Level = "I" if kind == LENGTHY else "W"  # cutting a long text may well be meant
        found.append(Finding("hostile", level, name, f"{kind} in a field do not all reach the prompt", do, tuple(places)))
    return found
