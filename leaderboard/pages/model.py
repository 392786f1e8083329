"""Model: one model's scores, weights, runs and costs."""

from __future__ import annotations

from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import frames, profile
from assay.leaderboard.data.formats import amount, duration, points, span, unit_of
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell


def weights(part: Any, runs: Any) -> None:
    """Size, cost and source of the weights."""
    newest = part.sort_values("created_at").iloc[-1]
    facts = runs[runs.run_id == newest.run_id].iloc[0]
    with st.container(horizontal=True):
        st.metric("Parameters", amount(newest.parameters), border=True)
        st.metric("Tasks", str(len(part[part.metric != "total"])), border=True)
        st.metric("Items", f"{int(part[part.metric != 'total'].n.fillna(0).sum()):,}", border=True)
        once = part.drop_duplicates("run_id")
        st.metric("Tokens per item", amount(once.tokens.sum() / max(1, once["items"].sum())), border=True)
        st.metric("Engine time", duration(once.seconds.sum()), border=True)
    same_base = shell.cells()
    relatives = same_base[(same_base.model == newest.model) & (same_base.model_digest != newest.model_digest)]
    st.caption(f"Name: {plain(newest.model, 200)}")
    st.caption(
        f"Weights: {plain(newest.model_digest, 80)}"
        + (" (served, weights not verified)" if newest.model_digest.startswith("served-") else "")
        + (f" · adapter {plain(newest.adapter, 200)} on {plain(newest.model, 80)}" if newest.adapter else "")
    )
    st.caption(f"Loaded from {plain(facts.model_path, 200)}")
    for label in list(dict.fromkeys(relatives.label))[:6]:
        shell.link("model", f"Other weights with this name: {plain(label)}", model=label)


def table(part: Any) -> Any:
    rows = []
    for number, cell in enumerate(part.sort_values("column").itertuples()):
        unit = unit_of(cell.metric, cell.better, cell.unit)
        scale = 100 / unit if unit else 1.0
        chance = cell.chance * scale if cell.chance == cell.chance and cell.chance is not None else float("nan")
        ends = {"score": cell.value * scale, "low": cell.low * scale, "high": cell.high * scale, "chance": chance}
        facts = {
            "label": visible(cell.column, 60),
            "metric": cell.metric,
            "n": cell.n,
            "shots": cell.shots,
            "run": cell.run_id,
            "order": number,
        }
        shown = {"Score": points(cell.value, unit), "95 % CI": span(cell.low, cell.high, unit)}
        rows.append(
            facts | ends | shown | {"bounded": unit is not None, "task": cell.task, "above": chance != chance or ends["low"] > chance}
        )
    return frames.DataFrame(rows)


def beside(cells: Any, model: str, names: list[str]) -> None:
    """The model's scores beside those of another model, or the median of all others."""
    others = [name for name in names if name != model]
    if not others:
        return
    other = st.selectbox(
        "Beside", others, index=None, key="beside", bind="query-params", placeholder="the median of all other models", width=360
    )
    found = profile.profile(cells, model, str(other) if other else "")
    if not len(found):
        return
    far = found.iloc[0]
    st.header(f"Largest difference: {plain(far.label, 60)}, {far.difference:+.1f} points")
    st.altair_chart(
        charts.profile(found.head(30), (visible(model, 40), visible(other, 40) if other else "median of the others")), width="stretch"
    )
    st.caption("Largest differences first. These differences are not tested; Compare tests them item by item.")
    shell.link("compare", f"Compare with {plain(other or others[0], 40)}", first=str(other or others[0]), second=model)


def trend(cells: Any, model: str) -> None:
    """The scores of the training run's checkpoints, if the model is one of several."""
    found = profile.checkpoints(cells, model)
    if len(found):
        st.header("Scores of the training run's checkpoints")
        st.altair_chart(charts.checkpoints(found), width="stretch")


def unusual(own: Any) -> None:
    """How many responses of each task were unparsed, truncated or failed, in the newest runs."""
    parts = [shell.read("statuses", run) for run in own[own.status == "complete"].run_id.head(5)]
    bad = [row for each in parts for row in each.itertuples() if row.unparsed + row.truncated + row.errors]
    if bad:
        st.header("Unparsed, truncated and failed responses")
        shown = [
            {"Task": visible(row.task, 80), "Items": row.items, "Unparsed": row.unparsed, "Truncated": row.truncated, "Errors": row.errors}
            for row in bad
        ]
        shell.table(shown, hide_index=True, alt="Unparsed, truncated and failed responses")


def page() -> None:
    shell.head("Model", "Scores of one model with confidence intervals and chance level, and its weights, runs and costs.")
    cells = shell.cells()
    if not len(cells):
        shell.empty("No ranked scores yet. Score a model:", "assay run --model MODEL --tasks glue,superglue,mmlu")
        return
    names = list(dict.fromkeys(cells.label))
    model = st.selectbox("Model", names, key="model", bind="query-params")
    part = cells[cells.label == model] if model in names else cells[cells.label == names[0]]
    runs = shell.read("runs")
    weights(part, runs)
    found = table(part)
    if guesses := [plain(each) for each in found[~found.above].label]:
        st.warning("Not significantly above chance: " + ", ".join(guesses), icon=":material/casino:")
    beside(cells, str(part.label.iloc[0]), names)
    trend(cells, str(part.model.iloc[0]))
    st.header("Scores")
    bounded = found[found.bounded]
    if len(bounded):
        st.altair_chart(charts.scores(bounded[["label", "score", "low", "high", "chance", "order"]]), width="stretch")
        st.caption("Red ticks: chance level.")
    names_of = {"label": "Task", "metric": "Metric", "n": "Items", "shots": "Shots", "run": "Run"}
    order = ["Task", "Metric", "Score", "95 % CI", "Items", "Shots", "Run"]
    event = shell.table(
        found.rename(columns=names_of),
        column_order=order,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key="scored",
        height=shell.fitting(len(found)),
        alt="Scores of the model",
        links=[shell.address("items", who=str(part.label.iloc[0]), task=task, outcome="wrong") for task in found.task],
    )
    st.caption("Click a row to read the items that the model got wrong.")
    if event.selection.rows:
        shell.open_page("items", who=str(part.label.iloc[0]), task=found.task.iloc[event.selection.rows[0]], outcome="wrong")
    shell.downloads(found[["label", "metric", "score", "low", "high", "chance", "n", "shots", "run"]], "model")
    own = runs[runs.model_digest == part.model_digest.iloc[0]]
    st.header(f"Runs ({len(own)})")
    states = frames.DataFrame(
        {
            "Run": own.run_id,
            "Status": own.status,
            "Engine": own.engine,
            "Purpose": own.purpose,
            "Evidence": own.evidence,
            "Items": own["items"],
            "Errors": own.errors,
            "Tokens": own.tokens,
            "Engine time": [duration(each) for each in own.seconds],
            "Started (UTC)": own.created_at.dt.strftime("%Y-%m-%d %H:%M"),
        }
    )
    shell.table(states, hide_index=True, alt="Runs")
    unusual(own)


shell.run_page(page)
