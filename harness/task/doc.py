"""One example of a benchmark, with its gold answer."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from assay.harness.errors import AssayError

Row = Mapping[str, Any]


def is_number(value: object) -> bool:
    """Whether this is a finite number."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:
        return False


def is_text(value: object) -> bool:
    """Whether this is a string that UTF-8 can encode. A lone surrogate cannot be encoded, and no tokenizer accepts it."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Doc:
    """One example with its gold answer, which few-shot examples, tuners, the oracle check and the leak check read.

    A Doc for Choose has `choices` and either `gold` (an index) or `targets` (one score in [0, 1] per choice, as in
    BIG-bench). A Doc for Generate or Perplexity has `references`; few-shot examples use the first one. A Doc for
    Regress has `value`. All gold fields are empty if the benchmark hides its labels.

    Raises AssayError for a gold index out of range, wrong lengths or types, numbers that are not finite, and text that UTF-8 cannot encode.
    """

    prompt: str
    choices: tuple[str, ...] = ()
    gold: int | None = None
    targets: tuple[float, ...] = ()
    references: tuple[str, ...] = ()
    value: float | None = None
    id: str = ""
    """Stable id of the item; if empty, the content hash is used."""
    group: str = ""
    """Items scored together: the answers to one question, a minimal pair, one item's perturbations."""
    cluster: str = ""
    """Items resampled together, such as all questions on one passage; if empty, the group is used."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    """For Loglikelihood: the context of each choice, where they differ (WinoGrande); if empty, the prompt is."""
    inputs: tuple[str, ...] = ()
    """The parts of the prompt that perturbations may change, in order. If empty, these are the texts of the row that the prompt contains
    verbatim."""

    def __post_init__(self) -> None:
        for name in ("prompt", "id", "group", "cluster"):
            if not isinstance(getattr(self, name), str):
                kind = type(getattr(self, name)).__name__
                raise AssayError(f"Doc.{name} must be a string, not {kind}", where=str(self.id), do="fix the task's doc function")
        for name in ("choices", "references", "contexts", "inputs"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(text, str) for text in value):
                raise AssayError(
                    f"Doc.{name} must be a tuple of strings, not {value!r:.80}", where=self.id, do="fix the task's doc function"
                )
        if self.gold is not None and (not isinstance(self.gold, int) or not 0 <= self.gold < len(self.choices)):
            raise AssayError(
                f"gold {self.gold!r} is out of range for {len(self.choices)} choices",
                where=self.id,
                do="give an index into choices, or None if the label is hidden",
            )
        if not isinstance(self.targets, tuple) or not all(map(is_number, self.targets)):
            raise AssayError(
                f"Doc.targets must be finite numbers, not {self.targets!r:.80}", where=self.id, do="give a tuple with one number per choice"
            )
        if self.targets and len(self.targets) != len(self.choices):
            counts = f"{len(self.targets)} target scores for {len(self.choices)} choices"
            raise AssayError(counts, where=self.id, do="give one target score per choice")
        if self.contexts and len(self.contexts) != len(self.choices):
            counts = f"{len(self.contexts)} contexts for {len(self.choices)} choices"
            raise AssayError(counts, where=self.id, do="give one context per choice, or none")
        if self.value is not None and not is_number(self.value):
            raise AssayError(f"Doc.value must be a finite number, not {self.value!r:.80}", where=self.id, do="fix the row")
        if not all(map(is_text, (self.prompt, self.id, self.group, self.cluster, *self.choices, *self.references, *self.contexts))):
            raise AssayError("contains a lone surrogate, which UTF-8 cannot encode", where=ascii(self.id), do="fix the text of the row")

    @property
    def labelled(self) -> bool:
        """Whether the gold answer is known."""
        return self.gold is not None or bool(self.targets) or bool(self.references) or self.value is not None

    @property
    def answer(self) -> str:
        """The gold answer as text, with which a few-shot or training example ends."""
        if self.gold is not None:
            return self.choices[self.gold]
        if self.targets:
            return self.choices[max(range(len(self.targets)), key=self.targets.__getitem__)]
        if self.references:
            return self.references[0]
        if self.value is not None:
            return f"{self.value:g}"
        raise AssayError("this item has no gold answer", where=self.id, do="use a labelled split")

    @property
    def content(self) -> str:
        """Hash of the prompt and the gold fields, without the id. Items with equal content are duplicates."""
        parts = [self.prompt, self.choices, self.gold, self.targets, self.references, self.value]
        return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]
