"""Board: which model is better, and how sure is that."""

from __future__ import annotations

import numpy as np
import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data.assembly import KINDS, SIZES, Board, Wish, frontier
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.data.shown import plain
from assay.leaderboard.pages import shell

RULES = {
    "chance-normalised mean": "Mean over tasks of (score − chance) ÷ (best possible − chance). Tasks weigh the same.",
    "mean win rate": "Share of the other models that a model beats on a task, ties half, averaged over tasks.",
    "Borda": "Points for every model that is beaten on a task, summed and averaged; orders complete tables as the mean win rate does.",
    "Bradley-Terry": "Strengths that explain who is right where another is wrong; items on which two models agree do not count.",
}
COSTS = {"Parameters (B)": "Parameters", "Tokens per item": "Tokens / item", "Seconds per 1,000 items": "s / 1k items"}
HIDDEN = ("digest", "low", "high", "best", "worst", "Family")


def wish(cells: object) -> tuple[Wish, str]:
    """The reader's choice; every part of it is in the URL."""
    data = shell.cells()
    by = st.segmented_control("Rank by", AGGREGATORS, default=AGGREGATORS[0], required=True, key="by", bind="query-params")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        group = st.selectbox(
            "Task set", sorted(data.group.unique()), index=None, key="set", bind="query-params", placeholder="all tasks", width=200
        )
        name = st.text_input("Model name", key="name", bind="query-params", placeholder="part of a name", width=200)
        complete = st.toggle("Complete only", key="complete", bind="query-params", help="Hide models that lack a score in some task.")
    with st.expander("More filters", expanded=any(key in st.query_params for key in ("tasks", "family", "size", "kind"))):
        tasks = st.multiselect("Tasks", sorted(data.column.unique()), key="tasks", bind="query-params", placeholder="all of the set")
        families = st.multiselect("Family", sorted(data.family.unique()), key="family", bind="query-params", placeholder="any")
        sizes = st.pills("Parameters", list(SIZES), selection_mode="multi", key="size", bind="query-params")
        kinds = st.pills("Weights", KINDS, selection_mode="multi", key="kind", bind="query-params")
    return Wish(group or "", tuple(tasks), tuple(families), tuple(sizes), tuple(kinds), name.strip(), complete), str(by)


def settings(found: Board) -> dict[str, object]:
    number = st.column_config.NumberColumn
    score = {task: number(task, format="%.1f") for task in found.tasks}
    return {
        "Model": st.column_config.TextColumn(pinned=True, width="medium"),
        "#": number(width=44, help="Point rank. Equal scores share the better rank.", pinned=True),
        "Rank": st.column_config.TextColumn(width=64, help="The ranks that the data do not exclude, at 95 %."),
        "Tier": number(width=50, help="Models of a tier are not shown to differ from its first."),
        "Score": number(format="%.1f", width=64),
        "95 %": st.column_config.TextColumn(width=96),
        "By rule": st.column_config.TextColumn(width=70, help="Point ranks under all four ways to aggregate."),
        "Coverage": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1, width="small"),
        "Tokens / item": number(format="%.0f", width=100, help="Tokens through the model."),
        "s / 1k items": number(format="%.0f", width=92, help="Seconds of the engine; compare within one machine."),
        "Source": st.column_config.TextColumn(width="small", help="Who ran it. Imported scores are computed again from their items."),
        "Parameters": number("Parameters (B)", format="%.2f", width=112),
        **score,
    }


def flags(found: Board) -> None:
    """What a reader must know before trusting an order."""
    if found.standing is not None and found.standing.unsettled.any():
        first = found.standing.ranks.argmin(axis=1)
        names = found.table.Model.tolist()
        order = np.argsort(found.standing.rank, kind="stable")
        place = {int(model): row for row, model in enumerate(order)}
        leaders = list(dict.fromkeys(names[place[int(model)]] for model in first))
        many = int(found.standing.unsettled.sum())
        text = f"The order of {many} models depends on how tasks are aggregated (column By rule)."
        if len(leaders) > 1:
            text += " So does the first place: " + ", ".join(plain(name) for name in leaders) + "."
        st.warning(text, icon=":material/swap_vert:")
    if found.unpaired:
        st.caption("Not paired, drawn from intervals: " + ", ".join(plain(name, 60) for name in found.unpaired[:6]))
    for note in found.left_out:
        st.caption(plain(note))


def pictures(found: Board) -> None:
    ranked = found.table.iloc[: found.ranked]
    left, right = st.columns(2)
    with left:
        st.subheader("Rank ranges")
        names = {"Model": "label", "#": "rank", "Tier": "tier"}
        table = ranked[["Model", "#", "best", "worst", "Tier"]].head(40).rename(columns=names)
        st.altair_chart(charts.ranks(table.astype(dict.fromkeys(("rank", "best", "worst", "tier"), "int64"))), width="stretch")
    with right:
        st.subheader("Score against cost")
        cost = st.segmented_control("Cost", list(COSTS), default=next(iter(COSTS)), required=True, key="cost", bind="query-params")
        kept = ranked.dropna(subset=[COSTS[str(cost)], "Score"])
        if not len(kept):
            shell.empty("No run of these models says this cost.")
            return
        table = kept[["Model", COSTS[str(cost)], "Score", "low", "high"]].set_axis(["label", "cost", "score", "low", "high"], axis=1)
        table = table.astype(dict.fromkeys(("cost", "score", "low", "high"), "float64"))
        table["front"] = frontier(table.cost.to_numpy(), table.score.to_numpy())
        st.altair_chart(charts.pareto(table, str(cost)), width="stretch")


def onward(found: Board) -> None:
    """From a row to the model, a comparison, or its items."""
    st.subheader("Look closer")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = found.table.Model.tolist()
        model = st.selectbox("Model", names, key="look", bind="query-params", width=300)
        shell.link("model", "This model", model=str(model))
        shell.link("items", "Its items", who=str(model))
        if len(names) > 1:
            other = names[1] if model == names[0] else names[0]
            shell.link("compare", f"Compare with {plain(other, 40)}", first=other, second=str(model))


def page() -> None:
    shell.head(
        "Board",
        "Ranks with their uncertainty: every model is scored on the same items, and whole clusters of items are resampled for all at once.",
    )
    cells = shell.cells()
    if not len(cells):
        shell.empty(
            "No release score on all items yet: smoke, limited and partial runs are never ranked.",
            "assay run --model MODEL --tasks glue,superglue,mmlu",
        )
        return
    chosen, by = wish(cells)
    found = shell.board(chosen, by)
    if not len(found.table):
        shell.empty("No model fits these filters. Take one away, or leave Complete only out.")
        return
    st.caption(RULES[by])
    flags(found)
    order = [name for name in found.table.columns if name not in HIDDEN]
    order = ["#", "Model", *(name for name in order if name not in ("#", "Model"))]
    shell.table(
        found.table,
        column_order=order,
        column_config=settings(found),
        hide_index=True,
        placeholder="–",
        alt="Models with rank ranges and scores",
    )
    shell.downloads(found.table.drop(columns=["best", "worst"]), "board")
    if found.ranked:
        pictures(found)
    onward(found)


shell.guarded(page)
