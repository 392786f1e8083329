"""Parts of documents: board, scores, comparisons, studies, gates, health, with the same numbers as the pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from assay.leaderboard.charts import matrix
from assay.leaderboard.charts.drawing import Dot, Mark
from assay.leaderboard.data import bundles, frames, paired, queries, studies
from assay.leaderboard.data.assembly import Board, Filters, assemble, group_of, lead, shared_lead
from assay.leaderboard.data.formats import amount, duration, points, size, span, unit_of
from assay.leaderboard.data.ranking import AGGREGATORS, pareto_front
from assay.leaderboard.documents.document import Fold, Grid, Heading, Intervals, Paragraph, Part, Scatter, Table
from assay.leaderboard.documents.win_rates import win_rates

MOST_MODELS = 40
SCORE_AXIS = "score, points, 95 % confidence interval; tick: chance level"
BOARD_COLUMNS = (
    "Rank",
    "Model",
    "Rank interval",
    "Tier",
    "Score",
    "95 % CI",
    "Rank, all rules",
    "Coverage",
    "Tokens / item",
    "s / 1k items",
    "Parameters",
    "Source",
)


def number(value: Any, digits: int = 1) -> str:
    """A number with thousands separators; a dash if missing."""
    return "–" if frames.missing(value) else f"{value:,.{digits}f}"


def signed(value: Any) -> str:
    return "–" if frames.missing(value) else f"{value:+.2f}"


def table_of(frame: Any, formats: Mapping[str, int | None], names: Sequence[str]) -> Table:
    """A table of some columns of a frame; `formats` gives the decimals of each number column."""
    rows = []
    for values in frame[list(names)].astype(object).itertuples(index=False, name=None):
        rows.append(tuple(cell(value, formats.get(name)) for name, value in zip(names, values, strict=True)))
    numbers = frozenset(place for place, name in enumerate(names) if formats.get(name) is not None)
    return Table(tuple(names), tuple(rows), numbers)


def cell(value: Any, digits: int | None) -> str:
    if frames.missing(value):
        return "–"
    return str(value) if digits is None else number(value, digits)


def board(root: Path, cells: Any) -> list[Part]:
    """The board over all tasks, then one per task set if there are several."""
    found = assemble(root, cells, Filters(), AGGREGATORS[0])
    parts: list[Part] = [Heading("Board")]
    if not len(found.table):
        return [*parts, Paragraph("No ranked scores yet. Only complete release runs are ranked, not smoke, limited or partial ones.")]
    parts += ranked(found)
    groups = sorted({group_of(task) for task in found.tasks})
    if len(groups) > 1:
        for group in groups:
            part = assemble(root, cells, Filters(group=group), AGGREGATORS[0])
            if len(part.table):
                parts.append(Fold(f"Task set {group} ({len(part.tasks)} tasks)", tuple(ranked(part))))
    return [*parts, *win_rates(root, cells)]


def ranked(found: Board) -> list[Part]:
    """One board: notes, rank intervals, score against size, and the table."""
    top = found.table.iloc[: found.ranked].head(MOST_MODELS)
    parts: list[Part] = [Paragraph(" ".join(filter(None, (lead(found), shared_lead(found), found.about))))]
    if found.matrix is not None:
        parts.append(Grid(matrix.html(found.matrix, linked=False)))
    if found.standing is not None and found.standing.rule_dependent.any():
        many = int(found.standing.rule_dependent.sum())
        parts.append(Paragraph(f"The ranks of {many} models depend on the aggregation rule (column Rank, all rules).", "warning"))
    parts += [Paragraph(note) for note in found.notes]
    if found.unpaired:
        parts.append(Paragraph("Resampled per model from confidence intervals, not paired by item: " + ", ".join(found.unpaired[:6])))
    if len(top):
        marks = tuple(
            Mark(row.Model, float(rank), float(row.best), float(row.worst), f"c{(int(row.Tier) - 1) % 8}")
            for row, rank in zip(top.itertuples(), top["Rank"].tolist(), strict=True)
        )
        parts.append(Intervals(marks, "rank (1 is best), 95 % rank interval; one colour per tier", whole=True))
        parts.append(Paragraph("Tier: models that are not significantly worse than the first model of the tier."))
    known = top.dropna(subset=["Parameters", "Score"])
    if len(known) > 1:
        parts.append(against_size(known))
    formats: dict[str, int | None] = {"Rank": 0, "Tier": 0, "Score": 1, "Tokens / item": 0, "s / 1k items": 0, "Parameters": 2}
    formats |= dict.fromkeys(found.tasks, 1)
    shown = found.table.assign(Coverage=[f"{100 * value:.0f} %" for value in found.table.Coverage])
    return [*parts, table_of(shown, formats, [*BOARD_COLUMNS, *found.tasks])]


def against_size(table: Any) -> Scatter:
    sizes, scores = (table[name].astype("float64").to_numpy() for name in ("Parameters", "Score"))
    front = pareto_front(-sizes, scores)
    dots = tuple(
        Dot(row.Model, float(x), float(y), y_ends=(float(row.low), float(row.high)), kind="plain" if best else "faded", named=bool(best))
        for row, x, y, best in zip(table.itertuples(), sizes, scores, front, strict=True)
    )
    return Scatter(dots, "parameters, billions", "score, points", log=True)


def score_marks(rows: Any, label: str) -> tuple[Mark, ...]:
    """Scores of bounded metrics in points, with intervals and chance level."""
    marks = []
    for row in rows.itertuples():
        unit = unit_of(row.metric, row.better, row.unit)
        if unit:
            ends = [math.nan if frames.missing(end) else 100 * end / unit for end in (row.value, row.low, row.high, row.chance)]
            marks.append(Mark(str(getattr(row, label)), ends[0], ends[1], ends[2], tick=ends[3]))
    return tuple(marks)


def models(cells: Any) -> list[Part]:
    """Every model's scores, collapsed."""
    parts: list[Part] = [Heading("Models")]
    for label, part in cells.sort_values(["label", "column"]).groupby("label", sort=True):
        rows = tuple(
            (
                row.column,
                row.metric,
                points(row.value, unit := unit_of(row.metric, row.better, row.unit)),
                span(row.low, row.high, unit),
                number(row.n, 0),
                number(row.shots, 0),
                row.run_id,
            )
            for row in part.itertuples()
        )
        table = Table(("task", "metric", "score", "95 % CI", "items", "shots", "run"), rows, frozenset({2, 4, 5}))
        head = part.iloc[-1]
        about = f"{amount(head.parameters)} parameters · weights {head.model_digest[:16]} · {head.source}"
        marks = score_marks(part[part.metric != "total"], "column")
        chart = (Intervals(marks, SCORE_AXIS),) if marks else ()
        parts.append(Fold(str(label), (Paragraph(about), *chart, table)))
    return parts


