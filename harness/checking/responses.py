"""Checks of a run's stored responses that need no model.

An error is what makes a score wrong and can be mended; what a weak model does is a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.harness.checking.finding import Finding, Place, at_least, contains, graded, short, surprising
from assay.harness.checking.leaks import other_rows
from assay.harness.metrics.calibration import choice_scores
from assay.harness.run.scoring.measure import LONG_ANSWER
from assay.harness.stats.distributions import z_quantile
from assay.harness.store.record import Item, Record
from assay.harness.task.doc import Doc
from assay.harness.task.matching import normal
from assay.harness.task.metric import Array
from assay.harness.task.output import ChoiceScores
from assay.harness.task.task import Choose, Generate, Task

TIE = 1e-3
"""Nats: rounding can swap choices with a smaller difference."""
BIAS = 0.02
"""Total variation distance between picked and gold positions below which there is no warning."""
FALSE_ALARM = 0.04
"""False alarm rate of the position bias warning, divided by the number of choices."""
REPEATED = re.compile(r"(.{1,12}?)\1{3,}\s*", re.DOTALL)
LETTER = re.compile(r"\W?([A-J])\W?")
END_TOKEN = re.compile(r"(</s>|<(?:eos|end_of_turn|end_of_text)>|<\|[a-z_]{2,30}\|>)\s*\Z")
"""The usual tokens that end a text or a turn."""
ECHO = 20
"""A response that starts with a prompt line of at least so many characters is an echo."""


@dataclass(frozen=True, slots=True)
class TaskRecords:
    """One task of a complete run: its items with their records, in order, its manifest entry and its results."""

    task: Task
    facts: Mapping[str, Any]
    items: tuple[Item, ...]
    records: tuple[Record, ...]
    results: tuple[Mapping[str, Any], ...]

    def where(self, matches: Callable[[Item, Record], str]) -> tuple[Place, ...]:
        """The items for which `matches` returns a note."""
        pairs = enumerate(zip(self.items, self.records, strict=True))
        return tuple(Place(row, item.id, note) for row, (item, record) in pairs if (note := matches(item, record)))


def response_findings(run: TaskRecords) -> list[Finding]:
    """Runs all checks of one task of a run."""
    found = [*nonfinite(run), *below_baseline(run), *prompts(run)]
    if isinstance(run.task.ask, Generate):
        found += [*unparsed(run, run.task.ask), *degenerate(run)]
    if isinstance(run.task.ask, Choose):
        found += [*position_bias(run), *ties(run, run.task.ask)]
    return found


def rated(run: TaskRecords, check: str, places: tuple[Place, ...], what: str, do: str, warn: float, error: float = 1.0) -> list[Finding]:
    """A finding if the share of `places` among the items is significantly above `warn` (W) or `error` (E)."""
    level = graded(len(places), len(run.items), warn, error)
    text = f"{len(places)} of {len(run.items)} {what}"
    return [Finding(check, level, run.task.full_name, text, do, places)] if level else []


def numbers(output: Any) -> list[float]:
    """Every number in a stored output."""
    if isinstance(output, Mapping):
        return [value for inner in output.values() for value in numbers(inner)]
    if isinstance(output, list | tuple):
        return [value for inner in output for value in numbers(inner)]
    return [float(output)] if isinstance(output, int | float) else []


def nonfinite(run: TaskRecords) -> list[Finding]:
    """Items with an error or a number that is not finite, and scores that cannot be computed."""

    def broken(item: Item, record: Record) -> str:
        if record.status == "error":
            return record.error or "error"
        return "" if all(map(math.isfinite, numbers(record.output))) else "a number is not finite"

    name, places = run.task.full_name, run.where(broken)
    found = (
        [
            Finding(
                "nonfinite",
                "E",
                name,
                f"{len(places)} of {len(run.items)} items have errors or non-finite numbers",
                "evaluate the task again",
                places,
            )
        ]
        if places
        else []
    )
    for result in run.results:
        if result["value"] is None:
            what = f"{result['metric']} cannot be computed from these responses"
            found.append(Finding("nonfinite", "W", name, what, "check that gold answers and responses vary"))
    return found


def below_baseline(run: TaskRecords) -> list[Finding]:
    """Accuracies below or not above chance and majority."""
    found = []
    for result in run.results:
        known = {key: result[key] for key in ("chance", "majority") if result.get(key) is not None}
        accurate = result["metric"].startswith("accuracy") or result["metric"] == "multiple_choice_grade"
        if not (known and accurate and result["main"] and result["low"] is not None):
            continue
        low, high, top = result["low"], result["high"], max(known, key=lambda key: known[key])
        shown = f"{result['metric']} {result['value']:.3f} ({low:.3f} to {high:.3f})"
        if high < min(known.values()):
            what, do = f"{shown} is below {top} {known[top]:.3f}", "check prompts and responses for an error in the task"
            found.append(Finding("below-baseline", "W", run.task.full_name, what, do))
        elif low <= known[top]:
            what = f"{shown} is not significantly above {top} {known[top]:.3f}"
            found.append(Finding("below-baseline", "W", run.task.full_name, what, "use more items, more shots or a stronger model"))
    return found


def prompts(run: TaskRecords) -> list[Finding]:
    """Prompts with dropped few-shot examples, and prompts that end inside a token."""
    dropped = run.where(lambda item, record: f"{item.doc['dropped']} few-shot examples dropped" if item.doc.get("dropped") else "")
    moved = run.where(lambda item, record: "continuation changes the prompt's last token" if item.doc.get("moved") else "")
    n, name = len(run.items), run.task.full_name
    found = []
    if dropped:
        found.append(
            Finding(
                "prompt-truncated",
                "W",
                name,
                f"{len(dropped)} of {n} prompts have fewer few-shot examples to fit the context",
                "reduce --shots",
                dropped,
            )
        )
    if moved:
        found.append(Finding("boundary", "I", name, f"{len(moved)} of {n} prompts end inside a token (lm-eval's rule)", "", moved))
    return found


def text_of(record: Record) -> str:
    return str(record.output.get("text", ""))


def unparsed(run: TaskRecords, ask: Generate) -> list[Finding]:
    """Responses that could not be parsed, were cut, or contain the gold answer and were scored as wrong."""
    unread = run.where(lambda item, record: short(text_of(record)) if record.status == "unparsed" else "")

    def is_cut(record: Record) -> bool:
        return record.output.get("finish") == "length" and ask.max_tokens >= LONG_ANSWER

    cut = run.where(lambda item, record: f"ends {short(text_of(record)[-40:])}" if is_cut(record) else "")
    before = sum(is_cut(record) and record.status == "unparsed" for record in run.records)
    grave = at_least(before, len(run.items)) > 0.05
    what = f"responses were cut at {ask.max_tokens} tokens" + (f", {before} of them before an answer" if before else "")
    do = "raise --max-tokens, or add a stop string with --stop"
    return [
        *rated(
            run, "unparsed", unread, "responses could not be parsed", "fix the extraction, or show the format in few-shot examples", 0.02
        ),
        *rated(run, "length-cut", cut, what, do, 0.01, 0.05 if grave else 1.0),
        *scored_wrong(run),
        *lettered(run),
        *end_tokens(run),
    ]


def scored_wrong(run: TaskRecords) -> list[Finding]:
    """Wrong responses that contain the gold answer more often than they contain other items' gold answers."""
    golds, n = [normal(item.gold) for item in run.items], len(run.items)
    texts = [normal(text_of(record)) for record in run.records]
    strict = [record.correct for record in run.records]
    if any(each is not None and each not in (0.0, 1.0) for each in strict):
        return []
    places, chance = [], 0.0
    for row, (gold, text) in enumerate(zip(golds, texts, strict=True)):
        if strict[row] != 0.0 or not gold or n < 2:
            continue
        others = [golds[other] for other in other_rows(row, n)]
        chance += sum(bool(other) and contains(text, other) for other in others) / len(others)
        if contains(text, gold):
            places.append(Place(row, run.items[row].id, f"{short(run.items[row].gold, 30)} in {short(text_of(run.records[row]))}"))
    excess = at_least(max(len(places) - chance, 0.0), n)
    if not surprising(len(places), chance, [golds[place.row] for place in places if place.row is not None]) or excess <= 0.02:
        return []
    what = f"{len(places)} of {n} responses were scored as wrong but contain the gold text (expected by chance: {chance:.0f})"
    do = "check whether the extraction is too strict; a lenient one gives a higher score"
    grave = excess > 0.1 and not run.task.protocol  # a protocol's extraction is as it is published
    return [Finding("unparsed", "E" if grave else "W", run.task.full_name, what, do, tuple(places))]


