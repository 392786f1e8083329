"""Renders rows with replaced field values: finds answer fields in the prompt and values that break the doc function."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assay.harness.checking.finding import Finding, Level, Place
from assay.harness.checking.task_data import TaskData
from assay.harness.errors import AssayError
from assay.harness.prompt.render import render
from assay.harness.store.provenance import clock
from assay.harness.task.doc import Doc, Row
from assay.harness.task.task import Task

ROWS, LEAVES, SECONDS = 3, 16, 2.0
"""Maximum numbers of rows and of fields per row that are tried; maximum time in s for one value."""
CANARY = "Zqv7 canary"
LENGTHY = "100,000 characters"
HOSTILE: Mapping[str, str] = {
    "line breaks": "One\ntwo\r\n\n\nthree",
    "NUL characters": "Nul\0inside",
    "braces": "{x} {{y}} {% raw %} {} %s $z \\1",
    LENGTHY: "Long " + "word " * 19_998 + "words",
    "right-to-left marks": "\u202e\u05e9\u05dc\u05d5\u05dd\u200f end",
    "an empty text": "",
}
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Field:
    """A text field of a row. `prompt`, `answer`: whether it occurs there."""

    path: Path
    prompt: bool
    answer: bool
    rest: str
    """The prompt without this text."""

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths to the texts in a row; only the first element of a list."""
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
    """The Doc of the row with a replaced text, if it can be rendered; else the error."""
    try:
        doc = task.doc(put(row, path, text))
        render(task, doc)
        return doc
    except Exception as error:  # the author's code may raise anything
        return error


def field_of(task: Task, row: Row, path: Path) -> Field | None:
    """The field, or None if the task rejects a harmless text in it."""
    doc = attempt(task, row, path, CANARY)
    if isinstance(doc, Exception):
        return None
    answer = doc.labelled and doc.gold is None and not doc.targets and CANARY in doc.answer
    return Field(path, CANARY in doc.prompt, answer, doc.prompt.replace(CANARY, ""))


def field_findings(data: TaskData) -> list[Finding]:
    """Findings for fields that leak the answer and for values that break the task."""
    task, count = data.task, len(data.rows)
    numbers = sorted({0, count // 2, count - 1})[:ROWS]
    tried: dict[int, list[Field]] = {}
    for number in numbers:
        paths = list(leaves(data.rows[number]))[:LEAVES]
        found = (field_of(task, data.rows[number], path) for path in paths)
        tried[number] = [field for field in found if field is not None]
    return [*given_away(task, tried), *hostile(task, data, tried)]


def given_away(task: Task, tried: Mapping[int, list[Field]]) -> list[Finding]:
    """A finding if the prompt contains the field of the gold answer. A prompt of nothing else is a copying task."""
    both = [(number, field) for number, fields in tried.items() for field in fields if field.prompt and field.answer]
    if not both:
        return []
    names = ", ".join(sorted({field.name for _, field in both}))
    if len(tried) > 1 and len(both) == len(tried) and len({field.rest for _, field in both}) == 1:
        return [Finding("gold-leak", "I", task.full_name, f"the prompt contains only the answer's field {names}: a copying task")]
    places = tuple(Place(number, note=f"field {field.name}") for number, field in both)
    what = f"the prompt contains the field {names}, which is the answer"
    return [Finding("gold-leak", "E", task.full_name, what, "remove it from the prompt", places)]


def arrived(text: str, prompt: str) -> bool:
    """Whether the prompt contains a text, or every word of it (white space and marks around words may differ).

    A text with braces must be contained as is, since a template may have interpreted it.
    """
    if text in prompt or " ".join(text.split()) in prompt:
        return True
    words = re.compile(r"\w+")
    return "{" not in text and not Counter(words.findall(text.casefold())) - Counter(words.findall(prompt.casefold()))


def hostile(task: Task, data: TaskData, tried: Mapping[int, list[Field]]) -> list[Finding]:
    """Findings for hostile values in fields of the prompt: the doc function must not fail, and the prompt must contain the value."""
    failed: dict[str, list[Place]] = defaultdict(list)
    changed: dict[str, list[Place]] = defaultdict(list)
    for number, fields in tried.items():
        for field in fields:
            if not field.prompt:
                continue
            for kind, text in HOSTILE.items():
                started = clock()
                doc = attempt(task, data.rows[number], field.path, text)
                slow = clock() - started > SECONDS
                if isinstance(doc, AssayError):  # rejected with a clear message
                    continue
                if isinstance(doc, Exception) or slow:
                    note = f"{type(doc).__name__}: {doc}" if isinstance(doc, Exception) else f"took more than {SECONDS:g} s"
                    failed[kind].append(Place(number, note=f"field {field.name}: {note:.120}"))
                elif not arrived(text, doc.prompt):
                    changed[kind].append(Place(number, note=f"field {field.name}"))
    name, do = task.full_name, "treat field values as plain text"
    found = [
        Finding("hostile", "E", name, f"the doc function fails on {kind} in a field", do, tuple(places)) for kind, places in failed.items()
    ]
    for kind, places in changed.items():
        level: Level = "I" if kind == LENGTHY else "W"  # cutting a long text may be intended
        found.append(Finding("hostile", level, name, f"{kind} in a field are changed or missing in the prompt", do, tuple(places)))
    return found
