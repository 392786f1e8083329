"""Make a task from a JSON-lines, CSV or Parquet file, without any code.

Columns: `prompt`; for multiple choice `choices` (a list; in CSV a JSON list or texts separated by |) and `answer` (an index, or the
text of a choice); for generation `reference` or `answer` (a text or a list of texts). Optional: `id`, `group`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.paths import is_file
from assay.harness.metrics.choice import accuracy
from assay.harness.metrics.text import exact_match
from assay.harness.task.doc import Doc, Row
from assay.harness.task.source import Files, read_file
from assay.harness.task.task import Choose, Generate, Task


def rows_task(path: Path) -> Task:
    """The task that a data file describes, named after the file. Raises AssayError where columns are missing."""
    if not is_file(path):
        raise AssayError("no such task file", where=str(path), do="check the path")
    rows = read_file(path)
    if not rows:
        raise AssayError("the file has no rows", where=str(path), do="write one row per item")
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
    choices = texts(required(row, "choices"))
    answer = required(row, "answer")
    if isinstance(answer, str) and answer in choices:
        gold = choices.index(answer)
    elif re.fullmatch(r"[0-9]{1,9}", str(answer)):
        gold = int(answer)
    else:
        raise AssayError(f"answer {answer!r:.80} is neither a choice nor an index", do=f"the choices are {list(choices)!r:.200}")
    return Doc(str(required(row, "prompt")), choices=choices, gold=gold, id=name(row, "id"), group=name(row, "group"))


def text_doc(row: Row) -> Doc:
    answer = row["reference"] if row.get("reference") is not None else required(row, "answer")
    references = tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)
    if not references:
        raise AssayError("no reference", do="give a text, or a list of texts")
    return Doc(str(required(row, "prompt")), references=references, id=name(row, "id"), group=name(row, "group"))


def required(row: Row, column: str) -> Any:
    """The value of a required column. Raises AssayError where it is missing, so that it never becomes the text "None"."""
    if row.get(column) is None:
        raise AssayError(f"has no {column}", do=f"the row has {', '.join(map(str, row))}")
    return row[column]


def name(row: Row, column: str) -> str:
    """An optional column as text; empty where it is missing."""
    return "" if row.get(column) is None else str(row[column])


def texts(value: Any) -> tuple[str, ...]:
    """The choices of a row: a list, or in CSV a JSON list or texts separated by |."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise AssayError(
                    f"choices begin with [ but are not a JSON list: {error}", do="write a JSON list, or texts separated by |"
                ) from None
        else:
            value = [part.strip() for part in value.split("|")]
    if not isinstance(value, list):
        raise AssayError(f"choices are {value!r:.80}, not a list", do="write a JSON list, or texts separated by |")
    return tuple(map(str, value))
