"""Charts as plain SVG and as text, for pages that must stand alone: no script, no font, no request.

Colours are CSS classes of the page, so that a chart follows light and dark. Every text is escaped here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from assay.leaderboard.data.shown import visible

WIDTH, LABELS, RIGHT, ROW = 760, 230, 24, 24
TEXT_WIDTH = 28
"""Characters of an interval in Markdown."""
KINDS = ("plain", "better", "worse", "unclear", "faded", *(f"c{number}" for number in range(8)))
"""Classes that a mark may have."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One row of an interval chart. `tick` is a second value, such as the score of guessing. Limits and tick may be NaN."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: str = "plain"
    tick: float = math.nan


@dataclass(frozen=True, slots=True)
class Dot:
    """One point of a scatter chart, with limits where they are known; `named` points show their label."""

    label: str
    x: float
    y: float
    x_ends: tuple[float, float] = (math.nan, math.nan)
    y_ends: tuple[float, float] = (math.nan, math.nan)
    kind: str = "plain"
    named: bool = False


def text(value: object, limit: int = 0) -> str:
    """Text of strangers as content of XML."""
    return html.escape(visible(value, limit), quote=True)


def ticks(low: float, high: float, count: int = 5, least: float = 0.0) -> list[float]:
    """Round numbers from low to high, at least `least` apart."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / count))
    step = max(least, step * next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count))
    return [round(step * number, 10) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def ends(values: Sequence[float], zero: bool) -> tuple[float, float]:
    """The range of an axis, with a little air."""
    kept = finite([*values, *([0.0] if zero else [])]) or [0.0, 1.0]
    low, high = min(kept), max(kept)
    air = 0.04 * (high - low) or 0.5
    return low - air, high + air


def short(value: float) -> str:
    return f"{value:.4g}"


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten, given as exponents: 1, 2 and 5 where there is room, else whole powers."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= math.log10(factor) + power <= high]
    return found if len(found) <= 7 else [10.0**power for power in powers if low <= power <= high]


def intervals(marks: Sequence[Mark], axis: str, *, zero: bool = False, whole: bool = False) -> str:
    """Values with limits, one row each, in the order given; `zero` draws the line of no difference, `whole` numbers on the axis."""
    low, high = ends([each for mark in marks for each in (mark.value, mark.low, mark.high, mark.tick)], zero)
    height = ROW * len(marks) + 46

    def at(value: float) -> float:
        return LABELS + (value - low) / (high - low) * (WIDTH - LABELS - RIGHT)

    lines = []
    for value in ticks(low, high, 10 if whole else 5, 1.0 if whole else 0.0):
        lines.append(f'<line class="grid" x1="{at(value):.1f}" x2="{at(value):.1f}" y1="4" y2="{height - 38}"/>')
        lines.append(f'<text class="axis" x="{at(value):.1f}" y="{height - 22}" text-anchor="middle">{short(value)}</text>')
    if zero:
        lines.append(f'<line class="zero" x1="{at(0):.1f}" x2="{at(0):.1f}" y1="4" y2="{height - 38}"/>')
    for number, mark in enumerate(marks):
        y = 16 + ROW * number
        kind = mark.kind if mark.kind in KINDS else "plain"
        told = f"{text(mark.label)}: {short(mark.value)}" + (f" ({short(mark.low)} to {short(mark.high)})" if mark.low == mark.low else "")
        lines.append(f'<g class="{kind}"><title>{told}</title>')
        lines.append(f'<text class="label" x="{LABELS - 10}" y="{y + 4}" text-anchor="end">{text(mark.label, 32)}</text>')
        if math.isfinite(mark.low) and math.isfinite(mark.high):
            lines.append(f'<line class="bar" x1="{at(mark.low):.1f}" x2="{at(mark.high):.1f}" y1="{y}" y2="{y}"/>')
        if math.isfinite(mark.tick):
            lines.append(f'<line class="tick" x1="{at(mark.tick):.1f}" x2="{at(mark.tick):.1f}" y1="{y - 7}" y2="{y + 7}"/>')
        if math.isfinite(mark.value):
            lines.append(f'<circle class="dot" cx="{at(mark.value):.1f}" cy="{y}" r="4.5"/>')
        lines.append("</g>")
    title = f'<text class="axis" x="{(LABELS + WIDTH - RIGHT) / 2}" y="{height - 4}" text-anchor="middle">{text(axis)}</text>'
    return framed(height, [*lines, title], axis)


def scatter(dots: Sequence[Dot], across: str, up: str, *, log: bool = False, zero: bool = False) -> str:
    """Points with limits; `log` for a logarithmic x, `zero` for lines through the origin."""
    height, left, foot = 380, 62, 44
    log = log and all(dot.x > 0 for dot in dots)

    def scaled(value: float) -> float:
        return math.log10(value) if log else value

    x_low, x_high = ends(
        [scaled(each) for dot in dots for each in (dot.x, *dot.x_ends) if math.isfinite(each) and (each > 0 or not log)], zero
    )
    y_low, y_high = ends([each for dot in dots for each in (dot.y, *dot.y_ends)], zero)

    def x_at(value: float) -> float:
        return left + (scaled(value) - x_low) / (x_high - x_low) * (WIDTH - left - RIGHT)

    def y_at(value: float) -> float:
        return height - foot - (value - y_low) / (y_high - y_low) * (height - foot - 12)

    marks = log_ticks(x_low, x_high) if log else ticks(x_low, x_high)
    lines = []
    for value in marks:
        lines.append(f'<line class="grid" x1="{x_at(value):.1f}" x2="{x_at(value):.1f}" y1="12" y2="{height - foot}"/>')
        lines.append(f'<text class="axis" x="{x_at(value):.1f}" y="{height - foot + 16}" text-anchor="middle">{short(value)}</text>')
    for value in ticks(y_low, y_high):
        lines.append(f'<line class="grid" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y_at(value):.1f}" y2="{y_at(value):.1f}"/>')
        lines.append(f'<text class="axis" x="{left - 8}" y="{y_at(value) + 4:.1f}" text-anchor="end">{short(value)}</text>')
    if zero:
        lines.append(f'<line class="zero" x1="{x_at(0):.1f}" x2="{x_at(0):.1f}" y1="12" y2="{height - foot}"/>')
        lines.append(f'<line class="zero" x1="{left}" x2="{WIDTH - RIGHT}" y1="{y_at(0):.1f}" y2="{y_at(0):.1f}"/>')
    told: list[tuple[float, float]] = []  # labels that are there; one upon another could not be read
    for dot in dots:
        kind = dot.kind if dot.kind in KINDS else "plain"
        x, y = x_at(dot.x), y_at(dot.y)
        lines.append(f'<g class="{kind}"><title>{text(dot.label)}: {short(dot.x)}, {short(dot.y)}</title>')
        if all(map(math.isfinite, dot.y_ends)):
            lines.append(f'<line class="thin" x1="{x:.1f}" x2="{x:.1f}" y1="{y_at(dot.y_ends[0]):.1f}" y2="{y_at(dot.y_ends[1]):.1f}"/>')
        if all(map(math.isfinite, dot.x_ends)) and not log:
            lines.append(f'<line class="thin" x1="{x_at(dot.x_ends[0]):.1f}" x2="{x_at(dot.x_ends[1]):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        if dot.named and all(abs(x - a) > 150 or abs(y - b) > 14 for a, b in told):
            told.append((x, y))
            side, anchor = (-9, "end") if x > WIDTH * 0.66 else (9, "start")
            lines.append(f'<text class="label" x="{x + side:.1f}" y="{y - 7:.1f}" text-anchor="{anchor}">{text(dot.label, 32)}</text>')
        lines.append("</g>")
    middle = (height - foot) / 2
    lines.append(f'<text class="axis" x="{(left + WIDTH - RIGHT) / 2}" y="{height - 6}" text-anchor="middle">{text(across)}</text>')
    lines.append(f'<text class="axis" transform="translate(14 {middle:.0f}) rotate(-90)" text-anchor="middle">{text(up)}</text>')
    return framed(height, lines, f"{up} against {across}")


def framed(height: float, lines: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{text(title)}" xmlns="http://www.w3.org/2000/svg">'
        + "".join(lines)
        + "</svg>"
    )


def bar_text(mark: Mark, low: float, high: float) -> str:
    """An interval in characters: `···├──●──┤···`, on an axis from low to high."""

    def at(value: float) -> int:
        return min(TEXT_WIDTH - 1, max(0, round((value - low) / (high - low or 1.0) * (TEXT_WIDTH - 1))))

    cells = ["·"] * TEXT_WIDTH
    if math.isfinite(mark.low) and math.isfinite(mark.high):
        first, last = at(mark.low), at(mark.high)
        cells[first : last + 1] = ["─"] * (last - first + 1)
        cells[first], cells[last] = "├", "┤"
    if math.isfinite(mark.value):
        cells[at(mark.value)] = "●"
    return "".join(cells)


def interval_texts(marks: Sequence[Mark], *, zero: bool = False) -> list[str]:
    """The same chart, a text per row."""
    low, high = ends([each for mark in marks for each in (mark.value, mark.low, mark.high)], zero)
    return [bar_text(mark, low, high) for mark in marks]
