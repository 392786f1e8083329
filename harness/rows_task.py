"""A JSON-lines, CSV or Parquet file is a task without any code.

Columns: `prompt`; for multiple choice `choices` (a list; in CSV a JSON list or texts separated by |) and `answer` (an index, or the
text of a choice); for generation `reference` or `answer` (a text or a list of texts). Optional: `id`, `group`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.doc import Doc, Row
from harness.errors import AssayError
from harness.metrics.choice import accuracy
from harness.metrics.text import exact_match
from harness.source import READERS, Files
from harness.task import Choose, Generate, Task


def rows_task(path: Path) -> Task:
    """The task that a data file describes, named after the file. Raises AssayError where columns are missing."""
    if not path.is_file():
        raise AssayError("no such task file", where=str(path), do="check the path")
    rows = READERS[path.suffix](path)
    if not rows:
        raise AssayError("the file has no rows", where=str(path))
    columns = set(rows[0])
    if "prompt" not in columns or not columns & {"answer", "reference"}:
        raise AssayError(
            f"has the columns {', '.join(sorted(map(str, columns)))}",
            where=str(path),
            do="a task file needs `prompt` and `answer` (or `reference`), and `choices` for multiple choice",
        )
    if "choices" in columns:
        return Task(path.stem, Files(str(path)), choice_doc, Choose(), (accuracy,))
    return Task(path.stem, Files(str(path)), text_doc, Generate(max_tokens=32, stop=("\n",)), (exact_match,))


def choice_doc(row: Row) -> Doc:
    choices = texts(row["choices"])
    answer = row["answer"]
    if isinstance(answer, str) and answer in choices:
        gold = choices.index(answer)
    elif str(answer).isdigit():
        gold = int(answer)
    else:
        raise AssayError(f"answer {answer!r} is neither a choice nor an index", do=f"the choices are {list(choices)}")
    return Doc(str(row["prompt"]), choices=choices, gold=gold, id=str(row.get("id") or ""), group=str(row.get("group") or ""))


def text_doc(row: Row) -> Doc:
    answer = row["reference"] if row.get("reference") is not None else row.get("answer")
    references = tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)
    return Doc(str(row["prompt"]), references=references, id=str(row.get("id") or ""), group=str(row.get("group") or ""))


def texts(value: Any) -> tuple[str, ...]:
    """A list of choices, as JSON brings it or as CSV writes it."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = json.loads(value)
        else:
            value = [part.strip() for part in value.split("|")]
    return tuple(map(str, value))
