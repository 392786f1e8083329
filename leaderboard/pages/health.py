"""Health: what is missing, what cannot be compared, and what was flagged."""

from __future__ import annotations

from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import frames
from assay.leaderboard.data.shown import plain, visible
from assay.leaderboard.pages import shell


def coverage() -> None:
    cells = shell.cells()
    st.subheader("Scores that are there")
    if not len(cells):
        shell.empty("No release score on all items yet.", "assay run --model MODEL --tasks glue,superglue,mmlu")
        return
    columns = sorted(cells[cells.usual & (cells.metric != "total")].column.unique())
    models = list(dict.fromkeys(cells.label))
    there = set(zip(cells.label, cells.column, strict=True))
    grid = frames.DataFrame([{"row": m, "column": visible(c, 40), "value": float((m, c) in there)} for m in models for c in columns])
    missing = int((grid.value == 0).sum())
    st.caption(f"{len(grid) - missing} of {len(grid)} cells; {missing} are missing and never count as zero.")
    if len(grid) <= 2500:
        st.altair_chart(charts.heat(grid, "scored", middle=False), width="stretch")
    lacking = [{"Model": m, "Missing": sum((m, c) not in there for c in columns)} for m in models]
    if lacking := [row for row in lacking if row["Missing"]]:
        shell.table(sorted(lacking, key=lambda row: -row["Missing"]), hide_index=True, alt="Models with missing cells")


def section(title: str, found: Any, fine: str, about: str) -> None:
    """A table of findings, or the sentence that there are none."""
    st.subheader(title)
    if not len(found):
        st.caption(fine)
        return
    st.caption(about)
    shown = found.copy()
    for name in shown.columns:
        if shown[name].dtype == object or str(shown[name].dtype).startswith("str"):
            shown[name] = [visible(each, 160) for each in shown[name]]
    shell.table(shown, hide_index=True, alt=title)


def page() -> None:
    shell.head("Health", "What is missing, what cannot be compared, and what a reader of the board should doubt.")
    coverage()
    section(
        "Tasks in several versions",
        shell.read("mixed_versions"),
        "Every task has one version: all its scores can be compared.",
        "Scores of different fingerprints (prompts, items, gold or groups) never share a column. Run the older ones again.",
    )
    section(
        "Scores that are not ranked",
        shell.read("unranked"),
        "Every score of a complete run is ranked.",
        "Smoke, limited and partial runs, runs with items in error, and runs that a later one replaced.",
    )
    section(
        "Flags of tasks",
        shell.read("task_facts"),
        "No task has many unparsed or truncated answers, moved token boundaries or dropped exemplars.",
        "More than 5 % unparsed or truncated answers, prompts whose token boundary moved at the answer, prompts with exemplars left out.",
    )
    damaged = [run for run in shell.all_runs() if run.status == "damaged"]
    st.subheader("Damaged runs")
    if not damaged:
        st.caption("None. Every hash and score is verified by: assay store check")
    for run in damaged:
        st.markdown(f"**{plain(run.id)}**")
        st.text(visible(run.trouble, 500))


shell.guarded(page)
