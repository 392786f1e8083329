"""Formats numbers, names and notes for every report."""

from __future__ import annotations

from collections.abc import Sequence

from assay.harness.decide.compare import Comparison, Row
from assay.harness.decide.decision import Decision
from assay.harness.decide.early_stopping import EarlyGate
from assay.harness.decide.verdict import GatedTask
from assay.harness.model.served import UNVERIFIED, is_served
from assay.harness.reports.results import show_number
from assay.harness.stats.rule import mde80

VERDICTS = {"pass": "PASS", "regressed": "REGRESSED", "inconclusive": "INCONCLUSIVE"}


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def p_value(value: float | None) -> str:
    return "-" if value is None else "<.001" if value < 0.001 else f"{value:.3f}"


def interval(row: Row) -> str:
    """The two one-sided limits, in points (or the metric's own unit)."""
    return f"{row.points * row.difference.low:+.2f} to {row.points * row.difference.high:+.2f}"


def causes(row: Row) -> str:
    """Lost items by cause, as "3 wrong, 1 truncated"."""
    return ", ".join(f"{count} {cause}" for cause, count in sorted(row.causes.items(), key=lambda pair: -pair[1]))


def floor(row: Row) -> str:
    return "-" if row.floor is None else f"{row.floor:.2f}"


def unit(row: Row) -> str:
    """The unit of a row's change: points, or the metric's own where it has no upper bound."""
    return "points" if row.difference.bounded else row.metric


def confidence(alpha: float) -> str:
    """Two one-sided limits at `alpha` as one interval, such as "90 % interval"."""
    return f"{100 * (1 - 2 * alpha):g} % interval"


def change(row: Row, alpha: float) -> str:
    """A row's change with its unit, its interval and the noise floor where it was measured."""
    noise = "" if row.floor is None else f"; noise floor {row.floor:.2f}" + (", not exceeded" if row.within_floor else "")
    return f"{signed(row.points * row.difference.delta)} {unit(row)} ({confidence(alpha)} {interval(row)}{noise})"


def comparison_row(row: Row, alpha: float) -> tuple[str, ...]:
    found = row.difference
    return (
        row.task,
        row.metric,
        show_number(row.baseline),
        show_number(row.candidate),
        signed(row.points * found.delta),
        interval(row),
        floor(row),
        p_value(found.p),
        p_value(row.p_holm),
        f"{row.points * float(mde80(found.se, alpha)):.2f}",
        f"+{found.wins} -{found.losses}",
        str(found.n),
    )


def gate_row(each: GatedTask, alpha: float) -> tuple[str, ...]:
    found = each.row.difference
    return (
        task_state(each, alpha),
        each.row.task + (" (critical)" if each.critical else " (advisory)" if each.advisory else ""),
        signed(each.row.points * found.delta),
        interval(each.row),
        floor(each.row),
        "-" if each.advisory else p_value(each.p_holm),
        "-" if each.margin is None else f"{each.margin:g}",
        f"{each.mde:.2f}",
        f"+{found.wins} -{found.losses}",
        str(found.n),
        "; ".join(row_notes(each)),
    )


def row_notes(each: GatedTask) -> list[str]:
    """Causes of lost items, and why a small change of this task does not count."""
    found = [f"lost: {causes(each.row)}"] if each.row.causes else []
    if each.row.within_floor:
        found.append("change within the noise floor")
    if (smooth := each.row.smoothed) is not None:
        low, high = (each.row.points * value for value in (smooth.low, smooth.high))
        found.append(f"smoothed {signed(each.row.points * smooth.delta)} ({low:+.2f} to {high:+.2f})")
    if each.blind:
        found.append(f"detects losses of {each.mde:.1f} {unit(each.row)} or more (80 % power)")
    return found


def task_state(each: GatedTask, alpha: float) -> str:
    """State of a task: lost, "no signal" (the baseline is not better than chance), ok (a loss of its margin is excluded) or ? (none)."""
    if each.p_holm <= alpha / 2 and not each.held:
        return "lost"
    if not each.signal:
        return "no signal"
    return "ok" if each.held else "?"


def headline(decision: Decision, comparison: Comparison) -> str:
    return f"{VERDICTS[decision.verdict]}: {comparison.candidate.model} against {comparison.baseline.model}"


def aggregate_line(decision: Decision) -> str:
    if decision.delta is None or decision.low is None:
        return "No task has a bounded metric: there is no aggregate."
    limits = f"{confidence(decision.alpha)} {signed(decision.low)} to {signed(decision.high)}"
    noise = "" if decision.floor is None else f", noise floor {decision.floor:.2f}"
    kept = ""
    if decision.recovered is not None:
        kept = f" Recovery {decision.recovered[0]:.2%} of the baseline's score, at least {decision.recovered[1]:.2%}."
    return f"Aggregate change {signed(decision.delta)} points ({limits}), margin {decision.margin:g}{noise}.{kept}"


def early_lines(found: EarlyGate) -> Sequence[str]:
    """Lines below the verdict of a gate that stopped early."""
    lines = list(found.reasons)
    if found.delta is not None:
        limits = f"interval {signed(found.low)} to {signed(found.high)}, valid at every interim look"
        lines.append(f"Aggregate change {signed(found.delta)} points ({limits}). Stopping early exaggerates the estimated change.")
    if found.tried > 1:
        lines.append(best_of(found.tried))
    if found.attempt > 1:
        lines.append(attempt_line(found.attempt))
    return lines


def attempt_line(number: int) -> str:
    return f"Attempt {number} for this pair of models: each repeated gate raises the chance of a false pass."


def best_of(tried: int) -> str:
    return f"The baseline is the best of {tried} runs on these items: a loss must be significant at 1/{tried} of the level."


def candidates_line(number: int) -> str:
    return (
        f"Other models of this line were scored or gated on these items: a pass must exclude the loss at 1/{number} of alpha. "
        "The best of several passes too often otherwise; `candidates` in gate.toml sets the number."
    )


UNITS = (
    "Changes, margins and MDE80 are in points; a positive change is an improvement. MDE80 is the minimum detectable effect: "
    "the smallest true loss that is detected with 80 % power."
)


def details(decision: Decision, comparison: Comparison) -> Sequence[str]:
    """Lines below the table: how robust the verdict is, how it was corrected, and what it covers."""
    found = []
    if decision.needed_unchanged is not None and decision.needed is not None:
        seen = f"; to decide if the change is as seen (shrunk by its error): {decision.needed:,}" * (
            decision.needed != decision.needed_unchanged
        )
        what = f"Items needed, with 80 % power: to pass if nothing was lost: {decision.needed_unchanged:,}{seen}"
        found.append(f"{what}. This gate has {decision.items:,}.")
    for task, count in decision.needed_tasks:
        found.append(f"Items of {task} needed to exclude a loss of its margin if nothing was lost, with 80 % power: {count:,}.")
    if decision.flips is not None:
        items = f"{decision.flips} item{'s' * (decision.flips != 1)}"
        found.append(f"Fragility: flipping {items} of {decision.flips_task} would change the verdict.")
    if decision.tried > 1:
        found.append(f"{best_of(decision.tried)} The selection inflates its score by about {decision.inflation:.2f} points.")
    if decision.candidates > 1:
        found.append(candidates_line(decision.candidates))
    if decision.attempt > 1:
        found.append(attempt_line(decision.attempt))
    found += comparison.notes
    found += [f"{side.model}: {UNVERIFIED}." for side in (comparison.baseline, comparison.candidate) if is_served(side.digest)]
    found.append(UNITS)
    found.append(decision.scope)
    return found
