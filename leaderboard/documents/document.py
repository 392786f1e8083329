"""A document of headings, paragraphs, tables and charts, written as one HTML file or as Markdown.

The HTML file makes no request: its content security policy forbids all, and allows its one script (sort, filter) by hash.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from assay.leaderboard.charts.drawing import Dot, Mark, escaped, interval_texts, intervals, scatter
from assay.leaderboard.charts.matrix_style import CSS as MATRIX_STYLE
from assay.leaderboard.charts.matrix_style import SCRIPT as MATRIX_SCRIPT
from assay.leaderboard.charts.theme import CATEGORIES, DARK, LIGHT
from assay.leaderboard.data.safe_text import visible


@dataclass(frozen=True, slots=True)
class Heading:
    title: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph; `kind` is note, warning or code (preformatted)."""

    text: str
    kind: str = "note"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; columns in `numbers` are right-aligned. `shades` (-1 to 1) colours each cell, by row and column."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    shades: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Intervals:
    marks: tuple[Mark, ...]
    axis: str
    zero: bool = False
    whole: bool = False
    """Only whole numbers on the axis, as for ranks."""


@dataclass(frozen=True, slots=True)
class Scatter:
    dots: tuple[Dot, ...]
    across: str
    up: str
    log: bool = False
    zero: bool = False
    legend: tuple[tuple[str, str], ...] = ()
    """Names with the CSS class of their colour."""


@dataclass(frozen=True, slots=True)
class Link:
    """A file next to the document; its name must not come from untrusted text."""

    file: str
    text: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Parts that are collapsed until clicked."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """The matrix of models and tasks as HTML (charts.matrix); in Markdown its text is left out, since a table of scores follows."""

    html: str


Part = Grid | Heading | Paragraph | Table | Intervals | Scatter | Link | Fold

SHORT_TEXT = 30
"""Cells up to this many characters do not wrap."""
SCRIPT = (
    MATRIX_SCRIPT
    + """
