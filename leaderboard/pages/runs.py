"""Runs: what is being written now, what broke, and whether the same run twice gives the same."""

from __future__ import annotations

import json

import streamlit as st

from assay.leaderboard.data import frames, live
from assay.leaderboard.data.shown import plain, visible
from assay.leaderboard.pages import shell

EVERY = 5


def state(run: object) -> str:
    status, owner = getattr(run, "status", ""), getattr(run, "owner", "")
    return "stopped" if status == "running" and not owner else str(status)


def now() -> None:
    """Runs that are being written, or were and stopped; asked again every few seconds."""
    open_runs = [run for run in shell.all_runs() if run.status != "complete"]
    if not open_runs:
        st.caption("Nothing is running. A run shows here from its first item on.")
        return
    for run in open_runs[-20:]:
        done = live.progress(run)
        with st.container(border=True):
            if run.status == "damaged":
                st.markdown(f"**{plain(run.id)}** is damaged")
                st.text(visible(run.trouble, 500))
                st.code("assay store check", language="bash")
                continue
            st.markdown(f"**{plain(run.model, 80)}** on {plain(', '.join(run.tasks), 120)}")
            st.progress(
                done / max(1, run.items), text=f"{done:,} of {run.items:,} items · {state(run)}" + (f" by {run.owner}" if run.owner else "")
            )
            if not run.owner:
                st.code(f"assay resume {run.id}", language="bash")


def table() -> None:
    found = shell.all_runs()
    rows = frames.DataFrame(
        [
            {
                "Run": run.id,
                "State": state(run),
                "Model": visible(run.model, 80),
                "Engine": visible(run.engine, 20),
                "Purpose": visible(run.purpose, 20),
                "Evidence": visible(run.evidence, 20),
                "Items": run.items,
                "Tasks": visible(", ".join(run.tasks), 200),
                "Started": run.created_at[:16].replace("T", " "),
            }
            for run in reversed(found)
        ]
    )
    st.subheader(f"All runs ({len(found)})")
    shell.table(rows, hide_index=True, alt="All runs of the store")
    shell.downloads(rows, "runs")


def one() -> None:
    """A run's scores and its plan."""
    runs = shell.read("runs")
    if not len(runs):
        return
    st.subheader("One run")
    labels = shell.run_labels(runs)
    run = st.selectbox("Run", list(labels), key="run", bind="query-params", format_func=lambda each: labels.get(each, str(each)))
    scores = shell.read("scores", str(run))
    if len(scores):
        shown = scores.assign(task=[visible(text, 80) for text in scores.task])
        order = ["task", "metric", "main", "value", "low", "high", "n", "shots", "evidence", "purpose", "fingerprint"]
        shell.table(shown, column_order=order, hide_index=True, alt="Scores of the run")
        shell.link("items", "Its items", who=labels.get(str(run), ""))
    else:
        st.caption("No scores yet.")
    with st.expander("Manifest"):
        text = json.dumps(json.loads(shell.read("manifest", str(run)) or "{}"), indent=1, ensure_ascii=False)
        st.code(visible(text, 60000, lines=True), language="json")


def drift() -> None:
    found = shell.read("repeats")
    st.subheader("The same weights on the same items")
    if not len(found):
        st.caption("No model was scored twice on the same items. Running it again shows how far a score is reproducible.")
        return
    shown = found.assign(model=[visible(text, 80) for text in found.model], difference=found.highest - found.lowest)
    shell.table(shown, hide_index=True, alt="Scores of repeated runs")


def page() -> None:
    """Live runs and the list come from the bundles; the rest from the index."""
    shell.head("Runs", "What is being written now, what can be resumed, and how far a score is reproducible.")
    if not shell.all_runs():
        shell.empty("No runs yet. A first one, with the built-in model:", "assay demo")
        return
    st.fragment(run_every=EVERY)(now)()
    table()
    if shell.ready():
        one()
        drift()


page()
