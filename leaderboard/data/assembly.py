"""From the cells of the index to one board: comparable columns, ranked rows, and what had to be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.leaderboard.data import frames
from assay.leaderboard.data.queries import Clusters, cluster_means
from assay.leaderboard.data.ranking import Aggregator, Array, Column, Standings, standings
from assay.leaderboard.data.shown import family, labels, range_text, span, visible
from assay.leaderboard.data.units import unit_of

SIZES = {"under 1 B": (0.0, 1e9), "1 to 10 B": (1e9, 1e10), "over 10 B": (1e10, np.inf)}
KINDS = ("base", "adapter")
Z95 = 1.959964


@dataclass(frozen=True, slots=True)
class Wish:
    """What the reader chose. Empty means all; `group` is the part of a task's name before the slash."""

    group: str = ""
    tasks: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    name: str = ""
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Board:
    """`table` has one row per model, ranked ones first; `tasks` are its columns of scores; `left_out` what is not shown
    or not ranked."""

    table: Any
    tasks: tuple[str, ...]
    standing: Standings | None
    ranked: int
    left_out: tuple[str, ...]
    unpaired: tuple[str, ...]
    """Tasks whose score is no mean of item scores: drawn from their intervals, each model on its own."""


def group_of(task: str) -> str:
    return task.split("/")[0].split("@")[0]


def with_columns(cells: Any) -> Any:
    """Adds `column`, `label`, `family`, `kind`, `group`. One column holds one fingerprint: of a task in several versions, the one that
    most models have (then the latest) keeps the task's name, the others are named after their fingerprint."""
    found = cells.copy()
    found["label"] = labels(found.model.tolist(), found.model_digest.tolist())
    seen = found.drop_duplicates("model_digest")
    found["label"] = found.model_digest.map(
        dict(zip(seen.model_digest, labels(seen.model.tolist(), seen.model_digest.tolist()), strict=True))
    )
    found["family"] = [family(name) for name in found.model]
    found["kind"] = np.where(found.adapter.fillna("") != "", "adapter", "base")
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
    """Totals repeat their tasks: they are shown where asked for, and never ranked beside them."""
    return cells.metric == "total"


def chosen(cells: Any, wish: Wish) -> tuple[Any, tuple[str, ...]]:
    """The cells and the columns that fit a wish."""
    kept = cells
    if wish.tasks:
        columns = tuple(name for name in wish.tasks if name in set(cells.column))
    else:
        usual = cells[cells.usual & ~is_total(cells)]
        usual = usual[usual.group == wish.group] if wish.group else usual
        columns = tuple(sorted(usual.column.unique()))
    if wish.families:
        kept = kept[kept.family.isin(wish.families)]
    if wish.kinds:
        kept = kept[kept.kind.isin(wish.kinds)]
    if wish.sizes:
        fits = np.zeros(len(kept), dtype=bool)
        for name in wish.sizes:
            low, high = SIZES.get(name, (np.inf, np.inf))
            fits |= ((kept.parameters >= low) & (kept.parameters < high)).to_numpy()
        kept = kept[fits]
    if wish.name:
        kept = kept[kept.model.str.lower().str.contains(wish.name.lower(), regex=False)]
    return kept[kept.column.isin(columns)], columns


def assemble(root: Path, cells: Any, wish: Wish, by: Aggregator) -> Board:
    """The board. Models without a score in some column are listed but not ranked: a missing cell is never a zero."""
    kept, columns = chosen(cells, wish)
    if not len(kept):
        return Board(kept, columns, None, 0, (), ())
    places = kept.reset_index(drop=True)
    grid = places.reset_index().pivot(index="model_digest", columns="column", values="index").reindex(columns=list(columns))
    whole = grid.notna().all(axis=1)
    order = [*grid.index[whole], *grid.index[~whole]] if not wish.complete else list(grid.index[whole])
    ranked = int(whole.sum())
    standing: Standings | None = None
    unpaired: tuple[str, ...] = ()
    if ranked:
        index = grid.loc[order[:ranked]].to_numpy(dtype=np.int64)
        found = ranking_columns(root, places, index, columns)
        standing = standings(found, by)
        unpaired = tuple(column.task for column in found if column.means is None)
    notes = left_out(cells, columns, len(grid), ranked)
    table = rows_of(places, order, columns, standing) if order else places.iloc[:0]
    return Board(table, columns, standing, ranked, notes, unpaired)


