"""Convert items, records and statistics to Arrow tables and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.harness.errors import AssayError
from assay.harness.files.atomic import to_json
from assay.harness.files.columns import list_column, name_column, number_column, text_column
from assay.harness.store.journal import Key
from assay.harness.store.record import Item, Record

ITEM_FIELDS = ("task", "id", "group", "cluster", "prompt", "choices", "gold", "doc", "shots", "key")
LISTS = ("choices", "shots")
COUNTS = ("logical", "computed", "cached")
TEXT, TEXTS, INTEGER, REAL, REALS = "text", "texts", "integer", "real", "reals"
COLUMNS: Mapping[str, Mapping[str, str]] = {
    "items.parquet": {name: TEXTS if name in LISTS else TEXT for name in ITEM_FIELDS},
    "samples.parquet": {
        **dict.fromkeys(("task", "item_id", "group", "cluster", "prompt", "output", "gold", "status", "error", "record"), TEXT),
        **dict.fromkeys(COUNTS, INTEGER),
        **dict.fromkeys(("correct", "seconds"), REAL),
    },
    "item_stats.parquet": {**dict.fromkeys(("task", "metric", "item_id", "item_group", "item_cluster"), TEXT), "stats": REALS},
}
"""Column types of a run's tables, by file name."""
PORTION = 2048
"""Items written or read at a time, so that their texts are not in memory twice."""
NULLABLE = ("correct",)
"""Columns that may have missing values."""


@dataclass(frozen=True, slots=True)
class StatTable:
    """The per-item statistics of one metric of one task: `stats` [n, k], with the ids, groups and clusters of the n items."""

    item_ids: tuple[str, ...]
    groups: tuple[str, ...]
    clusters: tuple[str, ...]
    stats: NDArray[np.float64]


def to_parquet(table: Any) -> bytes:
    """Return a table as a Parquet file, compressed with zstd."""
    return portions_to_parquet([table])


def portions_to_parquet(tables: Iterable[Any]) -> bytes:
    """Return tables with the same columns as one Parquet file, each written before the next is made."""
    import pyarrow
    import pyarrow.parquet

    sink, writer = pyarrow.BufferOutputStream(), None
    for table in tables:
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(sink, table.schema, compression="zstd")
        writer.write_table(table, row_group_size=65536)
    if writer is not None:
        writer.close()
    return bytes(sink.getvalue())


def portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the values PORTION at a time; at least one portion."""
    for begin in range(0, max(1, len(values)), PORTION):
        yield values[begin : begin + PORTION]


def validate_table(table: Any, name: str, where: str, columns: Sequence[str] | None = None) -> Any:
    """Check the columns of a run's table, all by default, and return it.

    Raises AssayError for a column that is missing, mistyped or has gaps.
    """
    import pyarrow

    kinds = {
        TEXT: pyarrow.string(),
        TEXTS: pyarrow.list_(pyarrow.string()),
        INTEGER: pyarrow.int64(),
        REAL: pyarrow.float64(),
        REALS: pyarrow.list_(pyarrow.float64()),
    }
    try:
        table.validate(full=True)  # checks that strings are UTF-8
    except pyarrow.ArrowException as error:
        raise AssayError(f"is damaged: {str(error).splitlines()[0]:.80}", where=where, do="restore the run from a copy") from None
    for column, kind in COLUMNS[name].items():
        if columns is not None and column not in columns:
            continue
        if table.column_names.count(column) != 1:
            raise AssayError(
                f"has {table.column_names.count(column)} columns {column!r}, not one", where=where, do="restore the run from a copy"
            )
        found = table[column].type
        found = found.value_type if pyarrow.types.is_dictionary(found) else found
        if found != kinds[kind]:
            raise AssayError(
                f"the column {column!r} has the type {found}, not {kinds[kind]}", where=where, do="restore the run from a copy"
            )
        if column not in NULLABLE and has_nulls(table[column]):
            raise AssayError(f"the column {column!r} has missing values", where=where, do="restore the run from a copy")
    return table


def has_nulls(column: Any) -> bool:
    """Whether a value, also inside a list, is missing."""
    import pyarrow

    if column.null_count:
        return True
    if pyarrow.types.is_dictionary(column.type):
        return any(chunk.dictionary.null_count for chunk in column.chunks)
    return pyarrow.types.is_list(column.type) and any(chunk.flatten().null_count for chunk in column.chunks)


def items_table(items: Sequence[Item]) -> Any:
    """Return all planned items as a table. Raises AssayError naming the item that cannot be written."""
    import pyarrow

    columns: dict[str, list[Any]] = {name: [getattr(item, name) for item in items] for name in ITEM_FIELDS}
    columns["doc"] = [to_json(dict(item.doc), f"{item.task} {item.id}").decode() for item in items]
    for item in items:
        try:
            "".join((item.task, item.id, item.group, item.cluster, item.prompt, *item.choices, item.gold, *item.shots)).encode()
        except (UnicodeEncodeError, TypeError) as error:
            raise AssayError(f"cannot be written as text: {error}", where=f"{item.task} {item.id}", do="fix the row") from None
    found = {name: list_column(values, text_column) if name in LISTS else text_column(values) for name, values in columns.items()}
    return pyarrow.table(found)


def items_of(table: Any) -> tuple[Item, ...]:
    """Return the planned items of a table."""
    rows = table.select(list(ITEM_FIELDS)).to_pydict()
    rows["doc"] = [json_object(doc) for doc in rows["doc"]]
    for name in LISTS:
        rows[name] = [tuple(texts) for texts in rows[name]]
    return tuple(Item(*values) for values in zip(*(rows[name] for name in ITEM_FIELDS), strict=True))


def without_texts(table: Any) -> tuple[Item, ...]:
    """Return the planned items of a table with nothing but their task, id, group and cluster."""
    columns = (table[name].to_pylist() for name in ("task", "id", "group", "cluster"))
    return tuple(Item(task, id, group, cluster, "") for task, id, group, cluster in zip(*columns, strict=True))


def json_object(text: str | bytes) -> dict[str, Any]:
    """Parse one JSON object. Raises ValueError for NaN and for anything else."""
    value = json.loads(text, parse_constant=float.fromhex)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def printable(text: str) -> str:
    """Replace lone surrogates, which a model's detokenizer may return and UTF-8 cannot encode."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def output_text(output: Mapping[str, Any], choices: Sequence[str]) -> str:
    """Return the model's output for display: the completion, the chosen answer, or the number."""
    if "text" in output:
        return printable(str(output["text"]))
    pick = output.get("pick")
    if isinstance(pick, int) and 0 <= pick < len(choices):
        return choices[pick]
    number = output.get("value", output.get("logprob"))
    return "" if number is None else f"{number:.6g}"


def samples_table(planned: Any, records: Mapping[Key, Record]) -> Any:
    """Return one row per item of the table `planned` (items_table); the column `record` is the whole output as JSON."""
    import pyarrow

    keys = list(zip(planned["task"].to_pylist(), planned["id"].to_pylist(), strict=True))
    rows = [records[key] for key in keys]
    shown = [output_text(record.output, choices) for record, choices in zip(rows, planned["choices"].to_pylist(), strict=True)]
    return pyarrow.table(
        {
            "task": planned["task"],
            "item_id": planned["id"],
            **{name: planned[name] for name in ("group", "cluster", "prompt")},
            "output": text_column(shown),
            "gold": planned["gold"],
            "correct": number_column([record.correct for record in rows], pyarrow.float64()),
            "status": text_column([record.status for record in rows]),
            "error": text_column([printable(record.error) for record in rows]),
            **{name: number_column([getattr(record, name) for record in rows], pyarrow.int64()) for name in COUNTS},
            "seconds": number_column([record.seconds for record in rows], pyarrow.float64()),
            "record": text_column([to_json(record.output, " ".join(key)).decode() for key, record in zip(keys, rows, strict=True)]),
        }
    )


