"""Tables of several runs of one model: scores by number of few-shot examples and tokens, and differences between protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from assay.harness.decide.curves import Contrast, Point
from assay.harness.reports.results import show_number
from assay.harness.reports.tables import table

if TYPE_CHECKING:
    from rich.table import Table


def points_table(points: Sequence[Point]) -> Table:
    """One row per task and run."""
    rows = []
    for point in points:
        interval = "too few items" if point.low is None else f"{show_number(point.low)} – {show_number(point.high)}"
        shots, tokens = "" if point.shots is None else str(point.shots), "" if point.tokens is None else f"{point.tokens:.0f}"
        rows.append((f"{point.task} {point.metric}", shots, tokens, show_number(point.value), interval, str(point.n), point.run))
    return table(("task", "shots", "tokens per prompt", "score", "95 % interval", "n", "run"), rows)


def contrasts_table(contrasts: Sequence[Contrast]) -> Table:
    """One row per pair of protocols, in points; the interval joins two one-sided 95 % limits."""
    rows = []
    for each in contrasts:
        found = each.difference
        rows.append(
            (
                f"{each.second} − {each.first}",
                str(each.shots),
                f"{100 * found.delta:+.1f}",
                f"{100 * found.low:+.1f} – {100 * found.high:+.1f}",
                f"{found.p:.3f}",
                f"{found.wins}, {found.losses}",
            )
        )
    return table(("protocols", "shots", "difference (points)", "90 % interval", "p", "items better, worse"), rows)
