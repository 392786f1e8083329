"""Gates: every stored gate decision."""

from __future__ import annotations

from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import bundles
from assay.leaderboard.data.safe_text import folder, plain, visible
from assay.leaderboard.pages import shell

SIGNS = {"pass": "✓ pass", "regressed": "✗ regressed", "inconclusive": "? inconclusive"}


def detail(row: Any) -> None:
    st.header("Gate details")
    with st.container(border=True):
        pair = " against ".join(plain(folder(name), 80) for name in (row.candidate, row.baseline))
        st.markdown(f"**{plain(SIGNS.get(row.verdict, row.verdict))}**: {pair}")
        ends = f" ({row.low:+.2f} to {row.high:+.2f})" if row.low == row.low and row.high == row.high else ""
        aggregate = (
            f"Aggregate difference {row.delta:+.2f}{ends} points. Largest loss that passes: {row.margin:.1f} points."
            if row.delta == row.delta
            else ""
        )
        st.caption(plain(aggregate))
        if row.lost:
            st.caption(f"Regressed tasks: {plain(row.lost, 300)}.")
        if row.attempt > 1:
            st.warning(
                f"Attempt {row.attempt} on the same items: repeated attempts make a pass by chance more likely.", icon=":material/repeat:"
            )
        if row.tried > 1:
            st.caption(f"The baseline is the best of {row.tried} models on these items. The test corrects for this.")
        shell.link("compare", "Compare the two runs", first=labels().get(row.baseline_run, ""), second=labels().get(row.candidate_run, ""))


def labels() -> dict[str, str]:
    return shell.run_labels(shell.read("runs"))


def page() -> None:
    shell.head("Gates", "Every gate decision: pass, regressed or inconclusive, with the confidence interval of the difference.")
    decisions = bundles.gates(shell.root())
    if not len(decisions):
        shell.empty("No gate decisions yet. Compare a candidate with a baseline:", "assay gate CANDIDATE --baseline BASELINE")
        return
    verdicts = st.pills("Verdict", list(SIGNS), selection_mode="multi", key="verdict", bind="query-params")
    found = decisions[decisions.verdict.isin(verdicts)] if verdicts else decisions
    if not len(found):
        shell.empty("No gate has this verdict.")
        return
    short = {side: [visible(folder(each), 60) for each in found[side]] for side in ("candidate", "baseline")}  # as on the Board
    cut = found.assign(**short)
    drawn = cut[cut.delta.notna()].drop(columns=["margin"])
    if len(drawn):
        st.altair_chart(charts.gate_history(drawn), width="stretch")
        st.caption(
            "Bars, low and high: the interval of two one-sided limits at the policy's alpha, 90 % for the default of 5 %. It is of one "
            "pair, so it can exclude 0 where the tiers of the Board (95 %, corrected for all models) do not tell the two apart."
        )
    table = cut.assign(verdict=[SIGNS.get(each, visible(each, 30)) for each in cut.verdict], lost=[visible(each, 120) for each in cut.lost])
    order = [name for name in bundles.GATE_COLUMNS if name not in ("attempt", "tried") or (table[name] > 1).any()]
    config: dict[str, object] = {}
    for name in ("low", "high"):
        config[name] = st.column_config.NumberColumn(format="%+.2f", help="Limit of the confidence interval, points.")
    config["at"] = st.column_config.TextColumn("at (UTC)")
    config["delta"] = st.column_config.NumberColumn(
        "difference", format="%+.2f", help="Candidate minus baseline, points; higher is better."
    )
    config["margin"] = st.column_config.NumberColumn(help="Largest loss in points that passes.")
    config["lost"] = st.column_config.TextColumn("regressed tasks")
    config["tried"] = st.column_config.NumberColumn("baselines tried", help="The baseline is the best of this many models.")
    shell.table(table, column_order=order, column_config=config, hide_index=True, alt="Gates, newest first")
    shell.downloads(table[list(bundles.GATE_COLUMNS)], "gates")
    names = {f"{row.at} {row.candidate}": number for number, row in enumerate(cut.itertuples())}
    choice = st.selectbox("Gate", list(names), key="gate", bind="query-params")
    detail(found.iloc[names.get(str(choice), 0)])


shell.run_page(page)
