"""The two values that a run stores per item: the planned item and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["scored", "unparsed", "truncated", "skipped", "error"]
"""scored: measured. unparsed: no answer could be parsed from the completion; measured as wrong. truncated: the completion reached its
token limit; measured as it is. skipped: longer than the model's context (--overlong skip); not measured. error: not measured, and not
counted as zero."""
UNMEASURED = ("skipped", "error")
"""Statuses of items without statistics."""


@dataclass(frozen=True, slots=True)
class Item:
    """One planned item, with all data needed to score it again."""

    task: str
    """Full name, protocol included."""
    id: str
    group: str
    cluster: str
    prompt: str
    """The exact prompt text that was sent to the model."""
    choices: tuple[str, ...] = ()
    gold: str = ""
    """The gold answer as text; empty if hidden."""
    doc: Mapping[str, Any] = field(default_factory=dict)
    """The Doc's other fields as JSON: gold index, targets, references, value, meta."""
    shots: tuple[str, ...] = ()
    """Ids of the few-shot examples in the prompt."""
    key: str = ""
    """Hash of the token ids of prompt and choices that were sent."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished item. `output` is an `assay.harness.task.output` as JSON, with per-token log-probabilities; `stats` by metric."""

    task: str
    item: str
    status: Status
    output: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    correct: float | None = None
    """The main metric's first statistic if it is an item score in [0, 1]."""
    error: str = ""
    logical: int = 0
    """Tokens without prefix sharing: every continuation counted with its full prompt."""
    computed: int = 0
    """Tokens that the model computed since the previous record, so the sum over a run, resumed or not, is its total."""
    cached: int = 0
    seconds: float = 0.0
    """Seconds since the previous record."""
