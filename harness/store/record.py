"""The two facts that a run stores per item: what was planned, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["scored", "unparsed", "truncated", "error"]
"""scored: measured. unparsed: generated text held no answer; measured as wrong. truncated: generation was cut by its token
limit; measured as it stands. error: no measurement, never a zero."""


@dataclass(frozen=True, slots=True)
class Item:
    """One planned item, with everything that scoring it again needs."""

    task: str
    """Full name, protocol included."""
    id: str
    group: str
    cluster: str
    prompt: str
    """Exactly what was sent, as text."""
    choices: tuple[str, ...] = ()
    gold: str = ""
    """The gold answer as text; empty where hidden."""
    doc: Mapping[str, Any] = field(default_factory=dict)
    """The Doc's other fields as JSON: gold index, targets, references, value, meta."""
    shots: tuple[str, ...] = ()
    """Ids of the exemplars in the prompt."""
    key: str = ""
    """Hash of the token ids that were sent: prompt and choices."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished item. `output` is assay.harness.task.output as JSON with per-token log-probabilities; `stats` by metric name."""

    task: str
    item: str
    status: Status
    output: Mapping[str, Any] = field(default_factory=dict)
    stats: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    correct: float | None = None
    """The main metric's first statistic where it is an item score in [0, 1]."""
    error: str = ""
    logical: int = 0
    """Tokens if every continuation were a full prompt of its own."""
    computed: int = 0
    """Tokens that went through the model since the record before, so that sums over a run, resumed or not, are its tokens."""
    cached: int = 0
    seconds: float = 0.0
    """Time since the record before."""
