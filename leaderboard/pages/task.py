"""Task: scores of all models against chance, and difficulty and discrimination of the items."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import frames
from assay.leaderboard.data.difficulty import MIN_MODELS, detectable_difference, discrimination, kinds, matrix
from assay.leaderboard.data.formats import unit_of
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell

MOST_MODELS = 60  # whose items are read at once


def models(part: Any) -> None:
    """Every model's score with confidence interval and chance level."""
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
        above = int((table.low > chance).sum())
        st.caption(f"Chance level: {chance:.1f} points. {above} of {len(table)} models are significantly above it.")
    if unit and (high := int((table.high >= 99).sum())):
        reach = "interval of 1 model reaches" if high == 1 else f"intervals of {high} models reach"
        st.caption(f"The confidence {reach} 99 points. Two or more make a ceiling: the best models cannot be told apart.")


def item_statistics(part: Any, items: Any, task: str) -> None:
    """Difficulty and discrimination of the items."""
    names, runs, values = matrix(items)
    if not len(names):
        st.caption("No item statistics: the models have no item in common.")
        return
    binary = bool(((values >= 0) & (values <= 1)).all())
    if not binary:
        st.caption("No difficulty: this metric does not score items between 0 and 1.")
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
        effect = 100 * detectable_difference(values)
        st.metric(
            "Minimum detectable effect",
            f"{effect:.1f}" if np.isfinite(effect) else "–",
            border=True,
            help="In points: the difference between two typical models that a paired test detects with 80 % power.",
        )
    left, right = st.columns(2)
    with left:
        st.altair_chart(
            charts.histogram(frames.DataFrame({"value": table.difficulty}), "difficulty (share of models that are wrong)"), width="stretch"
        )
    with right:
        if len(runs) < MIN_MODELS:
            st.caption(f"Discrimination needs at least {MIN_MODELS} models on the same items, found {len(runs)}.")
        else:
            drawn = table[table.discrimination.notna()]
            st.altair_chart(charts.item_scatter(drawn.head(3000)), width="stretch")
            st.caption("Discrimination: correlation over models of the item's score with the mean on the other items.")
    items_to_check(table, names, task)


def items_to_check(table: Any, names: Any, task: str) -> None:
    """Suspicious items and those that every model fails, with a link to their prompts and responses."""
    st.header("Items to check")
    st.caption(
        "Suspicious: better models fail it (discrimination below −0.2); the gold answer may be wrong. All wrong: too hard or broken."
    )
    rank = {"suspicious": 0, "all wrong": 1}
    to_check = table[table.kind.isin(list(rank))].assign(raw=[name for name, kind in zip(names, table.kind, strict=True) if kind in rank])
    to_check = to_check.sort_values(["discrimination", "difficulty"], ascending=[True, False], na_position="last")
    if not len(to_check):
        st.caption("None.")
        return
    shell.table(
        to_check.head(500),
        column_order=["kind", "item", "difficulty", "discrimination"],
        hide_index=True,
        placeholder="–",
        alt="Items to check",
    )
    shell.downloads(to_check.drop(columns="raw"), "items")
    item = st.selectbox("Item", to_check.raw.tolist(), key="doubt", bind="query-params", format_func=lambda each: visible(each, 80))
    shell.link("items", "Prompt and responses", of=task, item=str(item))


def page() -> None:
    shell.head("Task", "Scores of all models on one task against chance, and difficulty and discrimination of its items.")
    cells = shell.cells()
    cells = cells[cells.metric != "total"]
    if not len(cells):
        shell.empty("No ranked scores yet. Score a model:", "assay run --model MODEL --tasks glue,superglue,mmlu")
        return
    column = st.selectbox("Task", sorted(cells.column.unique()), key="column", bind="query-params")
    part = cells[cells.column == column] if column in set(cells.column) else cells[cells.column == cells.column.iloc[0]]
    cell = part.iloc[0]
    st.caption(
        f"{plain(cell.metric, 40)} · {int(cell.n or 0):,} items · {plain(cell.shots)} shots · fingerprint {plain(cell.fingerprint, 40)}"
    )
    models(part)
    newest = part.sort_values("created_at").tail(MOST_MODELS)
    st.header("Items")
    item_statistics(part, shell.read("task_items", cell.task, cell.metric, tuple(newest.run_id)), cell.task)
    versions = shell.read("mixed_versions")
    if cell.task in set(versions.task):
        st.warning(
            "Runs used several versions of this task, which cannot be compared. This page shows one; Health lists all.",
            icon=":material/difference:",
        )


shell.run_page(page)
