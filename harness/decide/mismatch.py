"""The fields and settings that must agree before two runs are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FIELDS = ("version", "split", "data", "shots", "shots_order", "ask", "metrics", "items", "fingerprint")
"""Manifest fields that must agree for every task. The fingerprint (of all prompts, choices and gold) is last: it names no cause."""
READABLE = {
    "data": "data hash",
    "fingerprint": "rendered prompts, choices, gold or groups",
    "ask": "decoding",
    "metrics": "scorers",
    "chat": "chat template",
    "system": "system prompt",
    "seed": "random seed",
}
OF_MODEL = ("adapter", "quantization")
"""Settings that belong to the model, which a comparison is about."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A field that must agree between two runs and does not."""

    task: str
    field: str
    baseline: Any
    candidate: Any

    def __str__(self) -> str:
        name = READABLE.get(self.field, self.field)
        one, two = ("not set" if value is None else short(value) for value in (self.baseline, self.candidate))
        return f"{self.task}: {name} is {one} in the baseline, {two} in the candidate"


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def task_mismatches(task: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> list[Mismatch]:
    """The first field of a task's facts that differs, after every setting that differs; none where the fields agree."""
    fields = [Mismatch(task, each, one.get(each), two.get(each)) for each in FIELDS if one.get(each) != two.get(each)][:1]
    return [*differing_settings(task, one, two), *fields] if fields else []


def differing_settings(task: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> list[Mismatch]:
    """The settings of two runs that differ. Runs of earlier versions have none stored."""
    if "settings" not in one or "settings" not in two:
        return []
    names = dict.fromkeys(name for each in (one, two) for name in each["settings"] if name not in OF_MODEL)
    pairs = ((name, one["settings"].get(name), two["settings"].get(name)) for name in names)
    return [Mismatch(task, name, first, second) for name, first, second in pairs if first != second]
