"""The release gate: decides on a Comparison by a Policy. The statistical rule is in assay.harness.stats.rule.

Two error rates are at most alpha each: "regressed" when nothing was lost, and "pass" when the loss equals the margin.
tests/sim measures both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.harness.decide.compare import Comparison, Row
from assay.harness.decide.policy import Policy
from assay.harness.errors import AssayError, NotComparable
from assay.harness.stats.correction import holm
from assay.harness.stats.difference import Difference, columns
from assay.harness.stats.distributions import t_cdf, z_quantile
from assay.harness.stats.paired import mid_p, tango_bound
from assay.harness.stats.rule import FEW_CLUSTERS, NAMES, Aggregate, Verdict, combine, gate_verdicts, loss_excluded, mde80, n_min

EXIT = {"pass": 0, "regressed": 10, "inconclusive": 11}
SCOPE = "The verdict covers this checkpoint and items like these, not the training recipe or other tasks."


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

    @property
    def blind(self) -> bool:
        """Whether a loss of the margin is detected with less than 80 % power."""
        return self.margin is not None and self.mde > self.margin


@dataclass(frozen=True, slots=True)
class Decision:
    """A gate's verdict with the statistics behind it. Changes, limits, margins and floors are in points."""

    verdict: Verdict
    reasons: tuple[str, ...]
    delta: float | None
    low: float | None
    high: float | None
    p: float | None
    margin: float
    alpha: float
    held: bool
    tasks: tuple[GatedTask, ...]
    mde: float | None
    items: int
    needed: int | None
    """Items needed to decide an inconclusive gate, if change and churn (the share of changed items) stay the same."""
    flips: int | None
    """The smallest number of items of one task whose flip changes the verdict."""
    flips_task: str
    tried: int
    inflation: float
    """Expected excess of the score of the best of `tried` equal runs, in points."""
    attempt: int
    notes: tuple[str, ...]
    floor: float | None = None
    """The largest change of the aggregate that the tasks' noise floors allow; None if one was not measured."""
    scope: str = SCOPE

    def exit_code(self, policy: Policy) -> int:
        if self.verdict == "inconclusive" and policy.on_inconclusive == "pass":
            return 0
        return EXIT[self.verdict]


def gate(comparison: Comparison, policy: Policy, *, tried: int = 1, attempt: int = 1) -> Decision:
    """Decides. `tried`: the number of runs of which the baseline is the best; `attempt`: the number of this gate for this pair.

    Raises NotComparable if a required task is missing, AssayError if the policy names an unknown task.
    """
    check_required(comparison, policy)
    rows = [row for row in comparison.rows if row.main]
    family = max(1, sum(row.task not in policy.advisory for row in rows))
    gated = corrected([gated_task(row, policy, tried, family) for row in weighted(rows, policy)], policy)
    whole, held = aggregate(gated, policy)
    verdict = decide(gated, whole, held, policy, tried)
    reasons = [*explain(gated, whole, held, policy, tried, verdict)]
    if doubts := evidence_problems(comparison, gated, policy):
        verdict = "inconclusive" if verdict == "pass" else verdict
        reasons = [*doubts, *reasons]
    level = policy.alpha / 2
    flips, flips_task = (None, "") if doubts else fewest_flips(gated, policy, tried, verdict)
    return Decision(
        verdict=verdict,
        reasons=tuple(reasons),
        delta=None if whole is None else 100 * float(whole.delta),
        low=None if whole is None else 100 * float(whole.low),
        high=None if whole is None else 100 * float(whole.high),
        p=None if whole is None else min(1.0, tried * float(whole.p_loss)),
        margin=policy.margin,
        alpha=policy.alpha,
        held=held,
        tasks=tuple(gated),
        mde=None if whole is None else 100 * float(mde80(whole.se, level)),
        items=sum(each.row.difference.n for each in gated if not each.row.total),
        needed=needed(gated, whole, policy) if verdict == "inconclusive" and not doubts else None,
        flips=flips,
        flips_task=flips_task,
        tried=tried,
        inflation=0.0 if whole is None else 100 * float(whole.se) * expected_maximum(tried) / 2**0.5,
        attempt=attempt,
        notes=comparison.notes,
        floor=aggregate_floor(gated),
    )


