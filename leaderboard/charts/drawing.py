"""Charts as plain SVG and as text for self-contained documents: no script, no font, no request.

Colours are CSS classes of the document, so that a chart follows its light or dark theme. All texts are escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from assay.leaderboard.data.safe_text import visible

WIDTH, LABEL_WIDTH, RIGHT_MARGIN, ROW_HEIGHT = 760, 230, 24, 24
TEXT_WIDTH = 28
"""Width of an interval in Markdown, in characters."""
KINDS = ("plain", "better", "worse", "not-significant", "faded", *(f"c{number}" for number in range(8)))
"""CSS classes of marks."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of an interval chart. `tick` is a second value, such as the chance level. Limits and tick may be NaN."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: str = "plain"
    tick: float = math.nan


@dataclass(frozen=True, slots=True)
class Dot:
    """One point of a scatter chart. Limits may be NaN; `named` points show their label."""

    label: str
    x: float
    y: float
    x_ends: tuple[float, float] = (math.nan, math.nan)
    y_ends: tuple[float, float] = (math.nan, math.nan)
    kind: str = "plain"
    named: bool = False


def escaped(value: object, limit: int = 0) -> str:
    """Escapes untrusted text for XML."""
    return html.escape(visible(value, limit), quote=True)


def ticks(low: float, high: float, count: int = 5, minimum_step: float = 0.0) -> list[float]:
    """Round numbers from low to high, at least `minimum_step` apart."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step = max(minimum_step, step * next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count))
    return [round(step * number, 10) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def axis_range(values: Sequence[float], zero: bool) -> tuple[float, float]:
    """The range of an axis with 4 % padding; `zero` includes 0."""
    kept = finite([*values, *([0.0] if zero else [])]) or [0.0, 1.0]
    low, high = min(kept), max(kept)
    padding = 0.04 * (high - low) or 0.5
    return low - padding, high + padding


def short(value: float) -> str:
    return f"{value:.4g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten, given as exponents: 1, 2 and 5 times a power, or only powers if those are over 7."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= math.log10(factor) + power <= high]
    return found if len(found) <= 7 else [10.0**power for power in powers if low <= power <= high]


def intervals(marks: Sequence[Mark], axis: str, *, zero: bool = False, whole: bool = False) -> str:
    """Draws values with intervals, one per row. `zero` adds a line at 0, `whole` puts only whole numbers on the axis."""
    low, high = axis_range([each for mark in marks for each in (mark.value, mark.low, mark.high, mark.tick)], zero)
    height = ROW_HEIGHT * len(marks) + 46

    def at(value: float) -> float:
        return LABEL_WIDTH + (value - low) / (high - low) * (WIDTH - LABEL_WIDTH - RIGHT_MARGIN)

    lines = []
    for value in ticks(low, high, 10 if whole else 5, 1.0 if whole else 0.0):
        lines.append(f'<line class="grid" x1="{at(value):.1f}" x2="{at(value):.1f}" y1="4" y2="{height - 38}"/>')
        lines.append(f'<text class="axis" x="{at(value):.1f}" y="{height - 22}" text-anchor="middle">{short(value)}</text>')
    if zero:
        lines.append(f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="4" y2="{height - 38}"/>')
    for number, mark in enumerate(marks):
        y = 16 + ROW_HEIGHT * number
        kind = mark.kind if mark.kind in KINDS else "plain"
        tooltip = f"{escaped(mark.label)}: {short(mark.value)}" + (
            f" ({short(mark.low)} to {short(mark.high)})" if mark.low == mark.low else ""
        )
        lines.append(f'<g class="{kind}"><title>{tooltip}</title>')
        lines.append(f'<text class="label" x="{LABEL_WIDTH - 10}" y="{y + 4}" text-anchor="end">{escaped(mark.label, 32)}</text>')
        if math.isfinite(mark.low) and math.isfinite(mark.high):
            lines.append(f'<line class="bar" x1="{at(mark.low):.1f}" x2="{at(mark.high):.1f}" y1="{y}" y2="{y}"/>')
        if math.isfinite(mark.tick):
            lines.append(f'<line class="tick" x1="{at(mark.tick):.1f}" x2="{at(mark.tick):.1f}" y1="{y - 7}" y2="{y + 7}"/>')
        if math.isfinite(mark.value):
            lines.append(f'<circle class="dot" cx="{at(mark.value):.1f}" cy="{y}" r="4.5"/>')
        lines.append("</g>")
    title = (
        f'<text class="axis" x="{(LABEL_WIDTH + WIDTH - RIGHT_MARGIN) / 2}" y="{height - 4}" text-anchor="middle">{escaped(axis)}</text>'
    )
    return svg(height, [*lines, title], axis)


def scatter(dots: Sequence[Dot], across: str, up: str, *, log: bool = False, zero: bool = False) -> str:
    """Draws points with intervals. `log` makes the x axis logarithmic, `zero` adds lines through the origin."""
    height, left, foot = 380, 62, 44
    log = log and all(dot.x > 0 for dot in dots)

    def scaled(value: float) -> float:
        return math.log10(value) if log else value

    x_low, x_high = axis_range(
        [scaled(each) for dot in dots for each in (dot.x, *dot.x_ends) if math.isfinite(each) and (each > 0 or not log)], zero
    )
    y_low, y_high = axis_range([each for dot in dots for each in (dot.y, *dot.y_ends)], zero)

    def x_at(value: float) -> float:
        return left + (scaled(value) - x_low) / (x_high - x_low) * (WIDTH - left - RIGHT_MARGIN)

    def y_at(value: float) -> float:
        return height - foot - (value - y_low) / (y_high - y_low) * (height - foot - 12)

    marks = log_ticks(x_low, x_high) if log else ticks(x_low, x_high)
    lines = []
    for value in marks:
        lines.append(f'<line class="grid" x1="{x_at(value):.1f}" x2="{x_at(value):.1f}" y1="12" y2="{height - foot}"/>')
        lines.append(f'<text class="axis" x="{x_at(value):.1f}" y="{height - foot + 16}" text-anchor="middle">{short(value)}</text>')
    for value in ticks(y_low, y_high):
        lines.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT_MARGIN}" y1="{y_at(value):.1f}" y2="{y_at(value):.1f}"/>')
        lines.append(f'<text class="axis" x="{left - 8}" y="{y_at(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    if zero:
        lines.append(f'<line class="zero" x1="{x_at(0):.1f}" x2="{x_at(0):.1f}" y1="12" y2="{height - foot}"/>')
        lines.append(f'<line class="zero" x1="{left}" x2="{WIDTH - RIGHT_MARGIN}" y1="{y_at(0):.1f}" y2="{y_at(0):.1f}"/>')
    placed: list[tuple[float, float]] = []  # positions of labels; overlapping ones are left out
    for dot in dots:
        kind = dot.kind if dot.kind in KINDS else "plain"
        x, y = x_at(dot.x), y_at(dot.y)
        lines.append(f'<g class="{kind}"><title>{escaped(dot.label)}: {short(dot.x)}, {short(dot.y)}</title>')
        if all(map(math.isfinite, dot.y_ends)):
            lines.append(f'<line class="thin" x1="{x:.1f}" x2="{x:.1f}" y1="{y_at(dot.y_ends[0]):.1f}" y2="{y_at(dot.y_ends[1]):.1f}"/>')
        if all(map(math.isfinite, dot.x_ends)) and not log:
            lines.append(f'<line class="thin" x1="{x_at(dot.x_ends[0]):.1f}" x2="{x_at(dot.x_ends[1]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        if dot.named and all(abs(x - a) > 150 or abs(y - b) > 14 for a, b in placed):
            placed.append((x, y))
            side, anchor = (-9, "end") if x > WIDTH * 0.66 else (9, "start")
            lines.append(f'<text class="label" x="{x + side:.1f}" y="{y - 7:.1f}" text-anchor="{anchor}">{escaped(dot.label, 32)}</text>')
        lines.append("</g>")
    middle = (height - foot) / 2
    lines.append(
        f'<text class="axis" x="{(left + WIDTH - RIGHT_MARGIN) / 2}" y="{height - 6}" text-anchor="middle">{escaped(across)}</text>'
    )
    lines.append(f'<text class="axis" transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{escaped(up)}</text>')
    return svg(height, lines, f"{up} against {across}")


def svg(height: float, lines: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escaped(title)}" xmlns="http://www.w3.org/2000/svg">'
        + "".join(lines)
        + "</svg>"
    )


def bar_text(mark: Mark, low: float, high: float) -> str:
    """Draws an interval as text on an axis from low to high, with a tick at `mark.tick`: `·╎·├──●──┤···`."""

    def at(value: float) -> int:
        return min(TEXT_WIDTH - 1, max(0, round((value - low) / (high - low or 1.0) * (TEXT_WIDTH - 1))))

    cells = ["·"] * TEXT_WIDTH
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        first, last = at(mark.low), at(mark.high)
        cells[first : last + 1] = ["─"] * (last - first + 1)
        cells[first], cells[last] = "├", "┤"
    if math.isfinite(mark.tick) and cells[at(mark.tick)] in "·─":
        cells[at(mark.tick)] = "╎"
    if math.isfinite(mark.value):
        cells[at(mark.value)] = "●"
    return "".join(cells)


def interval_texts(marks: Sequence[Mark], *, zero: bool = False) -> list[str]:
    """Draws an interval chart as text, one string per row."""
    low, high = axis_range([each for mark in marks for each in (mark.value, mark.low, mark.high, mark.tick)], zero)
    return [bar_text(mark, low, high) for mark in marks]
