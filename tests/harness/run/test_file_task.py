"""Data files as tasks: one rule for answers in every format, decided over the whole column."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from assay import Access, Doc
from assay.harness.errors import AssayError
from assay.harness.run.file_task import rows_task
from assay.harness.task.task import Task

FORMATS = ("jsonl", "csv", "parquet")


def write(folder: Path, kind: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / f"items.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()} for row in rows)
    return path


def docs_of(task: Task) -> list[Doc]:
    return [task.doc(row) for row in task.rows.load("test", Access()).rows]


def golds(path: Path) -> list[int | None]:
    return [doc.gold for doc in docs_of(rows_task(path))]


def items(column: str, *pairs: tuple[list[str], Any]) -> list[dict[str, Any]]:
    return [{"prompt": f"Question {n}", "choices": choices, column: answer} for n, (choices, answer) in enumerate(pairs)]


NUMBERS = (["8", "2", "4", "1"], ["1", "2", "3", "0"], ["blue", "green", "red", "black"])


@pytest.mark.parametrize("kind", FORMATS)
def test_indices_that_are_spelled_like_choices_are_indices_where_the_column_says_so(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, items("answer", *zip(NUMBERS, (2, 1, 0), strict=True)))
    assert golds(path) == [2, 1, 0]
    assert rows_task(path).notes == ("answer: read as indices from 0",)


@pytest.mark.parametrize("kind", FORMATS)
def test_letters(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, items("answer", *zip(NUMBERS, ("B", "(c)", "D."), strict=True)))
    assert golds(path) == [1, 2, 3] and rows_task(path).notes == ("answer: read as letters of choices",)


@pytest.mark.parametrize("kind", FORMATS)
def test_texts(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind, items("answer", *zip(NUMBERS, ("4", "0", "red"), strict=True)))
    assert golds(path) == [2, 3, 2] and rows_task(path).notes == ("answer: read as texts of choices",)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_may_be_two_readings_is_refused_until_the_column_is_named(tmp_path: Path, kind: str) -> None:
    pairs = ((["2", "0", "1"], "0"), (["0", "1", "2"], "2"))
    with pytest.raises(AssayError, match=r"row 0: answer '0' .*as text or as index .*column answer_text or answer_index"):
        rows_task(write(tmp_path, kind, items("answer", *pairs)))
    assert golds(write(tmp_path, kind, items("answer_text", *pairs))) == [1, 2]
    assert golds(write(tmp_path, kind, items("answer_index", *pairs))) == [0, 2]
    with pytest.raises(AssayError, match="can be read as text or as letter"):
        rows_task(write(tmp_path, kind, items("answer", (["B", "A"], "A"))))
    assert golds(write(tmp_path, kind, items("answer", (["A", "B"], "A"), (["A", "B"], "B")))) == [0, 1], "both readings agree"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_mixed_column_is_refused_with_its_row(tmp_path: Path, kind: str) -> None:
    rows = items("answer", (["a1", "b1"], "0"), (["a2", "b2"], "1"), (["a3", "b3"], "b3"))
    with pytest.raises(AssayError, match=r"row 2: answer 'b3' is not among the indices from 0, as the answers of 2 other rows are"):
        rows_task(write(tmp_path, kind, rows))
    rows = items("answer", (["a1", "b1"], "1"), (["a2", "b2"], "2"))
    with pytest.raises(AssayError, match=r"row 1: answer '2' .*indices count from 0"):
        rows_task(write(tmp_path, kind, rows))
    rows = items("answer", (["red", "red", "blue"], "red"), (["red", "pink", "blue"], "blue"))
    with pytest.raises(AssayError, match=r"row 0: answer 'red' is the text of two choices"):
        rows_task(write(tmp_path, kind, rows))


def test_an_integer_is_an_index_unless_the_choices_are_integers(tmp_path: Path) -> None:
    assert golds(write(tmp_path, "jsonl", items("answer", (["2", "0", "1"], 0), (["0", "1", "2"], 2)))) == [0, 2]
    with pytest.raises(AssayError, match="can be read as text or as index"):
        rows_task(write(tmp_path, "jsonl", items("answer", ([2, 0, 1], 0))))  # type: ignore[list-item]
    for wrong in (True, 1.0, None, ["a"], {"a": 1}):
        with pytest.raises(AssayError, match="row 0"):
            rows_task(write(tmp_path, "jsonl", items("answer", (["a", "b"], wrong))))


def test_indices_that_never_are_0_are_pointed_out(tmp_path: Path) -> None:
    notes = rows_task(write(tmp_path, "jsonl", items("answer", *((["a", "b", "c"], 1 + n % 2) for n in range(30))))).notes
    assert len(notes) == 2 and "no index of 30 rows is 0" in notes[1]


def test_choices_are_separated_by_bars_or_json_lists(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text('prompt,choices,answer\nq,"[0, 1)|[1, 2]",0\nr,a | b,1\n')
    assert [doc.choices for doc in docs_of(rows_task(path))] == [("[0, 1)", "[1, 2]"), ("a", "b")]
    for rows in ('q,"[""a|b"", ""c""",0\n', "q,\"['a', 'b']\",0\n", "q,a||b,0\n"):
        path.write_text(f"prompt,choices,answer\n{rows}")
        with pytest.raises(AssayError, match="JSON list"):
            rows_task(path)
    path.write_text("prompt,choices,answer\nq,a|b,0\nr,a|b|c,1\n")
    assert rows_task(path).notes[1] == "choices: split at |, rows have 2 to 3 choices"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": ["Goethe"], "answer_start": [4]}, "reference is a record"),
        (4.0, "reference is a decimal number"),
        (float("nan"), "has no reference"),
        (True, "reference is true or false"),
        ([["a"]], "reference is a list"),
        ([], "reference is an empty list"),
        (None, "has no answer"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_references_of_the_wrong_kind_are_refused_with_their_column(tmp_path: Path, kind: str, value: Any, message: str) -> None:
    task = rows_task(write(tmp_path, kind, [{"prompt": "q", "reference": value}]))
    with pytest.raises(AssayError, match=message):
        docs_of(task)


@pytest.mark.parametrize("field", ["prompt", "id", "group"])
def test_other_columns_of_the_wrong_kind_are_refused_too(tmp_path: Path, field: str) -> None:
    task = rows_task(write(tmp_path, "jsonl", [{"prompt": "q", "reference": "a", field: {"x": 1}}]))
    with pytest.raises(AssayError, match=f"{field} is a record"):
        docs_of(task)


@pytest.mark.parametrize("kind", FORMATS)
def test_references_are_texts_or_lists_of_texts_in_every_format(tmp_path: Path, kind: str) -> None:
    (one, two) = docs_of(rows_task(write(tmp_path, kind, [{"prompt": "q", "reference": ["hi", "Hi"]}, {"prompt": "r", "reference": [""]}])))
    assert (one.references, two.references) == (("hi", "Hi"), ("",))
    (one, two) = docs_of(rows_task(write(tmp_path, kind, [{"prompt": "q", "reference": "[2, 3]"}, {"prompt": "r", "reference": ""}])))
    assert (one.references, two.references) == (("[2, 3]",), ("",))


def test_integers_are_texts(tmp_path: Path) -> None:
    (doc,) = docs_of(rows_task(write(tmp_path, "jsonl", [{"prompt": "2+2=", "answer": 4, "id": 7}])))
    assert (doc.references, doc.id) == (("4",), "7")
