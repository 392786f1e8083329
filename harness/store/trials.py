"""Index the trials of tuning studies: read from the file that each study writes, one row per trial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.parquet import read_table
from assay.harness.files.safe_open import read_regular
from assay.harness.store.bundle import FILE_BYTES

TEXTS = ("study", "run_id", "method", "family", "task", "role", "target", "mitigation", "status")
INTEGERS = ("seed", "trainable_parameters", "saved_bytes", "peak_memory")
REALS = ("lr", "gain", "gain_low", "gain_high", "average_drop", "kl_base", "seconds")


def trial_files(root: Path) -> list[Path]:
    """Return the trial files of a store: in `studies/<preset>/` and `tuned/<name>/`."""
    return sorted([*root.glob("studies/*/trials.parquet"), *root.glob("tuned/*/trials.parquet")])


def read_trials(path: Path) -> Any:
    """Read the columns of the table `trial`; missing columns and non-finite numbers are null.

    Raises AssayError if the file is not Parquet, or a column has the wrong type.
    """
    import pyarrow
    import pyarrow.compute

    table = read_table(read_regular(path, FILE_BYTES), str(path))
    kinds = [*((name, pyarrow.string()) for name in TEXTS), *((name, pyarrow.int64()) for name in INTEGERS)]
    kinds += [(name, pyarrow.float64()) for name in REALS]
    columns = {}
    try:
        for name, kind in kinds:
            column = table[name].cast(kind) if name in table.column_names else pyarrow.nulls(table.num_rows, kind)
            if name in REALS:
                column = pyarrow.compute.if_else(pyarrow.compute.is_finite(column), column, pyarrow.scalar(None, kind))
            columns[name] = column
    except pyarrow.ArrowException as error:
        raise AssayError(f"a column has the wrong type: {str(error).splitlines()[0]}", where=str(path), do="run the study again") from None
    columns["study"] = pyarrow.compute.fill_null(columns["study"], path.parent.name)
    return pyarrow.table(columns)


def are_newer(root: Path, index: Path, studies: Sequence[str]) -> bool:
    """Whether a study was written after the index, or one of the indexed `studies` was deleted."""
    files = trial_files(root)
    if not files:
        return bool(studies)
    if not index.exists():
        return True
    indexed_at = index.stat().st_mtime_ns
    return len(files) < len(studies) or any(path.stat().st_mtime_ns > indexed_at for path in files)


def load_trials(connection: Any, root: Path) -> dict[str, str]:
    """Replace all rows of the table `trial` in one transaction. Returns the error of each file that could not be read."""
    trouble: dict[str, str] = {}
    connection.execute("BEGIN")
    connection.execute("DELETE FROM trial")
    for path in trial_files(root):
        try:
            table = read_trials(path)
        except (AssayError, OSError) as error:
            trouble[str(path.relative_to(root))] = str(error)
            continue
        connection.register("incoming_trials", table)
        names = ", ".join(table.column_names)
        connection.execute(f"INSERT INTO trial ({names}) SELECT {names} FROM incoming_trials")
        connection.unregister("incoming_trials")
    connection.execute("COMMIT")
    return trouble