def tasks(cells: Any) -> list[Part]:
    """Every task's scores, best model first, collapsed."""
    parts: list[Part] = [Heading("Tasks")]
    for column, part in cells[cells.metric != "total"].groupby("column", sort=True):
        ordered = part.sort_values("value", ascending=part.better.iloc[0] == "lower").head(MOST_MODELS)
        marks = score_marks(ordered, "label")
        chance = part.chance.iloc[0]
        about = f"{number(part.n.iloc[0], 0)} items · {part.metric.iloc[0]} · fingerprint {part.fingerprint.iloc[0]}"
        if chance is not None and chance == chance:
            above = int((part.low > chance).sum())
            about += f" · chance level {100 * chance:.1f}; {above} of {len(part)} models are significantly above it"
        rows = tuple((row.label, f"{row.value:.4g}", number(row.low, 4), number(row.high, 4)) for row in ordered.itertuples())
        table = Table(("model", "score", "95 % CI low", "95 % CI high"), rows, frozenset({1, 2, 3}))
        parts.append(Fold(str(column), (Paragraph(about), Intervals(marks, SCORE_AXIS) if marks else table)))
    return parts


def comparison(root: Path, first: Mapping[str, str], second: Mapping[str, str], names: tuple[str, str], items: int = 0) -> list[Part]:
    """Two models or runs (the bundle of each task, "" for all of a run): differing settings, paired differences, and flipped items (at
    most `items` per task and direction)."""
    found = paired.pairing(root, first, second)
    parts: list[Part] = [Heading(f"{names[1]} against {names[0]}", 3)]
    if not found.runs:
        return [*parts, Paragraph("The runs have no task in common.", "warning")]
    if found.settings:
        parts.append(Paragraph("Settings differ between the runs and contribute to every difference below.", "warning"))
        parts.append(Table(("setting", names[0], names[1]), found.settings))
    elif not found.blocked:
        parts.append(Paragraph("Tasks, items, shots, decoding, metrics and settings are the same: only the models differ."))
    marks = [
        Mark(row.task, row.points * d.delta, row.points * d.low, row.points * d.high, paired.direction(row).replace(" ", "-"))
        for row in found.rows
        if row.main and (d := row.difference).bounded
    ]
    if marks:
        parts.append(Intervals(tuple(marks), "candidate minus baseline, points (higher is better), 90 % interval", zero=True))
        parts.append(Paragraph("90 % confidence intervals. Red or green: p < 0.05, Holm-corrected over all tasks."))
    table = paired.table(found)
    parts.append(Paragraph("Points; MDE80: the smallest loss that the test detects with 80 % power."))
    formats: dict[str, int | None] = dict.fromkeys(("Baseline", "Candidate", "Difference", "Low", "High", "MDE80"), 2)
    formats |= {"p": 4, "p (Holm)": 4, "Gained": 0, "Lost": 0, "Items": 0}
    parts.append(table_of(table.drop(columns="Main"), formats, [name for name in table.columns if name != "Main"]))
    return [*parts, *(flips(root, found, names, items) if items else [])]


