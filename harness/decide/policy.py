"""The release policy: margins and required tasks of a gate, read from gate.toml or the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay.harness.errors import AssayError, NotComparable
from assay.harness.files.safe_open import read_regular
from assay.harness.model.served import UNVERIFIED, is_served

MOST = 1 << 20
"""Maximum size of a gate.toml in bytes."""
TINY = 1e-6
Margin = Annotated[float, Field(ge=TINY, lt=100, allow_inf_nan=False, strict=True)]
Weighting = Literal["sqrt", "equal", "items", "precision"]
Weight = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False, strict=True)]


class Policy(BaseModel):
    """Margins are in points (1 = 0.01 of the metric's upper bound), for unbounded metrics in the metric's own unit.

    `tasks` are required: a run without one of them is not comparable (default: every task of the baseline). `advisory` tasks are
    shown and do not affect the verdict. Every `critical` task must exclude a loss of its own margin. `relative` caps a task's margin at
    a share of the baseline's score. `weights` are relative weights of tasks in the aggregate; without them `weighting` sets them:
    "sqrt" (by the square root of the number of items, of families and within them), "equal" (per family, and within), "items" or
    "precision" (in proportion to the number of items or of independent clusters). Weights never depend on the candidate's scores.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: Margin = 1.0
    task_margin: Margin = 3.0
    alpha: Annotated[float, Field(ge=TINY, lt=0.5, allow_inf_nan=False, strict=True)] = 0.05
    recovery: Annotated[float, Field(ge=0.5, lt=1, strict=True)] | None = None
    """Least share of the baseline's aggregate score that the candidate must keep; it replaces `margin`."""
    tasks: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()
    advisory: tuple[str, ...] = ()
    margins: dict[str, Margin] = {}
    relative: dict[str, Margin] = {}
    weights: dict[str, Weight] = {}
    weighting: Weighting = "sqrt"
    estimator: Literal["smoothed", "accuracy"] = "accuracy"
    """How a task of ranked choices is judged: by plain accuracy, or by smoothed accuracy where the baseline's margins allow it. Smoothed
    accuracy needs fewer items where a change moves margins little (results/gate/estimators.md): 8-bit copies, short fine-tunes."""
    degraded: Literal["note", "inconclusive"] = "note"
    """A significant loss of the gold choice's probability without a shown loss of accuracy: a note, or no pass."""
    every_task: Annotated[bool, Field(strict=True)] = False
    """Whether every task must exclude a loss of its own margin for a pass, not only the critical ones."""
    signal_tasks: Annotated[int, Field(ge=0, le=10**4, strict=True)] = 1
    """Least number of tasks on which the baseline must be better than chance for a pass; 0: tasks at chance count like others."""
    on_inconclusive: Literal["fail", "pass"] = "fail"
    allow_unverified: Annotated[bool, Field(strict=True)] = False
    """Whether runs of served models, whose weights are not verified, may be gated."""
    tried: Annotated[int, Field(ge=1, le=10**6, strict=True)] | None = None
    """Number of runs of which the baseline is the best; counted in the store if not given."""
    candidates: Annotated[int, Field(ge=1, le=10**6, strict=True)] | None = None
    """Number of models of which the candidate may be the best on the gated items; counted in the store if not given."""

    def margin_of(self, task: str, baseline: float) -> float:
        """The margin of a task in points, capped by its relative guard (`baseline` is its score in points)."""
        margin = self.margins.get(task, self.task_margin)
        return min(margin, round(self.relative[task] * abs(baseline), 9)) if task in self.relative else margin

    def named_tasks(self) -> set[str]:
        """Every task that the policy names."""
        return {*self.tasks, *self.critical, *self.advisory, *self.margins, *self.relative, *self.weights}

    def with_full_names(self, known: Iterable[str]) -> Policy:
        """The policy with full names of `known` tasks and totals where it leaves out the protocol: glue/rte for glue/rte@lm-eval.

        Raises AssayError if a short name matches several.
        """
        present = set(known)
        full = {name: name for name in self.named_tasks() & present}
        for name in self.named_tasks() - present:
            matching = sorted(each for each in present if each.split("@")[0] == name)
            if len(matching) > 1:
                raise AssayError(f"the policy's {name!r} matches {len(matching)} tasks", do=f"write {' or '.join(matching[:4])}")
            full[name] = matching[0] if matching else name
        changed = {field: tuple(full[name] for name in getattr(self, field)) for field in ("tasks", "critical", "advisory")}
        maps = {field: {full[name]: value for name, value in getattr(self, field).items()} for field in ("margins", "relative", "weights")}
        return self.model_copy(update={**changed, **maps})


def check_verified(policy: Policy, digests: Iterable[str]) -> None:
    """Raises NotComparable if one of these models is served and the policy does not allow it."""
    if not policy.allow_unverified and any(map(is_served, digests)):
        raise NotComparable(f"a model is {UNVERIFIED}", do="add --allow-unverified if you trust its server")


LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be below {lt}",
    "finite_number": "must be a finite number",
    "extra_forbidden": "is not a field here",
}


def reason_of(error: ValidationError) -> tuple[str, str]:
    """The first wrong field, and what is wrong with it in our words where they are known."""
    first = error.errors()[0]
    text = LIMITS.get(first["type"])
    return ".".join(map(str, first["loc"])), text.format(**first.get("ctx", {})) if text else first["msg"]


def read_policy(path: Path) -> Policy:
    """Reads a gate.toml. Raises AssayError naming the field that is wrong."""
    try:
        return Policy.model_validate(tomllib.loads(read_regular(path, MOST, follow=True).decode()))
    except OSError as error:
        raise AssayError(f"cannot be read: {error.strerror}", where=str(path), do="check the path") from None
    except ValidationError as error:
        name, reason = reason_of(error)
        raise AssayError(f"{name}: {reason}", where=str(path), do=f"valid fields are {', '.join(Policy.model_fields)}") from None
    except (ValueError, RecursionError) as error:  # TOML's own errors, numbers too long, bytes that are not UTF-8
        raise AssayError(f"is not valid TOML: {error}", where=str(path), do="fix the TOML syntax") from None
