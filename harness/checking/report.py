"""Findings for people and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from assay.harness.checking.finding import Checked, Finding, Place
from assay.harness.reports.results import show_number

SHOWN = 3
"""Places per finding that people see; JSON has all."""
COLOURS = {"E": "bold red", "W": "yellow", "I": "dim"}
BASELINES = (
    ("oracle", "gold answers"),
    ("majority", "majority"),
    ("chance", "chance"),
    ("constant", "best constant answer"),
    ("empty", "empty answers"),
)


def counts(checked: Sequence[Checked]) -> dict[str, int]:
    """Findings by level."""
    return {level: sum(finding.level == level for each in checked for finding in each.findings) for level in ("E", "W", "I")}


def as_json(subject: str, kind: str, checked: Sequence[Checked]) -> dict[str, Any]:
    """Everything, with every place."""
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


def finite(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts with null for a number that cannot be computed."""
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in facts.items()}


def headline(each: Checked) -> str:
    """One line about a task: what it is and what needs no model."""
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
    """The scores that need no model, best first."""
    return ", ".join(f"{words} {shown(facts[name])}" for name, words in BASELINES if name in facts)


def shown(value: float) -> str:
    return show_number(value if math.isfinite(value) else None)


def place_line(place: Place) -> str:
    where = f"row {place.row}" if place.row is not None else "item"
    item = f" ({place.item})" if place.item else ""
    return f"{where}{item}" + (f": {place.note}" if place.note else "")


def finding_lines(finding: Finding) -> list[str]:
    """A finding with its first places, and how many more there are."""
    lines = [f"{finding.level} {finding.check:<13} {finding.what}" + (f". {finding.do}" if finding.do else "")]
    lines += [f"    {place_line(place)}" for place in finding.places[:SHOWN]]
    if len(finding.places) > SHOWN:
        lines.append(f"    and {len(finding.places) - SHOWN} more (--json lists all)")
    return lines


def verdict(checked: Sequence[Checked], kind: str) -> str:
    """The last line."""
    found, tasks = counts(checked), f"{len(checked)} task{'s' if len(checked) > 1 else ''}"
    if found["E"] or found["W"]:
        return f"{tasks}: {found['E']} errors, {found['W']} warnings, {found['I']} notes."
    praise = "fit to measure with" if kind == "task" else "nothing speaks against these scores"
    return f"{tasks}: {praise}. Every check passed" + (f" ({found['I']} notes)." if found["I"] else ".")
