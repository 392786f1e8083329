"""Formats findings as lines of text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from assay.harness.checking.finding import Checked, Finding, Place
from assay.harness.reports.json_values import finite
from assay.harness.reports.results import show_number

SHOWN = 3
"""Places per finding in the printed text; JSON has all."""
COLOURS = {"E": "bold red", "W": "yellow", "I": "dim"}
BASELINES = (
    ("oracle", "gold answers"),
    ("majority", "majority"),
    ("chance", "chance"),
    ("constant", "best constant answer"),
    ("empty", "empty answers"),
)


def counts(checked: Sequence[Checked]) -> dict[str, int]:
    """Number of findings by level."""
    return {level: sum(finding.level == level for each in checked for finding in each.findings) for level in ("E", "W", "I")}


def as_json(subject: str, kind: str, checked: Sequence[Checked]) -> dict[str, Any]:
    """All findings with all places."""
    return {
        "subject": subject,
        "kind": kind,
        "counts": counts(checked),
        "tasks": [
            {
                "task": each.task,
                "level": each.level,
                "facts": finite(each.facts),
                "findings": [asdict(finding) for finding in each.findings],
                "examples": list(each.examples),
            }
            for each in checked
        ],
    }


def headline(each: Checked) -> str:
    """One line about a task: items, split, few-shot examples, metric, scores."""
    facts = each.facts
    if "items" not in facts:
        return each.task
    shots = f", {facts['shots']} shots" if facts.get("shots") else ""
    line = f"{each.task}: {facts['items']} items of {facts['split']!r}{shots}"
    if "metric" in facts:
        line += f", {facts['ask']}, {facts['metric']}"
    scores = [f"{result['metric']} {show_number(result['value'])}" for result in facts.get("results", ()) if result["main"]]
    return ", ".join([line, *scores])


def baselines_line(facts: Mapping[str, Any]) -> str:
    """Scores of baselines that need no model, such as gold answers and chance."""
    return ", ".join(f"{words} {shown(facts[name])}" for name, words in BASELINES if name in facts)


def shown(value: float) -> str:
    return show_number(value if math.isfinite(value) else None)


def place_line(place: Place) -> str:
    where = f"row {place.row}" if place.row is not None else "item"
    item = f" ({place.item})" if place.item else ""
    return f"{where}{item}" + (f": {place.note}" if place.note else "")


def finding_lines(finding: Finding) -> list[str]:
    """A finding with its first places and the number of further ones."""
    lines = [f"{finding.level} {finding.check:<13} {finding.what}" + (f". {finding.do}" if finding.do else "")]
    lines += [f"    {place_line(place)}" for place in finding.places[:SHOWN]]
    if len(finding.places) > SHOWN:
        lines.append(f"    and {len(finding.places) - SHOWN} more (--json lists all)")
    return lines


def number_of(count: int, noun: str) -> str:
    """A count with its noun, such as "1 error" and "2 errors"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def verdict(checked: Sequence[Checked]) -> str:
    """The last line: the number of findings by level, or that every check passed."""
    found, tasks = counts(checked), number_of(len(checked), "task")
    notes = number_of(found["I"], "note")
    if found["E"] or found["W"]:
        return f"{tasks}: {number_of(found['E'], 'error')}, {number_of(found['W'], 'warning')}, {notes}."
    return f"{tasks}: every check passed" + (f" ({notes})." if found["I"] else ".")
