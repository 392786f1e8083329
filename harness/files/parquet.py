"""Untrusted Parquet files: read whole or refused, with a limit on the decompressed size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError

RATIO, FREE = 1000, 1 << 28
"""A file is refused as a decompression bomb if it decompresses to more than FREE bytes and more than RATIO times its size."""
BATCH = 256
"""Rows decompressed at a time; their size is checked before the next ones."""


def read_table(source: Path | bytes, where: str, columns: Sequence[str] | None = None) -> Any:
    """Read a file, or its bytes, as an Arrow table with these columns, all by default.

    Raises AssayError if it is not Parquet, damaged, lacks a column, or a decompression bomb.
    """
    (table,) = read_portions(source, where, columns)
    return table


def read_portions(source: Path | bytes, where: str, columns: Sequence[str] | None = None, batches: int | None = None) -> Iterator[Any]:
    """Yield the tables of `read_table` with the rows of so many batches each (None: all in one); at least one, which may be empty."""
    import pyarrow
    import pyarrow.parquet

    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    most = max(FREE, RATIO * size)
    try:
        opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(source) if isinstance(source, bytes) else source)
        with opened as file:
            declared = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
            check_size(declared, most, size, where)
            fields = [field for field in file.schema_arrow if columns is None or field.name in columns]
            known, schema = [field.name for field in fields], pyarrow.schema(fields)
            total, yielded, held = 0, False, []
            for batch in file.iter_batches(batch_size=BATCH, columns=known):
                total += unpacked_bytes(batch)
                check_size(total, most, size, where)
                held.append(batch)
                if len(held) == batches:
                    yield pyarrow.Table.from_batches(held, schema)
                    held, yielded = [], True
            if held or not yielded:
                yield pyarrow.Table.from_batches(held, schema)
    except (pyarrow.ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise AssayError(f"cannot be read as Parquet: {first_line(error)}", where=where, do="download or write the file again") from None


def read_rows(source: Path | bytes, where: str) -> list[dict[str, Any]]:
    """Read a file, or its bytes, as one dict per row. Raises AssayError like `read_table`, and for values that Python cannot represent."""
    return as_rows(read_table(source, where), where)


def as_rows(table: Any, where: str) -> list[dict[str, Any]]:
    """A table as one dict per row. Raises AssayError for values that Python cannot represent."""
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    except (ValueError, ArithmeticError, TypeError) as error:
        raise AssayError(f"contains a value that cannot be read: {first_line(error)}", where=where, do="write the file again") from None


def unpacked_bytes(batch: Any) -> int:
    """Return the bytes of a batch after dictionary decoding, where every row has its own copy of its value."""
    import pyarrow
    import pyarrow.compute

    total = int(batch.nbytes)
    for column in batch.columns:
        kind = column.type
        if pyarrow.types.is_dictionary(kind) and (pyarrow.types.is_string(kind.value_type) or pyarrow.types.is_binary(kind.value_type)):
            lengths = pyarrow.compute.binary_length(column.dictionary)
            total += pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0
    return total


def check_size(total: int, most: int, size: int, where: str) -> None:
    if total > most:
        raise AssayError(
            f"{size:,} bytes would decompress to more than {most:,} bytes", where=where, do="split the file into smaller files"
        )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
