"""Builds the report on one or more runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.leaderboard.data import queries
from assay.leaderboard.data.assembly import with_columns
from assay.leaderboard.data.formats import amount, duration, points, span, unit_of
from assay.leaderboard.data.safe_text import labels
from assay.leaderboard.documents import contents
from assay.leaderboard.documents.document import Heading, Intervals, Paragraph, Part, Table, html_file, markdown_file
from assay.leaderboard.documents.win_rates import win_rates


def run_report(root: Path, runs: Sequence[str], *, markdown: bool, items: int = 3) -> str:
    """Returns the report on these indexed runs as Markdown or HTML. The first run is the baseline for the others.

    `items`: flipped items to show per task and direction.
    """
    run_table = queries.runs(root).set_index("run_id").loc[list(runs)].reset_index()
    names = dict(zip(runs, labels(run_table.model.tolist(), runs), strict=True))
    title = " and ".join(dict.fromkeys(names.values())) if len(runs) <= 2 else f"{len(runs)} runs"
    about = "Scores with 95 % confidence intervals. Differences are paired by item."
    parts: list[Part] = [Heading("Runs"), overview(run_table, names), *notes(run_table)]
    parts += [Heading("Scores")]
    for run in runs:
        parts += scores(queries.scores(root, run), names[run], run)
    if len(runs) > 1:
        parts.append(Heading("Differences"))
        sides = {run: {"": str(path)} for run, path in zip(run_table.run_id, run_table.bundle, strict=True)}
        for run in runs[1:]:
            parts += contents.comparison(root, sides[runs[0]], sides[run], (names[runs[0]], names[run]), items)
        cells = queries.cells(root)
        parts += win_rates(root, with_columns(cells[cells.run_id.isin(list(runs))]))
    parts += [Heading("Setup"), *setups(root, runs, names)]
    return markdown_file(title, about, parts) if markdown else html_file(title, about, parts)


def overview(run_table: Any, names: dict[str, str]) -> Table:
    head = (
        "run",
        "model",
        "weights",
        "parameters",
        "engine",
        "purpose",
        "evidence",
        "items",
        "errors",
        "tokens",
        "engine time",
        "started (UTC)",
    )
    rows = tuple(
        (
            row.run_id,
            names[row.run_id],
            str(row.model_digest)[:12],
            amount(row.parameters),
            row.engine + source_text(str(row.source)),
            row.purpose,
            row.evidence,
            f"{row.items:,}",
            f"{row.errors:,}",
            contents.number(row.tokens, 0),
            duration(row.seconds),
            f"{row.created_at:%Y-%m-%d %H:%M}",
        )
        for row in run_table.itertuples()
    )
    return Table(head, rows, frozenset({3, 7, 8, 9, 10}))


def source_text(source: str) -> str:
    """What follows the engine's name: nothing for a run of assay on weights that it read itself."""
    return {"assay": "", "served, weights not verified": f" ({source})"}.get(source, f" (imported from {source})")


def notes(run_table: Any) -> list[Part]:
    """Warnings about runs that are not release runs on all items."""
    found: list[Part] = []
    if (run_table.purpose == "smoke").any():
        found.append(Paragraph("Smoke tasks only check that the pipeline works: they are no benchmark and are never ranked.", "warning"))
    if (~run_table.evidence.isin(["complete"])).any():
        found.append(
            Paragraph(
                "Some scores cover only part of the items or come without items: do not compare them with the full benchmark.",
                "warning",
            )
        )
    return found


def scores(cells: Any, name: str, run: str) -> list[Part]:
    """One run's scores: a chart of the main metrics and a table of all."""
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
    chart: list[Part] = [Intervals(marks, contents.SCORE_AXIS)] if marks else []
    head = ("task", "metric", "score", "95 % CI", "chance", "items", "shots", "evidence")
    return [Heading(f"{name} ({run})", 3), *chart, Table(head, rows, frozenset({2, 4, 5, 6}))]


def setups(root: Path, runs: Sequence[str], names: dict[str, str]) -> list[Part]:
    """Model, versions and score signatures of each run, as code."""
    parts: list[Part] = []
    for run in runs:
        manifest = json.loads(queries.manifest(root, run) or "{}")
        versions = ", ".join(f"{name} {value}" for name, value in manifest.get("versions", {}).items())
        lines = [f"run {run}", f"model {manifest['model']['name']}, digest {manifest['model']['digest']}", f"versions {versions}"]
        lines += [str(text) for text in queries.scores(root, run).signature]
        parts += [Heading(names[run], 3), Paragraph("\n".join(lines), "code")]
    return parts
