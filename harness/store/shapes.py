"""Schemas of manifest.json and summary.json, which may be untrusted. Additional fields are allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model

from assay.harness.errors import AssayError
from assay.harness.store.plan import Plan


def require_utf8(text: str) -> str:
    """Raise ValueError for a lone surrogate, which tables and terminals cannot show."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(require_utf8)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Real = Annotated[float, Field(allow_inf_nan=False)]


class Shape(BaseModel):
    """Base class: types are strict, so a string is not accepted as a number."""

    model_config = ConfigDict(extra="allow", strict=True)


KINDS: Mapping[Any, Any] = {
    str: Text,
    bool: bool,
    int: Integer,
    int | None: Integer | None,
    float | None: Real | None,
    tuple[str, ...]: list[Text],
    tuple[str, ...] | None: list[Text] | None,
}
"""Type in JSON by type of a plan's field."""


def as_shape(value: type[Plan]) -> type[Shape]:
    """Return the JSON schema of the Plan dataclass."""
    hints = get_type_hints(value)
    kinds: dict[str, Any] = {
        field.name: (KINDS[hints[field.name]], ... if field.default is MISSING else field.default) for field in fields(value)
    }
    kinds["tasks"] = (Annotated[list[Text], Field(min_length=1)], ...)
    made: type[Shape] = create_model(f"{value.__name__}Shape", __base__=Shape, **kinds)
    return made


PlanShape = as_shape(Plan)


class ModelShape(Shape):
    """The evaluated model."""

    name: Text
    digest: Text
    path: Text = ""
    adapter: Text = ""
    parameters: Integer | None = None


class EngineShape(Shape):
    """The engine that ran it."""

    name: Text


class TaskShape(Shape):
    """The settings of one task, which must be equal for two scores to be comparable."""

    name: Text
    version: Text | Integer | Real | None
    split: Text
    data: Text
    shots: Integer
    shots_order: Text
    ask: Text
    metrics: list[Text]
    items: Count | None = None
    evidence: Text
    purpose: Text
    fingerprint: Text
    labelled: bool
    boundary_moved: Count
    shots_dropped: Count
    shots_replaced: Count = 0
    notes: list[Text] = []
    variants: dict[Text, Count] = {}
    settings: dict[Text, Text] = {}


class LeftOutShape(Shape):
    """A member of a family that has no data."""

    task: Text
    reason: Text


class UnformedShape(Shape):
    """A total that cannot be computed because tasks are missing."""

    total: Text
    lacks: list[Text]


class ProofShape(Shape):
    """The proof of one session of a run."""

    way: Literal["fast", "plain"]
    reason: Text
    yardstick: Text
    tokens: Count
    seconds: Real
    requests: Count
    tasks: dict[Text, dict[Text, Any]]


class ProofsShape(Shape):
    """The proofs of an unfinished run."""

    sessions: list[ProofShape]


class ManifestShape(Shape):
    """The manifest, written when a run starts."""

    items: Count
    plan: PlanShape  # type: ignore[valid-type]
    model: ModelShape
    engine: EngineShape
    tasks: list[TaskShape]
    purpose: Text
    evidence: Text
    seed: Integer = 0
    chat: bool = False
    left_out: list[LeftOutShape] = []
    unformed: list[UnformedShape] = []
    versions: dict[Text, Any] = {}
    machine: dict[Text, Any] = {}


class ResultShape(Shape):
    """One score."""

    task: Text
    metric: Text
    value: Real | None
    low: Real | None
    high: Real | None
    n: Count | None
    shots: Integer | None
    signature: Text
    main: bool
    better: Literal["higher", "lower"]
    evidence: Text
    purpose: Text
    method: Text = ""
    unit: Real | None = None
    chance: Real | None = None
    majority: Real | None = None
    bounds: list[Real | None] | None = None
    reason: Text = ""
    """Why the score is undefined; its value is then null."""
    wide: list[Real] | None = None
    """Limits that cover more than half of the scale: too few items."""


class SummaryShape(Shape):
    """The summary, written when a run is complete."""

    results: list[ResultShape]
    engine: dict[Text, Any]
    tokens: dict[Text, Real]
    seconds: dict[Text, Real]
    statuses: dict[Text, Count] = {}
    ties: dict[Text, Count] = {}
    noise: dict[Text, Any] = {}
    evidence: Text = ""


def validate(shape: type[Shape], value: Mapping[str, Any], where: Path) -> None:
    """Raise AssayError naming the first field that is missing or has the wrong type."""
    try:
        shape.model_validate(value)
    except (ValidationError, RecursionError, ValueError) as error:
        what = f"has invalid content: {first_message(error)}"
        raise AssayError(what, where=str(where), do="restore the run from a copy") from None


def first_message(error: Exception) -> str:
    """Return the first message of a validation error, with its field."""
    if not isinstance(error, ValidationError):
        return f"{error!r:.120}"
    first = error.errors(include_url=False, include_input=False)[0]
    message = re.sub(r" or instance of \w+", "", first["msg"].replace("Input should be", "must be"))
    return f"{'.'.join(map(str, first['loc']))}: {message}"[:200]


def weakest(words: Iterable[str], best: str) -> str:
    """Return the first word that is not `best`: evidence that is not "complete", or a purpose that is not "release"."""
    return next((word for word in words if word != best), best)


def evidence_of(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """Return the weakest evidence of a run: of its manifest, its tasks and its summary."""
    tasks = (task["evidence"] for task in manifest["tasks"])
    return weakest((manifest["evidence"], *tasks, summary.get("evidence") or "complete"), "complete")
