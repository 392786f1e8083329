"""Tasks under perturbations: `glue/sst2+robustness` is sst2 and a second task that scores every item of sst2 with its perturbations.

A pure function from Task to Task. The items of the second task are the originals and their perturbations. The perturbations of an item
share its group and depend only on the item's id, so every model and every run gets the same texts. As in HELM, dialect, gender and names
also change the references and choices (or the options that the prompt shows); few-shot examples never change. Scores: each metric under
each perturbation over all items (an item that a perturbation does not change counts with its original), and the worst case over the
original and all perturbations: per item if the score is a mean, otherwise of the whole score. The worst case of a metric where lower is
better is the maximum (HELM takes the minimum of these too).
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
    """Expand groups to single perturbations, without duplicates. Raises AssayError for an unknown name."""
    found: dict[str, None] = {}
    for name in names:
        if name not in KNOWN:
            close = difflib.get_close_matches(name, KNOWN, 2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"use one of {', '.join(KNOWN)}"
            raise AssayError(f"unknown perturbation {name!r}", do=hint)
        found.update(dict.fromkeys(GROUPS.get(name, (name,))))
    return tuple(found)


def with_perturbations(task: str, names: Sequence[str]) -> str:
    """Return the name of a task under perturbations: glue/rte@lm-eval with robustness is glue/rte+robustness@lm-eval."""
    named_perturbations(names)
    head, at, protocol = (task, "", "") if task.endswith((".py", ".jsonl", ".csv", ".parquet")) else task.partition("@")
    return "+".join((head, *names)) + at + protocol if names else task


def split_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Split a name into the original task's name and the perturbations; a plus sign before any other word is part of the task's name."""
    found = re.fullmatch(rf"(.+?)((?:\+(?:{'|'.join(KNOWN)}))+)(@[^/+]*)?", name)
    return (found[1] + (found[3] or ""), tuple(found[2][1:].split("+"))) if found else (name, ())


@dataclass(frozen=True, slots=True)
class WithInputs:
    """The author's doc function; finds the input texts in the prompt if the author does not give `inputs`."""

    doc: Callable[[Any], Doc]

    def __call__(self, row: Row) -> Doc:
        found = self.doc(row)
        return found if found.inputs or not isinstance(row, Mapping) else replace(found, inputs=texts_in(found, row))


def texts_in(doc: Doc, row: Row) -> tuple[str, ...]:
    """Return the row's texts that the prompt contains verbatim, in the prompt's order, without answers and texts inside longer ones."""
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
    """A function from an item to it and its perturbations, without those that change nothing. `meta["variant"]`: 0 is the original."""

    names: tuple[str, ...]

    def __call__(self, doc: Doc) -> tuple[Doc, ...]:
        meta = {**doc.meta, "own_group": doc.group}
        found = [replace(doc, group=doc.id, meta={**meta, "variant": 0})]
        for number, name in enumerate(self.names, 1):
            variant = perturbed_doc(doc, name)
            if variant is not None:
                found.append(replace(variant, inputs=(), id=f"{doc.id}~{name}", group=doc.id, meta={**meta, "variant": number}))
        return tuple(found)


def perturbed_doc(doc: Doc, name: str) -> Doc | None:
    """Return the Doc with its input texts perturbed, and for some perturbations its answers; None where no input text changes.

    `meta["options"]` are the answers that the prompt shows after the inputs; otherwise the answers are the choices or the references
    (not where the choices differ in their contexts: then they are one text). The random seed is the perturbation's name and the item's id.
    """
    perturbation, draw = PERTURBATIONS[name], Random(f"{name}:{doc.id}")
    shown: tuple[str, ...] = tuple(doc.meta.get("options", ()))
    answers = (shown or doc.choices or doc.references) if perturbation.answers and not doc.contexts else ()
    changed = perturbation.all((*answers, *doc.inputs), draw)
    new, inputs = changed[: len(answers)], changed[len(answers) :]
    if inputs == doc.inputs:
        return None
    options = [pair for pair in zip(answers, new, strict=True) if shown and pair[0] != pair[1]]
    pairs = (*zip(doc.inputs, inputs, strict=True), *options)
    prompt = replaced(doc.prompt, pairs)
    if not answers or shown:
        return replace(doc, prompt=prompt, contexts=tuple(replaced(each, pairs) for each in doc.contexts))
    return replace(doc, prompt=prompt, choices=new) if doc.choices else replace(doc, prompt=prompt, references=new)


