"""Any task under perturbations: `glue/sst2+robustness` is sst2 and, as a second task, sst2 with every item also asked perturbed.

A pure function from Task to Task. The items of the second task are the originals and their perturbations; those of one item share its
group, and each is drawn by the item's id alone, so that every model and every run meets the same texts. Gold, choices and exemplars
stay as they are. Scores: each metric under each perturbation over all items (a text that a perturbation leaves unchanged counts as it
is), and its worst case over the original and all perturbations: item by item where the score is a mean, else of the whole score; the
maximum where lower is better (HELM takes the minimum of these too).
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.prompt.perturbations import GROUPS, PERTURBATIONS
from assay.harness.task.doc import Doc, Row
from assay.harness.task.metric import Array, Codes, Combine, Metric, Pooled, Stats, first
from assay.harness.task.task import Family, Task, Term, Variation

__all__ = ["named_perturbations", "perturbed", "perturbed_family", "split_name", "with_perturbations"]

KNOWN = (*GROUPS, *PERTURBATIONS)


def named_perturbations(names: Sequence[str]) -> tuple[str, ...]:
    """Groups and single names as single names, each once. Raises AssayError for an unknown one."""
    found: dict[str, None] = {}
    for name in names:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, 2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"there is {', '.join(KNOWN)}"
            raise AssayError(f"unknown perturbation {name!r}", do=hint)
        found.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return tuple(found)


def with_perturbations(task: str, names: Sequence[str]) -> str:
    """The name of a task under perturbations: glue/rte@lm-eval and robustness give glue/rte+robustness@lm-eval."""
    named_perturbations(names)
    head, at, protocol = (task, "", "") if task.endswith((".py", ".jsonl", ".csv", ".parquet")) else task.partition("@")
    return "+".join((head, *names)) + at + protocol if names else task


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """A name as the task's own and its perturbations; a plus sign that stands before something else belongs to the task."""
    found = re.fullmatch(rf"(.+?)((?:\+(?:{'|'.join(KNOWN)}))+)(@[^/+]*)?", name)
    return (found[1] + (found[3] or ""), tuple(found[2][1:].split("+"))) if found else (name, ())


@dataclass(frozen=True, slots=True)
class WithInputs:
    """The author's function, with the input texts found in the prompt where the author does not name them."""

    doc: Callable[[Any], Doc]

    def __call__(self, row: Row) -> Doc:
        found = self.doc(row)
        return found if found.inputs or not isinstance(row, Mapping) else replace(found, inputs=texts_in(found, row))


def texts_in(doc: Doc, row: Row) -> tuple[str, ...]:
    """The row's texts that stand word for word in the prompt, in its order, but for answers and texts inside longer ones."""
    answers = {text.strip().lower() for text in (*doc.choices, *doc.references)}
    texts = {value.strip() for value in row.values() if isinstance(value, str) and any(map(str.isalpha, value))}
    spans: list[tuple[int, int]] = []
    for text in sorted(texts, key=lambda text: (-len(text), text)):
        found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", doc.prompt, re.IGNORECASE)
        if found and text.lower() not in answers and not any(start < found.end() and found.start() < end for start, end in spans):
            spans.append(found.span())
    return tuple(doc.prompt[start:end] for start, end in sorted(spans))


@dataclass(frozen=True, slots=True)
class Variants:
    """An item and its perturbations, less those that change nothing. `meta["variant"]` is 0 for the original, then 1, 2, ..."""

    names: tuple[str, ...]

    def __call__(self, doc: Doc) -> tuple[Doc, ...]:
        meta = {**doc.meta, "own_group": doc.group}
        found = [replace(doc, group=doc.id, meta={**meta, "variant": 0})]
        for number, name in enumerate(self.names, 1):
            prompt = changed(doc, name)
            if prompt != doc.prompt:
                found.append(replace(doc, prompt=prompt, inputs=(), id=f"{doc.id}~{name}", group=doc.id, meta={**meta, "variant": number}))
        return tuple(found)


def changed(doc: Doc, name: str) -> str:
    """The prompt with its input texts perturbed, all from one draw by the item's id."""
    draw, done, rest = Random(f"{name}:{doc.id}"), "", doc.prompt
    for text in doc.inputs:
        before, found, after = rest.partition(text)
        if found:
            done, rest = done + before + PERTURBATIONS[name].change(text, draw), after
    return done + rest


def perturbed(task: Task, names: Sequence[str]) -> Task:
    """The task whose items are the originals and their perturbations. Raises AssayError for exemplars drawn per item."""
    singles, label = named_perturbations(names), "+".join(names)
    if task.varies is not None or (task.shots.order == "per_item" and task.shots.count):
        raise AssayError("cannot be perturbed", where=task.full_name, do="perturb a task without exemplars of its own per item")
    metrics = tuple(made for metric in task.metrics for made in metrics_of(metric, singles))
    return replace(
        task,
        name=f"{task.name}+{label}",
        doc=WithInputs(task.doc),
        varies=Variation(task.name, Variants(singles), singles),
        metrics=metrics,
        worked=(),
        about=f"{task.about} With every item also perturbed: {', '.join(singles)}.".strip(),
    )


