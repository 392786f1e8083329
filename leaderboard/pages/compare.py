"""Compare: differences between two models in settings, scores and single responses."""

from __future__ import annotations

import difflib
import json
from typing import Any

import streamlit as st

from assay.leaderboard.charts import charts
from assay.leaderboard.data import frames, paired
from assay.leaderboard.data.queries import Pair
from assay.leaderboard.data.safe_text import plain, visible
from assay.leaderboard.pages import shell

FORMATS = {"Baseline": "%.2f", "Candidate": "%.2f", "p": "%.4f", "p (Holm)": "%.4f"}


def comparable() -> dict[str, dict[str, str]]:
    """The run of each task, by label of what can be compared: a model (its ranked scores) or a run (key "": all its tasks)."""
    cells, runs = shell.cells(), shell.read("runs")
    found = {label: dict(zip(part.task, part.run_id, strict=True)) for label, part in cells[cells.metric != "total"].groupby("label")}
    for run, label in shell.run_labels(runs[runs.status == "complete"]).items():
        found[label] = {"": run}
    return found


def run_pairs(first: dict[str, str], second: dict[str, str]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Pairs of runs with the tasks to compare; no tasks means all that both have."""
    if "" in first or "" in second:
        ones, twos = ({each.get("")} if "" in each else set(each.values()) for each in (first, second))
        return [(str(one), str(two), ()) for one in sorted(map(str, ones)) for two in sorted(map(str, twos))]
    together: dict[tuple[str, str], list[str]] = {}
    for task in sorted(first.keys() & second.keys()):
        together.setdefault((first[task], second[task]), []).append(task)
    return [(one, two, tuple(tasks)) for (one, two), tasks in together.items()]


def collect(
    first: dict[str, str], second: dict[str, str]
) -> tuple[list[paired.Compared], list[tuple[str, str, str]], dict[str, tuple[str, str]]]:
    """All compared metrics, settings that differ, and the two runs of each task."""
    pairs: list[Pair] = []
    broken: dict[str, str] = {}
    settings: list[tuple[str, str, str]] = []
    runs: dict[str, tuple[str, str]] = {}
    for one, two, tasks in run_pairs(first, second):
        manifests = [json.loads(shell.read("manifest", run) or "{}") for run in (one, two)]
        wrong, different = paired.differing(*manifests)
        kept = [pair for pair in shell.read("pairs", one, two) if not tasks or pair.task in tasks]
        pairs += [pair for pair in kept if pair.task not in runs or runs[pair.task] == (one, two)]
        runs.update({pair.task: (one, two) for pair in kept if pair.task not in runs})
        broken.update(wrong)
        settings += [each for each in different if each not in settings]
    return paired.compare(pairs, broken), settings, runs


def setup(rows: list[paired.Compared], settings: list[tuple[str, str, str]]) -> None:
    """Tasks that cannot be compared, and settings that differ."""
    blocked = [each for each in rows if each.pair.main and each.reason.startswith("not comparable")]
    if blocked:
        st.error("\n\n".join(f"{plain(each.pair.task, 80)}: {plain(each.reason, 200)}" for each in blocked[:8]), icon=":material/block:")
    if settings:
        st.warning("Settings differ between the runs and contribute to every difference below.", icon=":material/tune:")
        shell.table(
            [{"Setting": name, "Baseline": visible(one, 80), "Candidate": visible(two, 80)} for name, one, two in settings],
            hide_index=True,
            alt="Settings",
        )
    elif not blocked:
        st.caption("Tasks, items, shots, decoding, metrics and settings are the same: only the models differ.")


def forest(rows: list[paired.Compared]) -> None:
    shown = [each for each in rows if each.pair.main and each.difference is not None]
    if not shown:
        return
    found = []
    for number, each in enumerate(sorted(shown, key=lambda row: row.difference.delta if row.difference else 0.0)):
        d = each.difference
        assert d is not None
        ends = {name: each.scale * getattr(d, name) for name in ("delta", "low", "high")}
        found.append({"label": visible(each.pair.task, 60), **ends, "sign": each.direction, "order": number})
    st.altair_chart(charts.forest(frames.DataFrame(found)), width="stretch")
    st.caption("Lines: 90 % confidence intervals. Red or green: p < 0.05 (two-sided), Holm-corrected over all tasks.")


def flips(rows: list[paired.Compared], runs: dict[str, tuple[str, str]], names: tuple[str, str]) -> None:
    shown = {each.pair.task: each for each in rows if each.pair.main and len(each.pair.first)}
    if not shown:
        return
    st.subheader("Flipped items")
    task = st.selectbox("Task", list(shown), key="task", bind="query-params", format_func=lambda each: visible(each, 80))
    each = shown.get(str(task)) or next(iter(shown.values()))
    gained, lost = each.flips
    side = st.segmented_control("Change", ["lost", "gained"], default="lost", required=True, key="side", bind="query-params")
    items = lost if side == "lost" else gained
    st.caption(f"The candidate lost {len(lost)} and gained {len(gained)} of {len(each.pair.items)} items.")
    if not items:
        return
    item = st.selectbox("Item", list(items), key="flip", bind="query-params", format_func=lambda each: visible(each, 80))
    responses = shell.read("responses", each.pair.task, str(item))
    found = [responses[responses.run_id == run] for run in runs[each.pair.task]]
    if all(len(part) for part in found):
        beside(found, names)
        shell.link("items", "All responses to this item", of=each.pair.task, item=str(item))


def beside(found: list[Any], names: tuple[str, str]) -> None:
    """The prompt, the two responses side by side, and their text difference."""
    one, two = (part.iloc[0] for part in found)
    st.markdown("**Prompt**" if one.prompt == two.prompt else "**Prompt of the baseline** (the candidate had another prompt)")
    st.code(visible(one.prompt, 6000, lines=True), language=None, wrap_lines=True)
    for column, row, name in zip(st.columns(2), (one, two), names, strict=True):
        with column:
            st.markdown(f"**{plain(name, 80)}** · {'right' if row.correct == row.correct and row.correct >= 0.5 else 'wrong'}")
            st.code(visible(row.output, 6000, lines=True) or "(empty)", language=None, wrap_lines=True)
    st.caption(f"Gold: {plain(one.gold, 400)}")
    texts = [visible(row.output, 6000, lines=True).splitlines() for row in (one, two)]
    if max(map(len, texts)) > 1 or sum(map(len, texts[0] + texts[1])) > 200:
        lines = list(difflib.unified_diff(texts[0], texts[1], "baseline", "candidate", lineterm="", n=2))
        st.code("\n".join(lines), language="diff", wrap_lines=True)


def page() -> None:
    shell.head(
        "Compare",
        "Differences between a baseline and a candidate, paired by item, with the same statistics as assay compare and assay gate.",
    )
    known = comparable()
    if len(known) < 2:
        shell.empty("A comparison needs two complete runs. Score another model:", "assay run --model OTHER --tasks TASKS")
        return
    left, right = st.columns(2)
    first = left.selectbox("Baseline", list(known), index=None, key="first", bind="query-params", placeholder="choose a model or run")
    second = right.selectbox("Candidate", list(known), index=None, key="second", bind="query-params", placeholder="choose a model or run")
    if first not in known or second not in known:
        shell.empty("Choose two models or runs. On the command line:", "assay compare BASELINE CANDIDATE")
        return
    rows, settings, runs = collect(known[str(first)], known[str(second)])
    if not rows:
        shell.empty("These two have no task in common. Score one on the tasks of the other:", "assay run --model OTHER --tasks TASKS")
        return
    setup(rows, settings)
    forest(rows)
    table = paired.table(rows)
    shown = table.assign(Task=[visible(text, 80) for text in table.Task], Note=[visible(text, 120) for text in table.Note])
    config = {name: st.column_config.NumberColumn(format=form) for name, form in FORMATS.items()}
    config["MDE80"] = st.column_config.NumberColumn(
        format="%.2f", help="Minimum detectable effect: the smallest loss in points that the test detects with 80 % power."
    )
    for name in ("Low", "High"):
        config[name] = st.column_config.NumberColumn(format="%+.2f", help="Limit of the 90 % confidence interval, points.")
    config["Difference"] = st.column_config.NumberColumn(format="%+.2f", help="Candidate minus baseline, points; higher is better.")
    shell.table(shown, hide_index=True, column_config=config, placeholder="–", alt="Paired differences")
    shell.downloads(table, "compare")
    flips(rows, runs, (str(first), str(second)))


shell.run_page(page)
