"""Health: missing scores, scores that cannot be compared, and warnings."""

from __future__ import annotations

from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import frames
from assay.leaderboard.data.formats import points, unit_of
from assay.leaderboard.data.safe_text import folder, plain, visible
from assay.leaderboard.pages import shell

HEADS = {
    "run_id": "run",
    "value": "score",
    "n": "items",
    "unparsed": st.column_config.NumberColumn(format="percent"),
    "truncated": st.column_config.NumberColumn(format="percent"),
    "boundary_moved": "token boundary moved (items)",
    "shots_dropped": "few-shot examples dropped (items)",
}


def coverage() -> None:
    cells = shell.cells()
    st.header("Coverage")
    if not len(cells):
        shell.empty("No ranked scores yet. Score a model:", "assay run --model MODEL --tasks glue,superglue,mmlu")
        return
    columns = sorted(cells[cells.usual & (cells.metric != "total")].column.unique())
    models = list(dict.fromkeys(cells.label))
    present = set(zip(cells.label, cells.column, strict=True))
    grid = frames.DataFrame([{"row": m, "column": visible(c, 40), "value": float((m, c) in present)} for m in models for c in columns])
    missing = int((grid.value == 0).sum())
    st.caption(f"{len(grid) - missing} of {len(grid)} scores are present. Missing scores never count as zero.")
    if len(grid) <= 2500:
        st.altair_chart(charts.heatmap(grid, "scored", middle=False), width="stretch")
    counts = [{"Model": m, "Missing scores": sum((m, c) not in present for c in columns)} for m in models]
    if incomplete := [row for row in counts if row["Missing scores"]]:
        shell.table(sorted(incomplete, key=lambda row: -row["Missing scores"]), hide_index=True, alt="Models with missing scores")


def section(title: str, found: Any, none: str, about: str) -> None:
    """A table of findings with its description, or the text `none`."""
    st.header(title)
    if not len(found):
        st.caption(none)
        return
    st.caption(about)
    shown = found.copy()
    for name in shown.columns:
        if shown[name].dtype == object or str(shown[name].dtype).startswith("str"):
            shown[name] = [visible(folder(each) if name == "model" else each, 160) for each in shown[name]]
    shell.table(shown, column_config=HEADS, hide_index=True, alt=title)


def unranked() -> Any:
    """Unranked scores, in points as on the other pages."""
    found = shell.read("unranked")
    values = [points(row.value, unit_of(row.metric, row.better, row.unit)) for row in found.itertuples()]
    return found.assign(value=values).drop(columns=["better", "chance", "unit"])


def page() -> None:
    shell.head("Health", "Missing scores, scores that cannot be compared, and warnings about tasks and runs.")
    coverage()
    section(
        "Tasks in several versions",
        shell.read("mixed_versions"),
        "None. All scores of a task can be compared.",
        "Scores with different fingerprints (prompts, items, gold or groups) are in separate columns. Run the older ones again to compare.",
    )
    section(
        "Unranked scores",
        unranked(),
        "None. Every score of a complete run is ranked.",
        "Scores of smoke, limited and partial runs, of runs with items in error, and of runs replaced by a later run.",
    )
    section(
        "Task warnings",
        shell.read("task_flags"),
        "None. No task has over 5 % unparsed or truncated responses, moved token boundaries or dropped few-shot examples.",
        "Over 5 % unparsed or truncated responses, prompts whose last tokens change when the answer follows, or dropped few-shot examples.",
    )
    damaged = [run for run in shell.all_runs() if run.status == "damaged"]
    st.header("Damaged runs")
    if not damaged:
        st.caption("None. To verify every hash and score, run: assay store check")
    for run in damaged:
        st.markdown(f"**{plain(run.id)}**")
        st.text(visible(run.trouble, 500))


shell.run_page(page)
