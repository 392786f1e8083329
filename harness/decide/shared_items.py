"""Finds the items that several tasks share: protocols or perturbations of one data set, or the same text under another template.

Tasks that share items are not independent: the gate's aggregate and the totals resample a shared item once, in all its tasks.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from assay.harness.stats.difference import Aligned, aligned_units
from assay.harness.stats.interval import Part
from assay.harness.store import StatTable
from assay.harness.task.metric import Array

Key = tuple[str, str]
"""A task with one of its metrics, or with one of its items."""
Paired = tuple[tuple[str, ...], Part, Array]
"""Item ids, the baseline's part, and the candidate's statistics of the same items."""
Node = tuple[str, str]
"""A task and one of its clusters of items."""
Items = Sequence[tuple[str, str]]
"""Cluster and prompt of each item of a task; the prompt is "" where it is not known."""
WORDS = 8
"""A sentence of at least so many words identifies its item."""
COMMON = 5
"""A sentence in more clusters of one task belongs to its template or its few-shot examples."""
FEW = 0.01
"""Tasks that share a smaller part of their clusters are treated as independent."""
ENDS = re.compile(r"[\n.?!:]+")


@dataclass(frozen=True, slots=True, eq=False)  # compared and hashed by identity: it holds arrays
class Shared:
    """Tasks that share items, and their main metrics over these items together; `items`: the number of shared clusters."""

    tasks: tuple[str, ...]
    units: Aligned
    items: int

    def __str__(self) -> str:
        return f"{' and '.join(self.tasks)} share {self.items:,} items: the aggregate and totals count a shared item once"


def shared_clusters(tasks: Mapping[str, Items], facts: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, int]]:
    """For tasks that share items with another task: a number for each cluster, equal where clusters hold the same item.

    `facts` are the manifest's facts by task. Clusters are the same if they have one id in the same data and split, or share a
    prompt or a sentence of at least WORDS words. Tasks without shared items are left out.
    """
    owner: dict[Any, str] = {}
    keys = []
    for task, items in tasks.items() if len(tasks) > 1 else ():
        source = (facts[task].get("data"), facts[task].get("split"))
        keys += [(key, task, cluster) for cluster, prompt in items for key in ((source, cluster), *identifying(prompt))]
    several = {key for key, task, _ in keys if owner.setdefault(key, task) != task}
    places: dict[Any, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for key, task, cluster in keys:
        if key in several:
            places[key][task].add(cluster)
    links = [found for found in places.values() if len(found) > 1 and max(map(len, found.values())) <= COMMON]
    sizes = {task: len({cluster for cluster, _ in items}) for task, items in tasks.items()}
    return numbered(links, linked_pairs(links, sizes), tasks)


def identifying(prompt: str) -> Iterator[str]:
    """The texts that identify an item: its whole prompt, and its long sentences without case and white space."""
    if prompt:
        yield prompt
    for part in ENDS.split(prompt):
        words = part.casefold().split()
        if len(words) >= WORDS:
            yield " ".join(words)


def linked_pairs(links: Sequence[Mapping[str, set[str]]], sizes: Mapping[str, int]) -> set[frozenset[str]]:
    """Pairs of tasks that share at least FEW of the smaller task's clusters."""
    common: dict[frozenset[str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for found in links:
        for pair in combinations(found, 2):
            for task in pair:
                common[frozenset(pair)][task] |= found[task]
    return {pair for pair, found in common.items() if min(map(len, found.values())) >= FEW * min(sizes[task] for task in pair)}


def numbered(
    links: Sequence[Mapping[str, set[str]]], pairs: set[frozenset[str]], tasks: Mapping[str, Items]
) -> Mapping[str, Mapping[str, int]]:
    """Connected clusters as numbers, by task (union-find)."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for found in links:
        for one, other in combinations(found, 2):
            if frozenset((one, other)) in pairs:
                nodes = [(task, cluster) for task in (one, other) for cluster in found[task]]
                for node in nodes[1:]:
                    parent[root(node)] = root(nodes[0])
    numbers: dict[Node, int] = {}
    sharing = [task for task in tasks if any(task in pair for pair in pairs)]
    return {
        task: {cluster: numbers.setdefault(root((task, cluster)), len(numbers)) for cluster in dict.fromkeys(c for c, _ in tasks[task])}
        for task in sharing
    }


def groups_of(shared: Mapping[str, Mapping[str, int]]) -> tuple[tuple[str, ...], ...]:
    """The tasks that share items, as groups of directly or indirectly connected tasks."""
    groups: list[tuple[set[str], set[int]]] = []
    for task, numbers in shared.items():
        own = {task}, set(numbers.values())
        for other in [group for group in groups if group[1] & own[1]]:
            groups.remove(other)
            own = own[0] | other[0], own[1] | other[1]
        groups.append(own)
    return tuple(tuple(task for task in shared if task in names) for names, _ in groups)


def share_items(
    tables: Mapping[Key, StatTable], prompts: Mapping[Key, str], facts: Mapping[str, Mapping[str, Any]], parts: Mapping[Key, Paired]
) -> tuple[tuple[tuple[str, ...], ...], dict[Key, Paired]]:
    """Groups of tasks that share items, and the parts with cluster codes that are equal where those tasks' items are."""
    firsts = {task: tables[task, metric] for task, metric in reversed(list(parts))}
    items: dict[str, Items] = {
        task: [(cluster, prompts.get((task, item), "")) for item, cluster in zip(table.item_ids, table.clusters, strict=True)]
        for task, table in firsts.items()
    }
    shared = shared_clusters(items, facts)
    together = dict(parts)
    for (task, metric), (ids, part, stats) in parts.items():
        if task in shared:
            clusters = np.array([shared[task].get(cluster, -1) for cluster in tables[task, metric].clusters])
            together[task, metric] = ids, part._replace(clusters=clusters), stats
    return groups_of(shared), together


def shared_of(tasks: Sequence[str], mains: Mapping[str, str], parts: Mapping[Key, Paired], seed: int) -> Shared | None:
    """The main metrics of tasks that share items; None where fewer than two of them are defined."""
    kept = {task: parts[task, mains[task]][1:] for task in tasks if (task, mains[task]) in parts}
    if len(kept) < 2:
        return None
    seen = Counter(code for part, _ in kept.values() for code in set(part.clusters.tolist()))
    return Shared(tuple(kept), aligned_units(list(kept.values()), seed=seed), sum(count > 1 for count in seen.values()))
