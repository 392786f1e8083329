"""Builds the board from the cells of the index: comparable columns, ranked rows, who leads, and notes on what is excluded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.leaderboard.data import frames
from assay.leaderboard.data.formats import floor_of, range_text, span, unit_of
from assay.leaderboard.data.incomplete import Grid, grid_of, incomplete_standings, rankable
from assay.leaderboard.data.matrix import Matrix, matrix_of
from assay.leaderboard.data.queries import Clusters, cluster_means
from assay.leaderboard.data.ranking import AGGREGATORS, Z95, Aggregator, Column, Standings, standings
from assay.leaderboard.data.safe_text import family, labels, visible

SIZES = {"under 1 B": (0.0, 1e9), "1 to 10 B": (1e9, 1e10), "over 10 B": (1e10, np.inf)}
KINDS = ("base", "adapter", "served")


SHARED, ALL = "largest shared set", "all tasks"
"""Task sets that are no family: the tasks with the most complete ranking, and all tasks."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Filters of the board. Empty means all; `group` is SHARED (also if empty), ALL, or the part of a task's name before the slash."""

    group: str = ""
    tasks: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    name: str = ""
    complete: bool = False
    models: tuple[str, ...] = ()
    """Labels of the only models to show."""


@dataclass(frozen=True, slots=True)
class Board:
    """`table` has one row per model, ranked ones first; `tasks` are its score columns; `notes` name what is excluded and why."""

    table: Any
    tasks: tuple[str, ...]
    standing: Standings | None
    ranked: int
    notes: tuple[str, ...]
    unpaired: tuple[str, ...]
    matrix: Matrix | None = None
    about: str = ""
    """Which tasks are shown, and how many models have all of them."""
    """Tasks whose score is not a mean over items: each model is resampled on its own, from its confidence interval."""


def group_of(task: str) -> str:
    return task.split("/")[0].split("@")[0]


def with_columns(cells: Any) -> Any:
    """Adds `column`, `label`, `family`, `kind`, `group`, and `usual` (whether the column has the task's plain name).

    A column holds one fingerprint. Where a task has several, the one with the most models (then the latest) keeps the task's name;
    the others get their fingerprint appended.
    """
    found = cells.copy()
    seen = found.drop_duplicates("model_digest")
    found["label"] = found.model_digest.map(
        dict(zip(seen.model_digest, labels(seen.model.tolist(), seen.model_digest.tolist()), strict=True))
    )
    found["family"] = found.model.map({name: family(name) for name in found.model.unique()})
    found["kind"] = np.where(found.adapter.fillna("") != "", "adapter", "base")
    found.loc[found.model_digest.str.startswith("served-"), "kind"] = "served"
    found["group"] = [group_of(task) for task in found.task]
    found["setup"] = found.fingerprint + "|" + found.metric + "|" + found.shots.astype(str)
    counts = found.groupby(["task", "setup"]).agg(models=("model_digest", "nunique"), last=("created_at", "max")).reset_index()
    counts = counts.sort_values(["task", "models", "last"], ascending=[True, False, False])
    counts["place"] = counts.groupby("task").cumcount()
    names = {(row.task, row.setup): row.task if row.place == 0 else f"{row.task} · {row.setup[:10]}" for row in counts.itertuples()}
    found["column"] = [visible(names[task, setup], 120) for task, setup in zip(found.task, found.setup, strict=True)]
    found["usual"] = [names[task, setup] == task for task, setup in zip(found.task, found.setup, strict=True)]
    return found


def is_total(cells: Any) -> Any:
    """Totals repeat the scores of their tasks: they are shown only if selected."""
    return cells.metric == "total"


def filtered(cells: Any, filters: Filters) -> tuple[Any, tuple[str, ...]]:
    """The cells and columns that match the filters."""
    kept = cells
    if filters.models:
        kept = kept[kept.label.isin(filters.models)]
    if filters.families:
        kept = kept[kept.family.isin(filters.families)]
    if filters.kinds:
        kept = kept[kept.kind.isin(filters.kinds)]
    if filters.sizes:
        matches = np.zeros(len(kept), dtype=bool)
        for name in filters.sizes:
            low, high = SIZES.get(name, (np.inf, np.inf))
            matches |= ((kept.parameters >= low) & (kept.parameters < high)).to_numpy()
        kept = kept[matches]
    if filters.name:
        kept = kept[kept.model.str.lower().str.contains(filters.name.lower(), regex=False)]
    if filters.tasks:
        there = set(cells.column)
        columns = tuple(name for name in filters.tasks if name in there)
    else:
        columns = columns_of(kept, cells, filters.group)
    return kept[kept.column.isin(columns)], columns