def aggregate_floor(gated: Sequence[GatedTask]) -> float | None:
    found = [None if each.row.floor is None else each.weight * each.row.floor for each in gated if each.weight > 0]
    return None if not found or None in found else sum(value for value in found if value is not None)


def check_required(comparison: Comparison, policy: Policy) -> None:
    """Raises if a required task is missing, or, without a list of them, a task that only one run has."""
    present = {row.task for row in comparison.rows} | {each.task for each in comparison.undefined}
    missing = [name for name in policy.tasks if name not in present] if policy.tasks else list(comparison.left_out)
    if missing:
        has = [side.model for side in (comparison.baseline, comparison.candidate) if missing[0] in side.tasks]
        what = f"{', '.join(missing[:4])} {'is' if len(missing) == 1 else 'are'} missing" + (
            f" (only {has[0]} has it)" if len(has) == 1 else ""
        )
        raise NotComparable(what, where=comparison.candidate.run, do="evaluate both on the same tasks, or list `tasks` in gate.toml")
    if unknown := sorted(policy.named_tasks() - present):
        raise AssayError(f"{unknown[0]!r} of the policy is not a task of these runs", do=f"choose from {', '.join(sorted(present)[:6])}")


def weighted(rows: Sequence[Row], policy: Policy) -> list[tuple[Row, float]]:
    """Rows with their weight in the aggregate: the policy's, or equal per family (mmlu/..., glue/...) and equal within.

    Totals, advisory tasks, unbounded metrics and tasks that the policy does not require have weight 0.
    """
    counted = [row for row in rows if not row.total and row.difference.bounded and row.task not in policy.advisory]
    counted = [row for row in counted if not policy.tasks or row.task in policy.tasks]
    mass = dict(zip((row.task for row in counted), equal_weights([row.task for row in counted], policy.weights), strict=True))
    return [(row, mass.get(row.task, 0.0)) for row in rows]


def equal_weights(tasks: Sequence[str], given: Mapping[str, float]) -> list[float]:
    """Weights that sum to 1: the given ones, else equal per family (mmlu/..., glue/...) and equal within."""
    sizes = Counter(map(family_of, tasks))
    mass = [given.get(task, 0.0) if given else 1 / sizes[family_of(task)] for task in tasks]
    return [each / (sum(mass) or 1.0) for each in mass]


def family_of(task: str) -> str:
    return task.split("/")[0].split("@")[0]


def gated_task(pair: tuple[Row, float], policy: Policy, tried: int, family: int) -> GatedTask:
    row, weight = pair
    found = row.difference
    advisory = row.task in policy.advisory or bool(policy.tasks and row.task not in policy.tasks and not row.total)
    margin = policy.margin_of(row.task, 100 * row.baseline / row.unit) if found.bounded else policy.margins.get(row.task)
    return GatedTask(
        row=row,
        margin=margin,
        p=min(1.0, tried * found.p_loss),
        p_holm=1.0,
        held=task_excludes_loss(found, margin, policy.alpha),
        critical=row.task in policy.critical,
        advisory=advisory,
        weight=weight,
        mde=row.points * float(mde80(found.se, policy.alpha / 2 / family)),
    )


def task_excludes_loss(found: Difference, margin: float | None, alpha: float) -> bool:
    """Whether a loss of the margin (points, or the metric's own unit) is excluded."""
    if margin is None:
        return False
    if not found.bounded:
        return found.low > -margin and found.units >= FEW_CLUSTERS
    return bool(loss_excluded(found.low, margin / 100, found.units, alpha))


