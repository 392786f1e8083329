"""Tuning: gain on the target task, change on retention tasks, and cost of each tuning method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import queries, studies
from assay.leaderboard.data.formats import amount, duration, size
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell

COLUMNS = [*("method", "family", "rate", "runs", "gain", "Gain CI", "kept", "Change CI", "Trainable", "Saved", "Memory", "Time")]
ALONG = (
    "KL at 80 % of the smaller final gain of a seed, from the study's frontiers.json. dominates: the model changes less (KL); dominated: "
    "the reverse; no difference: within a factor of 1.5; else: cannot tell. 95 % intervals over seeds; verdicts corrected (Holm)."
)
AT_END = (
    "By pairs of runs with equal seeds, batches and items, from the study's REPORT.md. dominates: the model changes less (KL) and the "
    "gain is not lower by 3 points; dominated: the reverse; no difference: less than 3 points and a factor of 1.5; else: cannot tell."
)
MEANINGS = {
    "dominates": "less change at a similar gain",
    "dominated": "more change at a similar gain",
    "no difference": "no difference",
    "cannot tell": "undecided",
}
"""Of a verdict, in the title: numbers of methods."""
EXPORTED = ["method", "family", "rate", "runs", "gain", "gain_low", "gain_high", "kept", "kept_low", "kept_high", "seconds"]


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
            width=440,
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
    st.header(finding(found))
    st.altair_chart(
        charts.gain_against_forgetting(shown.assign(method=[visible(name, 40) for name in shown.method]), methods_of(found)),
        width="stretch",
    )
    st.caption("Bars: 95 % confidence intervals over items and seeds. Thin lines connect learning rates. Pale: not on the Pareto front.")
    prompted = found[found.family == "in_context"]
    if len(prompted) and not prompted.kept.any() and prompted.kept_low.isna().all():
        st.caption("in_context trains nothing: the model is the base model, so its change on the retention tasks is 0 without an interval.")
    verdicts(str(part.study.iloc[0]), str(part.target.iloc[0]))
    left, right = st.columns(2)
    with left:
        distance(found)
    with right:
        st.header("Change on each retention task, points")
        matrix = studies.retention(part)
        if len(matrix):
            cut = matrix.assign(row=[visible(each, 40) for each in matrix.row], column=[visible(each, 40) for each in matrix.column])
            st.altair_chart(charts.heatmap(cut, "change, points"), width="stretch")
            absent = [visible(each, 40) for each in sorted(set(studies.plotted(part).method) - set(matrix.row.str.partition(" + ")[0]))]
            st.caption(plain(forgotten(cut) + f". No scores per retention task: {', '.join(absent)}" * bool(absent) + "."))
        else:
            st.caption("These trials have no scores per retention task.")
    costs(found)


def methods_of(found: Any) -> list[str]:
    """All methods, so that each has its colour in every chart."""
    return sorted({visible(name, 40) for name in found.method})


def finding(found: Any) -> str:
    """The method with the largest gain, and what it costs in forgetting, as a sentence."""
    best = found.sort_values("gain").iloc[-1]
    forgets = best.kept_high == best.kept_high and best.kept_high < 0
    change = f"and loses {-best.kept:.1f} on the retention tasks" if forgets else "without a significant loss on the retention tasks"
    sure = "" if best.gain_low == best.gain_low and best.gain_low > 0 else " (not significantly above 0)"
    return f"{plain(best.method, 40)} gains most: {best.gain:+.1f} points{sure}, {change}"


def forgotten(matrix: Any) -> str:
    """The retention task that each method lost most, as a sentence; `matrix` has the columns row (method), column (task) and value."""
    worst = matrix.loc[matrix.groupby("row", sort=False).value.idxmin()]
    return "Largest loss of each method: " + "; ".join(
        f"{row.row} {row.value:+.1f} on {row.column}" if row.value <= -0.05 else f"{row.row} none" for row in worst.itertuples()
    )


def verdicts(study: str, target: str) -> None:
    """Each method against full tuning, as the study decides it."""
    table, about = studies.frontier_verdicts(shell.root() / study, target), ALONG
    if not len(table):
        table, about = studies.verdicts(shell.root() / study, target), AT_END
    if not len(table):
        return
    counts = table.verdict.value_counts()
    st.header("Against full tuning: " + ", ".join(f"{MEANINGS.get(name, plain(name))}: {count}" for name, count in counts.items()))
    named = {name: name[:1].upper() + name[1:].replace(" (points)", ", points") for name in table.columns}
    named["KL over full"] = "KL, times that of full tuning"
    shown = table.rename(columns=named).map(lambda text: visible(text, 60))
    shell.table(shown, hide_index=True, height=shell.fitting(len(shown), 12), alt="Each method against full tuning, with its verdict")
    st.caption(about)


def distance(found: Any) -> None:
    """Gain against KL from the base model where it was measured, else against the learning rate."""
    table = found[found.lr.notna()].rename(columns={"gain_low": "low", "gain_high": "high", "kl_base": "kl"})
    if (table.kl > 0).any():
        st.header("Gain by distance from the base model")
        measured = table[table.kl > 0]
        shown = measured.assign(method=[visible(each, 40) for each in measured.method])
        st.altair_chart(charts.frontier(shown, methods_of(found)))
        st.caption(
            "One line per method, a point per learning rate; bands: 95 % confidence intervals. Left of another line at the same gain: "
            "the same gain with less change to the model."
        )
    elif len(table):
        st.header("Gain by learning rate")
        st.altair_chart(charts.learning_rates(table), width="stretch")


def costs(found: Any) -> None:
    """Gain, change on retention tasks and cost of each method."""
    st.header("Gain and cost")
    table = found.sort_values("gain", ascending=False)
    table = table.assign(
        **{"Gain CI": interval(table.gain_low, table.gain_high), "Change CI": interval(table.kept_low, table.kept_high)},
        Trainable=[amount(each) for each in table.trainable_parameters],
        Saved=[size(each) for each in table.saved_bytes],
        Memory=[size(each) for each in table.peak_memory],
        Time=[duration(each) for each in table.seconds],
    )
    rounded = {name: [round(each, 1) for each in table[name]] for name in ("gain", "kept")}  # as in the title: halves to even
    number = st.column_config.NumberColumn
    config: dict[str, Any] = {
        "method": st.column_config.TextColumn("method", pinned=True, width=150),
        "rate": "learning rate",
        "runs": "seeds",
        "gain": number("gain", format="%+.1f", help="Points on the target task."),
        "Gain CI": "95 % CI of the gain",
        "kept": number("change", format="%+.1f", help="Points on the retention tasks, higher is better."),
        "Change CI": "95 % CI of the change",
        "Trainable": "trainable",
        "Saved": "saved size",
        "Memory": "peak memory",
        "Time": "training time",
    }
    shell.table(
        table.assign(**rounded),
        column_order=COLUMNS,
        column_config=config,
        hide_index=True,
        height=shell.fitting(len(table), 24),
        alt="Gain, change on retention tasks and cost of each method",
    )
    shell.downloads(table[EXPORTED], "tuning")


def interval(low: Any, high: Any) -> list[str]:
    return ["–" if a != a or b != b else f"{a:+.1f} to {b:+.1f}" for a, b in zip(low, high, strict=True)]


page()
