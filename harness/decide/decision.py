"""The release gate: decides on a Comparison by a Policy and says why. The rule is in assay.harness.decide.verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from assay.harness.decide.compare import Comparison, Row
from assay.harness.decide.fragility import fewest_flips
from assay.harness.decide.planning.power import Needed, items_needed
from assay.harness.decide.policy import Policy
from assay.harness.decide.verdict import (
    GatedTask,
    Rule,
    aggregate,
    aggregate_held,
    baseline_score,
    gated_tasks,
    verdict_of,
    with_recovery,
    with_signal,
)
from assay.harness.errors import AssayError, NotComparable
from assay.harness.stats.correction import holm
from assay.harness.stats.difference import columns
from assay.harness.stats.distributions import z_quantile
from assay.harness.stats.rule import Aggregate, Verdict, combine, mde80

EXIT = {"pass": 0, "regressed": 10, "inconclusive": 11}
SCOPE = "The verdict covers this checkpoint and items like these, not the training recipe or other tasks."


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
    """Items with which an inconclusive gate is decided with 80 % power, if the share of changed items stays the same and the change is
    as seen, shrunk by its error."""
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
    candidates: int = 1
    """The candidate is one of so many models scored on these items; a pass excludes the loss at alpha / candidates."""
    pass_low: float | None = None
    """The lower limit that a pass rests on: corrected for `candidates`, on the tasks with signal."""
    not_shown: tuple[str, ...] = ()
    """Tasks on which a loss of their own margin is not excluded."""
    no_signal: tuple[str, ...] = ()
    """Tasks on which the baseline is not shown to be better than chance; they are no evidence for a pass."""
    needed_unchanged: int | None = None
    """Items with which an inconclusive gate passes with 80 % power if nothing was lost."""
    needed_tasks: tuple[tuple[str, int], ...] = ()
    """Items of each task that alone prevents a pass, with which it is shown with 80 % power if nothing was lost."""
    recovered: tuple[float, float] | None = None
    """With `recovery` in the policy: the share of the baseline's aggregate score that is kept, and its lower limit."""
    smoothed: tuple[str, ...] = ()
    """Tasks judged by smoothed accuracy."""
    plain: tuple[float, float, float] | None = None
    """The aggregate change in plain accuracy and its limits, where a task is judged by smoothed accuracy."""
    degraded: str = ""
    """Where the gold choice's probability fell significantly; empty if nowhere."""
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
    rows = [row if policy.estimator == "smoothed" else replace(row, smoothed=None) for row in comparison.rows if row.main]
    policy = with_recovery(rows, policy)
    rule = Rule(policy, tried, comparison.candidates, comparison.shared)
    gated = gated_tasks(rows, rule)
    whole, held = aggregate(gated, rule), aggregate_held(gated, rule)
    strict = aggregate(with_signal(gated), rule, strict=True)
    verdict = verdict_of(gated, rule)
    reasons = [*explain(gated, whole, strict, held, rule, verdict)]
    fell = degraded(gated, rule)
    if fell and verdict != "regressed":
        reasons.append(f"degraded, accuracy not shown to fall: {fell}")
        verdict = "inconclusive" if policy.degraded == "inconclusive" else verdict
    reasons += smoothing(gated, rule)
    if doubts := evidence_problems(comparison, gated, policy):
        verdict = "inconclusive" if verdict == "pass" else verdict
        reasons = [*doubts, *reasons]
    flips, flips_task = (None, "") if doubts else fewest_flips(gated, rule, verdict)
    needed = items_needed(gated, rule) if verdict == "inconclusive" and not doubts else Needed()
    counted = [each for each in gated if not each.advisory and not each.row.total]
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
        mde=None if whole is None else 100 * float(mde80(whole.se, rule.loss_level)),
        items=sum(each.row.difference.n for each in gated if not each.row.total),
        needed=needed.as_seen,
        flips=flips,
        flips_task=flips_task,
        tried=tried,
        inflation=0.0 if whole is None else 100 * float(whole.se) * expected_maximum(tried) / 2**0.5,
        attempt=attempt,
        notes=comparison.notes,
        floor=aggregate_floor(gated),
        candidates=rule.candidates,
        pass_low=None if strict is None else 100 * float(strict.low),
        not_shown=tuple(each.row.task for each in counted if not each.shown),
        no_signal=tuple(each.row.task for each in counted if not each.signal),
        needed_unchanged=needed.unchanged,
        needed_tasks=needed.tasks,
        recovered=recovered(rows, policy, whole, strict),
        smoothed=tuple(each.row.task for each in gated if each.row.smoothed is not None),
        plain=plain_change(gated, rule),
        degraded=fell,
    )


def plain_change(gated: Sequence[GatedTask], rule: Rule) -> tuple[float, float, float] | None:
    """The aggregate change in plain accuracy with its limits, in points; None where nothing is smoothed."""
    if all(each.row.smoothed is None for each in gated):
        return None
    whole = aggregate([replace(each, row=replace(each.row, smoothed=None)) for each in gated], rule)
    return None if whole is None else (100 * float(whole.delta), 100 * float(whole.low), 100 * float(whole.high))


def smoothing(gated: Sequence[GatedTask], rule: Rule) -> list[str]:
    """Which tasks are judged by smoothed accuracy, with plain accuracy beside it."""
    plain, counted = plain_change(gated, rule), [each for each in gated if not each.row.total]
    if plain is None:
        return []
    tasks = [each for each in counted if each.row.smoothed is not None]
    delta, low, high = plain
    found = [
        f"{len(tasks)} of {len(counted)} tasks are judged by smoothed accuracy; by plain accuracy {delta:+.2f} ({low:+.2f} to {high:+.2f})"
    ]
    if apart := [each.row.task for each in tasks if not each.row.agrees]:
        found.append(f"smoothed and plain accuracy disagree on {', '.join(apart[:4])}: there the lower limit is that of both")
    return found


