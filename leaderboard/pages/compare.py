"""Compare: the verdict and the differences between two models, item by item, and more models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from assay.harness.reports.formatting import aggregate_line, details
from assay.leaderboard.charts import charts
from assay.leaderboard.data import assembly, frames, paired
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import matrix, reading, shell

FORMATS = {"Baseline": "%.1f", "Candidate": "%.1f", "p": "%.4f"}
CALLOUTS = {"pass": st.success, "regressed": st.error, "inconclusive": st.warning}
MOST_FLIPS = 500


def comparable() -> dict[str, dict[str, str]]:
    """The bundle of each task, by label of what can be compared: a model (its ranked scores) or a run (key "": all its tasks)."""
    cells, runs = shell.cells(), shell.read("runs")
    bundles = dict(zip(runs.run_id, runs.bundle, strict=True))
    found = {
        label: {task: str(bundles[run]) for task, run in zip(part.task, part.run_id, strict=True)}
        for label, part in cells[cells.metric != "total"].groupby("label")
    }
    for run, label in shell.run_labels(runs[runs.status == "complete"]).items():
        found[label] = {"": str(bundles[run])}
    return found


Side = tuple[tuple[str, str], ...]


def load_pairing(folder: str, stamp: str, first: Side, second: Side) -> paired.Pairing:
    return paired.pairing(Path(folder), dict(first), dict(second))


cached_pairing = st.cache_resource(max_entries=16, show_spinner="Comparing item by item ...")(load_pairing)


def setup(found: paired.Pairing) -> None:
    """Tasks that cannot be compared, and settings that differ."""
    if found.blocked:
        lines = [f"{plain(task, 80)}: not comparable: {plain(why, 200)}" for task, why in found.blocked.items()]
        st.error("\n\n".join(lines[:8]), icon=":material/block:")
    if found.settings:
        st.warning("Settings differ between the runs and contribute to every difference below.", icon=":material/tune:")
        shell.table(
            [{"Setting": name, "Baseline": visible(one, 80), "Candidate": visible(two, 80)} for name, one, two in found.settings],
            hide_index=True,
            alt="Settings",
        )
    elif not found.blocked:
        st.caption("Tasks, items, shots, decoding, metrics and settings are the same: only the models differ.")


def verdict(found: paired.Pairing) -> None:
    """The gate's verdict on these tasks with the default policy, and what would decide it."""
    if found.decision is None or found.comparison is None:
        return
    decision = found.decision
    reasons = "; ".join(plain(each, 400) for each in decision.reasons)
    CALLOUTS[decision.verdict](f"**{decision.verdict}**: {reasons}. {plain(aggregate_line(decision), 300)}")
    if decision.delta is not None:
        st.caption(
            "The aggregate weighs a family of tasks by the square root of its items, and likewise the tasks in it: it is not the plain "
            "mean of the differences below. The score on the Board weighs tasks the same, and counts from chance."
        )
    if paired.judged_smoothed(shell.root(), found.runs):
        st.caption("A recorded gate of these runs judged by smoothed accuracy; here plain accuracy decides, and may decide otherwise.")
    with st.expander("What would decide it, and what the verdict covers"):
        for line in details(decision, found.comparison):
            st.markdown(f"- {plain(line, 600)}")
        st.caption("The gate with its default margins. `assay gate` records a decision, counts attempts, and reads your policy.")


def forest(found: paired.Pairing) -> None:
    shown = sorted((row for row in found.rows if row.main and row.difference.bounded), key=lambda row: row.difference.delta)
    if not shown:
        return
    counts = {name: sum(paired.direction(row) == name for row in shown) for name in ("worse", "better", "not significant")}
    st.header(f"{counts['worse']} tasks worse, {counts['better']} better, {counts['not significant']} without a significant difference")
    marks = []
    for number, row in enumerate(shown):
        ends = {name: row.points * getattr(row.difference, name) for name in ("delta", "low", "high")}
        marks.append({"label": visible(row.task, 60), **ends, "sign": paired.direction(row), "order": number})
    st.altair_chart(charts.forest(frames.DataFrame(marks)), width="stretch")
    st.caption(
        "Lines: 90 % confidence intervals. Red or green: p < 0.05 (two-sided), Holm-corrected over all tasks, as in the table below. "
        "The verdict tests for losses only (one-sided), so its p are others."
    )


