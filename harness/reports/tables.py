"""Tables of comparisons and gates for terminals and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from assay.harness.decide.compare import Comparison
from assay.harness.decide.decision import Decision
from assay.harness.decide.early_stopping import EarlyGate
from assay.harness.reports.escaping import md
from assay.harness.reports.formatting import (
    aggregate_line,
    comparison_row,
    confidence,
    details,
    early_lines,
    gate_row,
    headline,
)

if TYPE_CHECKING:
    from rich.table import Table

MARKER = "<!-- assay gate -->"
"""A workflow finds its own comment in a pull request by this and updates it."""

LEFT = ("", "task", "metric", "model", "when", "gate", "notes", "protocols")
Cells = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Head and rows of a table."""


def comparison_cells(comparison: Comparison) -> Cells:
    left = ("task", "metric", "baseline", "candidate", "change", confidence(comparison.alpha))
    head = (*left, "floor", "p", "Holm p", "MDE80", "+/-", "n")
    return without_empty_floor(head, [comparison_row(row, comparison.alpha) for row in comparison.rows])


def gate_cells(decision: Decision) -> Cells:
    head = ("", "task", "change", confidence(decision.alpha), "floor", "Holm p", "margin", "MDE80", "+/-", "n", "notes")
    return without_empty_floor(head, [gate_row(each, decision.alpha) for each in decision.tasks])


def without_empty_floor(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Cells:
    """The table without the column of noise floors if none was measured."""
    at = head.index("floor")
    if any(row[at] != "-" for row in rows):
        return head, rows
    return head[:at] + head[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]


OPTIONAL = ("margin", "floor", "notes", "MDE80", "p", "n", "baseline", "candidate")
"""Columns that a narrow terminal leaves out, in this order; Markdown and JSON have all of them."""
FOLD_WIDTH = 24
"""Names and notes wrap at this width in a narrow terminal; numbers never wrap."""
WRAPPED = ("task", "model", "notes", "protocols")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], width: int = 0) -> Table:
    """A terminal table of at most `width` characters if possible (0: no limit); untrusted text is never read as markup.

    Columns of OPTIONAL are left out until the table fits, and the caption names them.
    """
    from rich.table import Table
    from rich.text import Text

    lines = [tuple(row) for row in rows]
    kept = fitting(head, lines, width)
    made = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True, caption_justify="left")
    for index in kept:
        left, fold = head[index] in LEFT, head[index] in WRAPPED
        made.add_column(head[index], justify="left" if left else "right", overflow="fold", no_wrap=not fold)
    styles = {"lost": "bold red", "ok": "green", "?": "yellow"}
    for row in lines:
        made.add_row(*(Text(row[index], styles.get(row[index], "") if index == 0 else "") for index in kept))
    if hidden := [name for index, name in enumerate(head) if index not in kept]:
        made.caption = f"Not shown at this width: {', '.join(hidden)}."
    return made


def fitting(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indices of the columns that fit, with names and notes wrapped."""
    widths = [max(map(len, (name, *(row[index] for row in rows)))) for index, name in enumerate(head)]
    widths = [min(each, FOLD_WIDTH) if name in WRAPPED else each for each, name in zip(widths, head, strict=True)]
    kept = list(range(len(head)))
    for name in OPTIONAL:
        if not width or sum(widths[index] + 1 for index in kept) <= width:
            break
        kept = [index for index in kept if head[index] != name]
    return kept


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(map(md, head)) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(md(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def comparison_markdown(comparison: Comparison) -> str:
    head = f"### {md(comparison.candidate.model)} against {md(comparison.baseline.model)}"
    notes = [f"- {md(note)}" for note in comparison.notes]
    notes += [f"- {md(name)}: only one run has this task" for name in comparison.left_out]
    return "\n".join([head, "", grid(*comparison_cells(comparison)), "", *notes]) + "\n"


def gate_markdown(decision: Decision, comparison: Comparison) -> str:
    """The gate's report for a pull request."""
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
    return "\n".join([*lines, grid(("task", "items", "change so far (points)", "+/-"), rows)]) + "\n"