def lettered(run: TaskRecords) -> list[Finding]:
    """Wrong responses that name, by its letter, the listed option whose text is the gold answer."""

    def named(item: Item, record: Record) -> str:
        found = LETTER.fullmatch(text_of(record).strip())
        option = re.search(rf"^\W?{found[1]}[).:]\s*(.+?)\s*$", item.prompt, re.MULTILINE) if found else None
        right = option is not None and record.correct == 0.0 and normal(option[1]) == normal(item.gold)
        return f"{short(text_of(record))} is {short(item.gold, 30)}" if right else ""

    places = run.where(named)
    what, do = "right answers name a listed option by its letter and were scored as wrong", "give the letters as references or as choices"
    return rated(run, "unparsed", places, what, do, 0.02, 1.0 if run.task.protocol else 0.1)


def end_tokens(run: TaskRecords) -> list[Finding]:
    """Responses not scored as right that end in a model's end token as text, which some servers return."""

    def ended(item: Item, record: Record) -> str:
        found = END_TOKEN.search(text_of(record))
        return found[1] if found and record.correct != 1.0 and not item.gold.endswith(found[1]) else ""

    places = run.where(ended)
    token = places[0].note if places else ""
    what, do = f"responses end in {token!r}, a token that the server should have removed", f"cut it with --stop {token!r}"
    return rated(run, "end-token", places, what, do, 0.02, 0.1)