def ranking_columns(root: Path, places: Any, index: Any, columns: Sequence[str]) -> list[Column]:
    """One Column per task for the models of `index` [M, T], which holds rows of `places`."""
    flat = places.iloc[index.T.ravel()]
    models, found = len(index), []
    clusters = cluster_means(root, flat)
    for number, name in enumerate(columns):
        part = flat.iloc[number * models : (number + 1) * models]
        found.append(column_of(name, part, clusters[number * models : (number + 1) * models]))
    return found


def column_of(name: str, part: Any, clusters: Sequence[Clusters | None]) -> Column:
    """Paired where every model has the same clusters and its score is the mean of its items' first statistic."""
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
    return Column(name, values, errors, means, kept[0].sizes if paired else None, chance if unit else 0.0, unit, sign)


def rows_of(places: Any, order: Sequence[str], columns: Sequence[str], standing: Standings | None) -> Any:
    """One row per model in `order`; scores in points. Those after the ranked have no rank."""
    heads = places.sort_values("created_at").groupby("model_digest").last().loc[list(order)]
    count = 0 if standing is None else len(standing.score)
    blank = [None] * (len(order) - count)

    def filled(values: Any) -> list[Any]:
        return [*values, *blank]

    table = frames.DataFrame({"Model": heads.label.to_numpy(), "digest": list(order)})
    s = standing
    table["#"] = frames.array(filled(s.rank.tolist() if s else []), dtype="Int64")
    table["Rank"] = filled([range_text(a, b) for a, b in zip(s.best.tolist(), s.worst.tolist(), strict=True)] if s else [])
    table["Tier"] = frames.array(filled(s.tier.tolist() if s else []), dtype="Int64")
    table["Score"] = frames.array(filled((100 * s.score).tolist() if s else []), dtype="Float64")
    table["95 %"] = filled([span(a, b, 1.0) for a, b in zip(s.low.tolist(), s.high.tolist(), strict=True)] if s else [])
    table["By rule"] = filled([range_text(int(a), int(b)) for a, b in zip(s.ranks.min(0), s.ranks.max(0), strict=True)] if s else [])
    for name in ("low", "high"):
        table[name] = frames.array(filled((100 * getattr(s, name)).tolist() if s else []), dtype="Float64")
    for name in ("best", "worst"):
        table[name] = frames.array(filled(getattr(s, name).tolist() if s else []), dtype="Int64")
    scores = places.assign(shown=[shown_score(row) for row in places.itertuples()])
    wide = scores.pivot(index="model_digest", columns="column", values="shown").reindex(index=list(order), columns=list(columns))
    table["Coverage"] = wide.notna().sum(axis=1).to_numpy() / max(1, len(columns))
    table = costs(table, places, order).assign(Kind=heads.kind.to_numpy(), Family=heads.family.to_numpy())
    table["Source"] = heads.source.to_numpy()
    table["Last run"] = heads.created_at.dt.strftime("%Y-%m-%d").to_numpy()
    table = frames.concat([table, wide.reset_index(drop=True)], axis=1)
    return table.sort_values(["#"], kind="stable", na_position="last").reset_index(drop=True)


def shown_score(cell: Any) -> float:
    unit = unit_of(cell.metric, cell.better, cell.unit)
    return float(100 * cell.value / unit if unit else cell.value)


def costs(table: Any, places: Any, order: Sequence[str]) -> Any:
    """Tokens through the model and seconds of the engine per 1,000 items, over the runs that the scores are from."""
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


def left_out(cells: Any, columns: Sequence[str], models: int, ranked: int) -> tuple[str, ...]:
    notes = []
    if ranked < models:
        notes.append(f"Without a rank, for lack of a score in some of the {len(columns)} tasks: {models - ranked} of {models} models.")
    others = cells[~cells.usual & ~cells.column.isin(columns)]
    if len(others):
        names = ", ".join(sorted(others.task.unique())[:3])
        count = others.model_digest.nunique()
        notes.append(f"Not comparable, so not in the column: {count} with another version of {visible(names, 120)}.")
    return tuple(notes)


def frontier(cost: Array, score: Array) -> Any:
    """[M] whether no other model is at most as dear and at least as good (and one of them strictly)."""
    cheaper = (cost[None, :] <= cost[:, None]) & (score[None, :] >= score[:, None])
    strictly = (cost[None, :] < cost[:, None]) | (score[None, :] > score[:, None])
    return ~(cheaper & strictly).any(axis=1)
