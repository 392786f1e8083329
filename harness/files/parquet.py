"""Parquet files that a stranger may have made: read whole or refused, and never unpacked into more than memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError

RATIO, FREE = 1000, 1 << 28
"""What unpacks to more than RATIO times its size is a bomb, once it takes more than FREE bytes."""
BATCH = 256
"""Rows unpacked at once; what they take is measured before more are."""


def read_table(source: Path | bytes, where: str) -> Any:
    """A file, or the bytes of one, as an Arrow table. Raises AssayError where it is no Parquet file, is damaged, or is a bomb."""
    import pyarrow
    import pyarrow.parquet

    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    most = max(FREE, RATIO * size)
    try:
        opened = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(source) if isinstance(source, bytes) else source)
        with opened as file:
            promised = sum(file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups))
            refuse(promised, most, size, where)
            batches, total = [], 0
            for batch in file.iter_batches(batch_size=BATCH):
                total += unpacked(batch)
                refuse(total, most, size, where)
                batches.append(batch)
            return pyarrow.Table.from_batches(batches, file.schema_arrow)
    except (pyarrow.ArrowException, OSError, ValueError, ArithmeticError, MemoryError) as error:
        raise AssayError(f"cannot be read as Parquet: {first_line(error)}", where=where, do="fetch or write the file again") from None


def read_rows(source: Path | bytes, where: str) -> list[dict[str, Any]]:
    """The same as one dict per row. Raises AssayError also for values that Python cannot hold."""
    try:
        rows: list[dict[str, Any]] = read_table(source, where).to_pylist()
        return rows
    except (ValueError, ArithmeticError, TypeError) as error:
        raise AssayError(f"holds a value that cannot be read: {first_line(error)}", where=where, do="write the file again") from None


def unpacked(batch: Any) -> int:
    """Bytes of a batch once every row holds its own value: in a dictionary, many rows share one."""
    import pyarrow
    import pyarrow.compute

    total = int(batch.nbytes)
    for column in batch.columns:
        kind = column.type
        if pyarrow.types.is_dictionary(kind) and (pyarrow.types.is_string(kind.value_type) or pyarrow.types.is_binary(kind.value_type)):
            lengths = pyarrow.compute.binary_length(column.dictionary)
            total += pyarrow.compute.sum(lengths.take(column.indices)).as_py() or 0
    return total


def refuse(total: int, most: int, size: int, where: str) -> None:
    if total > most:
        raise AssayError(
            f"{size:,} bytes would unpack to more than {most:,}: refused", where=where, do="write it with fewer or shorter rows a file"
        )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
