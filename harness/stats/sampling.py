"""Which items a limited run scores: a seeded sample, stratified by label, with whole clusters; the same for every model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from assay.harness.stats.sequential import fixed_order
from assay.harness.store.plan import Plan
from assay.harness.task.doc import Doc

MOST_LABELS = 20
"""Docs with more different answers than this have no labels to stratify by (free text, numbers)."""


def kept_docs(docs: Sequence[Doc], plan: Plan) -> list[int]:
    """Indices of the Docs that a plan with `limit` keeps, ascending; all without a limit.

    "sample": whole clusters in a pseudo-random order by the plan's seed, in which the labels have the shares that they have in the data,
    as long as they fit; at least one. "first": the first `limit` Docs, as lm-eval takes them; this may cut a cluster.
    """
    if plan.limit is None or plan.limit >= len(docs):
        return list(range(len(docs)))
    if plan.limit_order == "first":
        return list(range(plan.limit))
    members: dict[str, list[int]] = defaultdict(list)
    for number, doc in enumerate(docs):
        members[doc.cluster].append(number)
    labels = labels_of(docs)
    strata = [" ".join(sorted({labels[number] for number in numbers})) for numbers in members.values()]
    clusters = list(members.values())
    kept: list[int] = []
    seed = plan.seed if plan.limit_seed is None else plan.limit_seed
    for place in fixed_order(strata, list(members), seed).tolist():
        if kept and len(kept) + len(clusters[place]) > plan.limit:
            break
        kept += clusters[place]
    return sorted(kept)


def labels_of(docs: Sequence[Doc]) -> list[str]:
    """The label of each Doc; empty texts where the answers are no labels."""
    found = [label_of(doc) for doc in docs]
    return found if len(set(found)) <= MOST_LABELS else [""] * len(docs)


def label_of(doc: Doc) -> str:
    if doc.gold is not None:
        return str(doc.gold)
    if doc.targets:
        return str(doc.targets.index(max(doc.targets)))
    return doc.answer if doc.labelled else ""


def order_of(plan: Mapping[str, object]) -> str:
    """The order of a stored plan; runs of earlier versions kept the first items."""
    return str(plan.get("limit_order", "first"))
