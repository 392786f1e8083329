"""Plans a gate before its candidate exists: its chance to pass an unchanged model, the items that raise it to 80 %, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from assay.harness.decide.planning.power import POWER
from assay.harness.decide.policy import Policy
from assay.harness.decide.verdict import task_weights
from assay.harness.errors import AssayError
from assay.harness.stats.distributions import z_cdf, z_quantile
from assay.harness.stats.rule import n_min

KINDS: Mapping[str, float] = {"engine": 0.01, "dtype": 0.02, "8bit": 0.03, "quantised": 0.05, "4bit": 0.10, "finetuned": 0.15}
"""Share of items whose score changes although nothing is lost, by kind of candidate: round numbers above those measured on the built-in
model (results/gate/estimators.md), except those of quantised (any scheme) and 4bit (calibrated), which are assumed."""


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """One task of the baseline. `alone`: items with which this task alone would decide with 80 % power, `alone_tokens` their tokens."""

    task: str
    items: int
    tokens: int
    weight: float
    signal: bool
    alone: int
    alone_tokens: int


@dataclass(frozen=True, slots=True)
class GatePlan:
    """`power`: the chance that the baseline's suite passes an unchanged model. `factor`: by how much its items must grow for 80 %."""

    kind: str
    churn: float
    margin: float
    alpha: float
    items: int
    tokens: int
    power: float
    factor: float
    tasks: tuple[PlannedTask, ...]

    @property
    def needed(self) -> tuple[int, int]:
        """Items and tokens of the baseline's suite, grown in proportion, for 80 % power."""
        return ceil(self.factor * self.items), ceil(self.factor * self.tokens)

    @property
    def cheapest(self) -> PlannedTask | None:
        """The task with signal that decides alone with the fewest tokens."""
        return min((task for task in self.tasks if task.signal), key=lambda task: task.alone_tokens, default=None)


def plan_gate(facts: Sequence[tuple[str, int, int, bool]], policy: Policy, kind: str, churn: float | None = None) -> GatePlan:
    """The plan for a suite of tasks, each with its items, tokens and whether the baseline is better than chance.

    Planned by plain accuracy: smoothed accuracy needs fewer items where margins change little. Raises AssayError for an unknown kind or
    a suite without signal.
    """
    if kind not in KINDS and churn is None:
        raise AssayError(f"unknown kind of candidate {kind!r}", where="--candidate-kind", do=f"choose from {', '.join(KINDS)}")
    share = KINDS[kind] if churn is None else churn
    margin, level = policy.margin / 100, z_quantile(1 - policy.alpha)
    counted = {task: items for task, items, _, signal in facts if signal}
    if not counted:
        raise AssayError("the baseline is better than chance on no task", do="add a task on which it is")
    weights = task_weights(counted, policy.weights, policy.weighting)
    se = sqrt(sum(weight**2 * (share / counted[task] + 1 / counted[task] ** 2) for task, weight in weights.items()))
    least = max(
        n_min(margin) / sum(counted.values()), *(n_min(margin / weight) / counted[task] for task, weight in weights.items() if weight)
    )
    power = float(z_cdf(margin / se - level)) if least <= 1 else 0.0
    alone = max(ceil(share * ((level + z_quantile(POWER)) / margin) ** 2), n_min(margin))
    return GatePlan(
        kind=kind,
        churn=share,
        margin=policy.margin,
        alpha=policy.alpha,
        items=sum(items for _, items, _, _ in facts),
        tokens=sum(tokens for _, _, tokens, _ in facts),
        power=power,
        factor=max(((level + z_quantile(POWER)) * se / margin) ** 2, least, 0.0),
        tasks=tuple(
            PlannedTask(task, items, tokens, weights.get(task, 0.0), signal, alone, ceil(alone * tokens / max(items, 1)))
            for task, items, tokens, signal in facts
        ),
    )


def suite_facts(results: Sequence[Mapping[str, Any]], tokens: Mapping[str, int]) -> list[tuple[str, int, int, bool]]:
    """Items, tokens and signal of each task of a stored run, from its results and its tokens without prefix sharing."""
    return [
        (each["task"], int(each["n"]), tokens.get(each["task"], 0), each.get("chance") is None or (each["low"] or 0.0) > each["chance"])
        for each in results
        if each.get("main") and each["value"] is not None and each["task"] in tokens
    ]


def plan_lines(plan: GatePlan) -> list[str]:
    """The plan as text."""
    items, tokens = plan.needed
    lines = [
        f"{plan.kind}: {plan.churn:.0%} of the items changed, nothing lost; margin {plan.margin:g}, alpha {plan.alpha:g}",
        f"this suite, {plan.items:,} items, {plan.tokens:,} tokens: passes with probability {plan.power:.0%}",
        f"for {POWER:.0%}: {items:,} items of these tasks in today's proportions, {tokens:,} tokens",
    ]
    if (one := plan.cheapest) is not None:
        lines.append(f"or {one.alone:,} items of one task alone, the cheapest: {one.task}, {one.alone_tokens:,} tokens")
        if one.alone > one.items:
            lines.append(f"the baseline has {one.items:,} items of {one.task}: score more, or a similar task with more items")
        else:
            lines.append(f"assay run --tasks {one.task} --limit {one.alone} scores a random sample of that size")
    if low := [task.task for task in plan.tasks if not task.signal]:
        lines.append(f"no signal, the baseline is not better than chance: {', '.join(low)}")
    return lines