def columns_of(kept: Any, cells: Any, group: str) -> tuple[str, ...]:
    """The columns of a task set; `kept` are the cells of the models shown."""
    usual = cells[cells.usual & ~is_total(cells)]
    if group not in ("", SHARED, ALL):
        usual = usual[usual.group == group]
    columns = tuple(sorted(usual.column.unique()))
    return shared_columns(kept[kept.column.isin(columns)], columns) if group in ("", SHARED) else columns


def shared_columns(kept: Any, columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns with the most complete ranking: of the k columns that most models have, for every k, those with the most scores of
    models that have all k; of equal ones, the most columns."""
    if not len(kept):
        return columns
    grid = kept.pivot_table(index="model_digest", columns="column", values="value", aggfunc="size").notna()
    order = grid.sum().sort_values(ascending=False, kind="stable").index.tolist()
    complete = np.logical_and.accumulate(grid[order].to_numpy(), axis=1).sum(axis=0) * np.arange(1, len(order) + 1)
    best = len(order) - int(np.argmax(complete[::-1]))
    return tuple(sorted(order[:best]))


def assemble(root: Path, cells: Any, filters: Filters, by: Aggregator) -> Board:
    """Builds the board. A missing score never counts as zero: a model that lacks some is ranked by its adjusted mean where the
    aggregator is the mean, else it is listed without a rank."""
    kept, columns = filtered(cells, filters)
    if not len(kept):
        return Board(kept, columns, None, 0, (), ())
    places = kept.reset_index(drop=True)
    there = set(places.column)
    columns = tuple(name for name in columns if name in there)
    index = places.reset_index().pivot(index="model_digest", columns="column", values="index").reindex(columns=list(columns))
    full = index.notna().all(axis=1).to_numpy()
    if filters.complete:
        index, full = index[full], full[full]
    if not len(index):
        return Board(places.iloc[:0], columns, None, 0, exclusion_notes(cells, columns), ())
    grid = grid_of(columns_with_clusters(root, places, index), index.notna().to_numpy())
    ranked = rankable(grid.present[:, grid.bounded]) if by == AGGREGATORS[0] and grid.bounded else full
    order = [*np.flatnonzero(ranked).tolist(), *np.flatnonzero(~ranked).tolist()]
    count = int(ranked.sum())
    standing = standings_among(grid.of(order[:count]), by) if count else None
    table = rows_of(places, [index.index[row] for row in order], columns, standing)
    place = {digest: row for row, digest in enumerate(index.index)}
    matrix = matrix_of(table, places, grid.of([place[digest] for digest in table.digest]))
    unpaired = tuple(column.task for column in grid.columns if column.means is None)
    notes = (*ranking_notes(full, ranked, by), *exclusion_notes(cells, columns))
    return Board(table, columns, standing, count, notes, unpaired, matrix, about(cells, columns, filters, full))


def standings_among(grid: Grid, by: Aggregator) -> Standings:
    if not grid.present.all():
        return incomplete_standings(grid)
    return standings(grid.columns, by, draws=grid.draws[:, :, grid.bounded].mean(axis=2) if by == AGGREGATORS[0] and grid.bounded else None)


def columns_with_clusters(root: Path, places: Any, index: Any) -> list[Column]:
    """One Column per task, of the models that have it. `index` holds row numbers of `places` by model and column."""
    clusters = cluster_means(root, places)
    facts, found = places[["value", "low", "high", "metric", "better", "unit", "chance"]], []
    for name in index.columns:
        rows = index[name].dropna().astype("int64").tolist()
        found.append(column_of(str(name), facts.iloc[rows], [clusters[row] for row in rows]))
    return found


def about(cells: Any, columns: Sequence[str], filters: Filters, full: Any) -> str:
    """Names the task set."""
    usual = cells[cells.usual & ~is_total(cells)].column.nunique()
    if filters.tasks:
        name = f"{len(columns)} selected tasks"
    elif filters.group in ("", SHARED):
        name = f"all {usual} tasks" if len(columns) == usual else f"{len(columns)} of {usual} tasks, the largest set that most models share"
    else:
        name = f"all {len(columns)} tasks" if filters.group == ALL else f"{filters.group} ({len(columns)} tasks)"
    return f"Ranked on {name}. {int(full.sum())} of {len(full)} models have a score on all of them."


def column_of(name: str, part: Any, clusters: Sequence[Clusters | None]) -> Column:
    """Paired if all models have the same clusters and their scores are means of the items' first statistic."""
    values = part.value.to_numpy(dtype=np.float64)
    errors = np.nan_to_num((part.high - part.low).to_numpy(dtype=np.float64) / (2 * Z95))
    first = part.iloc[0]
    unit = unit_of(first.metric, first.better, first.unit)
    chance = 0.0 if first.chance != first.chance or first.chance is None else float(first.chance)
    kept = [each for each in clusters if each is not None]
    paired = len(kept) == len(values) and all(
        np.array_equal(each.names, kept[0].names) and np.array_equal(each.sizes, kept[0].sizes) and abs(each.mean - value) < 1e-9
        for each, value in zip(kept, values, strict=True)
    )
    means = np.column_stack([each.means for each in kept]) if paired else None
    sign = -1.0 if first.better == "lower" else 1.0
    return Column(
        name, values, errors, means, kept[0].sizes if paired else None, chance if unit else 0.0, unit, sign, floor_of(first.metric, unit)
    )


def rows_of(places: Any, order: Sequence[str], columns: Sequence[str], standing: Standings | None) -> Any:
    """One row per model in `order`, ranked ones first; scores in points."""
    heads = places.sort_values("created_at").groupby("model_digest").last().loc[list(order)]
    count = 0 if standing is None else len(standing.score)
    blank = [None] * (len(order) - count)

    def filled(values: Any) -> list[Any]:
        return [*values, *blank]

    table = frames.DataFrame({"Model": heads.label.to_numpy(), "digest": list(order)})
    s = standing
    table["Rank"] = frames.array(filled(s.rank.tolist() if s else []), dtype="Int64")
    table["Rank interval"] = filled([range_text(a, b) for a, b in zip(s.best.tolist(), s.worst.tolist(), strict=True)] if s else [])
    table["Tier"] = frames.array(filled(s.tier.tolist() if s else []), dtype="Int64")
    table["Score"] = frames.array(filled((100 * s.score).tolist() if s else []), dtype="Float64")
    table["95 % CI"] = filled([span(a, b, 1.0) for a, b in zip(s.low.tolist(), s.high.tolist(), strict=True)] if s else [])
    table["Rank, all rules"] = filled(
        [range_text(int(a), int(b)) for a, b in zip(s.ranks.min(0), s.ranks.max(0), strict=True)] if s else []
    )
    for name in ("low", "high"):
        table[name] = frames.array(filled((100 * getattr(s, name)).tolist() if s else []), dtype="Float64")
    for name in ("best", "worst"):
        table[name] = frames.array(filled(getattr(s, name).tolist() if s else []), dtype="Int64")
    scores = places.assign(shown=[shown_score(row) for row in places[["metric", "better", "unit", "value"]].itertuples()])
    wide = scores.pivot(index="model_digest", columns="column", values="shown").reindex(index=list(order), columns=list(columns))
    table["Coverage"] = wide.notna().sum(axis=1).to_numpy() / max(1, len(columns))
    table = costs(table, places, order).assign(Kind=heads.kind.to_numpy(), Family=heads.family.to_numpy())
    table["Source"] = heads.source.to_numpy()
    table["Last run"] = heads.created_at.dt.strftime("%Y-%m-%d").to_numpy()
    table = frames.concat([table, wide.reset_index(drop=True)], axis=1)
    return table.sort_values(["Rank"], kind="stable", na_position="last").reset_index(drop=True)


def shown_score(cell: Any) -> float:
    unit = unit_of(cell.metric, cell.better, cell.unit)
    return float(100 * cell.value / unit if unit else cell.value)


def costs(table: Any, places: Any, order: Sequence[str]) -> Any:
    """Adds computed tokens per item, engine seconds per 1,000 items, and billions of parameters, over the runs of the scores."""
    once = places.drop_duplicates(["model_digest", "run_id"])
    sums = once.groupby("model_digest")[["tokens", "seconds", "items"]].sum(min_count=1).loc[list(order)]
    per = 1000 / sums["items"].clip(lower=1)
    heads = places.groupby("model_digest").parameters.max().loc[list(order)]
    return table.assign(
        **{
            "Tokens / item": frames.array((sums.tokens * per / 1000).to_numpy(), dtype="Float64"),
            "s / 1k items": frames.array((sums.seconds * per).to_numpy(), dtype="Float64"),
            "Parameters": frames.array((heads / 1e9).to_numpy(), dtype="Float64"),
        }
    )


def ranking_notes(full: Any, ranked: Any, by: Aggregator) -> tuple[str, ...]:
    """How incomplete models are ranked, and why others are not."""
    notes = []
    partly, none = int((ranked & ~full).sum()), int((~ranked).sum())
    if partly:
        notes.append(
            f"≈ marks models that lack some of these tasks ({partly}): their mean is adjusted for the difficulty of the tasks they have, "
            "and their intervals are wider. This assumes that the missing tasks are like the scored ones."
        )
    if none:
        reason = "too few shared scores" if by == AGGREGATORS[0] else "this rule ranks only models with all scores"
        notes.append(f"Not ranked: {none} of {len(full)} models ({reason}).")
    return tuple(notes)


def exclusion_notes(cells: Any, columns: Sequence[str]) -> tuple[str, ...]:
    """Names scores on other versions of tasks, which have columns of their own."""
    others = cells[~cells.usual & ~cells.column.isin(columns)]
    if not len(others):
        return ()
    names = ", ".join(sorted(others.task.unique())[:3])
    return (f"Not shown: scores on other versions of {visible(names, 120)} (models: {others.model_digest.nunique()}).",)


def differ(found: Board, one: str, two: str) -> str:
    """Whether two ranked models (labels) differ, as a sentence that names the higher score first; empty if one is not ranked.

    The interval is that of the ranks and tiers: 95 %, simultaneous over all models compared with the first.
    """
    ranked = found.table.Model.tolist()[: found.ranked]
    if found.standing is None or one not in ranked or two not in ranked:
        return ""
    # Rows of the table are the models in the order of their ranks, equal ones in the order of `standing`.
    order = np.argsort(found.standing.rank, kind="stable")
    first, second = sorted((ranked.index(one), ranked.index(two)))
    i, j = int(order[first]), int(order[second])
    gap, half = 100 * float(found.standing.score[i] - found.standing.score[j]), 100 * float(found.standing.halves[i, j])
    names = ranked[first], ranked[second]
    if not np.isfinite(half):
        return f"{names[0]} and {names[1]} differ by {gap:.1f} points; no item varies, so there is no interval."
    ends = f"{gap:+.1f} points, 95 % interval {gap - half:+.1f} to {gap + half:+.1f}"
    if gap - half > 0:
        return f"{names[0]} is better than {names[1]}: {ends}."
    return f"No significant difference between {names[0]} and {names[1]}: {ends}."


def lead(found: Board) -> str:
    """The model with the highest score, and whether the second differs from it."""
    ranked = found.table.Model.tolist()[: found.ranked]
    if not ranked:
        return "No model is ranked."
    if len(ranked) == 1:
        return ""
    return f"{ranked[0]} has the highest score. {differ(found, ranked[0], ranked[1])}"


def shared_lead(found: Board) -> str:
    """Which further models do not differ from the first; empty if those are none or only the second."""
    names = found.table[found.table.Tier == 1].Model.tolist()
    if len(names) < 3:
        return ""
    shown = ", ".join(names[:4]) + " …" * (len(names) > 4)
    return f"{len(names)} models share the lead ({shown}): none differs significantly from the first."


def basis(found: Board) -> str:
    """What the sentence of `differ` compares."""
    corrected = f", corrected for comparing {found.ranked} models" if found.ranked > 2 else ""
    tasks = "1 task" if len(found.tasks) == 1 else f"{len(found.tasks)} tasks"
    return f"Difference of the Board's scores on {tasks}, resampled by item; 95 % interval{corrected}."
