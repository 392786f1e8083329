"""Make a task from a JSON-lines, CSV or Parquet file, without any code.

Columns: `prompt`; for multiple choice `choices` (a list; in CSV a JSON list or texts separated by |) and `answer`; for generation
`reference` or `answer` (a text or a list of texts; in CSV also a JSON list of texts). Optional: `id`, `group`.

The answers of a multiple-choice file are all texts of choices, all indices from 0, or all letters. Which of the three is decided over the
whole column, by the same rule for every format. Where two of them fit and differ, name the column `answer_text`, `answer_index` or
`answer_letter`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.paths import is_file
from assay.harness.metrics.choice import accuracy
from assay.harness.metrics.text import exact_match
from assay.harness.task.doc import Doc, Row
from assay.harness.task.source import Files, read_file
from assay.harness.task.task import Choose, Generate, Task

Cells = Sequence[tuple[Any, list[Any]]]
"""Per row its answer and its choices, as the file has them."""
LETTER = re.compile(r"\(?([A-Za-z])[).]?")
MANY = 20
"""In so many rows some index should be 0."""


def rows_task(path: Path) -> Task:
    """The task that a data file describes, named after the file. Raises AssayError where columns are missing or cannot be read."""
    if not is_file(path):
        raise AssayError("no such task file", where=str(path), do="check the path")
    rows = read_file(path)
    if not rows:
        raise AssayError("the file has no rows", where=str(path), do="write one row per item")
    columns = set(rows[0])
    answers = [name for name in ("answer", *(f"answer_{kind}" for kind in READINGS)) if name in columns]
    if "prompt" not in columns or not (answers if "choices" in columns else columns & {"answer", "reference"}):
        raise AssayError(
            f"has the columns {', '.join(sorted(map(str, columns)))}",
            where=str(path),
            do="a task file needs `prompt` and `answer` (or `reference`), and `choices` for multiple choice",
        )
    return choice_task(rows, answers, path) if "choices" in columns else text_task(rows, path)


def choice_task(rows: Sequence[Row], answers: Sequence[str], path: Path) -> Task:
    if len(answers) > 1:
        raise AssayError(f"has the answer columns {', '.join(answers)}", where=str(path), do="keep one of them")
    cells = cells_of(rows, answers[0], path)
    kind, notes = reading_of(cells, answers[0], path)
    sizes = sorted({len(choices) for _, choices in cells})
    if len(sizes) > 1 and isinstance(rows[0]["choices"], str) and not is_json_list(rows[0]["choices"]):
        notes += (f"choices: split at |, rows have {sizes[0]} to {sizes[-1]} choices",)
    return Task(path.stem, Files(str(path)), ChoiceRows(answers[0], kind), Choose(), (accuracy,), notes=notes)


def text_task(rows: Sequence[Row], path: Path) -> Task:
    column = "reference" if "reference" in rows[0] else "answer"
    lists = path.suffix == ".csv" and all(text_list(row[column]) is not None for row in rows)
    notes = (f"{column}: read as JSON lists of texts",) if lists else ()
    return Task(path.stem, Files(str(path)), TextRows(lists), Generate(max_tokens=32, stop=("\n",)), (exact_match,), notes=notes)


def cells_of(rows: Sequence[Row], column: str, path: Path) -> Cells:
    """The answer and the choices of every row. Raises AssayError naming the row where one is missing or of a wrong kind."""
    cells = []
    for number, row in enumerate(rows):
        try:
            cells.append((required(row, column), choices_of(required(row, "choices"))))
        except AssayError as error:
            raise AssayError(error.what, where=f"{path}: row {number}", do=error.do) from None
    return cells


def by_text(answer: Any, choices: Sequence[Any]) -> int | None:
    """The only choice with this text. A number is the text of a choice only if that choice is a number too."""
    if isinstance(answer, str):
        found = [index for index, choice in enumerate(choices) if str(choice).strip() == answer.strip()]
    else:
        found = [index for index, choice in enumerate(choices) if whole(choice) and whole(answer) and choice == answer]
    return found[0] if len(found) == 1 else None


def by_index(answer: Any, choices: Sequence[Any]) -> int | None:
    digits = answer.strip() if isinstance(answer, str) else str(answer) if whole(answer) else ""
    return int(digits) if re.fullmatch(r"[0-9]{1,9}", digits) and int(digits) < len(choices) else None


def by_letter(answer: Any, choices: Sequence[Any]) -> int | None:
    """The place in the alphabet: B, b, (B), B) and B. are the second choice."""
    found = LETTER.fullmatch(answer.strip()) if isinstance(answer, str) else None
    index = ord(found.group(1).upper()) - ord("A") if found else len(choices)
    return index if index < len(choices) else None


READINGS: Mapping[str, Callable[[Any, Sequence[Any]], int | None]] = {"text": by_text, "index": by_index, "letter": by_letter}
SPELLED = {"text": "texts of choices", "index": "indices from 0", "letter": "letters of choices"}


def reading_of(cells: Cells, column: str, path: Path) -> tuple[str, tuple[str, ...]]:
    """How the whole column is read ("text", "index" or "letter"), and notes for the run.

    Raises AssayError where no reading fits every row, or where two fit and give different answers.
    """
    kinds = [column.removeprefix("answer_")] if column != "answer" else [*READINGS]
    golds = {kind: [READINGS[kind](answer, choices) for answer, choices in cells] for kind in kinds}
    fit = [kind for kind in kinds if None not in golds[kind]]
    if not fit:
        raise misfit(cells, golds, column, path)
    for kind in fit[1:]:
        if differ := [number for number, (one, other) in enumerate(zip(golds[fit[0]], golds[kind], strict=True)) if one != other]:
            raise AssayError(
                f"{column} {cells[differ[0]][0]!r} can be read as {fit[0]} or as {kind} of {cells[differ[0]][1]!r:.120}, as all answers",
                where=f"{path}: row {differ[0]}",
                do=f"name the column answer_{fit[0]} or answer_{kind}",
            )
    kind = fit[0]
    notes: tuple[str, ...] = (f"{column}: read as {SPELLED[kind]}",)
    if kind == "index" and len(cells) >= MANY and 0 not in golds[kind]:
        notes += (f"{column}: no index of {len(cells)} rows is 0; if they count from 1, every gold answer is wrong",)
    return kind, notes


def misfit(cells: Cells, golds: Mapping[str, Sequence[int | None]], column: str, path: Path) -> AssayError:
    """The error for a column that no reading fits: the rows that disagree with the reading that fits most."""
    kind = max(golds, key=lambda kind: len(cells) - golds[kind].count(None))
    wrong = [number for number, gold in enumerate(golds[kind]) if gold is None]
    answer, choices = cells[wrong[0]]
    hint = "indices count from 0; " if kind == "index" and 0 not in golds[kind] else ""
    do = f"{hint}the choices are {choices!r:.200}"
    if len(wrong) == len(cells):
        what = f"{column} {answer!r:.80} is neither a choice, an index nor a letter"
    elif kind == "text" and [str(choice).strip() for choice in choices].count(str(answer).strip()) > 1:
        what = f"{column} {answer!r:.80} is the text of two choices of {choices!r:.200}"
        do = "give the choices different texts, or the answers as indices"
    else:
        what = f"{column} {answer!r:.80} is not among the {SPELLED[kind]}, as the answers of {len(cells) - len(wrong)} other rows are"
    others = f" ({len(wrong)} such rows)" if len(wrong) > 1 else ""
    return AssayError(f"{what}{others}", where=f"{path}: row {wrong[0]}", do=do)


@dataclass(frozen=True, slots=True)
class ChoiceRows:
    """Converts a row with choices to a Doc. `kind`: how its answer is read."""

    column: str
    kind: str

    def __call__(self, row: Row) -> Doc:
        choices, answer = choices_of(required(row, "choices")), required(row, self.column)
        gold = READINGS[self.kind](answer, choices)
        if gold is None:
            raise AssayError(f"{self.column} {answer!r:.80} is not among the {SPELLED[self.kind]}", do=f"the choices are {choices!r:.200}")
        return Doc(prompt_of(row), choices=tuple(map(str, choices)), gold=gold, id=name(row, "id"), group=name(row, "group"))


@dataclass(frozen=True, slots=True)
class TextRows:
    """Converts a row with references to a Doc. `lists`: the column has JSON lists of texts."""

    lists: bool = False

    def __call__(self, row: Row) -> Doc:
        column = "reference" if row.get("reference") is not None else "answer"
        value = required(row, column)
        if self.lists:
            value = text_list(value) or value
        references = tuple(as_text(each, column) for each in (value if isinstance(value, list) else [value]))
        if not references:
            raise AssayError(f"{column} is an empty list", do="give a text, or a list of texts")
        return Doc(prompt_of(row), references=references, id=name(row, "id"), group=name(row, "group"))


def required(row: Row, column: str) -> Any:
    """The value of a required column. Raises AssayError where it is missing, so that it never becomes the text "None" or "nan"."""
    value = row.get(column)
    if value is None or value != value:
        raise AssayError(f"has no {column}", do=f"the row has {', '.join(map(str, row))}")
    return value


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def as_text(value: Any, column: str) -> str:
    """A text, or an integer as text. Raises AssayError for every other kind, whose spelling is not in the file."""
    if isinstance(value, str) or whole(value):
        return str(value)
    kind = {"dict": "a record", "list": "a list", "bool": "true or false", "float": "a decimal number"}
    what = f"{column} is {kind.get(type(value).__name__, type(value).__name__)} ({value!r:.80}), not a text"
    raise AssayError(what, do=f"write {column} as text, exactly as the model should give it")


def prompt_of(row: Row) -> str:
    return as_text(required(row, "prompt"), "prompt")


def name(row: Row, column: str) -> str:
    """An optional column as text; empty where it is missing."""
    value = row.get(column)
    return "" if value is None or value != value else as_text(value, column)


def text_list(value: Any) -> list[str] | None:
    """The texts of a JSON list of texts; None for anything else."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if found and all(isinstance(each, str) for each in found) else None


def is_json_list(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), list)
    except (ValueError, RecursionError):
        return False


def choices_of(value: Any) -> list[Any]:
    """The choices of a row, texts or integers: a list, or in CSV a JSON list or texts separated by |."""
    if is_json_list(value):
        value = json.loads(value)
    elif isinstance(value, str) and re.match(r"\s*\[\s*['\"]", value):
        raise AssayError(f"choices begin as a list but are not a JSON list: {value!r:.80}", do="write a JSON list, or texts separated by |")
    elif isinstance(value, str):
        value = [part.strip() for part in value.split("|")]
        if "" in value:
            raise AssayError(f"choices have an empty text: {value!r:.120}", do="write JSON lists where a choice contains |")
    if not isinstance(value, list):
        raise AssayError(f"choices are {value!r:.80}, not a list", do="write a JSON list, or texts separated by |")
    for choice in value:
        as_text(choice, "a choice")
    return value