def flips(root: Path, pairing: paired.Pairing, names: tuple[str, str], most: int) -> list[Part]:
    """Responses of both runs to flipped items, collapsed per task."""
    parts: list[Part] = []
    for row in pairing.rows:
        if not row.main or row.total:
            continue
        inner: list[Part] = []
        for word, found in (("lost", row.lost), ("gained", row.gained)):
            for item in found[:most]:
                responses = queries.responses(root, row.task, item)
                sides = [responses[responses.run_id == run] for run in pairing.runs[row.task]]
                if all(len(side) for side in sides):
                    one, two = (side.iloc[0] for side in sides)
                    inner += [Paragraph(f"{item}: {word}; gold: {one.gold}"), Paragraph(str(one.prompt)[-1500:], "code")]
                    inner.append(Table(names, ((str(one.output), str(two.output)),)))
        if inner:
            parts.append(Fold(f"{row.task}: {len(row.lost)} lost, {len(row.gained)} gained", tuple(inner)))
    return parts


def neighbours(root: Path, cells: Any, found: Board) -> list[Part]:
    """Each ranked model compared with the next, task by task."""
    if found.ranked < 2:
        return []
    bundles_of = dict(zip(*(queries.runs(root)[name] for name in ("run_id", "bundle")), strict=True))
    runs = {
        label: {task: str(bundles_of[run]) for task, run in zip(part.task, part.run_id, strict=True)}
        for label, part in cells[cells.metric != "total"].groupby("label")
    }
    names = found.table.Model.tolist()[: min(found.ranked, 12)]
    parts: list[Part] = [Heading("Neighbours"), Paragraph("Each model compared with the next in rank, paired by item.")]
    for better, worse in pairwise(names):
        parts.append(Fold(f"{better} against {worse}", tuple(comparison(root, runs[worse], runs[better], (worse, better)))))
    return parts


def tuning(root: Path) -> list[Part]:
    """Every study: gain against forgetting, changes on retention tasks, and costs."""
    indexed = queries.tuning(root) if queries.stamp(root) and not queries.index_error(root) else ()
    trials = studies.trials(root, indexed)
    parts: list[Part] = []
    for (study, target), part in trials.groupby(["study", "target"]) if len(trials) else ():
        found = studies.points(part)
        if len(found):
            parts += [Heading(f"{study}: {target}", 3), *study_parts(part, found)]
    about = "Gain on the target task and change on the retention tasks of each method."
    return [Heading("Tuning"), Paragraph(about), *parts] if parts else []