def perturbed_family(family: Family, names: Sequence[str]) -> Family:
    """Every task as it is and perturbed, the totals also over the worst cases."""
    tasks = {task.full_name: (task, perturbed(task, names)) for task in family.tasks}
    totals = [
        replace(
            total,
            name=f"{total.name}+{'+'.join(names)}",
            terms=tuple(Term(tasks[term.task][1].full_name, f"{term.metric}_worst", term.weight) for term in total.terms),
        )
        for total in family.totals
        if all(term.task in tasks for term in total.terms)
    ]
    members = tuple(task for pair in tasks.values() for task in pair)
    return Family(with_perturbations(family.name, names), members, (*family.totals, *totals), family.about)


def metrics_of(metric: Metric[Any], names: Sequence[str]) -> tuple[Metric[Any], ...]:
    """The worst case first, then the metric under each perturbation.

    Statistics: (variant, code of the item's own group, the metric's own). Groups of the stored table are the original items.
    """

    def measure(doc: Doc, output: Any) -> Stats:
        own = hashlib.sha256(str(doc.meta["own_group"]).encode()).digest()
        return (float(doc.meta["variant"]), float(int.from_bytes(own[:6], "big")), *metric.measure(doc, output))

    def made(name: str, combine: Combine, note: str) -> Metric[Any]:
        signature = "|".join(part for part in (metric.signature, note) if part)
        return replace(metric, name=f"{metric.name}_{name}", measure=measure, combine=combine, signature=signature)

    texts = [f"{name}[{PERTURBATIONS[name].parameters}]" if PERTURBATIONS[name].parameters else name for name in names]
    single = [made(name, under(metric, number), texts[number - 1]) for number, name in enumerate(names, 1)]
    by = "items" if is_item_mean(metric) else "scores"
    return (made("worst", worst(metric, len(names)), f"worst of {by}: original+{'+'.join(texts)}"), *single)


def is_plain(metric: Metric[Any]) -> bool:
    """Whether the score is a function of the items' mean statistics, without groups of its own."""
    return isinstance(metric.combine, Pooled) and metric.combine.fold is None


def is_item_mean(metric: Metric[Any]) -> bool:
    return isinstance(metric.combine, Pooled) and metric.combine.fold is None and metric.combine.finish is first


def rows_under(stats: Array, groups: Codes, variant: int) -> Array:
    """The statistics of every item under one variant [items, k]: the original's where the perturbation changed nothing."""
    found = np.full((int(groups.max()) + 1, stats.shape[1]), np.nan)
    for number in (0, variant):
        chosen = stats[:, 0] == number
        found[groups[chosen]] = stats[chosen]
    return found


def under(metric: Metric[Any], variant: int) -> Combine:
    """The metric over all items under one variant."""
    inner = metric.combine
    if is_plain(metric):
        assert isinstance(inner, Pooled)
        return Pooled(inner.finish, lambda stats, groups: rows_under(stats, groups, variant)[:, 2:])
    return Under(inner, variant)


@dataclass(frozen=True, slots=True)
class Under:
    """A combine with groups of its own, or that is no function of means, over all items under one variant."""

    inner: Combine
    variant: int

    def __call__(self, stats: Array, groups: Codes) -> float:
        rows = rows_under(stats, groups, self.variant)
        own = np.unique(rows[:, 1], return_inverse=True)[1].astype(np.int64)
        return self.inner(rows[:, 2:], own)


def worst(metric: Metric[Any], count: int) -> Combine:
    """The worst case over the original and `count` perturbations, in the direction that is worse for this metric."""
    least, ends = (np.fmin, np.min) if metric.better == "higher" else (np.fmax, np.max)
    inner = metric.combine

    def worst_items(stats: Array, groups: Codes) -> Array:
        found = np.full(int(groups.max()) + 1, np.nan)
        least.at(found, groups, stats[:, 2])
        return found[:, None]

    def side_by_side(stats: Array, groups: Codes) -> Array:
        return np.concatenate([rows_under(stats, groups, variant)[:, 2:] for variant in range(count + 1)], axis=1)

    if is_item_mean(metric):
        return Pooled(first, worst_items)
    if is_plain(metric):
        assert isinstance(inner, Pooled)
        finish = inner.finish
        return Pooled(lambda means: np.asarray(ends([finish(part) for part in np.split(means, count + 1, axis=-1)], axis=0)), side_by_side)
    return Worst(tuple(Under(inner, variant) for variant in range(count + 1)), metric.better)


@dataclass(frozen=True, slots=True)
class Worst:
    """The worst of several combines."""

    each: tuple[Under, ...]
    better: str

    def __call__(self, stats: Array, groups: Codes) -> float:
        scores = [combine(stats, groups) for combine in self.each]
        return min(scores) if self.better == "higher" else max(scores)


def counts_of(task: Task, docs: Sequence[Doc]) -> dict[str, int]:
    """How many items each perturbation changed."""
    if task.varies is None:
        return {}
    return {name: sum(doc.meta.get("variant") == number for doc in docs) for number, name in enumerate(task.varies.names, 1)}