def corrected(gated: Sequence[GatedTask], policy: Policy) -> list[GatedTask]:
    """Tasks with Holm-corrected p-values over all that may fail the gate."""
    family = [each for each in gated if not each.advisory]
    adjusted = iter(holm([each.p for each in family]).tolist())
    return [each if each.advisory else replace(each, p_holm=next(adjusted)) for each in gated]


def aggregate(gated: Sequence[GatedTask], policy: Policy) -> tuple[Aggregate | None, bool]:
    """The weighted difference, and whether a loss of the margin is excluded; (None, False) if no task has a weight."""
    counted = [each for each in gated if each.weight > 0]
    if not counted:
        return None, False
    found = [each.row.difference for each in counted]
    weights = np.array([each.weight for each in counted])
    whole = combine(columns(found), weights)
    margin = policy.margin / 100
    seen = sum(each.units for each in found) >= n_min(margin, policy.alpha)
    # A loss confined to one task must be detectable there.
    seen = seen and all(each.units >= n_min(margin / weight, policy.alpha) for each, weight in zip(found, weights, strict=True))
    return whole, bool(whole.low > -margin) and seen and float(whole.df) >= FEW_CLUSTERS - 1


def decide(gated: Sequence[GatedTask], whole: Aggregate | None, held: bool, policy: Policy, tried: int) -> Verdict:
    """The verdict. Without an aggregate, every gated task must exclude a loss of its own margin."""
    family = [each for each in gated if not each.advisory]
    if not family:
        return "inconclusive"
    p_total = np.float64(1.0 if whole is None else tried * float(whole.p_loss))
    critical = np.array([each.critical or whole is None for each in family])
    total_held = held if whole is not None else all(each.held for each in family)
    p_tasks, tasks_held = np.array([each.p for each in family]), np.array([each.held for each in family])
    return NAMES[int(gate_verdicts(np.asarray(p_total), np.asarray(total_held), p_tasks, tasks_held, critical, policy.alpha))]


def evidence_problems(comparison: Comparison, gated: Sequence[GatedTask], policy: Policy) -> list[str]:
    """Reasons why these runs cannot pass, whatever their scores."""
    found = []
    if comparison.purpose == "smoke":
        found.append("smoke tasks only test that the software works; they never pass a gate")
    if comparison.evidence != "complete":
        found.append(f"the evidence is {comparison.evidence}; only complete runs can pass")
    if gated and all(each.advisory for each in gated):
        found.append("every task is advisory")
    required = [each for each in comparison.undefined if each.main and each.task not in policy.advisory]
    found += map(str, (each for each in required if not policy.tasks or each.task in policy.tasks or each.total))
    return found


def explain(gated: Sequence[GatedTask], whole: Aggregate | None, held: bool, policy: Policy, tried: int, verdict: Verdict) -> list[str]:
    """Reasons for the verdict, most important first."""
    found = []
    level = policy.alpha / 2
    lost = [each for each in gated if not each.advisory and each.p_holm <= level]
    for each in sorted((each for each in lost if not each.held), key=lambda each: each.p_holm):
        unit_name = "points" if each.row.difference.bounded else each.row.metric
        found.append(f"{each.row.task} lost {-each.row.points * each.row.difference.delta:.2f} {unit_name} (Holm p {each.p_holm:.2g})")
    if whole is not None and not held and tried * float(whole.p_loss) <= level:
        found.append(f"the aggregate lost {-100 * float(whole.delta):.2f} points (p {tried * float(whole.p_loss):.2g})")
    found += [f"{each.row.task}: a significant loss, smaller than the margin" for each in lost if each.held]
    if verdict == "inconclusive":
        if whole is not None and not held:
            found.append(f"a loss of {points(policy.margin)} is not excluded: the lower limit is {100 * float(whole.low):.2f} points")
        for each in gated:
            if (each.critical or whole is None) and not each.held and not each.advisory:
                found.append(f"{each.row.task}: a loss of its margin is not excluded")
    if verdict == "pass":
        found.append(f"a loss of {points(policy.margin)} is excluded" if whole is not None else "every task excludes a loss of its margin")
    return found


