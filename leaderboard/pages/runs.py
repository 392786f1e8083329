"""Runs: progress of running runs, damaged runs, all runs, and scores of repeated runs."""

from __future__ import annotations

import json

import streamlit as st

from assay.leaderboard.data import bundles, frames
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell

REFRESH_SECONDS = 5


def state(run: object) -> str:
    status, owner = getattr(run, "status", ""), getattr(run, "owner", "")
    return "stopped" if status == "running" and not owner else str(status)


def unfinished() -> None:
    """Running, stopped and damaged runs; refreshed every few seconds."""
    found = [run for run in shell.all_runs() if run.status != "complete"]
    if not found:
        st.caption("No unfinished runs.")
        return
    for run in found[-20:]:
        done = bundles.progress(run)
        with st.container(border=True):
            if run.status == "damaged":
                st.markdown(f"**{plain(run.id)}** is damaged")
                st.text(visible(run.trouble, 500))
                st.code("assay store check", language=None)
                continue
            st.markdown(f"**{plain(run.model, 80)}** on {plain(', '.join(run.tasks), 120)}")
            st.progress(
                done / max(1, run.items), text=f"{done:,} of {run.items:,} items · {state(run)}" + (f" by {run.owner}" if run.owner else "")
            )
            if not run.owner:
                st.code(f"assay resume {run.id}", language=None)


def table() -> None:
    found = shell.all_runs()
    rows = frames.DataFrame(
        [
            {
                "Run": run.id,
                "Status": state(run),
                "Model": visible(run.model, 80),
                "Engine": visible(run.engine, 20),
                "Purpose": visible(run.purpose, 20),
                "Evidence": visible(run.evidence, 20),
                "Items": run.items,
                "Tasks": visible(", ".join(run.tasks), 200),
                "Started (UTC)": run.created_at[:16].replace("T", " "),
            }
            for run in reversed(found)
        ]
    )
    st.header(f"All runs ({len(found)})")
    config = {name: st.column_config.TextColumn(width=width) for name, width in {"Tasks": 260, "Started (UTC)": 130, "Model": 200}.items()}
    shell.table(rows, column_config=config, hide_index=True, alt="All runs of the store")
    shell.downloads(rows, "runs")


def detail() -> None:
    """One run's scores and manifest."""
    runs = shell.read("runs")
    if not len(runs):
        return
    st.header("Run details")
    labels = shell.run_labels(runs)
    run = st.selectbox("Run", list(labels), key="run", bind="query-params", format_func=lambda each: labels.get(each, str(each)))
    scores = shell.read("scores", str(run))
    for reason in {bundles.plain_way(each) for each in shell.all_runs() if each.id == run} - {""}:
        st.warning(f"Scored by plain forwards, because the fast way was wrong for this model: {plain(reason, 300)}")
    if len(scores):
        shown = scores.assign(task=[visible(text, 80) for text in scores.task])
        order = ["task", "metric", "main", "value", "low", "high", "n", "shots", "evidence", "purpose", "fingerprint"]
        shell.table(shown, column_order=order, hide_index=True, column_config={"value": "score", "n": "items"}, alt="Scores of the run")
        shell.link("items", "Items", who=labels.get(str(run), ""))
    else:
        st.caption("No scores yet.")
    with st.expander("Manifest"):
        text = json.dumps(json.loads(shell.read("manifest", str(run)) or "{}"), indent=1, ensure_ascii=False)
        st.code(visible(text, 60000, lines=True), language="json")


def repeated() -> None:
    found = shell.read("repeated_scores")
    st.header("Repeated runs")
    if not len(found):
        st.caption("No model was scored twice on the same items. Run a model again to see how reproducible its scores are.")
        return
    st.caption("Lowest and highest score of the same weights on the same items.")
    shown = found.assign(model=[visible(text, 80) for text in found.model], difference=found.highest - found.lowest)
    shell.table(shown, hide_index=True, alt="Scores of repeated runs")


def page() -> None:
    """Unfinished runs and the list come from the bundles, the rest from the index."""
    shell.head("Runs", "Progress of unfinished runs, all runs of the store, and differences between repeated runs.")
    if not shell.all_runs():
        shell.empty("No runs yet. Create one with the built-in model:", "assay demo")
        return
    st.fragment(run_every=REFRESH_SECONDS)(unfinished)()
    table()
    if shell.ready():
        detail()
        repeated()


page()
