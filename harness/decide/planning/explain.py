"""Error rates of a check that compares one score with a fixed number, and of the gate on the same items."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay.harness.decide.policy import MOST, Policy, read_policy, reason_of
from assay.harness.errors import AssayError
from assay.harness.files.safe_open import read_regular
from assay.harness.stats.distributions import t_cdf, z_cdf, z_quantile
from assay.harness.stats.paired import mid_p, tango_bound
from assay.harness.stats.rule import PASS, REGRESSED, gate_verdicts, loss_excluded

LOSSES = (0.0, 1.0, 2.0, 3.0, 5.0)
"""True losses in points for which rates are shown."""
SIZES = (100, 300, 1000, 5000, 14000)
CHURNS = (0.02, 0.05, 0.10)
TRIALS = 20_000
Share = Annotated[float, Field(gt=0, lt=1)]


class Check(BaseModel):
    """A check of another tool: it fails if a score on `items` items is below `threshold` (or `tolerance` away, if two-sided).

    `score` is the true score of an unchanged model. `noise` is the standard deviation of its score from run to run on these items;
    without it, the items are taken as a fresh sample. `checks`: so many independent checks, all of which must succeed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: Annotated[int, Field(ge=10, le=10**6)]
    score: Share
    threshold: Share
    noise: Share | None = None
    two_sided: bool = False
    checks: Annotated[int, Field(ge=1, le=1000)] = 1
    source: str = ""

    @property
    def spread(self) -> float:
        return self.noise if self.noise is not None else (self.score * (1 - self.score) / self.items) ** 0.5

    @property
    def churn(self) -> float:
        """Share of items that differ between two runs of the unchanged model; from the noise, at least one item."""
        changed = 2 * self.items * self.noise**2 if self.noise is not None else 2 * self.score * (1 - self.score)
        return min(max(changed, 1 / self.items), 1.0)

    def fails(self, loss: float) -> float:
        """The probability that at least one check fails at a true loss, in points."""
        mean = self.score - loss / 100
        below = float(z_cdf((self.threshold - mean) / self.spread))
        above = 1 - float(z_cdf((2 * self.score - self.threshold - mean) / self.spread)) if self.two_sided else 0.0
        return 1 - (1 - min(1.0, below + above)) ** self.checks


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates on `items` items of which a share `churn` changes, at a true `loss` in points. `fails`: of the explained check, if any."""

    items: int
    churn: float
    loss: float
    passed: float
    regressed: float
    fails: float | None = None


def read_explained(path: Path) -> tuple[Policy, Check | None]:
    """The policy and, where the file has a table [check], the check of another tool. Raises AssayError naming the wrong field."""
    try:
        content = tomllib.loads(read_regular(path, MOST, follow=True).decode())
    except (OSError, ValueError):
        return read_policy(path), None  # says what is wrong
    if "check" not in content:
        return read_policy(path), None
    try:
        check = Check.model_validate(content.pop("check"))
        return Policy.model_validate(content), check
    except ValidationError as error:
        name, reason = reason_of(error)
        where = f"{path} [check]" if "Check" in error.title else str(path)
        fields = ", ".join((Check if "Check" in error.title else Policy).model_fields)
        raise AssayError(f"{name}: {reason}", where=where, do=f"valid fields are {fields}") from None


def gate_rates(policy: Policy, items: int, churn: float, loss: float, seed: int = 0) -> tuple[float, float]:
    """How often the gate passes and regresses on one task of so many binary items, by simulation."""
    moved, lost = max(churn, loss / 100), loss / 100
    rng = np.random.default_rng(seed)
    a, b = rng.multinomial(items, [(moved - lost) / 2, (moved + lost) / 2, 1 - moved], TRIALS).T[:2].astype(np.float64)
    low, delta = tango_bound(a, b, items, z_quantile(1 - policy.alpha)), (a - b) / items
    error = np.sqrt(((a + b) / items - delta**2) / items + 1 / items**2)
    held = [loss_excluded(low, margin / 100, items, policy.alpha) for margin in (policy.margin, policy.task_margin)]
    none = np.zeros((TRIALS, 1), dtype=np.bool_)
    found = gate_verdicts(t_cdf(delta / error, items - 1.0), held[0], mid_p(a, b)[:, None], held[1][:, None], none, policy.alpha)
    return float((found == PASS).mean()), float((found == REGRESSED).mean())


def explain_policy(policy: Policy, check: Check | None) -> list[Rates]:
    """Rates of the check and of the gate on its items; without a check, of the gate at usual sizes."""
    cells = [(items, churn) for items in SIZES for churn in CHURNS] if check is None else [(check.items, check.churn)]
    losses = (0.0, policy.margin) if check is None else tuple(sorted({*LOSSES, policy.margin}))
    return [
        Rates(items, churn, loss, *gate_rates(policy, items, churn, loss), None if check is None else check.fails(loss))
        for items, churn in cells
        for loss in losses
    ]


def explained_cells(rates: Sequence[Rates]) -> tuple[list[str], list[list[str]]]:
    """The rates as a table: header and rows."""
    theirs = ["the check fails"] * (rates[0].fails is not None)
    header = ["items", "changed items", "true loss", *theirs, "gate: pass", "gate: regressed", "gate: inconclusive"]
    rows = []
    for each in rates:
        own = [each.passed, each.regressed, 1 - each.passed - each.regressed]
        shown = [f"{value:.1%}" for value in ([] if each.fails is None else [each.fails]) + own]
        rows.append([f"{each.items:,}", f"{each.churn:.1%}", f"{each.loss:g} points", *shown])
    return header, rows


def explained_json(policy: Policy, check: Check | None, rates: Sequence[Rates]) -> dict[str, Any]:
    names = ("items", "churn", "loss", "passed", "regressed", "fails")
    found = [{name: getattr(each, name) for name in names} for each in rates]
    return {"policy": policy.model_dump(mode="json"), "check": check and check.model_dump(mode="json"), "rates": found}
