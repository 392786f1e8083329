"""The content of a report on a few runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.leaderboard.data import queries
from assay.leaderboard.data.shown import amount, labels, points, span
from assay.leaderboard.data.units import unit_of
from assay.leaderboard.documents import contents
from assay.leaderboard.documents.document import Heading, Intervals, Part, Table, Words, html_file, markdown_file


def run_report(root: Path, runs: Sequence[str], *, markdown: bool, items: int = 3) -> str:
    """One document on these runs of the index; the later ones are compared with the first."""
    whole = queries.runs(root).set_index("run_id").loc[list(runs)].reset_index()
    names = dict(zip(runs, labels(whole.model.tolist(), runs), strict=True))
    title = " and ".join(dict.fromkeys(names.values())) if len(runs) <= 2 else f"{len(runs)} runs"
    about = "Scores with 95 % intervals from stored items; differences are paired item by item."
    parts: list[Part] = [Heading("Runs"), overview(whole, names), *notes(whole)]
    parts += [Heading("Scores")]
    for run in runs:
        parts += scores(queries.run_cells(root, run), names[run], run)
    if len(runs) > 1:
        parts.append(Heading("Differences"))
        for run in runs[1:]:
            parts += contents.comparison(root, runs[0], run, (names[runs[0]], names[run]), items)
    parts += [Heading("What was run"), *setups(root, runs, names)]
    return markdown_file(title, about, parts) if markdown else html_file(title, about, parts)


def overview(whole: Any, names: dict[str, str]) -> Table:
    head = ("run", "model", "weights", "parameters", "engine", "purpose", "evidence", "items", "errors", "tokens", "seconds", "at (UTC)")
    rows = tuple(
        (
            row.run_id,
            names[row.run_id],
            str(row.model_digest)[:12],
            amount(row.parameters),
            row.engine + ("" if row.source == "assay" else f" (imported from {row.source})"),
            row.purpose,
            row.evidence,
            f"{row.items:,}",
            f"{row.errors:,}",
            contents.number(row.tokens, 0),
            contents.number(row.seconds, 0),
            f"{row.created_at:%Y-%m-%d %H:%M}",
        )
        for row in whole.itertuples()
    )
    return Table(head, rows, frozenset({3, 7, 8, 9, 10}))


def notes(whole: Any) -> list[Part]:
    """What a reader must know before the numbers."""
    found: list[Part] = []
    if (whole.purpose == "smoke").any():
        found.append(Words("Smoke tasks prove that everything works; they are no benchmark, and are never ranked.", "warning"))
    if (~whole.evidence.isin(["complete"])).any():
        found.append(Words("Some scores are on part of the items, or only stated by others: not the standard benchmark.", "warning"))
    return found


def scores(cells: Any, name: str, run: str) -> list[Part]:
    """One run's scores: a chart of the main ones, and the table of all."""
    rows = tuple(
        (
            row.task,
            row.metric,
            points(row.value, unit := unit_of(row.metric, row.better, row.unit)),
            span(row.low, row.high, unit),
            points(row.chance, unit) if row.main else "",
            contents.number(row.n, 0),
            contents.number(row.shots, 0),
            row.evidence,
        )
        for row in cells.itertuples()
    )
    marks = contents.score_marks(cells[cells.main & (cells.metric != "total")], "task")
    chart: list[Part] = [Intervals(marks, "score, 95 % interval; red: guessing")] if marks else []
    head = ("task", "metric", "score", "95 %", "chance", "items", "shots", "evidence")
    return [Heading(f"{name} ({run})", 3), *chart, Table(head, rows, frozenset({2, 4, 5, 6}))]


def setups(root: Path, runs: Sequence[str], names: dict[str, str]) -> list[Part]:
    """Signatures: everything that each number depends on, one line each."""
    parts: list[Part] = []
    for run in runs:
        manifest = json.loads(queries.manifest(root, run) or "{}")
        versions = ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items())
        lines = [f"run {run}", f"model {manifest['model']['name']}, digest {manifest['model']['digest']}", f"versions {versions}"]
        lines += [str(text) for text in queries.scores(root, run).signature]
        parts += [Heading(names[run], 3), Words("\n".join(lines), "code")]
    return parts
