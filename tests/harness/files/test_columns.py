"""Arrow columns from Python values equal those of Arrow's own builder. Run: pytest tests/harness/files/test_columns.py"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from assay.harness.files.columns import list_column, name_column, number_column, text_column

TEXTS = ["", "a", "naïve", "日本", "a\0b", "🙂 x"]


def same(found: pyarrow.Array, expected: pyarrow.Array) -> bool:
    found.validate(full=True)
    return found.type == expected.type and found.equals(expected) and found.null_count == expected.null_count


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 300])
def test_columns_equal_those_of_arrow(size: int) -> None:
    texts = [TEXTS[number % len(TEXTS)] for number in range(size)]
    lists = [texts[: number % 4] for number in range(size)]
    holes = [None if number % 3 == 1 else number / 7 for number in range(size)]
    wholes = [2**53 + number for number in range(size)]
    reals = [tuple(value / 3 for value in range(number % 3)) for number in range(size)]
    number = pyarrow.float64()
    assert same(text_column(texts), pyarrow.array(texts, pyarrow.string()))
    assert same(number_column(holes, number), pyarrow.array(holes, number))
    assert same(number_column(wholes, pyarrow.int64()), pyarrow.array(wholes, pyarrow.int64()))
    assert same(list_column(lists, text_column), pyarrow.array(lists, pyarrow.list_(pyarrow.string())))
    assert same(list_column(reals, lambda values: number_column(values, number)), pyarrow.array(reals, pyarrow.list_(number)))
    names = pyarrow.array(texts, pyarrow.string()).cast(pyarrow.dictionary(pyarrow.int32(), pyarrow.string()))
    assert same(name_column(texts), names)


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        text_column(["fine", "\ud800"])


STORE = """
import sys
from pathlib import Path
from faults.store_child import complete_run
from assay.harness.store import index
index(Path(sys.argv[1]), [complete_run(Path(sys.argv[1]))])
print(sorted({"pandas", "torch"} & set(sys.modules)))
"""


def test_a_run_is_stored_and_indexed_without_pandas(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STORE, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.stdout.strip() == "[]", found.stdout + found.stderr[-2000:]
