"""Task: is it still a measure? Scores against chance and ceiling, and what its items are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import frames
from assay.leaderboard.data.difficulty import FEW_MODELS, discrimination, kinds, matrix, smallest_difference
from assay.leaderboard.data.shown import plain, visible
from assay.leaderboard.data.units import unit_of
from assay.leaderboard.pages import shell

MOST = 60  # models whose items are read at once


def models(part: Any) -> None:
    """Every model's score with interval, against chance."""
    cell = part.iloc[0]
    unit = unit_of(cell.metric, cell.better, cell.unit)
    scale = 100 / unit if unit else 1.0
    ordered = part.sort_values("value", ascending=cell.better == "lower").reset_index(drop=True)
    table = ordered[["label", "value", "low", "high", "chance"]].rename(columns={"value": "score"})
    for name in ("score", "low", "high", "chance"):
        table[name] = table[name].astype("float64") * scale
    table["order"] = range(len(table))
    st.altair_chart(charts.scores(table.head(50)), width="stretch")
    chance = table.chance.iloc[0]
    if chance == chance:
        guessing = int((table.low <= chance).sum())
        st.caption(f"Guessing gives {chance:.1f}. {guessing} of {len(table)} models are not shown to be better than that.")
    if unit and (table.high > 99).any():
        st.caption(f"{int((table.high > 99).sum())} models may be at the ceiling: the task no longer tells them apart.")


def worth(part: Any, items: Any, task: str) -> None:
    """Difficulty and discrimination of the items."""
    names, runs, values = matrix(items)
    if not len(names):
        st.caption("The models have no item in common.")
        return
    binary = bool(((values >= 0) & (values <= 1)).all())
    if not binary:
        st.caption("This metric's item statistics are no shares of right: no difficulty is shown.")
        return
    found = discrimination(values)
    table = frames.DataFrame(
        {
            "item": [visible(each, 80) for each in names],
            "difficulty": 1 - values.mean(axis=1),
            "discrimination": found,
            "kind": kinds(values, found),
        }
    )
    counts = table.kind.value_counts()
    with st.container(horizontal=True):
        st.metric("Items", f"{len(names):,}", border=True)
        for kind in ("all right", "all wrong", "suspicious"):
            st.metric(kind.capitalize(), f"{int(counts.get(kind, 0)):,}", border=True)
        smallest = 100 * smallest_difference(values)
        st.metric(
            "Smallest difference seen",
            f"{smallest:.1f}" if np.isfinite(smallest) else "–",
            border=True,
            help="In points, between two typical models, paired, with probability 0.80.",
        )
    left, right = st.columns(2)
    with left:
        st.altair_chart(charts.histogram(frames.DataFrame({"value": table.difficulty}), "share of models that are wrong"), width="stretch")
    with right:
        if len(runs) < FEW_MODELS:
            st.caption(f"Discrimination needs at least {FEW_MODELS} models on the same items; there are {len(runs)}.")
        else:
            drawn = table[table.discrimination.notna()]
            st.altair_chart(charts.items(drawn.head(3000)), width="stretch")
    st.subheader("Items to look at")
    st.caption("Suspicious items are failed by the better models: often the gold answer is wrong. All wrong: too hard, or broken.")
    rank = {"suspicious": 0, "all wrong": 1}
    doubtful = table[table.kind.isin(list(rank))].assign(raw=[name for name, kind in zip(names, table.kind, strict=True) if kind in rank])
    doubtful = doubtful.sort_values(["discrimination", "difficulty"], ascending=[True, False], na_position="last")
    if not len(doubtful):
        st.caption("None.")
        return
    shell.table(
        doubtful.head(500),
        column_order=["kind", "item", "difficulty", "discrimination"],
        hide_index=True,
        placeholder="–",
        alt="Items to look at",
    )
    shell.downloads(doubtful.drop(columns="raw"), "items")
    item = st.selectbox("Item", doubtful.raw.tolist(), key="doubt", bind="query-params", format_func=lambda each: visible(each, 80))
    shell.link("items", "What was sent and what came back", of=task, item=str(item))


def page() -> None:
    shell.head("Task", "Is it still a measure? Scores against guessing and ceiling, and how hard and how telling its items are.")
    cells = shell.cells()
    cells = cells[cells.metric != "total"]
    if not len(cells):
        shell.empty("No task has a release score yet.", "assay run --model MODEL --tasks glue,superglue,mmlu")
        return
    column = st.selectbox("Task", sorted(cells.column.unique()), key="column", bind="query-params")
    part = cells[cells.column == column] if column in set(cells.column) else cells[cells.column == cells.column.iloc[0]]
    cell = part.iloc[0]
    st.caption(
        f"{plain(cell.metric, 40)} · {int(cell.n or 0):,} items · {plain(cell.shots)} shots · fingerprint {plain(cell.fingerprint, 40)}"
    )
    models(part)
    newest = part.sort_values("created_at").tail(MOST)
    st.subheader("Items")
    worth(part, shell.read("task_items", cell.task, cell.metric, tuple(newest.run_id)), cell.task)
    versions = shell.read("mixed_versions")
    if cell.task in set(versions.task):
        st.warning(
            "This task was run in several versions, which cannot be compared. The page shows one; Health lists all.",
            icon=":material/difference:",
        )


shell.guarded(page)
