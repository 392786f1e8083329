"""Query the index over short, read-only connections without access to other files or the network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError

INDEX = "assay.duckdb"
SCHEMA = 3


def connect(root: Path) -> Any:
    """Open a read-only DuckDB connection to the index, without access to other files, network or settings. Close it soon.

    It reads the index as of the time of opening, and blocks no writer. Raises AssayError if there is no index, it is damaged, or
    it was written by a newer assay.
    """
    import duckdb

    path = Path(root) / INDEX
    if not path.is_file():
        raise AssayError("there is no index", where=str(path), do="create it with: assay store index")
    try:
        connection = open_sandbox(path)
    except duckdb.Error as error:
        do = "close the program that is writing to it" if "lock" in str(error) else "delete it, then: assay store index"
        raise AssayError(f"cannot be opened: {str(error).splitlines()[0]}", where=str(path), do=do) from None
    try:
        version = schema_version(connection)
        if version != SCHEMA:
            newer = version is not None and version > SCHEMA
            do = "upgrade assay" if newer else "update it with: assay store index"
            raise AssayError(f"has schema {version}, this assay knows {SCHEMA}", where=str(path), do=do)
    except BaseException:
        connection.close()
        raise
    return connection


def open_sandbox(path: Path) -> Any:
    """Open a read-only connection without access to other files, network or settings. Raises duckdb.Error.

    The file is attached to an in-memory database. Otherwise, within one process, DuckDB gives every connection to a path the file that
    the first one opened, and a busy leaderboard would keep showing an index that has been replaced.
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
    """Return a path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def schema_version(connection: Any) -> int | None:
    """Return the newest schema applied to a database; None if there is none."""
    import duckdb

    try:
        row = connection.execute("SELECT max(version) FROM schema_migrations").fetchone()
    except duckdb.CatalogException:
        return None
    return None if row is None or row[0] is None else int(row[0])


def query(root: Path, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of one query on the index, over a new connection. Raises AssayError if the query fails."""
    import duckdb

    connection = connect(root)
    try:
        rows: list[tuple[Any, ...]] = connection.execute(sql, list(params)).fetchall()
        return rows
    except duckdb.Error as error:
        what = f"the query failed: {str(error).splitlines()[0]}"
        raise AssayError(what, where=str(Path(root) / INDEX), do="delete the index, then: assay store index") from None
    finally:
        connection.close()