def degenerate(run: TaskRecords) -> list[Finding]:
    """Empty responses, repeated text, and echoes of the prompt."""

    def defect(item: Item, record: Record) -> str:
        text = text_of(record)
        if record.correct == 1.0 or (text.strip() and normal(text) == normal(item.gold)):
            return ""
        if not text.strip():
            return "" if item.doc and not item.gold.strip() else "empty"
        if REPEATED.fullmatch(text.strip() + " ") and not REPEATED.fullmatch(item.gold.strip() + " "):
            return f"repeats {short(text, 40)}"
        response = normal(text)
        lines = (normal(line) for line in item.prompt[-4000:].splitlines()) if len(response) >= ECHO else ()
        return f"echoes {short(text, 40)}" if any(len(line) >= ECHO and response.startswith(line) for line in lines) else ""

    places = run.where(defect)
    empty = sum(place.note == "empty" for place in places)
    echoes = sum(place.note.startswith("echoes") for place in places)
    n, protocol = len(run.items), run.task.protocol
    # a weak model repeats one text, and under a published protocol it may echo the prompt: nothing to mend
    grave = at_least(empty, n) > 0.5 if protocol else at_least(empty + echoes, n) > 0.05
    what = "responses are empty, repeat one text, or echo the prompt"
    do = "check the prompt, the stop strings and the chat template"
    return rated(run, "degenerate", places, what, do, 0.01, 0.05 if grave else 1.0)


def position_bias(run: TaskRecords) -> list[Finding]:
    """Choices picked more often than their position is gold, tested pairwise per item."""
    pairs = [
        (int(record.output["pick"]), int(item.doc["gold"]))
        for item, record in zip(run.items, run.records, strict=True)
        if "gold" in item.doc and "pick" in record.output
    ]
    if len(pairs) < 20 or len({gold for _, gold in pairs}) < 2:
        return []
    picks, golds = np.array(pairs).T
    n, k = len(pairs), int(max(picks.max(), golds.max())) + 1
    picked, wanted = (np.bincount(values, minlength=k) / n for values in (picks, golds))
    differ = (picks[:, None] == np.arange(k)).astype(float) - (golds[:, None] == np.arange(k))
    z = differ.sum(axis=0) / np.sqrt(np.maximum((differ**2).sum(axis=0), 1.0))  # McNemar's, choice by choice
    label, gap = int(np.argmax(z)), float(np.abs(picked - wanted).sum() / 2)
    shown = f"choice {label + 1} is picked for {picked[label]:.0%} of items and correct for {wanted[label]:.0%} (total variation {gap:.2f})"
    do = "check the wording and order of the choices; calibrate, or compare with another protocol"
    if z[label] > z_quantile(1 - FALSE_ALARM / k) and gap > BIAS:
        return [Finding("position-bias", "W", run.task.full_name, shown, do)]
    return []


def ties(run: TaskRecords, ask: Choose) -> list[Finding]:
    """Items that rounding decides, and items whose pick depends on the length normalisation."""
    flips = 0

    def tied(item: Item, record: Record) -> str:
        nonlocal flips
        scores, sums = ranked(item, record, ask), ranked(item, record, Choose())
        if len(scores) < 2:
            return ""
        lengths = np.array([max(len(choice), 1) for choice in item.choices])
        flips += int(sums.argmax()) != int((sums / lengths).argmax())
        second, first = np.sort(scores)[-2:]
        return f"the best two differ by {first - second:.1g}" if first - second <= TIE else ""

    places = run.where(tied)
    found = rated(run, "ties", places, f"items have two best choices within {TIE:g} nats", "evaluate with --dtype float32", 0.01)
    if flips:
        what = f"{flips} of {len(run.items)} picks differ between the sum and the mean per character"
        found.append(Finding("norm-flip", "I", run.task.full_name, f"{what}; the task's version fixes {ask.normalize!r}"))
    return found


def ranked(item: Item, record: Record, ask: Choose) -> Array:
    """The scores [k] by which the choices were ranked; empty if they are not stored or not finite."""
    logprobs: Sequence[Sequence[float]] = record.output.get("logprobs") or ()
    priors = tuple(record.output.get("priors") or ()) if ask.calibrate is not None else ()
    sums = tuple(math.fsum(values) for values in logprobs)
    if len(sums) != len(item.choices) or not all(map(math.isfinite, sums)):
        return np.zeros(0)
    return choice_scores(ask, Doc("", choices=item.choices), ChoiceScores(sums, tuple(map(len, logprobs)), 0, priors))