def points(value: float) -> str:
    return f"{value:g} point{'s' * (value != 1)}"


def expected_maximum(count: int) -> float:
    """The expected largest of `count` standard normals (Blom 1958)."""
    return 0.0 if count < 2 else z_quantile((count - 0.375) / (count + 0.25)) if count > 3 else {2: 0.5642, 3: 0.8463}[count]


def needed(gated: Sequence[GatedTask], whole: Aggregate | None, policy: Policy) -> int | None:
    """Items of all tasks needed to pass or to show the loss, if change and churn stay the same."""
    if whole is None:
        return None
    counted = [each.row.difference for each in gated if each.weight > 0]
    items = sum(each.n for each in counted)
    delta, margin, se = float(whole.delta), policy.margin / 100, float(whole.se)
    ways = []
    if delta > -margin:
        ways.append(
            max(
                (z_quantile(1 - policy.alpha) * se / (delta + margin)) ** 2,
                n_min(margin, policy.alpha) / sum(each.units for each in counted),
            )
        )
    if delta < 0:
        ways.append((z_quantile(1 - policy.alpha / 2) * se / delta) ** 2)
    return int(np.ceil(items * max(min(ways), 1.0))) if ways else None


def with_lost_items(each: GatedTask, items: int, policy: Policy, tried: int) -> GatedTask:
    """The task as if `items` more items were lost (fewer if negative): ties become losses, losses become ties."""
    found = each.row.difference
    wins, losses = found.wins, found.losses
    if items >= 0:
        ties = max(0, found.n - wins - losses)
        losses, wins = losses + items, wins - max(0, items - ties)
    else:
        losses, wins = max(0, losses + items), wins + max(0, -items - losses)
    if found.exact and found.n == found.units and wins >= 0 and wins + losses <= found.n:
        low = float(tango_bound(wins, losses, found.n, z_quantile(1 - policy.alpha)))
        delta = (wins - losses) / found.n
        se = float(np.sqrt(((wins + losses) / found.n - delta**2) / found.n + 1 / found.n**2))
        moved = replace(found, delta=delta, low=low, se=se, p_loss=float(mid_p(wins, losses)), wins=wins, losses=losses)
    else:
        moved = shift_difference(found, -items / found.n * found.worst)
    row = replace(each.row, difference=moved)
    return replace(each, row=row, p=min(1.0, tried * moved.p_loss), held=task_excludes_loss(moved, each.margin, policy.alpha))


def shift_difference(found: Difference, by: float) -> Difference:
    """A difference of graded scores shifted by `by`, with its limits; its p-value by Student's t."""
    delta = found.delta + by
    return replace(found, delta=delta, low=found.low + by, high=found.high + by, p_loss=float(t_cdf(delta / found.se, found.df)))


def fewest_flips(gated: Sequence[GatedTask], policy: Policy, tried: int, verdict: Verdict) -> tuple[int | None, str]:
    """The smallest number of items of one task whose flip changes the verdict, and that task."""
    best: int | None = None
    task = ""

    def verdict_at(index: int, items: int) -> Verdict:
        moved = list(gated)
        moved[index] = with_lost_items(gated[index], items, policy, tried)
        moved = corrected(moved, policy)
        whole, held = aggregate(moved, policy)
        return decide(moved, whole, held, policy, tried)

    for index, each in enumerate(gated):
        if each.advisory or each.row.total or not each.row.difference.bounded:
            continue
        for side in (1, -1) if verdict == "inconclusive" else (1,) if verdict == "pass" else (-1,):
            high = min(best - 1 if best is not None else each.row.difference.n, each.row.difference.n)
            if high < 1 or verdict_at(index, side * high) == verdict:
                continue
            low = 0
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if verdict_at(index, side * middle) == verdict else (low, middle)
            best, task = high, each.row.task
    return best, task
