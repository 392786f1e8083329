"""Columns of Arrow tables from Python values, made from their buffers.

Where pandas is installed, `pyarrow.array` imports it for a list, which takes 0.4 s and 75 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**31 - 1
"""Of the texts of one Arrow array."""


def number_column(values: Sequence[float | None] | NDArray[Any], kind: Any) -> Any:
    """Return numbers as an Arrow array of the type `kind`, which has 4 or 8 bytes per value."""
    import pyarrow

    missing = np.array([value is None for value in values], bool)
    numbers = np.array([0 if value is None else value for value in values] if missing.any() else values, kind.to_pandas_dtype())
    known = pyarrow.py_buffer(np.packbits(~missing, bitorder="little")) if missing.any() else None
    return pyarrow.Array.from_buffers(kind, len(numbers), [known, pyarrow.py_buffer(numbers)])


def text_column(texts: Sequence[str]) -> Any:
    """Return texts as an Arrow array of strings. Raises UnicodeEncodeError for a lone surrogate."""
    import pyarrow

    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    if ends[-1] > MOST_BYTES:
        return pyarrow.array(texts, pyarrow.string())  # of several chunks
    buffers = [None, pyarrow.py_buffer(ends.astype(np.int32)), pyarrow.py_buffer(b"".join(encoded))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(encoded), buffers)


def name_column(names: Sequence[str]) -> Any:
    """Return texts of which many are equal as an Arrow array that holds each of them once."""
    import pyarrow

    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return pyarrow.DictionaryArray.from_arrays(number_column([places[name] for name in names], pyarrow.int32()), text_column(list(places)))


def list_column(lists: Sequence[Sequence[Any]], column: Callable[[list[Any]], Any]) -> Any:
    """Return lists as an Arrow array; `column` makes the array of all their values."""
    import pyarrow

    ends = number_column(np.cumsum([0, *map(len, lists)]), pyarrow.int32())
    return pyarrow.ListArray.from_arrays(ends, column([value for values in lists for value in values]))
