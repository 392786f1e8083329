"""Comparison and gate on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from harness.compare import Comparison
from harness.early import EarlyGate
from harness.gate import Decision
from harness.reports.safe import md
from harness.reports.words import (
    aggregate_line,
    comparison_head,
    comparison_row,
    details,
    early_lines,
    gate_head,
    gate_row,
    has_floor,
    headline,
)
from harness.stats.rule import mde80

if TYPE_CHECKING:
    from rich.table import Table

MARKER = "<!-- assay gate -->"
"""Lets a workflow find its own comment in a pull request and update it in place."""


LEFT = ("", "task", "metric", "model", "when", "gate", "lost items")
Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Head and rows of a table."""


def comparison_cells(comparison: Comparison) -> Cells:
    floors = has_floor(comparison.rows)
    rows = [comparison_row(row, row.points * float(mde80(row.difference.se, comparison.alpha)), floors) for row in comparison.rows]
    return comparison_head(floors), rows


def gate_cells(decision: Decision) -> Cells:
    floors = has_floor(each.row for each in decision.tasks)
    return gate_head(floors), [gate_row(each, decision.alpha, floors) for each in decision.tasks]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain terminal table; text from tasks is never read as markup."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    for name in head:
        made.add_column(name, justify="left" if name in LEFT else "right", overflow="fold")
    styles = {"lost": "bold red", "ok": "green", "?": "yellow"}
    for row in rows:
        made.add_row(*(Text(cell, styles.get(cell, "") if index == 0 else "") for index, cell in enumerate(row)))
    return made


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(md, head)) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(md(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def comparison_markdown(comparison: Comparison) -> str:
    head = f"### {md(comparison.candidate.model)} against {md(comparison.baseline.model)}"
    notes = [f"- {md(note)}" for note in comparison.notes]
    notes += [f"- {md(name)}: only one run has it" for name in comparison.left_out]
    return "\n".join([head, "", grid(*comparison_cells(comparison)), "", *notes]) + "\n"


def gate_markdown(decision: Decision, comparison: Comparison) -> str:
    """The report for a pull request."""
    lines = [MARKER, f"### {md(headline(decision, comparison))}", "", aggregate_line(decision), ""]
    lines += [f"- {md(reason)}" for reason in decision.reasons]
    lines += ["", grid(*gate_cells(decision)), ""]
    lines += [f"- {md(line)}" for line in details(decision, comparison)]
    return "\n".join(lines) + "\n"


def early_markdown(found: EarlyGate, head: str) -> str:
    """The report of a gate that stopped early."""
    rows = [
        (each.task, f"{each.items:,} of {each.planned:,}", f"{each.delta:+.2f}", f"+{each.wins} -{each.losses}") for each in found.tasks
    ]
    lines = [MARKER, f"### {md(head)}", "", *(f"- {md(line)}" for line in early_lines(found)), ""]
    return "\n".join([*lines, grid(("task", "items", "difference so far", "+/-"), rows)]) + "\n"
