"""Tuning: gain on the target task, change on retention tasks, and cost of each tuning method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import queries, studies
from assay.leaderboard.data.formats import amount, size
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell

COLUMNS = [
    *("method", "family", "rate", "runs", "gain", "gain_low", "gain_high", "kept", "kept_low", "kept_high"),
    *("Trainable", "Saved", "Memory", "seconds"),
]
HEADS = (("gain", "gain"), ("kept", "change"))


def load_trials(folder: str, stamp: str) -> Any:
    indexed = queries.tuning(Path(folder)) if queries.stamp(Path(folder)) and not queries.index_error(Path(folder)) else ()
    return studies.trials(Path(folder), indexed)


cached_trials = st.cache_data(max_entries=8, show_spinner=False)(load_trials)


def choose(all_trials: Any) -> Any:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        study = st.selectbox(
            "Study",
            sorted(all_trials.study.unique()),
            key="study",
            bind="query-params",
            format_func=lambda each: visible(each, 60),
            width=260,
        )
        part = all_trials[all_trials.study == study]
        target = st.selectbox(
            "Target", sorted(part.target.unique()), key="target", bind="query-params", format_func=lambda each: visible(each, 60), width=260
        )
    part = part[part.target == target]
    families = st.pills("Family", sorted(filter(None, part.family.unique())), selection_mode="multi", key="families", bind="query-params")
    return part[part.family.isin(families)] if families else part


def notes(part: Any) -> None:
    """Names failed trials, stopped trials and controls."""
    bad = studies.failed(part)
    if len(bad):
        counts = ", ".join(
            f"{plain(method)}: {plain(status)} ({count})" for (method, status), count in bad.groupby(["method", "status"]).size().items()
        )
        st.warning(f"{len(bad)} of {len(part)} trials have no result: {counts}.", icon=":material/report:")
    stopped = int((part.status == "stopped").sum())
    if stopped:
        st.caption(f"{stopped} of {len(part)} trials were stopped early by their mitigation. Their results count.")
    controls = part[(part.labels == "random") & part.gain.notna()]
    if len(controls):
        st.caption(f"Control: training on random labels gains {100 * controls.gain.mean():+.1f} points, from learning the format alone.")


def page() -> None:
    shell.head(
        "Tuning",
        "Gain on the target task against change on retention tasks, per method. Upper right is better; the origin is the base model.",
    )
    all_trials = cached_trials(str(shell.root()), studies.stamp(shell.root()))
    if not len(all_trials):
        shell.empty("No studies yet. Run one on a toy model (takes minutes):", "assay study toy")
        return
    part = choose(all_trials)
    notes(part)
    found = studies.points(part)
    if not len(found):
        shell.empty(
            "No selected trial has scores on both its target and retention tasks. Tune with retention tasks:",
            "assay tune --model MODEL --task TASK --method lora --retain smoke",
        )
        return
    selected_only = st.toggle(
        "Selected learning rates only",
        key="chosen",
        bind="query-params",
        help="One learning rate per method, selected on rows that are not scored.",
    )
    shown = found[found.selected] if selected_only and found.selected.any() else found
    st.subheader("Gain against forgetting")
    st.altair_chart(charts.gain_against_forgetting(shown.assign(method=[visible(name, 40) for name in shown.method])), width="stretch")
    st.caption("Bars: 95 % confidence intervals over items and seeds. Thin lines connect learning rates. Pale: not on the Pareto front.")
    left, right = st.columns(2)
    with left:
        st.subheader("Learning rates")
        rated = found[found.lr.notna()].rename(columns={"gain_low": "low", "gain_high": "high"})
        if len(rated):
            st.altair_chart(charts.learning_rates(rated), width="stretch")
    with right:
        st.subheader("Retention")
        matrix = studies.retention(part)
        if len(matrix):
            cut = matrix.assign(row=[visible(each, 40) for each in matrix.row], column=[visible(each, 40) for each in matrix.column])
            st.altair_chart(charts.heatmap(cut, "change, points"), width="stretch")
        else:
            st.caption("These trials have no scores per retention task.")
    costs(found)


def costs(found: Any) -> None:
    """Gain, change on retention tasks and cost of each method."""
    st.subheader("Gain and cost")
    table = found.sort_values("gain", ascending=False)
    table = table.assign(
        Trainable=[amount(each) for each in table.trainable_parameters],
        Saved=[size(each) for each in table.saved_bytes],
        Memory=[size(each) for each in table.peak_memory],
    )
    number = st.column_config.NumberColumn
    config: dict[str, Any] = {name: number(format="%+.1f") for name in COLUMNS if name.startswith(("gain", "kept"))}
    config |= {"kept": number("change on retention", format="%+.1f", help="Points on the retention tasks, higher is better.")}
    config |= {"Trainable": "trainable parameters", "Saved": "saved size", "Memory": "peak memory"}
    config |= {"rate": "learning rate", "runs": "seeds", "seconds": number("training time (s)", format="%.0f")}
    config |= {f"{name}_{end}": number(f"{head}, 95 % CI {end}", format="%+.1f") for name, head in HEADS for end in ("low", "high")}
    shell.table(
        table, column_order=COLUMNS, column_config=config, hide_index=True, alt="Gain, change on retention tasks and cost of each method"
    )
    shell.downloads(table[COLUMNS], "tuning")


page()