def study_parts(part: Any, found: Any) -> list[Part]:
    families = sorted(found.family.unique())
    colours = {name: f"c{place % 8}" for place, name in enumerate(families)}
    dots = tuple(
        Dot(
            f"{row.method} {row.rate}" if row.rate != "–" else row.method,
            float(row.kept),
            float(row.gain),
            (float(row.kept_low), float(row.kept_high)),
            (float(row.gain_low), float(row.gain_high)),
            colours[row.family],
            bool(row.front),
        )
        for row in found.itertuples()
    )
    legend = tuple(colours.items())
    chart = Scatter(
        dots,
        "change on retention tasks, points (higher is better)",
        "gain on the target, points (higher is better)",
        zero=True,
        legend=legend,
    )
    parts: list[Part] = [chart, kept_table(studies.retention(part))]
    columns = {
        "method": found.method,
        "family": found.family,
        "learning rate": found.rate,
        "seeds": found.runs,
        "gain": found.gain,
        "gain, 95 % CI": [f"{signed(a)} to {signed(b)}" for a, b in zip(found.gain_low, found.gain_high, strict=True)],
        "change": found.kept,
        "change, 95 % CI": [f"{signed(a)} to {signed(b)}" for a, b in zip(found.kept_low, found.kept_high, strict=True)],
        "trainable": [amount(each) for each in found.trainable_parameters],
        "saved": [size(each) for each in found.saved_bytes],
        "memory": [size(each) for each in found.peak_memory],
        "time": [duration(each) for each in found.seconds],
    }
    table = frames.DataFrame(columns).sort_values("gain", ascending=False)
    parts.append(table_of(table, {"seeds": 0, "gain": 2, "change": 2}, list(columns)))
    return [each for each in parts if not isinstance(each, Table) or each.rows]


def kept_table(matrix: Any) -> Table:
    """Change in points on each retention task by method, coloured."""
    if not len(matrix):
        return Table((), ())
    wide = matrix.pivot(index="row", columns="column", values="value")
    peak = float(np.nanmax(np.abs(wide.to_numpy()))) or 1.0
    rows, shades = [], []
    for name, values in wide.iterrows():
        rows.append((str(name), *(signed(value) for value in values)))
        shades.append((0.0, *(0.0 if value != value else float(value) / peak for value in values)))
    head = ("method", *(str(name) for name in wide.columns))
    return Table(head, tuple(rows), frozenset(range(1, len(head))), tuple(shades))


def gates(root: Path) -> list[Part]:
    """Every stored gate decision, newest first."""
    found = bundles.gates(root)
    if not len(found):
        return []
    heads = {"at": "at (UTC)", "delta": "difference", "lost": "regressed tasks", "tried": "baselines tried"}
    names = [heads.get(name, name) for name in bundles.GATE_COLUMNS]
    formats: dict[str, int | None] = {**dict.fromkeys(("difference", "low", "high", "margin"), 2), "attempt": 0, "baselines tried": 0}
    about = "Differences are candidate minus baseline in points, with the limits of the interval; margin: the largest loss that passes."
    return [Heading("Gates"), Paragraph(about), table_of(found.rename(columns=heads), formats, names)]


def health(root: Path, cells: Any) -> list[Part]:
    """Missing scores, tasks in several versions, unranked scores, and task warnings."""
    parts: list[Part] = [Heading("Health")]
    usual = cells[cells.usual & (cells.metric != "total")] if len(cells) else cells
    if len(usual):
        total = usual.label.nunique() * usual.column.nunique()
        parts.append(Paragraph(f"{len(usual)} of {total} scores are present. Missing scores never count as zero."))
    mixed = queries.mixed_versions(root)
    if len(mixed):
        parts += [Heading("Tasks in several versions", 3), table_of(mixed, {"versions": 0, "runs": 0}, ("task", "versions", "runs"))]
    unranked = queries.unranked(root)
    if len(unranked):
        left = tuple(
            (row.model, row.task, points(row.value, unit_of(row.metric, row.better, row.unit)), row.reason)
            for row in unranked.head(400).itertuples()
        )
        parts += [Heading("Unranked scores", 3), Table(("model", "task", "score", "reason"), left, frozenset({2}))]
    flags = queries.task_flags(root)
    if len(flags):
        shares = {name: [f"{100 * value:.0f} %" for value in flags[name]] for name in ("unparsed", "truncated")}
        moved, dropped = "token boundary moved (items)", "few-shot examples dropped (items)"
        shown = flags.assign(**shares).rename(columns={"boundary_moved": moved, "shots_dropped": dropped}).head(200)
        names = ("model", "task", "unparsed", "truncated", moved, dropped)
        parts += [Heading("Task warnings", 3), table_of(shown, {moved: 0, dropped: 0}, names)]
    return parts