def flips(found: paired.Pairing, names: tuple[str, str]) -> None:
    """The items whose score changed, and the two responses to the one that is clicked."""
    rows = [row for row in found.rows if row.main and not row.total and (row.gained or row.lost)]
    rows.sort(key=lambda row: len(row.gained) - len(row.lost))  # the task that decides comes first
    if not rows:
        return
    st.header("Flipped items")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        side = st.segmented_control("Change", ["lost", "gained"], default="lost", required=True, key="side", bind="query-params")
        tasks = [row.task for row in rows]
        task = st.selectbox(
            "Task",
            tasks,
            index=None,
            key="task",
            bind="query-params",
            placeholder="all",
            format_func=lambda each: visible(each, 80),
            width=300,
        )
    chosen = [row for row in rows if task in (None, row.task)]
    lost, gained = (sum(len(getattr(row, name)) for row in chosen) for name in ("lost", "gained"))
    items = sum(row.difference.n for row in found.rows if row.main and not row.total and task in (None, row.task))
    st.caption(f"The candidate lost {lost} and gained {gained} of {items} items. Click a row to read both responses.")
    ordered = chosen if side == "lost" else chosen[::-1]
    listed = [(row.task, item) for row in ordered for item in getattr(row, str(side))][:MOST_FLIPS]
    if not listed:
        return
    shown = shell.read("flipped", tuple(found.runs[task] for task, _ in listed), tuple(listed))
    event = shell.table(
        [
            {
                "Task": visible(row.task, 60),
                "Item": visible(row.item_id, 40),
                "Gold": visible(row.gold, 80),
                "Baseline": visible(row.baseline_output, 160),
                "Candidate": visible(row.candidate_output, 160),
            }
            for row in shown.itertuples()
        ],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="flips",
        height=shell.fitting(len(shown), 8),
        alt="Flipped items with both responses",
    )
    picked = event.selection.rows
    row = shown.iloc[picked[0] if picked and picked[0] < len(shown) else 0]
    beside(row, found.runs[row.task], names)


def beside(row: Any, runs: tuple[str, str], names: tuple[str, str]) -> None:
    """The prompt and the two responses side by side."""
    responses = shell.read("responses", row.task, row.item_id)
    sides = [responses[responses.run_id == run] for run in runs]
    if not all(len(part) for part in sides):
        return
    one, two = (part.iloc[0] for part in sides)
    st.markdown(f"**{plain(row.task, 80)}, item {plain(row.item_id, 60)}** · gold: {plain(one.gold, 400)}")
    if one.prompt != two.prompt:
        st.caption("The candidate had another prompt; this is the baseline's.")
    reading.prompt(str(one.prompt), shell.other_prompts(runs[0], row.task, row.item_id))
    reading.two_answers(names, (reading.outcome(one), reading.outcome(two)), (str(one.output), str(two.output)))
    shell.link("items", "All responses to this item", of=row.task, item=row.item_id)


def side_by_side(labels: list[str]) -> None:
    """The matrix of the chosen models, on all tasks."""
    cells = shell.cells()
    models = [label for label in labels if label in set(cells.label)]
    if len(models) > 1:
        found = shell.board(assembly.Filters(group=assembly.ALL, models=tuple(models)), AGGREGATORS[0])
        if found.matrix is not None:
            st.header("Side by side")
            matrix.show(found.matrix, ranked=False)
            st.caption(
                "Tints compare these models only, each task on its own at 95 %; the chart above corrects for the number of tasks (Holm), "
                "so it calls fewer differences significant. Ranks are on the Board."
            )


def page() -> None:
    shell.head("Compare", "Paired by item, with the statistics of assay compare and assay gate.")
    known = comparable()
    if len(known) < 2:
        shell.empty("A comparison needs two complete runs. Score another model:", "assay run --model OTHER --tasks TASKS")
        return
    left, right, more = st.columns([2, 2, 1])
    first = left.selectbox("Baseline", list(known), index=None, key="first", bind="query-params", placeholder="choose a model or run")
    second = right.selectbox("Candidate", list(known), index=None, key="second", bind="query-params", placeholder="choose a model or run")
    others = more.multiselect("More models", list(dict.fromkeys(shell.cells().label)), key="more", bind="query-params", placeholder="none")
    if first not in known or second not in known:
        shell.empty("Choose two models or runs, or tick them on the Board. On the command line:", "assay compare BASELINE CANDIDATE")
        return
    one, two = (tuple(sorted(known[str(each)].items())) for each in (first, second))
    found = cached_pairing(str(shell.root()), shell.stamp(), one, two)
    if not found.runs:
        shell.empty("These two have no task in common. Score one on the tasks of the other:", "assay run --model OTHER --tasks TASKS")
        return
    verdict(found)
    setup(found)
    forest(found)
    table = paired.table(found)
    shown = table.assign(Task=[visible(text, 80) for text in table.Task], Note=[visible(text, 120) for text in table.Note])
    config = {name: st.column_config.NumberColumn(format=form) for name, form in FORMATS.items()}
    config["MDE80"] = st.column_config.NumberColumn(
        format="%.1f", help="Minimum detectable effect: the smallest loss in points that the test detects with 80 % power."
    )
    for name in ("Low", "High"):
        config[name] = st.column_config.NumberColumn(format="%+.1f", help="Limit of the 90 % confidence interval, points.")
    help_p = "Two-sided, Holm-corrected over all tasks. The verdict tests for losses only (one-sided), so its p are others."
    config["p (Holm)"] = st.column_config.NumberColumn(format="%.4f", help=help_p)
    config["Difference"] = st.column_config.NumberColumn(format="%+.1f", help="Candidate minus baseline, points; higher is better.")
    config["Task"] = st.column_config.TextColumn(pinned=True)
    order = [name for name in paired.COLUMNS if name not in ("Main", "p")]
    shell.table(
        shown,
        column_order=order,
        hide_index=True,
        column_config=config,
        placeholder="–",
        height=shell.fitting(len(shown)),
        alt="Paired differences",
    )
    shell.downloads(table, "compare")
    flips(found, (str(first), str(second)))
    side_by_side([str(first), str(second), *others])


shell.run_page(page)
