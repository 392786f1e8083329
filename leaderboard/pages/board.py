"""Board: the matrix of models and tasks, ranked with intervals."""

from __future__ import annotations

import numpy as np
import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data.assembly import ALL, KINDS, SHARED, SIZES, Board, Filters, basis, lead, shared_lead
from assay.leaderboard.data.ranking import AGGREGATORS, pareto_front
from assay.leaderboard.data.safe_text import plain
from assay.leaderboard.pages import matrix, shell
from assay.leaderboard.pages.suites import save, saved

RULES = {
    "chance-normalised mean": "Score: mean over tasks of (score − chance) ÷ (best possible − chance), in points. Tasks weigh the same.",
    "mean win rate": "Score: share of the other models that a model beats on a task (ties count half), averaged over tasks.",
    "Borda": "Score: number of other models beaten on a task (ties count half), averaged over tasks. Same order as mean win rate.",
    "Bradley-Terry": "Score: strength fitted to items that one of two models gets right and the other wrong; ties do not count.",
}
COSTS = {"Parameters (B)": "Parameters", "Tokens per item": "Tokens / item", "Seconds per 1,000 items": "s / 1k items"}


def read_filters() -> tuple[Filters, str]:
    """The selected filters and aggregation rule; all are in the URL."""
    data = shell.cells()
    suites = saved(shell.root())
    with st.container(horizontal=True, vertical_alignment="bottom"):
        group = st.selectbox(
            "Task set",
            [SHARED, ALL, *sorted(suites), *sorted(set(data.group) - set(suites))],
            key="set",
            bind="query-params",
            width=200,
            help="The largest shared set ranks the most models on all of its tasks.",
        )
        name = st.text_input("Model name", key="name", bind="query-params", placeholder="part of a name", width=200)
        with st.popover("More filters"):
            by = st.segmented_control("Rank by", AGGREGATORS, default=AGGREGATORS[0], required=True, key="by", bind="query-params")
            complete = st.toggle(
                "Complete only", key="complete", bind="query-params", help="Hide models that lack a score in at least one task."
            )
            tasks = st.multiselect("Tasks", sorted(data.column.unique()), key="tasks", bind="query-params", placeholder="all of the set")
            save_suite(tasks)
            families = st.multiselect("Family", sorted(data.family.unique()), key="family", bind="query-params", placeholder="any")
            sizes = st.pills("Parameters", list(SIZES), selection_mode="multi", key="size", bind="query-params")
            kinds = st.pills("Weights", KINDS, selection_mode="multi", key="kind", bind="query-params")
    return Filters(
        group or "", tuple(tasks) or suites.get(str(group), ()), tuple(families), tuple(sizes), tuple(kinds), name.strip(), complete
    ), str(by)


def save_suite(tasks: list[str]) -> None:
    """Saves the selected tasks under a name; only on this machine."""
    if not tasks or shell.exposed():
        return
    with st.form("suite", clear_on_submit=True, border=False):
        name = st.text_input("Save these tasks as a suite", placeholder="name")
        if st.form_submit_button("Save"):
            save(shell.root(), name, tasks)
            st.rerun()


def notes(found: Board) -> None:
    """Warnings and notes on the ranks."""
    if found.standing is not None and found.standing.rule_dependent.any():
        first = found.standing.ranks.argmin(axis=1)
        names = found.table.Model.tolist()
        order = np.argsort(found.standing.rank, kind="stable")
        place = {int(model): row for row, model in enumerate(order)}
        leaders = list(dict.fromkeys(names[place[int(model)]] for model in first))
        moved = [
            f"{plain(row.Model)} ({row.span})"
            for row in found.table.rename(columns={"Rank, all rules": "span"}).itertuples()
            if isinstance(row.span, str) and "–" in row.span
        ]
        text = f"The rank depends on the aggregation rule for {', '.join(moved[:4])}{' and others' * (len(moved) > 4)}."
        if len(leaders) > 1:
            text += " First by some rule: " + ", ".join(plain(name) for name in leaders) + "."
        st.caption(text)
    if found.unpaired:
        st.caption(
            "Resampled per model from confidence intervals, not paired by item: "
            + ", ".join(plain(name, 60) for name in found.unpaired[:6])
        )
    for note in found.notes:
        st.caption(plain(note))


def draw_charts(found: Board) -> None:
    ranked = found.table.iloc[: found.ranked]
    left, right = st.columns(2)
    with left:
        st.header("Rank intervals")
        names = {"Model": "label", "Rank": "rank", "Tier": "tier"}
        table = ranked[["Model", "Rank", "best", "worst", "Tier"]].head(40).rename(columns=names)
        st.altair_chart(charts.rank_intervals(table.astype(dict.fromkeys(("rank", "best", "worst", "tier"), "int64"))), width="stretch")
        st.caption("Bars: 95 % rank intervals. One colour per tier: differences from the first model of a tier are not significant.")
    with right:
        st.header("Score against cost")
        cost = st.pills("Cost", list(COSTS), default=next(iter(COSTS)), required=True, key="cost", bind="query-params", wrap=True)
        kept = ranked.dropna(subset=[COSTS[str(cost)], "Score"])
        absent = [plain(name, 60) for name in ranked.Model[~ranked.index.isin(kept.index)]]
        if not len(kept):
            shell.empty("No run of these models recorded this cost. Choose another cost.")
            return
        table = kept[["Model", COSTS[str(cost)], "Score", "low", "high"]].set_axis(["label", "cost", "score", "low", "high"], axis=1)
        table = table.astype(dict.fromkeys(("cost", "score", "low", "high"), "float64"))
        table["front"] = pareto_front(-table.cost.to_numpy(), table.score.to_numpy())
        st.altair_chart(charts.pareto(table, str(cost)), width="stretch")
        more = f" and {len(absent) - 6} more" * (len(absent) > 6)
        st.caption(
            "Green, on the dashed line: no other model scores higher at the same or a lower cost (Pareto front). Orange: another does. "
            "Hover over a dot for its name." + f" No cost recorded: {', '.join(absent[:6])}{more}." * bool(absent)
        )


def page() -> None:
    shell.head(
        "Board",
        "Models ranked by score, with 95 % rank intervals from resampled items. On a task, models are scored on the same items.",
    )
    cells = shell.cells()
    if not len(cells):
        shell.empty(
            "No ranked scores yet. Only complete release runs are ranked, not smoke, limited or partial ones.",
            "assay run --model MODEL --tasks glue,superglue,mmlu",
        )
        return
    filters, by = read_filters()
    found = shell.board(filters, by)
    if not len(found.table):
        shell.empty("No model matches these filters. Remove a filter or switch off Complete only.")
        return
    if first := lead(found):
        st.markdown(f"**{plain(first)}**")
    st.markdown(" ".join(plain(text) for text in (shared_lead(found), found.about, basis(found) if found.ranked > 1 else "") if text))
    if found.matrix is not None:
        matrix.show(found.matrix)
    notes(found)
    st.caption(RULES[by])
    shell.downloads(found.table.drop(columns=["best", "worst"]), "board")
    if found.ranked:
        draw_charts(found)


shell.run_page(page)
