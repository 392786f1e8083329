"""Runs: progress of running runs, damaged runs, all runs, and scores of repeated runs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from assay.harness.store import RunInfo
from assay.leaderboard.charts import charts
from assay.leaderboard.data import assembly, bundles, formats, frames
from assay.leaderboard.data.safe_text import folder, plain, visible
from assay.leaderboard.pages import shell

REFRESH_SECONDS = 5
WINDOW = 24
"""Observations that the speed is taken from: the last two minutes."""


def state(run: object) -> str:
    status, owner = getattr(run, "status", ""), getattr(run, "owner", "")
    return "stopped" if status == "running" and not owner else str(status)


def unfinished() -> None:
    """Running, stopped and damaged runs; refreshed every few seconds."""
    found = [run for run in shell.all_runs() if run.status != "complete"]
    if not found:
        st.caption("No unfinished runs.")
        return
    for run in sorted(found, key=lambda run: bool(run.owner))[::-1][:20]:
        with st.container(border=True):
            if run.status == "damaged":
                st.markdown(f"**{plain(run.id)}** is damaged")
                st.text(visible(run.trouble, 500))
                st.code("assay store check", language=None)
            else:
                one_run(run)


def one_run(run: RunInfo) -> None:
    """One unfinished run: progress, speed, time left, and per task the running score."""
    done = bundles.progress(run)
    status = state(run) + " before its scores were stored" * (not run.owner and done >= run.items)
    st.markdown(f"**{plain(run.model, 80)}** on {plain(tasks_text(run.tasks), 120)}")
    st.progress(min(1.0, done / max(1, run.items)), text=f"{done:,} of {run.items:,} items · {status}{speed(run, done)}")
    if not run.owner:
        st.code(f"assay resume {run.id}", language=None)
    tasks = cached_tasks(str(run.path), done)
    begun = [task for task in tasks if task.done]
    if not begun:
        return
    rows = [
        {
            "Task": visible(task.name, 60),
            "Progress": task.done / max(1, task.items),
            "Items": f"{task.done:,} of {task.items:,}",
            "Score so far": "–" if task.score is None else f"{task.score[0]:.1f}",
            "95 % CI": "–" if task.score is None else f"{task.score[1]:.1f} – {task.score[2]:.1f}",
            "Errors": task.errors,
        }
        for task in tasks
    ]
    config = {"Progress": st.column_config.ProgressColumn(format="percent", min_value=0, max_value=1)}
    shell.table(rows, column_config=config, hide_index=True, height=shell.fitting(len(rows), 12), alt="Progress and score of each task")
    now = next((task for task in begun if task.done < task.items), begun[-1])
    if now.score is not None and len(now.curve) > 1:
        st.markdown(f"**{plain(now.name, 60)}: {now.score[0]:.1f} ({now.score[1]:.1f} – {now.score[2]:.1f}) after {now.done:,} items**")
        curve = [{"items": count, "score": score, "low": low, "high": high} for count, (score, low, high) in now.curve]
        st.altair_chart(charts.running_score(frames.DataFrame(curve)), width="stretch")
        st.caption(
            "Score on the items finished so far, with Wilson's 95 % interval, as if items were independent. The finished run stores "
            "an interval that counts clusters."
        )


def speed(run: RunInfo, done: int) -> str:
    """Items per second and the time left, from what this page saw of a running run."""
    if not run.owner:
        return ""
    seen = [*st.session_state.get(f"seen {run.id}", ()), (time.monotonic(), done)][-WINDOW:]
    st.session_state[f"seen {run.id}"] = seen
    rate = bundles.pace(seen)
    if not rate:
        return f" by {run.owner}"
    return f" by {run.owner} · {rate:.1f} items/s · {left(max(0, run.items - done) / rate)}"


def left(seconds: float) -> str:
    return "under a minute left" if seconds < 60 else f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"


def load_tasks(bundle: str, done: int) -> tuple[bundles.LiveTask, ...]:
    return bundles.live_tasks(Path(bundle))


cached_tasks = st.cache_data(max_entries=20, ttl=600, show_spinner=False)(load_tasks)


def tasks_text(tasks: Sequence[str]) -> str:
    """The tasks of a run: their names where they are few, else their number and families."""
    families = list(dict.fromkeys(assembly.group_of(task) for task in tasks))
    more = f" and {len(families) - 4} more" if len(families) > 4 else ""
    return ", ".join(tasks) if len(tasks) < 3 else f"{len(tasks)} tasks: {', '.join(families[:4])}{more}"


def table() -> None:
    found = shell.all_runs()
    rows = frames.DataFrame(
        [
            {
                "Run": run.id,
                "Status": state(run),
                "Model": visible(folder(run.model), 80),
                "Engine": visible(run.engine, 20),
                "Purpose": visible(run.purpose, 20),
                "Evidence": visible(run.evidence, 20) if run.status == "complete" else "–",
                "Items": run.items,
                "Tasks": visible(tasks_text(run.tasks), 200),
                "Started (UTC)": run.created_at[:16].replace("T", " "),
            }
            for run in reversed(found)
        ]
    )
    st.header(f"All runs ({len(found)})")
    config = {name: st.column_config.TextColumn(width=width) for name, width in {"Tasks": 320, "Started (UTC)": 130, "Model": 190}.items()}
    shell.table(rows, column_config=config, hide_index=True, height=shell.fitting(len(rows), 15), alt="All runs of the store")
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
        units = [formats.unit_of(row.metric, row.better, row.unit) for row in scores.itertuples()]
        shown = frames.DataFrame(
            {
                "Task": [visible(text, 80) for text in scores.task],
                "Metric": [row.metric if row.main else f"{row.metric} (secondary)" for row in scores.itertuples()],
                "Score": [formats.points(value, unit) for value, unit in zip(scores.value, units, strict=True)],
                "95 % CI": [formats.span(low, high, unit) for low, high, unit in zip(scores.low, scores.high, units, strict=True)],
                "Items": scores.n,
                "Shots": scores.shots,
                "Evidence": scores.evidence,
                "Purpose": scores.purpose,
                "Fingerprint": scores.fingerprint,
            }
        )
        shell.table(shown, hide_index=True, height=shell.fitting(len(shown)), alt="Scores of the run")
        shell.link("items", "Items", who=labels.get(str(run), ""))
    else:
        st.caption("No stored scores: a run stores them when it is finished.")
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
    units = [formats.unit_of(metric, "higher") for metric in found.metric]
    shown = frames.DataFrame(
        {
            "Model": [visible(text, 80) for text in found.model],
            "Task": [visible(text, 80) for text in found.task],
            "Metric": found.metric,
            "Runs": found.runs,
            "Lowest": [formats.points(value, unit) for value, unit in zip(found.lowest, units, strict=True)],
            "Highest": [formats.points(value, unit) for value, unit in zip(found.highest, units, strict=True)],
            "Difference": [formats.points(value, unit) for value, unit in zip(found.highest - found.lowest, units, strict=True)],
            "Engines": found.engines,
        }
    )
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
