"""Do the files of one run agree with each other? Hashes say that nothing changed since; this says that it was one run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from assay.harness.store.bundle import SAMPLES, item_set
from assay.harness.store.journal import Key
from assay.harness.store.read import Run, sound
from assay.harness.store.record import Item, Record, Status
from assay.harness.store.tables import StatTable, said, texts

LABELS = ("gold", "targets", "references", "value")


def inconsistencies(run: Run) -> list[str]:
    """What does not fit together, empty for a run as this harness writes it. Raises AssayError where a file is damaged."""
    with sound(run.path):
        items = run.items()
        records = run.records()
        found = [*of_items(run, items), *of_records(run, items, records)]
        if run.status == "complete" and not found:  # the tables are as long as the items
            found += of_samples(run.table(SAMPLES), items, records)
            imported = isinstance(run.manifest.get("imported"), Mapping)  # others' files may lack a value here and there
            found += of_statistics(run.stats(), items, () if imported else records)
        return found


def of_items(run: Run, items: Sequence[Item]) -> list[str]:
    """Every item once, as many as the manifest says of the run and of each task, and asking what the manifest says."""
    manifest, found = run.manifest, []
    (name, times), *_ = Counter((item.task, item.id) for item in items).most_common(1) or [(("", ""), 0)]
    if times > 1:
        found.append(f"the item {name[1]!r} of {name[0]} stands {times} times in items.parquet")
    facts = {task["name"]: task for task in manifest["tasks"]}
    if len(facts) < len(manifest["tasks"]):
        found.append("the manifest names a task twice")
    counts = Counter(item.task for item in items)
    for task in sorted(facts.keys() | counts.keys()):
        planned = facts[task].get("items") if task in facts else 0
        if planned is None or (task in facts and facts[task]["evidence"] == "aggregate"):  # imported without items
            continue
        fits = counts[task] <= planned if manifest["plan"].get("shard") else counts[task] == planned
        if not fits:
            found.append(f"{planned} items of {task} were planned, but items.parquet holds {counts[task]}")
    if not found and item_set(items) != manifest.get("item_set"):
        found.append("the items are not those of the manifest (item_set differs)")
    return found


def of_records(run: Run, items: Sequence[Item], records: Sequence[Record]) -> list[str]:
    """One record per item, in order, with a known status, and none more right than an item can be."""
    found = []
    keys = [(item.task, item.id) for item in items]
    if strangers := {(record.task, record.item) for record in records} - set(keys):
        found.append(f"{len(strangers)} results are of items that were not planned")
    if run.status == "complete" and [(record.task, record.item) for record in records] != keys:
        found.append(f"{len(items)} items were planned, but {len(records)} have results")
    if odd := [record for record in records if record.status not in get_args(Status)]:
        found.append(f"{len(odd)} results have a status that is none, such as {odd[0].status!r:.40}")
    targets = {(item.task, item.id): item.doc.get("targets") or () for item in items}
    for record in records:
        right = record.correct
        if right is not None and not 0.0 <= right <= 1.0 and right not in targets.get((record.task, record.item), ()):
            return [*found, f"the item {record.item!r} of {record.task} is right to {right}, which no item can be"]
    return found


def of_samples(samples: Any, items: Sequence[Item], records: Sequence[Record]) -> list[str]:
    """What people are shown of an item is what was planned and what came back."""
    parts: dict[str, Callable[[Item], str]] = {
        "prompt": lambda item: item.prompt,
        "gold": lambda item: item.gold,
        "group": lambda item: item.group,
        "cluster": lambda item: item.cluster,
    }
    found = [
        f"the column {name!r} of samples.parquet is not that of items.parquet"
        for name, part in parts.items()
        if texts(samples[name]).tolist() != [part(item) for item in items]
    ]
    if texts(samples["output"]).tolist() != [said(record.output, item) for item, record in zip(items, records, strict=True)]:
        found.append("the outputs that are shown are not those that were recorded")
    return found


def of_statistics(tables: dict[Key, StatTable], items: Sequence[Item], records: Sequence[Record]) -> list[str]:
    """Every labelled item has the statistics of every metric of its task, with its own group and cluster; an item in error has none."""
    planned: dict[str, list[Item]] = defaultdict(list)
    measured: dict[str, set[str]] = defaultdict(set)
    failed: dict[str, set[str]] = defaultdict(set)
    for item in items:
        planned[item.task].append(item)
    for item, record in zip(items, records, strict=False):
        if record.status == "error":
            failed[item.task].add(item.id)
        elif any(name in item.doc for name in LABELS):
            measured[item.task].add(item.id)
    found = []
    for (task, metric), table in tables.items():
        have = frozenset(table.item_ids)
        told = [(item.id, item.group, item.cluster) for item in planned[task] if item.id in have]
        if list(zip(table.item_ids, table.groups, table.clusters, strict=True)) != told:
            found.append(f"the statistics of {metric} on {task} are not of the items that were planned")
        elif wrong := failed[task] & have:
            found.append(f"{len(wrong)} items of {task} are in error and have statistics of {metric} all the same")
        elif lacking := measured[task] - have:
            found.append(f"{len(lacking)} items of {task} lack the statistics of {metric}")
    with_stats = {task for task, _ in tables}
    found += [f"no item of {task} has statistics" for task in measured if measured[task] and task not in with_stats]
    return found
