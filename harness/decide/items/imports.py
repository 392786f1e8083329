"""Why an imported run and our own run of the same items have other scores: the first thing that differs, item by item."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from assay.harness.files.places import Access
from assay.harness.prompt.render import joint_after
from assay.harness.run.scoring.stored_tasks import is_imported, selection_of
from assay.harness.store import Run, StatTable
from assay.harness.store.record import Item, Record
from assay.harness.task.task import Layout

NOISE = 0.05
"""Log-likelihoods of one text that are closer (in nats) differ by dtype, batches or engine; others had other tokens."""
CAUSES = {
    "prompt": "other text",
    "boundary": "the same text, split elsewhere between prompt and choice",
    "gold": "another gold answer",
    "numbers": f"the same text, but log-likelihoods more than {NOISE} nats apart: other tokens (such as a BOS token), dtype or engine",
    "tie": f"a tie: the best choices are closer than the numbers of the two runs, which agree to {NOISE} nats",
    "response": "the same prompt, another response",
    "scoring": "the same response, scored otherwise: another extraction, normalisation or metric",
}
"""What differs, in the order in which it is looked for."""
SHOWN = 60
"""Characters shown of a text."""
ALIKE = 0.9
"""Items with other texts are paired in their order if this share of them is more alike so than shifted by one."""


class Stored(NamedTuple):
    """An item of a run and its final record."""

    item: Item
    record: Record


@dataclass(frozen=True, slots=True)
class Difference:
    """Two records of one item: the cause (a key of CAUSES, "" for none), both sides as text, and both scores if there are any."""

    items: tuple[str, str]
    cause: str
    sides: tuple[str, str]
    scores: tuple[float, float] | None

    @property
    def changed(self) -> bool:
        """Whether the item's score differs."""
        return self.scores is not None and abs(self.scores[0] - self.scores[1]) > 1e-9


@dataclass(frozen=True, slots=True)
class TaskPair:
    """One task in both runs: names, item counts, the compared metrics, and the items that both have. `apart` is the largest difference
    (nats) of log-likelihoods of the same text; None where there are none."""

    tasks: tuple[str, str]
    counts: tuple[int, int]
    metrics: tuple[str, str] | None
    found: tuple[Difference, ...]
    apart: float | None

    @property
    def scores(self) -> tuple[float, float] | None:
        """Mean score of the common items in either run."""
        both = [each.scores for each in self.found if each.scores is not None]
        return (float(np.mean([one for one, _ in both])), float(np.mean([two for _, two in both]))) if both else None

    def mismatches(self) -> list[dict[str, str]]:
        """Each cause with the first item that shows it, of those with another score if there are any."""
        found = []
        for cause in CAUSES:
            own = sorted((each for each in self.found if each.cause == cause), key=lambda each: not each.changed)
            found += [{"field": cause, "baseline": each.sides[0], "candidate": each.sides[1]} for each in own[:1]]
        return found

    def lines(self) -> list[str]:
        """What is the same, what differs, on how many items, and one of each."""
        same = sum(each.cause not in ("prompt", "boundary") for each in self.found)
        (one, two), (many, more) = self.tasks, self.counts
        head = f"{one} ({many:,} items) and {two} ({more:,} items): {len(self.found):,} in common, {same:,} of them with the same prompt"
        if self.scores is not None and self.metrics is not None:
            changed = sum(each.changed for each in self.found)
            (first, second), (value, other) = self.metrics, self.scores
            head += f"; {first} {value:.4f} and {second} {other:.4f}, {changed:,} item{'s' * (changed != 1)} with another score"
        if self.apart is not None:
            head += f"; log-likelihoods of the same text at most {self.apart:.2g} nats apart"
        found = [head]
        if missing := min(many, more) - len(self.found):
            found.append(f"  {missing:,} items of one run are not in the other (lm-eval's --limit N is --limit N --limit-order first)")
        for cause, text in CAUSES.items():
            if own := [each for each in self.found if each.cause == cause]:
                first_one = next((each for each in own if each.changed), own[0])
                sides = " and ".join(first_one.sides)
                found.append(
                    f"  {len(own):,} item{'s' * (len(own) != 1)} ({sum(each.changed for each in own):,} with another score): {text}; "
                    f"item {first_one.items[0]} and {first_one.items[1]}: {sides}"
                )
        return found