def stats_table(items: Sequence[Item], records: Mapping[Key, Record]) -> Any:
    """Return one row per task, metric and item with statistics, sorted by task and metric in planned order."""
    import pyarrow

    by_metric: dict[Key, list[tuple[Item, tuple[float, ...]]]] = {}
    for item in items:
        record = records.get((item.task, item.id))
        for metric, stats in record.stats.items() if record else ():
            by_metric.setdefault((item.task, metric), []).append((item, stats))
    rows = [(task, metric, item, stats) for (task, metric), pairs in by_metric.items() for item, stats in pairs]
    return pyarrow.table(
        {
            "task": name_column([row[0] for row in rows]),
            "metric": name_column([row[1] for row in rows]),
            "item_id": text_column([row[2].id for row in rows]),
            "item_group": text_column([row[2].group for row in rows]),
            "item_cluster": text_column([row[2].cluster for row in rows]),
            "stats": list_column([row[3] for row in rows], lambda values: number_column(values, pyarrow.float64())),
        }
    )


def string_array(column: Any) -> NDArray[np.object_]:
    """Return a string column as an array of str. Arrow's `to_numpy` would import pandas, which takes longer than reading a run."""
    import pyarrow

    coded = pyarrow.types.is_dictionary(column.type)  # decoded here: `to_pylist` takes ten times as long for them
    chunks = [chunk.dictionary_decode() if coded else chunk for chunk in column.chunks]
    return np.array([value for chunk in chunks for value in chunk.to_pylist()], dtype=object)


def number_array(values: Any) -> NDArray[Any]:
    """Return an Arrow array of numbers as an array, NaN where there is none."""
    return np.asarray(values) if values.null_count or not len(values) else np.from_dlpack(values)  # from_dlpack imports no pandas


def stat_tables(table: Any, where: str) -> dict[Key, StatTable]:
    """Return statistics by (task, metric). Raises AssayError if one metric's items have different numbers of statistics."""
    table = table.combine_chunks()
    if not table.num_rows:
        return {}
    tasks, metrics = (string_array(table[name]) for name in ("task", "metric"))
    ids, groups, clusters = (string_array(table[name]).tolist() for name in ("item_id", "item_group", "item_cluster"))
    lists = table["stats"].chunk(0)
    offsets, values = number_array(lists.offsets), np.asarray(number_array(lists.values), dtype=np.float64)
    edges = np.flatnonzero((tasks[1:] != tasks[:-1]) | (metrics[1:] != metrics[:-1])) + 1
    found: dict[Key, StatTable] = {}
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(ids)], strict=True):
        widths = np.diff(offsets[start : end + 1])
        key = (tasks[start], metrics[start])
        if key in found or (widths != widths[0]).any():
            raise AssayError(
                f"the statistics of {key[1]} on {key[0]} are not sorted, or differ in number", where=where, do="restore the run from a copy"
            )
        flat = values[offsets[start] : offsets[end]]
        if not np.isfinite(flat).all():
            raise AssayError(f"a statistic of {key[1]} on {key[0]} is not finite", where=where, do="restore the run from a copy")
        stats = flat.reshape(end - start, int(widths[0]))
        found[key] = StatTable(tuple(ids[start:end]), tuple(groups[start:end]), tuple(clusters[start:end]), stats)
    return found


def records_of(samples: Any, stats: Mapping[Key, StatTable]) -> tuple[Record, ...]:
    """Return the final records of the stored tables, in planned order."""
    by_item: dict[Key, dict[str, tuple[float, ...]]] = {}
    for (task, metric), table in stats.items():
        for item, values in zip(table.item_ids, table.stats.tolist(), strict=True):
            by_item.setdefault((task, item), {})[metric] = tuple(values)
    names = ("task", "item_id", "status", "record", "correct", "error", *COUNTS, "seconds")
    columns = samples.select(list(names)).to_pydict()
    return tuple(
        Record(task, item, status, json_object(output), by_item.get((task, item), {}), *rest)
        for task, item, status, output, *rest in zip(*(columns[name] for name in names), strict=True)
    )
