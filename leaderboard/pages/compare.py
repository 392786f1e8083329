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
MOST_PROMPT = 400
"""Characters of the most decisive item's prompt that are shown at the top of the page: its end, which is the item's own part."""


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


def load_deciding(folder: str, stamp: str, first: Side, second: Side) -> paired.Deciding:
    runs = shell.read("runs")
    bundles = dict(zip(runs.run_id, runs.bundle, strict=True))
    return paired.deciding(Path(folder), cached_pairing(folder, stamp, first, second), bundles)


cached_deciding = st.cache_resource(max_entries=16, show_spinner=False)(load_deciding)


def finding(first: str, second: str) -> str:
    """Says whether the two models differ, in the words of the Board, and returns the one with the higher score; empty if not ranked."""
    pair = assembly.Filters(group=assembly.ALL, models=(first, second))
    for filters in (assembly.Filters(group=assembly.SHARED), pair):
        found = shell.board(filters, AGGREGATORS[0])
        if text := assembly.differ(found, first, second):
            st.markdown(f"**{plain(text)}**")
            st.caption(plain(assembly.basis(found)))
            return min(first, second, key=found.table.Model.tolist().index)
    return ""


def deciders(found: paired.Pairing, changed: paired.Deciding, names: tuple[str, str], better: str) -> None:
    """The most decisive item of the `better` model: its prompt, gold and both responses, and which follow."""
    sides = dict(zip(names, (changed.lost, changed.gained), strict=True))
    better = better if sides.get(better) else max(names, key=lambda name: len(sides[name]))
    if not (items := sides[better]):
        return
    top, count = items[0], len(changed.lost) + len(changed.gained)
    st.header("Items that decide")
    counts = ", ".join(f"{plain(name)} is better on {len(each)}" for name, each in sides.items())
    margin = f" (margin {top.margins[0]:+.1f} → {top.margins[1]:+.1f})" if top.margins else ""
    st.markdown(
        f"{count} of {changed.items:,} items decide: {counts}. "
        f"**Most decisive: item {plain(top.item, 60)} of {plain(top.task, 80)}**{margin}."
    )
    for row in shell.read("flipped", (found.runs[top.task],), ((top.task, top.item),)).itertuples():
        beside(row, found.runs[top.task], names, MOST_PROMPT)
    following = ", ".join(f"item {plain(each.item, 40)} of task {plain(each.task, 60)}" for each in items[1:4])
    st.caption(
        f"Next: {following}. "
        * bool(following)
        + f"An item decides if the two scores on it differ. First the task on which {plain(better)} wins most items net, then the largest "
        "change of the margin: log-likelihood of the gold choice minus the best other choice, nats, baseline → candidate."
    )


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
    CALLOUTS[decision.verdict](f"**Release gate: {decision.verdict}**: {reasons}. {plain(aggregate_line(decision), 300)}")
    if decision.delta is not None:
        st.caption(
            "The gate asks whether a loss of more than its margin is excluded, for these two models alone: its limits are one-sided at "
            "95 % (a 90 % interval). Its aggregate weighs a family of tasks, and a task in it, by the square root of its items; "
            "the Board weighs tasks the same, and counts from chance."
        )
    if paired.judged_smoothed(shell.root(), found.runs):
        st.caption("A recorded gate of these runs judged by smoothed accuracy; here plain accuracy decides, and may decide otherwise.")
    with st.expander("What would decide it, and what the verdict covers"):
        for line in details(decision, found.comparison):
            st.markdown(f"- {plain(line, 600)}")
        st.caption("The gate with its default margins. `assay gate` records a decision, counts attempts, and reads your policy.")


def forest(found: paired.Pairing, candidate: str) -> None:
    shown = sorted((row for row in found.rows if row.main and row.difference.bounded), key=lambda row: row.difference.delta)
    if not shown:
        return
    counts = {name: sum(paired.direction(row) == name for row in shown) for name in ("worse", "better", "not significant")}
    st.header(
        f"{plain(candidate, 60)} against the baseline: {counts['worse']} tasks worse, {counts['better']} better, "
        f"{counts['not significant']} without a significant difference"
    )
    marks = []
    for number, row in enumerate(shown):
        ends = {name: row.points * getattr(row.difference, name) for name in ("delta", "low", "high")}
        marks.append({"label": visible(row.task, 60), **ends, "sign": paired.direction(row), "order": number})
    st.altair_chart(charts.forest(frames.DataFrame(marks)), width="stretch")
    st.caption(
        "Lines: 90 % confidence intervals. Red: worse, green: better, with p < 0.05 (two-sided), Holm-corrected over all tasks, as in the "
        "table below; grey: not significant. "
        "The verdict tests for losses only (one-sided), so its p are others."
    )


def flips(found: paired.Pairing, changed: paired.Deciding, names: tuple[str, str]) -> None:
    """The items whose score changed, most decisive first, and the two responses to the one that is clicked."""
    if not changed.lost and not changed.gained:
        return
    st.header("Flipped items")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        side = st.segmented_control("Change", ["lost", "gained"], default="lost", required=True, key="side", bind="query-params")
        task = st.selectbox(
            "Task",
            list(dict.fromkeys(item.task for item in (*changed.lost, *changed.gained))),
            index=None,
            key="task",
            bind="query-params",
            placeholder="all",
            format_func=lambda each: visible(each, 80),
            width=300,
        )
    lost, gained = ([item for item in items if task in (None, item.task)] for items in (changed.lost, changed.gained))
    items = sum(row.difference.n for row in found.rows if row.main and not row.total and task in (None, row.task))
    st.caption(f"The candidate lost {len(lost)} and gained {len(gained)} of {items} items. Click a row to read both responses.")
    listed = [(item.task, item.item) for item in (lost if side == "lost" else gained)][:MOST_FLIPS]
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
        links=[shell.address("items", of=row.task, item=row.item_id) for row in shown.itertuples()],
    )
    picked = event.selection.rows
    if picked and picked[0] < len(shown):
        row = shown.iloc[picked[0]]
        st.markdown(f"**{plain(row.task, 80)}, item {plain(row.item_id, 60)}**")
        beside(row, found.runs[row.task], names)


def beside(row: Any, runs: tuple[str, str], names: tuple[str, str], most: int = 0) -> None:
    """The prompt and the two responses side by side; of a prompt with more than `most` characters (0: any number) the end."""
    responses = shell.read("responses", row.task, row.item_id)
    sides = [responses[responses.run_id == run] for run in runs]
    if not all(len(part) for part in sides):
        return
    one, two = (part.iloc[0] for part in sides)
    if one.prompt != two.prompt:
        st.caption("The candidate had another prompt; this is the baseline's.")
    others = shell.other_prompts(runs[0], row.task, row.item_id)
    if most:
        reading.short_prompt(str(one.prompt), str(one.gold), others, most)
    else:
        reading.prompt(str(one.prompt), others)
        st.markdown(f"Gold: {plain(one.gold, 400)}")
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
    better = finding(str(first), str(second))
    verdict(found)
    changed = cached_deciding(str(shell.root()), shell.stamp(), one, two)
    deciders(found, changed, (str(first), str(second)), better)
    setup(found)
    forest(found, str(second))
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
    flips(found, changed, (str(first), str(second)))
    side_by_side([str(first), str(second), *others])


shell.run_page(page)