def import_differences(one: Run, two: Run, access: Access) -> tuple[TaskPair, ...]:
    """The tasks that two runs have in common, by the texts of their items, else by their names; empty if there are none.

    Raises AssayError where a task of our own run is not installed any more.
    """
    found = []
    first, second = (stored_items(run, layouts(run, access)) for run in (one, two))
    for task, items in first.items():
        known = set(map(texts, items))
        same = {other: (sum(texts(each) in known for each in theirs), stem(other) == stem(task)) for other, theirs in second.items()}
        best = max(same, key=lambda other: same[other])
        if any(same[best]):
            found.append(task_pair((task, best), (items, second[best]), (one.stats(), two.stats())))
    return tuple(found)


def layouts(run: Run, access: Access) -> dict[str, Layout]:
    """The layouts by which our own run joined prompts and choices, by task; none of an imported run or of a chat."""
    if is_imported(run.manifest) or run.manifest["chat"]:
        return {}
    return {task.full_name: task.layout for task in selection_of(run, access).tasks}


def stored_items(run: Run, joined: Mapping[str, Layout]) -> dict[str, list[Stored]]:
    """A run's finished items with their records, by task; the choices begin with the text that joined them to the prompt."""
    known = {(record.task, record.item): record for record in run.records()}
    return {
        task: [Stored(with_joint(item, joined.get(task)), known[task, item.id]) for item in items if (task, item.id) in known]
        for task, items in run.items_by_task().items()
    }


def with_joint(item: Item, layout: Layout | None) -> Item:
    """The item with its choices as they were scored after the prompt."""
    if layout is None or has_contexts(item):
        return item
    joint = joint_after(item.prompt, layout)
    return replace(item, choices=tuple(joint + choice for choice in item.choices))


def stem(task: str) -> str:
    """A task's name without its family and protocol."""
    return task.split("@")[0].split("/")[-1].casefold()


def texts(stored: Stored) -> tuple[str, ...]:
    """The texts that the model was given: the prompt with each choice."""
    item = stored.item
    return item.choices if has_contexts(item) else tuple(item.prompt + choice for choice in item.choices or ("",))


def has_contexts(item: Item) -> bool:
    """Whether the choices are whole texts: several contexts, one continuation."""
    return bool(item.choices) and all(choice.startswith(item.prompt) for choice in item.choices)


def without_spaces(stored: Stored) -> tuple[str, ...]:
    """The texts with every run of white space as one space."""
    return tuple(" ".join(text.split()) for text in texts(stored))


def task_pair(
    tasks: tuple[str, str],
    sides: tuple[Sequence[Stored], Sequence[Stored]],
    tables: tuple[Mapping[tuple[str, str], StatTable], Mapping[tuple[str, str], StatTable]],
) -> TaskPair:
    """Compares one task of two runs on the items that both have, by the pair of metrics that agree on most of them."""
    pairs = common(*sides)
    known = [item_scores(own, task) for own, task in zip(tables, tasks, strict=True)]
    both = {
        (first, second): [(one[a.item.id], two[b.item.id]) if a.item.id in one and b.item.id in two else None for a, b in pairs]
        for first, one in known[0].items()
        for second, two in known[1].items()
    }
    metrics = max(both, key=lambda key: sum(each is not None and each[0] == each[1] for each in both[key]), default=None)
    scores = both[metrics] if metrics is not None else [None] * len(pairs)
    found = [difference(one, two, score) for (one, two), score in zip(pairs, scores, strict=True)]
    apart = [gap for one, two in pairs if texts(one) == texts(two) and (gap := largest_gap(one, two)) is not None]
    return TaskPair(tasks, (len(sides[0]), len(sides[1])), metrics, tuple(found), max(apart, default=None))


def item_scores(tables: Mapping[tuple[str, str], StatTable], task: str) -> dict[str, dict[str, float]]:
    """The scores of a task's items by metric, of metrics with one statistic per item."""
    return {
        metric: dict(zip(table.item_ids, table.stats[:, 0].tolist(), strict=True))
        for (name, metric), table in tables.items()
        if name == task and table.stats.shape[1] == 1
    }


