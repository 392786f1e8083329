"""Writes a table as CSV, Parquet, Markdown or LaTeX. Formulas and TeX commands in cells are escaped."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

from assay.leaderboard.data.safe_text import visible

FORMULA = ("=", "+", "-", "@", "\t", "\r")
LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "·": r"\textperiodcentered{}",
}


def csv_safe(value: Any) -> Any:
    """Puts an apostrophe before text that a spreadsheet would run as a formula (OWASP, CSV injection). Numbers stay numbers."""
    if value is None or value != value:
        return ""
    text = visible(value) if isinstance(value, str) else value
    return f"'{text}" if isinstance(text, str) and text.lstrip(" ").startswith(FORMULA) else text


def formula_safe(text: str) -> str:
    """The same for tables that the browser itself saves as CSV, with an invisible word joiner in place of the apostrophe."""
    return f"\u2060{text}" if text.lstrip(" ").startswith(FORMULA) else text


def rows(table: Any) -> list[list[Any]]:
    return [
        [None if value is None or value != value else value for value in row]
        for row in table.astype(object).where(table.notna(), None).to_numpy()
    ]


def to_csv(table: Any) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([csv_safe(str(name)) for name in table.columns])
    writer.writerows([csv_safe(value) for value in row] for row in rows(table))
    return sink.getvalue().encode()


def to_parquet(table: Any) -> bytes:
    return bytes(table.to_parquet(index=False))


def number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else visible(value)


def to_markdown(table: Any) -> bytes:
    def cell(value: Any) -> str:
        return re.sub(r"([\\|`*_<>\[\]])", r"\\\1", number(value))

    lines = [
        [cell(str(name)) for name in table.columns],
        ["---"] * len(table.columns),
        *([cell(value) for value in row] for row in rows(table)),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).encode()


def to_latex(table: Any) -> bytes:
    def cell(value: Any) -> str:
        return "".join(LATEX.get(sign, sign) for sign in number(value))

    numeric = [str(kind).lower().startswith(("int", "float")) for kind in table.dtypes]
    lines = [[cell(str(name)) for name in table.columns], *([cell(value) for value in row] for row in rows(table))]
    head, *body = [" & ".join(line) + r" \\" for line in lines]
    frame = "\n".join([r"\toprule", head, r"\midrule", *body, r"\bottomrule"])
    return f"\\begin{{tabular}}{{{''.join('r' if each else 'l' for each in numeric)}}}\n{frame}\n\\end{{tabular}}\n".encode()


FORMATS: dict[str, tuple[str, str, Callable[[Any], bytes]]] = {
    "CSV": ("csv", "text/csv", to_csv),
    "Parquet": ("parquet", "application/vnd.apache.parquet", to_parquet),
    "Markdown": ("md", "text/markdown", to_markdown),
    "LaTeX": ("tex", "application/x-tex", to_latex),
}
"""Suffix, media type and writer of each format."""