def degraded(gated: Sequence[GatedTask], rule: Rule) -> str:
    """Where the probability of the gold choice fell significantly: on the aggregate, or on a task by Holm, each at alpha / 2."""
    known = [(each, each.row.probability) for each in gated if each.row.probability is not None and not each.advisory]
    found = [(each, change) for each, change in known if change is not None]
    mass = sum(each.weight for each, _ in found)
    if not found:
        return ""
    names = []
    if mass > 0:
        whole = combine(columns([change for _, change in found]), np.array([each.weight / mass for each, _ in found]))
        if rule.tried * float(whole.p_loss) <= rule.loss_level:
            names.append(f"the gold choice's probability fell by {-100 * float(whole.delta):.2f} points (p {float(whole.p_loss):.2g})")
    adjusted = holm([min(1.0, rule.tried * change.p_loss) for _, change in found])
    worst = sorted((p, -100 * change.delta, each.row.task) for p, (each, change) in zip(adjusted.tolist(), found, strict=True))
    names += [f"{task} by {lost:.2f} (Holm p {p:.2g})" for p, lost, task in worst[:3] if p <= rule.loss_level]
    return "; ".join(names)


def recovered(rows: Sequence[Row], policy: Policy, whole: Aggregate | None, strict: Aggregate | None) -> tuple[float, float] | None:
    """The share of the baseline's score that the candidate keeps, and its lower limit; None without a `recovery` in the policy."""
    if policy.recovery is None or whole is None or strict is None:
        return None
    score = baseline_score(rows, policy) / 100
    return 1 + float(whole.delta) / score, 1 + float(strict.low) / score


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


def explain(
    gated: Sequence[GatedTask], whole: Aggregate | None, strict: Aggregate | None, held: bool, rule: Rule, verdict: Verdict
) -> list[str]:
    """Reasons for the verdict, most important first."""
    found, policy = [], rule.policy
    level = rule.loss_level
    lost = [each for each in gated if not each.advisory and each.p_holm <= level]
    for each in sorted((each for each in lost if not each.held), key=lambda each: each.p_holm):
        unit_name = "points" if each.row.difference.bounded else each.row.metric
        found.append(f"{each.row.task} lost {-each.row.points * each.row.judged.delta:.2f} {unit_name} (Holm p {each.p_holm:.2g})")
    if whole is not None and not held and rule.tried * float(whole.p_loss) <= level:
        found.append(f"the aggregate lost {-100 * float(whole.delta):.2f} points (p {rule.tried * float(whole.p_loss):.2g})")
    found += [f"{each.row.task}: a significant loss, smaller than the margin" for each in lost if each.held]
    if verdict == "inconclusive":
        found += undecided(gated, whole, strict, held, rule)
    if verdict == "pass":
        found.append(f"a loss of {points(policy.margin)} is excluded" if whole is not None else "every task excludes a loss of its margin")
        found += not_shown(gated)
    return [*found, *no_signal(gated)]


def undecided(gated: Sequence[GatedTask], whole: Aggregate | None, strict: Aggregate | None, held: bool, rule: Rule) -> list[str]:
    """What prevents a pass."""
    found = []
    if whole is not None and not held:
        if strict is None:
            found.append("the baseline is better than chance on no task")
        else:
            found.append(f"a loss of {points(rule.policy.margin)} is not excluded: the lower limit is {100 * float(strict.low):.2f} points")
    signal = sum(each.signal for each in gated if each.weight > 0)
    if whole is not None and signal < rule.policy.signal_tasks:
        found.append(f"the baseline is better than chance on {signal} tasks, the policy requires {rule.policy.signal_tasks}")
    required = [each for each in gated if (each.critical or whole is None) and not each.shown and not each.advisory]
    return [*found, *(f"{each.row.task}: a loss of its margin is not excluded" for each in required)]


def not_shown(gated: Sequence[GatedTask]) -> list[str]:
    """The tasks about which a passing aggregate says nothing, each with the loss that is not excluded."""
    tasks = [each for each in gated if not each.advisory and not each.row.total and each.row.difference.bounded and not each.shown]
    if not tasks:
        return []
    worst = sorted(tasks, key=lambda each: each.row.judged.strict)
    names = [f"{each.row.task} (up to {-each.row.points * each.row.judged.strict:.1f})" for each in worst[:5]]
    more = f" and {len(tasks) - 5} more" if len(tasks) > 5 else ""
    return [f"the pass is for the aggregate; not shown for {len(tasks)} of its tasks, which may have lost points: {', '.join(names)}{more}"]


def no_signal(gated: Sequence[GatedTask]) -> list[str]:
    """The tasks on which the baseline is not better than chance."""
    found = []
    for each in gated:
        if not each.signal:
            levels = [("chance", each.row.chance), ("always the most frequent answer", each.row.majority)]
            known = ", ".join(f"{name} {100 * value / each.row.unit:.1f}" for name, value in levels if value is not None)
            found.append(f"{each.row.task}: no signal, the baseline scores {100 * each.row.baseline / each.row.unit:.1f} ({known})")
    return found


def points(value: float) -> str:
    return f"{value:g} point{'s' * (value != 1)}"


def expected_maximum(count: int) -> float:
    """The expected largest of `count` standard normals (Blom 1958)."""
    return 0.0 if count < 2 else z_quantile((count - 0.375) / (count + 0.25)) if count > 3 else {2: 0.5642, 3: 0.8463}[count]
