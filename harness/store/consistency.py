"""Check that the files of one run agree with each other. (Hashes only show that no file changed since the run was written.)"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from assay.harness.store.bundle import SAMPLES, item_set
from assay.harness.store.journal import Key
from assay.harness.store.read import Run, content_errors
from assay.harness.store.record import UNMEASURED, Item, Record, Status
from assay.harness.store.tables import StatTable, output_text, string_array

LABELS = ("gold", "targets", "references", "value")


def inconsistencies(run: Run) -> list[str]:
    """Return the inconsistencies between a run's files; empty for every run that assay writes. Raises AssayError if a file is damaged."""
    with content_errors(run.path):
        items = run.items()
        records = run.records()
        found = [*item_problems(run, items), *record_problems(run, items, records)]
        if run.status == "complete" and not found:  # the tables have one row per item
            found += sample_problems(run.table(SAMPLES), items, records)
            imported = isinstance(run.manifest.get("imported"), Mapping)  # files of other tools may have missing values
            found += statistic_problems(run.stats(), items, () if imported else records)
        return found


def item_problems(run: Run, items: Sequence[Item]) -> list[str]:
    """Check that every item is unique, that every task has its planned number of items, and that the item set is the manifest's."""
    manifest, found = run.manifest, []
    (name, times), *_ = Counter((item.task, item.id) for item in items).most_common(1) or [(("", ""), 0)]
    if times > 1:
        found.append(f"items.parquet contains the item {name[1]!r} of {name[0]} {times} times")
    facts = {task["name"]: task for task in manifest["tasks"]}
    if len(facts) < len(manifest["tasks"]):
        found.append("the manifest lists a task twice")
    counts = Counter(item.task for item in items)
    for task in sorted(facts.keys() | counts.keys()):
        planned = facts[task].get("items") if task in facts else 0
        if planned is None or (task in facts and facts[task]["evidence"] == "aggregate"):  # imported without items
            continue
        fits = counts[task] <= planned if manifest["plan"].get("shard") else counts[task] == planned
        if not fits:
            found.append(f"{planned} items of {task} were planned, but items.parquet has {counts[task]}")
    if not found and item_set(items) != manifest.get("item_set"):
        found.append("items.parquet does not match the manifest (item_set differs)")
    return found


def record_problems(run: Run, items: Sequence[Item], records: Sequence[Record]) -> list[str]:
    """Check that every item has one record, in order, with a known status and a `correct` value that the item allows."""
    found = []
    keys = [(item.task, item.id) for item in items]
    if unplanned := {(record.task, record.item) for record in records} - set(keys):
        found.append(f"{len(unplanned)} results are of items that were not planned")
    if run.status == "complete" and [(record.task, record.item) for record in records] != keys:
        found.append(f"{len(items)} items were planned, but {len(records)} have results")
    if invalid := [record for record in records if record.status not in get_args(Status)]:
        found.append(f"{len(invalid)} results have an unknown status, such as {invalid[0].status!r:.40}")
    targets = {(item.task, item.id): item.doc.get("targets") or () for item in items}
    for record in records:
        value = record.correct
        if value is not None and not 0.0 <= value <= 1.0 and value not in targets.get((record.task, record.item), ()):
            return [*found, f"`correct` of the item {record.item!r} of {record.task} is {value}, outside of 0 to 1"]
    return found


def sample_problems(samples: Any, items: Sequence[Item], records: Sequence[Record]) -> list[str]:
    """Check that the displayed columns of samples.parquet match the planned items and the recorded outputs."""
    parts: dict[str, Callable[[Item], str]] = {
        "prompt": lambda item: item.prompt,
        "gold": lambda item: item.gold,
        "group": lambda item: item.group,
        "cluster": lambda item: item.cluster,
    }
    found = [
        f"the column {name!r} of samples.parquet differs from items.parquet"
        for name, part in parts.items()
        if string_array(samples[name]).tolist() != [part(item) for item in items]
    ]
    if string_array(samples["output"]).tolist() != [
        output_text(record.output, item.choices) for item, record in zip(items, records, strict=True)
    ]:
        found.append("the column 'output' of samples.parquet differs from the recorded outputs")
    return found


def statistic_problems(tables: dict[Key, StatTable], items: Sequence[Item], records: Sequence[Record]) -> list[str]:
    """Check that every labelled item has statistics for every metric, with its group and cluster, and that failed items have none."""
    planned: dict[str, list[Item]] = defaultdict(list)
    measured: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, set[str]] = defaultdict(set)
    undefined = {(record.task, record.item): record.output["undefined"] for record in records if record.output.get("undefined")}
    for item in items:
        planned[item.task].append(item)
    for item, record in zip(items, records, strict=False):
        if record.status in UNMEASURED:
            failed[item.task].add(item.id)
        elif any(name in item.doc for name in LABELS):
            measured[item.task].add(item.id)
    found = []
    for (task, metric), table in tables.items():
        present = frozenset(table.item_ids)
        expected = [(item.id, item.group, item.cluster) for item in planned[task] if item.id in present]
        if list(zip(table.item_ids, table.groups, table.clusters, strict=True)) != expected:
            found.append(f"the statistics of {metric} on {task} are not of the items that were planned")
        elif wrong := failed[task] & present:
            found.append(f"{len(wrong)} items of {task} failed, but have statistics of {metric}")
        elif missing := {item for item in measured[task] - present if metric.split(",")[0] not in undefined.get((task, item), ())}:
            found.append(f"{len(missing)} items of {task} have no statistics of {metric}")
    with_stats = {task for task, _ in tables}
    found += [f"no item of {task} has statistics" for task in measured if measured[task] and task not in with_stats]
    return found
