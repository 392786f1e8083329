"""The gate's rule on the rows of a Comparison: weights, margins, the aggregate, and the verdict. The tests are in assay.harness.stats.

Two error rates are at most alpha each: "regressed" when nothing was lost, and "pass" when the loss equals the margin.
tests/sim measures both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from assay.harness.decide.compare import Row
from assay.harness.decide.policy import Policy, Weighting
from assay.harness.decide.shared_items import Shared
from assay.harness.errors import AssayError
from assay.harness.stats.correction import holm
from assay.harness.stats.difference import Difference, Levels, columns
from assay.harness.stats.distributions import t_cdf
from assay.harness.stats.rule import FEW_CLUSTERS, NAMES, Aggregate, Verdict, combine, gate_verdicts, loss_excluded, mde80, n_min


@dataclass(frozen=True, slots=True)
class GatedTask:
    """One task or total with its test results. Margins and `mde` are in points (the metric's own unit where it is unbounded)."""

    row: Row
    margin: float | None
    """None if the metric has no upper bound and the policy sets no margin."""
    p: float
    """One-sided, corrected for the best-of-K baseline but not for the other tasks."""
    p_holm: float
    held: bool
    """A loss of the margin is excluded."""
    critical: bool
    advisory: bool
    weight: float
    mde: float
    """Minimum detectable effect: the smallest true loss found with 80 % power at this task's level in the gate."""
    signal: bool = True
    """False where the baseline is not better than chance: then the task is no evidence for a pass."""

    @property
    def blind(self) -> bool:
        """Whether a loss of the margin is detected with less than 80 % power."""
        return self.margin is not None and self.mde > self.margin

    @property
    def shown(self) -> bool:
        """Whether this task is evidence for a pass: a loss of its margin is excluded, and the baseline is better than chance."""
        return self.held and self.signal


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy with what the store adds to it. `tried`: the baseline is the best of so many runs. `candidates`: the candidate may be the
    best of so many. `shared`: tasks that share items."""

    policy: Policy
    tried: int = 1
    candidates: int = 1
    shared: tuple[Shared, ...] = ()

    @property
    def pass_level(self) -> float:
        """The level at which a pass must exclude a loss of the margin."""
        return self.policy.alpha / self.candidates

    @property
    def loss_level(self) -> float:
        """The level of the aggregate and, by Holm, of the tasks together."""
        return self.policy.alpha / 2


def gated_tasks(rows: Sequence[Row], rule: Rule) -> list[GatedTask]:
    """The main rows as gated tasks, with weights, margins and Holm-corrected p-values."""
    family = max(1, sum(row.task not in rule.policy.advisory for row in rows))
    return corrected([gated_task(row, weight, rule, family) for row, weight in weighted(rows, rule.policy)])


def weighted(rows: Sequence[Row], policy: Policy) -> list[tuple[Row, float]]:
    """Rows with their weight in the aggregate.

    Totals, advisory tasks, unbounded metrics and tasks that the policy does not require have weight 0.
    """
    counted = [row for row in rows if not row.total and row.difference.bounded and row.task not in policy.advisory]
    counted = [row for row in counted if not policy.tasks or row.task in policy.tasks]
    sizes = {row.task: row.difference.n for row in counted}
    units = {row.task: row.difference.units for row in counted}
    mass = task_weights(units if policy.weighting == "precision" else sizes, policy.weights, policy.weighting)
    return [(row, mass.get(row.task, 0.0)) for row in rows]


def task_weights(sizes: Mapping[str, int], given: Mapping[str, float], weighting: Weighting = "sqrt") -> dict[str, float]:
    """Weights of tasks that sum to 1: the given ones, or from their numbers of items (precision: of independent clusters).

    "sqrt": a family (mmlu/..., glue/...) by the square root of its items, its tasks likewise. "equal": equal per family and within.
    "items" and "precision": in proportion.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for task in sizes:
        families[family_of(task)].append(task)
    mass: dict[str, float] = {}
    for tasks in families.values():
        power = {"sqrt": 0.5, "equal": 0.0}.get(weighting, 1.0)
        each = {task: float(sizes[task]) ** power for task in tasks}
        whole = float(sum(sizes[task] for task in tasks)) ** power
        mass.update({task: whole * each[task] / (sum(each.values()) or 1.0) for task in tasks})
    if given:
        mass = {task: given.get(task, 0.0) for task in sizes}
    total = sum(mass.values()) or 1.0
    return {task: value / total for task, value in mass.items()}


def baseline_score(rows: Sequence[Row], policy: Policy) -> float:
    """The baseline's aggregate score in points, weighted as the aggregate. Raises AssayError where lower is better."""
    counted = [(row, weight) for row, weight in weighted(rows, policy) if weight > 0]
    if wrong := [row.task for row, _ in counted if row.better == "lower"]:
        raise AssayError(
            f"{wrong[0]}: a share of the baseline's score has no meaning where lower is better", do="use margin, or make it advisory"
        )
    return sum(weight * 100 * row.baseline / row.unit for row, weight in counted)


def with_recovery(rows: Sequence[Row], policy: Policy) -> Policy:
    """The policy with the margin that its recovery allows: the baseline's score is far more certain than the difference."""
    if policy.recovery is None:
        return policy
    score = baseline_score(rows, policy)
    if not score > 0:
        raise AssayError("the baseline scores nothing that could be kept", where="recovery", do="use margin instead")
    return policy.model_copy(update={"margin": round((1 - policy.recovery) * score, 9)})


def family_of(task: str) -> str:
    return task.split("/")[0].split("@")[0]


def gated_task(row: Row, weight: float, rule: Rule, family: int) -> GatedTask:
    found, policy = row.judged, rule.policy
    advisory = row.task in policy.advisory or bool(policy.tasks and row.task not in policy.tasks and not row.total)
    margin = policy.margin_of(row.task, 100 * row.baseline / row.unit) if found.bounded else policy.margins.get(row.task)
    return GatedTask(
        row=row,
        margin=margin,
        p=min(1.0, rule.tried * found.p_loss),
        p_holm=1.0,
        held=task_excludes_loss(found, margin, rule.pass_level),
        critical=row.task in policy.critical or (policy.every_task and not advisory),
        advisory=advisory,
        weight=weight,
        mde=row.points * float(mde80(found.se, rule.loss_level / family)),
        signal=row.signal or policy.signal_tasks == 0,
    )


def task_excludes_loss(found: Difference, margin: float | None, level: float) -> bool:
    """Whether a loss of the margin (points, or the metric's own unit) is excluded."""
    if margin is None:
        return False
    if not found.bounded:
        return found.strict > -margin and found.units >= FEW_CLUSTERS
    return bool(loss_excluded(found.strict, margin / 100, found.units, level))


def corrected(gated: Sequence[GatedTask]) -> list[GatedTask]:
    """Tasks with Holm-corrected p-values over all that may fail the gate."""
    family = [each for each in gated if not each.advisory]
    adjusted = iter(holm([each.p for each in family]).tolist())
    return [each if each.advisory else replace(each, p_holm=next(adjusted)) for each in gated]


def shift_difference(found: Difference, by: float) -> Difference:
    """A difference of graded scores shifted by `by`, with its limits; its p-value by Student's t."""
    delta = found.delta + by
    p_loss = float(t_cdf(delta / found.se, found.df))
    return replace(found, delta=delta, low=found.low + by, strict=found.strict + by, high=found.high + by, p_loss=p_loss)


@lru_cache(maxsize=256)
def joint_difference(shared: Shared, weights: tuple[float, ...], levels: Levels) -> Difference:
    """The weighted change of tasks that share items."""
    return shared.units.difference(np.array(weights), levels)


def independent_parts(gated: Sequence[GatedTask], rule: Rule) -> list[tuple[Difference, float]]:
    """Independent differences with their weights: single tasks, and one for each group of tasks that share items."""
    counted = {each.row.task: each for each in gated if each.weight > 0}
    found = []
    for shared in rule.shared:
        own = [counted.pop(task, None) for task in shared.tasks]
        weights = tuple(0.0 if each is None else each.weight for each in own)
        if not any(weights):
            continue
        joint = joint_difference(shared, weights, Levels(rule.policy.alpha, rule.candidates))
        means = shared.units.values.mean(axis=1)
        moved = sum(each.weight * (each.row.judged.delta - mean) for each, mean in zip(own, means, strict=True) if each is not None)
        found.append((shift_difference(joint, float(moved)) if abs(moved) > 1e-12 else joint, 1.0))
    return [*found, *((each.row.judged, each.weight) for each in counted.values())]


def aggregate(gated: Sequence[GatedTask], rule: Rule, *, strict: bool = False) -> Aggregate | None:
    """The weighted change of all tasks; None if no task has a weight. `strict`: with the limits that a pass rests on."""
    parts = independent_parts(gated, rule)
    if not parts:
        return None
    return combine(columns([found for found, _ in parts], strict=strict), np.array([weight for _, weight in parts]))


def with_signal(gated: Sequence[GatedTask]) -> list[GatedTask]:
    """The tasks on which the baseline is better than chance, their weights scaled to sum to 1: the evidence for a pass."""
    kept = [each for each in gated if each.signal]
    mass = sum(each.weight for each in kept) or 1.0
    return [replace(each, weight=each.weight / mass) for each in kept]


def aggregate_held(gated: Sequence[GatedTask], rule: Rule) -> bool:
    """Whether a loss of the margin is excluded on the aggregate of the tasks with signal."""
    kept = with_signal(gated)
    whole = aggregate(kept, rule, strict=True)
    if whole is None:
        return False
    margin = rule.policy.margin / 100
    # A loss confined to one task, or to items that several tasks share, must be detectable there.
    seen = all(units >= needed for units, needed in least_units(kept, rule))
    return bool(whole.low > -margin) and seen and float(whole.df) >= FEW_CLUSTERS - 1


def least_units(gated: Sequence[GatedTask], rule: Rule) -> list[tuple[int, int]]:
    """Numbers of independent units, and those that a pass of the aggregate requires: of all tasks, and of each task by its weight."""
    margin, parts = rule.policy.margin / 100, independent_parts(gated, rule)
    whole = (sum(found.units for found, _ in parts), n_min(margin, rule.pass_level))
    single = [(each.row.difference.units, each.weight) for each in gated if each.weight > 0]
    joint = []
    for shared in rule.shared:
        weight = sum(each.weight for each in gated if each.row.task in shared.tasks)
        joint += [(shared.units.clusters, weight)] if weight > 0 else []
    return [whole, *((units, n_min(margin / weight, rule.pass_level)) for units, weight in [*single, *joint])]


def verdict_of(gated: Sequence[GatedTask], rule: Rule) -> Verdict:
    """The verdict. Without an aggregate, every gated task must exclude a loss of its own margin."""
    family = [each for each in gated if not each.advisory]
    if not family:
        return "inconclusive"
    whole = aggregate(gated, rule)
    p_total = np.float64(1.0 if whole is None else rule.tried * float(whole.p_loss))
    held = aggregate_held(gated, rule) if whole is not None else all(each.shown for each in family)
    p_tasks, tasks_held = np.array([each.p for each in family]), np.array([each.held for each in family])
    verdict = NAMES[
        int(
            gate_verdicts(
                np.asarray(p_total), np.asarray(held), p_tasks, tasks_held, np.zeros(len(family), dtype=np.bool_), rule.policy.alpha
            )
        )
    ]
    required = [each for each in family if each.critical or whole is None]
    enough = sum(each.signal for each in gated if each.weight > 0) >= rule.policy.signal_tasks or whole is None
    return "inconclusive" if verdict == "pass" and not (enough and all(each.shown for each in required)) else verdict
