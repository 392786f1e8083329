"""Reading the index: short, read-only connections that can reach nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError

INDEX = "assay.duckdb"
SCHEMA = 2


def connect(root: Path) -> Any:
    """A read-only DuckDB connection to the index, without access to files, network or settings. Close it soon.

    It sees the index as it was published when opened, and holds up nobody. Raises AssayError where there is no index, it is
    damaged, or a newer assay made it.
    """
    import duckdb

    path = Path(root) / INDEX
    if not path.is_file():
        raise AssayError("there is no index", where=str(path), do="make it with: assay store index")
    try:
        connection = open_sandbox(path)
    except duckdb.Error as error:
        do = "close the program that is writing to it" if "lock" in str(error) else "delete it and make it again with: assay store index"
        raise AssayError(f"cannot be opened: {str(error).splitlines()[0]}", where=str(path), do=do) from None
    try:
        version = schema_version(connection)
        if version != SCHEMA:
            newer = version is not None and version > SCHEMA
            do = "upgrade assay" if newer else "make it again with: assay store index"
            raise AssayError(f"has schema {version}, this assay knows {SCHEMA}", where=str(path), do=do)
    except BaseException:
        connection.close()
        raise
    return connection


def open_sandbox(path: Path) -> Any:
    """Read-only, and for good: no other file, no network, no change of settings. Raises duckdb.Error.

    Attached to a database of its own: within one process DuckDB gives every connection to a path the file that the first of them
    opened, so that a board that is never quite idle would show an index that was replaced long ago.
    """
    import duckdb

    connection = duckdb.connect()
    try:
        connection.execute(f"ATTACH {quoted(path)} AS store (READ_ONLY)")
        connection.execute("USE store")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def quoted(path: Path) -> str:
    """A path as text of SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def schema_version(connection: Any) -> int | None:
    """The newest schema applied to a database; None where there is none."""
    import duckdb

    try:
        row = connection.execute("SELECT max(version) FROM schema_migrations").fetchone()
    except duckdb.CatalogException:
        return None
    return None if row is None or row[0] is None else int(row[0])


def query(root: Path, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of one query on the index, over a connection of its own. Raises AssayError where the index cannot or may not answer."""
    import duckdb

    connection = connect(root)
    try:
        rows: list[tuple[Any, ...]] = connection.execute(sql, list(params)).fetchall()
        return rows
    except duckdb.Error as error:
        what = f"the index cannot answer: {str(error).splitlines()[0]}"
        raise AssayError(what, where=str(Path(root) / INDEX), do="delete it and make it again with: assay store index") from None
    finally:
        connection.close()