def common(one: Sequence[Stored], two: Sequence[Stored]) -> list[tuple[Stored, Stored]]:
    """The items that both runs have: with the same text, with the same text but for white space, and the rest in order if it is alike."""
    pairs, rest, others = list[tuple[Stored, Stored]](), list(one), list(two)
    for key in (texts, without_spaces):
        more, rest, others = matched(rest, others, key)
        pairs += more
    return pairs + (list(zip(rest, others, strict=True)) if are_alike(rest, others) else [])


def matched(
    one: Sequence[Stored], two: Sequence[Stored], key: Callable[[Stored], Hashable]
) -> tuple[list[tuple[Stored, Stored]], list[Stored], list[Stored]]:
    """Pairs of items with equal keys, and those of either run that are left."""
    waiting: dict[Hashable, list[Stored]] = {}
    for each in two:
        waiting.setdefault(key(each), []).append(each)
    pairs, rest = [], []
    for each in one:
        if same := waiting.get(key(each)):
            pairs.append((each, same.pop(0)))
        else:
            rest.append(each)
    left = {id(each) for own in waiting.values() for each in own}
    return pairs, rest, [each for each in two if id(each) in left]


def are_alike(one: Sequence[Stored], two: Sequence[Stored]) -> bool:
    """Whether the n-th item of either run is the same example under another prompt: it shares more words than with the next item."""
    if len(one) != len(two) or len(one) < 2:
        return len(one) == len(two)
    first, second = ([set(" ".join(texts(each)).split()) for each in items] for items in (one, two))
    nearer = [
        len(own & same) / len(own | same) > len(own & following) / len(own | following)
        for own, same, following in zip(first, second, [*second[1:], second[0]], strict=True)
    ]
    return float(np.mean(nearer)) >= ALIKE


def difference(one: Stored, two: Stored, scores: tuple[float, float] | None) -> Difference:
    """The first thing that differs between two records of an item."""
    changed = scores is not None and abs(scores[0] - scores[1]) > 1e-9
    sums, gap = [sums_of(each) for each in (one, two)], largest_gap(one, two)
    responses = [str(each.record.output.get("text", "")).strip() for each in (one, two)]
    shown = [" ".join(f"{value:.3f}" for value in each) for each in sums] if gap is not None else [repr(each[:SHOWN]) for each in responses]
    if texts(one) != texts(two):
        cause, shown = "prompt", apart_at(*("\n".join(texts(each)) for each in (one, two)))
    elif one.item.prompt != two.item.prompt:
        cause, shown = "boundary", [repr(each.item.prompt[-SHOWN:]) for each in (one, two)]
    elif one.item.gold.strip() != two.item.gold.strip() and (changed or one.item.choices):
        cause, shown = "gold", [repr(each.item.gold[:SHOWN]) for each in (one, two)]
    elif gap is not None:
        tied = int(np.argmax(sums[0])) != int(np.argmax(sums[1])) or sorted(sums[0])[-2:] == [max(sums[0])] * 2
        cause = "numbers" if gap > NOISE else "" if not changed else "tie" if tied else "scoring"
    else:
        cause = "response" if responses[0] != responses[1] else "scoring" if changed else ""
    if cause == "scoring" and scores is not None:
        shown = [f"{text} scored {score:g}" for text, score in zip(shown, scores, strict=True)]
    return Difference((one.item.id, two.item.id), cause, (shown[0], shown[1]), scores)


def apart_at(one: str, two: str) -> list[str]:
    """Both texts from shortly before the first character that differs."""
    equal = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))
    start = max(0, equal - SHOWN // 3)
    return [("..." if start else "") + repr(each[start : start + SHOWN]) for each in (one, two)]


def sums_of(stored: Stored) -> list[float]:
    """The log-likelihood of each choice; empty where they are not stored."""
    output = stored.record.output
    return list(output["loglikelihoods"]) if "loglikelihoods" in output else [sum(each) for each in output.get("logprobs", ())]


def largest_gap(one: Stored, two: Stored) -> float | None:
    """The largest difference of two records' log-likelihoods, in nats; None where they are not stored in both."""
    first, second = sums_of(one), sums_of(two)
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) if first and len(first) == len(second) else None
