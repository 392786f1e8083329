"""What manifest.json and summary.json must hold, also those of a stranger; more may stand beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.errors import AssayError


def utf8(text: str) -> str:
    """Refuses half a character, which no table and no terminal can hold."""
    text.encode()
    return text


Text = Annotated[str, AfterValidator(utf8)]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Real = Annotated[float, Field(allow_inf_nan=False)]


class Shape(BaseModel):
    """Fields have exactly these types: no text stands for a number."""

    model_config = ConfigDict(extra="allow", strict=True)


class PlanShape(Shape):
    """harness.Plan as JSON."""

    model: Text
    tasks: Annotated[list[Text], Field(min_length=1)]
    adapter: Text = ""
    revision: Text = ""
    shots: Whole | None = None
    limit: Whole | None = None
    seed: Whole = 0
    split: Text = ""
    chat: bool = False
    drop_shots: bool = False
    allow_partial: bool = False
    shard: Text = ""
    repeat_check: bool = False
    repeat_engine: Text = ""
    engine: Text = "auto"
    dtype: Text
    device: Text = "auto"
    budget: Whole | None = None
    batch: Whole | None = None
    tensor_parallel: Whole = 1
    pipeline_parallel: Whole = 1


class ModelShape(Shape):
    """Which model was asked."""

    name: Text
    digest: Text
    path: Text = ""
    adapter: Text = ""
    parameters: Whole | None = None


class EngineShape(Shape):
    """What asked it."""

    name: Text


class TaskShape(Shape):
    """The facts of one task, which must agree before two scores compare."""

    name: Text
    version: Text | Whole | Real | None
    split: Text
    data: Text
    shots: Whole
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
    variants: dict[Text, Count] = {}


class LeftOutShape(Shape):
    """A member of a family without data."""

    task: Text
    reason: Text


class UnformedShape(Shape):
    """A total that lacks some of its tasks."""

    total: Text
    lacks: list[Text]


class ManifestShape(Shape):
    """Everything that a run starts with."""

    items: Count
    plan: PlanShape
    model: ModelShape
    engine: EngineShape
    tasks: list[TaskShape]
    purpose: Text
    evidence: Text
    seed: Whole = 0
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
    shots: Whole | None
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


class SummaryShape(Shape):
    """What a run ends with."""

    results: list[ResultShape]
    engine: dict[Text, Any]
    tokens: dict[Text, Real]
    seconds: dict[Text, Real]
    statuses: dict[Text, Count] = {}
    noise: dict[Text, Any] = {}
    evidence: Text = ""


def fit(shape: type[Shape], value: Mapping[str, Any], where: Path) -> None:
    """Raises AssayError naming the first field that is missing or of another kind."""
    try:
        shape.model_validate(value)
    except (ValidationError, RecursionError, ValueError) as error:
        what = f"does not hold what it should: {first_of(error)}"
        raise AssayError(what, where=str(where), do="restore the run from a copy") from None


def first_of(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"{error!r:.120}"
    first = error.errors(include_url=False, include_input=False)[0]
    told = re.sub(r" or instance of \w+", "", first["msg"].replace("Input should be", "must be"))
    return f"{'.'.join(map(str, first['loc']))}: {told}"[:200]


def weakest(words: Iterable[str], best: str) -> str:
    """The first word that is not the best: evidence that is not "complete", a purpose that is not "release"."""
    return next((word for word in words if word != best), best)


def evidence_of(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """The evidence of a run: what its manifest says of it and of every task; its summary can only weaken that."""
    tasks = (task["evidence"] for task in manifest["tasks"])
    return weakest((manifest["evidence"], *tasks, summary.get("evidence") or "complete"), "complete")
