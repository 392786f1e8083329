"""Tuning: what a method gains on its target and what it makes the model forget, with seeds, intervals and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import queries, studies
from assay.leaderboard.data.shown import amount, plain, size, visible
from assay.leaderboard.pages import shell


def everything(folder: str, stamp: str) -> Any:
    indexed = queries.tuning(Path(folder)) if queries.stamp(Path(folder)) and not queries.trouble(Path(folder)) else ()
    return studies.trials(Path(folder), indexed)


EVERYTHING = st.cache_data(max_entries=8, show_spinner=False)(everything)


def choose(whole: Any) -> Any:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        study = st.selectbox(
            "Study", sorted(whole.study.unique()), key="study", bind="query-params", format_func=lambda each: visible(each, 60), width=260
        )
        part = whole[whole.study == study]
        target = st.selectbox(
            "Target", sorted(part.target.unique()), key="target", bind="query-params", format_func=lambda each: visible(each, 60), width=260
        )
    part = part[part.target == target]
    families = st.pills("Family", sorted(filter(None, part.family.unique())), selection_mode="multi", key="families", bind="query-params")
    return part[part.family.isin(families)] if families else part


def trouble(part: Any) -> None:
    """Trials that gave no number, and controls, are named: they are never counted as zero."""
    bad = studies.failed(part)
    if len(bad):
        counts = ", ".join(
            f"{plain(method)}: {plain(status)} ({count})" for (method, status), count in bad.groupby(["method", "status"]).size().items()
        )
        st.warning(f"{len(bad)} of {len(part)} trials gave no result: {counts}.", icon=":material/report:")
    stopped = int((part.status == "stopped").sum())
    if stopped:
        st.caption(f"{stopped} of {len(part)} trials were stopped early, as their mitigation asks; their results count.")
    controls = part[(part.labels == "random") & part.gain.notna()]
    if len(controls):
        st.caption(
            f"Control: trained on random labels the gain is {100 * controls.gain.mean():+.1f} points; that much is format, not knowledge."
        )


def page() -> None:
    shell.head(
        "Tuning",
        "What a method gains on its target against what it makes the model forget; upper right is better, the base is at the origin.",
    )
    whole = EVERYTHING(str(shell.root()), studies.stamp(shell.root()))
    if not len(whole):
        shell.empty("No study yet. One on a toy model takes minutes:", "assay study toy")
        return
    part = choose(whole)
    trouble(part)
    found = studies.points(part)
    if not len(found):
        shell.empty(
            "No trial of this choice measured both its target and what it should keep.",
            "assay tune --model MODEL --task TASK --method lora --retain smoke",
        )
        return
    matched = st.toggle(
        "Chosen rates only", key="chosen", bind="query-params", help="One rate a method: the one chosen on rows that are not scored."
    )
    shown = found[found.selected] if matched and found.selected.any() else found
    st.subheader("Gain against forgetting")
    st.altair_chart(charts.plane(shown.assign(method=[visible(name, 40) for name in shown.method])), width="stretch")
    st.caption("Bars are 95 % intervals over items and seeds. Thin lines join the learning rates of a method; dominated points are pale.")
    left, right = st.columns(2)
    with left:
        st.subheader("Learning rates")
        rated = found[found.lr.notna()].rename(columns={"gain_low": "low", "gain_high": "high"})
        if len(rated):
            st.altair_chart(charts.rates(rated), width="stretch")
    with right:
        st.subheader("What was kept")
        matrix = studies.retention(part)
        if len(matrix):
            cut = matrix.assign(row=[visible(each, 40) for each in matrix.row], column=[visible(each, 40) for each in matrix.column])
            st.altair_chart(charts.heat(cut, "change, points"), width="stretch")
        else:
            st.caption("These trials kept no score per retention task.")
    costs(found)


def costs(found: Any) -> None:
    """In-context learning beside tuning, with what each costs."""
    st.subheader("Gain and cost")
    table = found.sort_values("gain", ascending=False)
    table = table.assign(
        Trainable=[amount(each) for each in table.trainable_parameters],
        Saved=[size(each) for each in table.saved_bytes],
        Memory=[size(each) for each in table.peak_memory],
    )
    order = [
        "method",
        "family",
        "rate",
        "runs",
        "gain",
        "gain_low",
        "gain_high",
        "kept",
        "kept_low",
        "kept_high",
        "Trainable",
        "Saved",
        "Memory",
        "seconds",
    ]
    number = st.column_config.NumberColumn
    config = {name: number(format="%+.1f") for name in order if name.startswith(("gain", "kept"))} | {"seconds": number(format="%.0f")}
    config["runs"] = number("seeds")
    shell.table(table, column_order=order, column_config=config, hide_index=True, alt="Gain, forgetting and cost of each method")
    shell.downloads(table[order], "tuning")


page()