def replaced(prompt: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the prompt with the first text of each pair, in order of its place, replaced by the second."""
    done = ""
    for text, other in pairs:
        before, found, after = prompt.partition(text)
        if found:
            done, prompt = done + before + other, after
    return done + prompt


def perturbed(task: Task, names: Sequence[str]) -> Task:
    """Return the task with the perturbations of every item added. Raises AssayError if it draws few-shot examples per item."""
    singles, label = named_perturbations(names), "+".join(names)
    if task.varies is not None or (task.shots.order == "per_item" and task.shots.count):
        raise AssayError(
            "cannot be perturbed", where=task.full_name, do="use a task that is not perturbed yet and draws no few-shot examples per item"
        )
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
    """Return the family with every task original and perturbed, and with totals also of the worst cases."""
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
    """Return the worst case, then the metric under each perturbation.

    Statistics: (variant, code of the item's own group, the metric's statistics). A group of the stored table is one original item.
    """

    def measure(doc: Doc, output: Any) -> Stats:
        own = hashlib.sha256(str(doc.meta["own_group"]).encode()).digest()
        return (float(doc.meta["variant"]), float(int.from_bytes(own[:6], "big")), *metric.measure(doc, output))

    def derived(name: str, combine: Combine, note: str) -> Metric[Any]:
        signature = "|".join(part for part in (metric.signature, note) if part)
        return replace(metric, name=f"{metric.name}_{name}", measure=measure, combine=combine, signature=signature)

    texts = [f"{name}[{PERTURBATIONS[name].parameters}]" if PERTURBATIONS[name].parameters else name for name in names]
    single = [derived(name, variant_score(metric, number), texts[number - 1]) for number, name in enumerate(names, 1)]
    by = "items" if is_item_mean(metric) else "scores"
    return (derived("worst", worst_score(metric, len(names)), f"worst of {by}: original+{'+'.join(texts)}"), *single)


def is_plain(metric: Metric[Any]) -> bool:
    """Whether the score is a function of the mean statistics of the items, without groups."""
    return isinstance(metric.combine, Pooled) and metric.combine.fold is None


def is_item_mean(metric: Metric[Any]) -> bool:
    """Whether the score is the mean of the items' first statistic."""
    return isinstance(metric.combine, Pooled) and metric.combine.fold is None and metric.combine.finish is first


def rows_under(stats: Array, groups: Codes, variant: int) -> Array:
    """Return the statistics of every item under one variant [items, k]; the original's if the perturbation changed nothing."""
    found = np.full((int(groups.max()) + 1, stats.shape[1]), np.nan)
    for number in (0, variant):
        chosen = stats[:, 0] == number
        found[groups[chosen]] = stats[chosen]
    return found


def variant_score(metric: Metric[Any], variant: int) -> Combine:
    """Return the metric's combine over all items under one variant."""
    inner = metric.combine
    if is_plain(metric):
        assert isinstance(inner, Pooled)
        return Pooled(inner.finish, lambda stats, groups: rows_under(stats, groups, variant)[:, 2:])
    return VariantScore(inner, variant)


@dataclass(frozen=True, slots=True)
class VariantScore:
    """The score under one variant, for a combine that has groups or is not a function of means."""

    inner: Combine
    variant: int

    def __call__(self, stats: Array, groups: Codes) -> float:
        rows = rows_under(stats, groups, self.variant)
        own = np.unique(rows[:, 1], return_inverse=True)[1].astype(np.int64)
        return self.inner(rows[:, 2:], own)


def worst_score(metric: Metric[Any], count: int) -> Combine:
    """Return the worst case over the original and `count` perturbations: the lowest score, or the highest if lower is better."""
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
    return WorstScore(tuple(VariantScore(inner, variant) for variant in range(count + 1)), metric.better)


@dataclass(frozen=True, slots=True)
class WorstScore:
    """The worst score of several variants."""

    each: tuple[VariantScore, ...]
    better: str

    def __call__(self, stats: Array, groups: Codes) -> float:
        scores = [combine(stats, groups) for combine in self.each]
        return min(scores) if self.better == "higher" else max(scores)


def counts_of(task: Task, docs: Sequence[Doc]) -> dict[str, int]:
    """Return how many items each perturbation changed."""
    if task.varies is None:
        return {}
    return {name: sum(doc.meta.get("variant") == number for doc in docs) for number, name in enumerate(task.varies.names, 1)}
