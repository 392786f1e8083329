"""Numbers and names as every report writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from assay.harness.decide.compare import Comparison, Row
from assay.harness.decide.decision import Decision, Gated
from assay.harness.decide.early_stopping import EarlyGate

VERDICTS = {"pass": "PASS", "regressed": "REGRESSED", "inconclusive": "INCONCLUSIVE"}


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def p_value(value: float | None) -> str:
    return "-" if value is None else "<.001" if value < 0.001 else f"{value:.3f}"


def score(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"


def interval(row: Row) -> str:
    """The two one-sided limits, in points (or the metric's own unit)."""
    return f"{row.points * row.difference.low:+.2f} to {row.points * row.difference.high:+.2f}"


def causes(row: Row) -> str:
    """Lost items by cause, as "3 wrong, 1 truncated"."""
    return ", ".join(f"{count} {cause}" for cause, count in sorted(row.causes.items(), key=lambda pair: -pair[1]))


def has_floor(rows: Iterable[Row]) -> bool:
    """Whether a noise floor was measured for any row, and wants a column."""
    return any(row.floor is not None for row in rows)


def floor(row: Row) -> str:
    return "-" if row.floor is None else f"{row.floor:.2f}"


def beside(row: Row) -> str:
    """The noise floor behind a difference, as text that follows it."""
    if row.floor is None:
        return ""
    return f"; noise floor {row.floor:.2f}" + (", not exceeded" if row.within_floor else "")


def comparison_head(floors: bool) -> tuple[str, ...]:
    head = ("task", "metric", "baseline", "candidate", "change", "90 % interval")
    return (*head, *(("floor",) if floors else ()), "p", "Holm p", "MDE80", "+/-", "n")


def comparison_row(row: Row, mde: float, floors: bool) -> tuple[str, ...]:
    found = row.difference
    return (
        row.task,
        row.metric,
        score(row.baseline),
        score(row.candidate),
        signed(row.points * found.delta),
        interval(row),
        *((floor(row),) if floors else ()),
        p_value(found.p),
        p_value(row.p_holm),
        f"{mde:.2f}",
        f"+{found.wins} -{found.losses}",
        str(found.n),
    )


def gate_head(floors: bool) -> tuple[str, ...]:
    head = ("", "task", "change", "90 % interval", *(("floor",) if floors else ()))
    return (*head, "Holm p", "margin", "MDE80", "+/-", "n", "lost items")


def gate_row(each: Gated, alpha: float, floors: bool) -> tuple[str, ...]:
    found = each.row.difference
    return (
        sign(each, alpha),
        each.row.task + (" (critical)" if each.critical else " (advisory)" if each.advisory else ""),
        signed(each.row.points * found.delta),
        interval(each.row),
        *((floor(each.row),) if floors else ()),
        "-" if each.advisory else p_value(each.p_holm),
        "-" if each.margin is None else f"{each.margin:g}",
        f"{each.mde:.2f}",
        f"+{found.wins} -{found.losses}",
        str(found.n),
        "; ".join(filter(None, (causes(each.row), "within noise" * each.row.within_floor, f"blind below {each.mde:.1f} pt" * each.blind))),
    )


def sign(each: Gated, alpha: float) -> str:
    """lost, ok (the margin holds), or unknown."""
    if each.p_holm <= alpha / 2 and not each.held:
        return "lost"
    return "ok" if each.held else "?"


def headline(decision: Decision, comparison: Comparison) -> str:
    return f"{VERDICTS[decision.verdict]}: {comparison.candidate.model} against {comparison.baseline.model}"


def aggregate_line(decision: Decision) -> str:
    if decision.delta is None or decision.low is None:
        return "No task has a bounded metric: there is no aggregate."
    limits = f"{signed(decision.low)} to {signed(decision.high)}"
    noise = "" if decision.floor is None else f", noise floor {decision.floor:.2f}"
    limits = f"{limits}, two one-sided limits at {decision.alpha:g}"
    return f"Aggregate {signed(decision.delta)} points ({limits}), margin {decision.margin:g}{noise}."


def early_lines(found: EarlyGate) -> Sequence[str]:
    """The lines below an early-stopped verdict."""
    lines = list(found.reasons)
    if found.delta is not None:
        limits = f"{signed(found.low)} to {signed(found.high)}"
        lines.append(f"Aggregate {signed(found.delta)} points ({limits}, limits that hold at every look); stopped estimates lean outward.")
    if found.tried > 1:
        lines.append(f"The baseline is the best of {found.tried} runs on these items: losses are tested at 1/{found.tried} of the level.")
    if found.attempt > 1:
        lines.append(attempts(found.attempt))
    return lines


def attempts(number: int) -> str:
    return f"This is attempt {number} for this pair: every further attempt raises the chance of a lucky pass."


def details(decision: Decision, comparison: Comparison) -> Sequence[str]:
    """The lines below the table: what would change the verdict, and what the numbers do not say."""
    found = []
    if decision.needed is not None:
        found.append(f"About {decision.needed:,} items would decide (now {decision.items:,}), if difference and churn stay.")
    if decision.flips is not None:
        items = f"{decision.flips} item{'s' * (decision.flips != 1)}"
        found.append(f"The verdict would change if {items} of {decision.flips_task} came out otherwise.")
    if decision.tried > 1:
        found.append(
            f"The baseline is the best of {decision.tried} runs on these items, expected to look {decision.inflation:.2f} points too good: "
            f"losses are tested at 1/{decision.tried} of the level."
        )
    if decision.attempt > 1:
        found.append(attempts(decision.attempt))
    found += comparison.notes
    found.append("MDE80: the true loss that this test would find with probability 0.80.")
    found.append(decision.scope)
    return found