document.querySelectorAll(".matrix").forEach(each => liveMatrix(each));
for (const table of document.querySelectorAll(".wide > table")) {
  table.querySelectorAll("th").forEach((head, column) => head.addEventListener("click", () => {
    const down = head.dataset.order !== "down", body = table.tBodies[0];
    table.querySelectorAll("th").forEach(other => delete other.dataset.order);
    head.dataset.order = down ? "down" : "up";
    const key = row => { const cell = row.cells[column].textContent, n = parseFloat(cell.replace(/[,−]/g, m => m === "−" ? "-" : ""));
      return isNaN(n) ? cell : n; };
    const order = (a, b) => typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1;
    [...body.rows].sort((a, b) => order(key(a), key(b)) * (down ? 1 : -1)).forEach(row => body.append(row));
  }));
}
const field = document.querySelector("input[type=search]");
if (field) field.addEventListener("input", () => {
  const wanted = field.value.toLowerCase();
  for (const row of document.querySelectorAll("tbody tr")) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
"""
)


def style() -> str:
    """The CSS, with the colours of the leaderboard's light and dark theme."""

    def colours(mode: dict[str, str], shade: str) -> str:
        names = {"ink": "text_color", "paper": "background_color", "soft": "secondary_background_color"}
        names |= {"line": "border_color", "link": "link_color", "tint": "primary_color"}
        return "".join(f"--{name}:{mode[key]};" for name, key in names.items()) + f"--quiet:{shade};"

    kinds = "".join(f".c{number}{{--mark:{colour}}}" for number, colour in enumerate(CATEGORIES))
    return (
        f":root{{color-scheme:light dark;{colours(LIGHT, '#6a7075')}}}"
        f"@media(prefers-color-scheme:dark){{:root{{{colours(DARK, '#9aa1a6')}}}}}"
        "body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}"
        "body{max-width:1200px;margin:0 auto;padding:24px 16px 64px}"
        "h1{font-size:1.7rem;margin:0 0 4px}h2{font-size:1.25rem;margin:40px 0 8px}h3{font-size:1.05rem;margin:24px 0 6px}"
        "h1,h2,h3,p,td,summary{overflow-wrap:anywhere}"
        "nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:12px 0}a{color:var(--link)}"
        ".note{color:var(--quiet);margin:4px 0 12px}.warning{border-left:3px solid #d9822b;padding:4px 12px;background:var(--soft)}"
        "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);padding:8px 12px;border-radius:6px;font-size:.86rem}"
        ".wide{overflow-x:auto;margin:8px 0 16px;border:1px solid var(--line);border-radius:6px}"
        "table{border-collapse:collapse;width:100%;font-size:.87rem}th,td{padding:5px 10px;text-align:left;vertical-align:top}"
        "td{border-top:1px solid var(--line);min-width:12em}td.s,td.n{white-space:nowrap;min-width:0}"
        "th{background:var(--soft);cursor:pointer;white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
        "th[data-order=down]::after{content:' ↓'}th[data-order=up]::after{content:' ↑'}"
        ".chart{overflow-x:auto;margin:8px 0 16px}svg{display:block;width:100%;min-width:560px;height:auto;max-width:860px}"
        "svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .axis{fill:var(--quiet)}.grid{stroke:var(--line)}"
        ".zero{stroke:var(--quiet);stroke-dasharray:4 3}.bar{stroke:var(--mark);stroke-width:2.5;opacity:.75}"
        ".thin{stroke:var(--mark);opacity:.5}.dot{fill:var(--mark)}.tick{stroke:#b8475b;stroke-width:2}"
        f".plain{{--mark:{CATEGORIES[0]}}}.better{{--mark:#2b7f77}}.worse{{--mark:#b8475b}}.not-significant,.faded{{--mark:#8b8f94}}{kinds}"
        ".legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:.85rem}.legend i{display:inline-block;width:.7em;height:.7em;"
        "border-radius:50%;background:var(--mark);margin-right:6px}"
        "details{border:1px solid var(--line);border-radius:6px;padding:6px 12px;margin:8px 0}summary{cursor:pointer;font-weight:600}"
        "input{font:inherit;padding:6px 10px;border:1px solid var(--line);border-radius:6px}"
        "input{background:var(--soft);color:inherit;width:16em;max-width:100%}"
    )


def html_file(title: str, about: str, parts: Sequence[Part], *, search: bool = False) -> str:
    """One self-contained page. Its content security policy forbids all requests and all scripts but ours."""
    mark = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{mark}'; base-uri 'none'; form-action 'none'"
    chapters = [part for part in parts if isinstance(part, Heading) and part.level == 2]
    anchors = "".join(f'<a href="#{anchor(part.title)}">{escaped(part.title, 40)}</a>' for part in chapters)
    field = '<input type="search" placeholder="Filter rows" aria-label="Filter rows">' if search else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><meta name="referrer" content="no-referrer">'
        f"<title>{escaped(title, 120)}</title><style>{style()}{MATRIX_STYLE}</style></head><body>"
        f'<h1>{escaped(title, 200)}</h1><p class="note">{escaped(about)}</p><nav>{anchors}</nav>{field}'
        + "\n".join(map(html_part, parts))
        + f"<script>{SCRIPT}</script></body></html>\n"
    )


def anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "part"


def html_part(part: Part) -> str:
    match part:
        case Heading(title, level):
            return f'<h{level} id="{anchor(title)}">{escaped(title, 200)}</h{level}>'
        case Paragraph(text, "code"):
            return f"<pre>{text_lines(text)}</pre>"
        case Paragraph(text, kind):
            return f'<p class="{"warning" if kind == "warning" else "note"}">{escaped(text)}</p>'
        case Grid(html):
            return html
        case Table():
            return html_table(part)
        case Intervals(marks, axis, zero, whole):
            return f'<div class="chart">{intervals(marks, axis, zero=zero, whole=whole)}</div>'
        case Scatter(dots, across, up, log, zero, legend):
            names = "".join(f'<span class="{kind}"><i></i>{escaped(name, 40)}</span>' for name, kind in legend)
            return f'<div class="legend">{names}</div><div class="chart">{scatter(dots, across, up, log=log, zero=zero)}</div>'
        case Link(file, text):
            return f'<p><a href="{escaped(file)}" download>{escaped(file)}</a> <span class="note">{escaped(text)}</span></p>'
        case Fold(title, parts):
            return f"<details><summary>{escaped(title, 200)}</summary>{''.join(map(html_part, parts))}</details>"


def text_lines(text: str) -> str:
    return "\n".join(escaped(line) for line in text.split("\n"))


def html_table(table: Table) -> str:
    def cell(name: str, value: str, column: int, row: int) -> str:
        shade = table.shades[row][column] if name == "td" and table.shades else 0.0
        colour = "43 127 119" if shade > 0 else "180 83 47"
        shading = f' style="background:rgb({colour} / {min(0.75, abs(shade)):.2f})"' if shade else ""
        side = ' class="n"' if column in table.numbers else ' class="s"' if len(value) <= SHORT_TEXT else ""
        return f"<{name}{side}{shading}>{escaped(value, 400)}</{name}>"

    head = "".join(cell("th", name, column, 0) for column, name in enumerate(table.head))
    rows = ["".join(cell("td", value, column, number) for column, value in enumerate(row)) for number, row in enumerate(table.rows)]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def markdown_file(title: str, about: str, parts: Sequence[Part]) -> str:
    """The document as Markdown. Interval charts are drawn in characters, scatter charts become tables."""
    return "\n\n".join([f"# {markdown_text(title)}", markdown_text(about), *filter(None, map(markdown_part, parts))]) + "\n"


def markdown_text(value: object, limit: int = 400) -> str:
    """Escapes text for Markdown."""
    text = re.sub(r"([\\`*_{}\[\]<>#|~!$&])", r"\\\1", visible(value, limit))
    return re.sub(r"(?i)(https?|javascript|data|ftp|mailto)(?=:)|(?<=www)(?=\.)", lambda found: f"{found[0]}\u2060", text)


def markdown_part(part: Part) -> str:
    match part:
        case Grid():
            return ""
        case Heading(title, level):
            return f"{'#' * level} {markdown_text(title)}"
        case Paragraph(text, "code"):
            return "\n".join(f"    {visible(line)}" for line in text.split("\n"))
        case Paragraph(text, "warning"):
            return f"> **Note.** {markdown_text(text, 1000)}"
        case Paragraph(text, _):
            return markdown_text(text, 1000)
        case Table(head, rows, numbers, _):
            return markdown_table(head, rows, numbers)
        case Intervals(marks, axis, zero, _):
            drawn = interval_texts(marks, zero=zero)
            rows = tuple((mark.label, f"{mark.value:.4g}", bar) for mark, bar in zip(marks, drawn, strict=True))
            return markdown_table(("", axis, "interval"), rows, frozenset({1}))
        case Scatter(dots, across, up):
            rows = tuple((dot.label, f"{dot.x:.4g}", f"{dot.y:.4g}") for dot in dots)
            return markdown_table(("", across, up), rows, frozenset({1, 2}))
        case Link(file, text):
            return f"- `{visible(file)}`: {markdown_text(text)}"
        case Fold(title, parts):
            return "\n\n".join([f"### {markdown_text(title)}", *map(markdown_part, parts)])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: frozenset[int]) -> str:
    lines = ["| " + " | ".join(markdown_text(name) for name in head) + " |"]
    lines.append("|" + "|".join("---:" if column in numbers else "---" for column in range(len(head))) + "|")
    return "\n".join(lines + ["| " + " | ".join(markdown_text(value) for value in row) + " |" for row in rows])
