"""Altair charts. Column names are fixed, so that no name of a model or task can act as a field name or markup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

FEW_TICKS = alt.Axis(tickCount=8, labelFlush=True, labelOverlap="greedy", labelSeparation=6)
KL_TICKS = alt.Axis(format="~g", labelOverlap="greedy", tickCount=6)
ROW_HEIGHT = 26
ROWS = alt.Axis(labelLimit=240, labelOverlap=False, labelFlush=False)
TEXT_COLOUR = "#878c90"  # readable on the light and the dark background


def height(rows: int) -> int:
    """Of a chart with so many rows, an axis and a legend."""
    return ROW_HEIGHT * max(rows, 3) + 110


def rank_intervals(table: Any) -> Any:
    """Draws rank intervals from the columns label, best, worst, rank, tier."""
    shown = table.assign(left=table.best - 0.2, right=table.worst + 0.2)
    base = alt.Chart(shown).encode(y=alt.Y("label:N", sort=alt.SortField("rank"), title=None, axis=ROWS))
    tip = ["label:N", "rank:Q", "best:Q", "worst:Q", "tier:O"]
    x = alt.X(
        "left:Q",
        title="rank (1 is best), 95 % rank interval",
        axis=alt.Axis(tickMinStep=1, format="d", grid=True),
        scale=alt.Scale(domain=[0.5, float(table.worst.max()) + 0.5], nice=False),
    )
    bar = base.mark_bar(height=7, cornerRadius=3, opacity=0.45).encode(
        x=x, x2="right:Q", color=alt.Color("tier:N", legend=None), tooltip=tip
    )
    dot = base.mark_point(filled=True, size=70, opacity=1).encode(x="rank:Q", color=alt.Color("tier:N", legend=None), tooltip=tip)
    return (bar + dot).properties(height=height(len(table)))


def apart(x: Any, y: Any, width: tuple[float, float], height: tuple[float, float], room: tuple[float, float] = (0.04, 0.05)) -> Any:
    """Which labels are drawn: those, in order, with `room` (shares of both axes) to all before them; others would overlap."""
    places = np.column_stack(
        [
            (np.asarray(each, dtype=float) - ends[0]) / max(ends[1] - ends[0], 1e-9) / gap
            for each, ends, gap in ((x, width, room[0]), (y, height, room[1]))
        ]
    )
    kept: list[int] = []
    for number, place in enumerate(places):
        if all((np.abs(place - places[other]) >= 1).any() for other in kept):
            kept.append(number)
    return np.isin(np.arange(len(places)), kept)


def pareto(table: Any, cost: str) -> Any:
    """Draws scores with intervals against cost from the columns label, cost, score, low, high, front (on the Pareto front)."""
    x = alt.X(
        "cost:Q",
        title=cost,
        scale=alt.Scale(type="log" if table.cost.min() > 0 else "linear", padding=90, nice=False),
        axis=alt.Axis(format=".3~g", labelOverlap="greedy"),
    )
    tip = ["label:N", alt.Tooltip("cost:Q", title=cost, format=".4~s"), alt.Tooltip("score:Q", format=".1f"), "low:Q", "high:Q"]
    base = alt.Chart(table)
    bars = base.mark_rule(color=TEXT_COLOUR, opacity=0.6).encode(
        x=x, y=alt.Y("low:Q", title="score, points", scale=alt.Scale(zero=False)), y2="high:Q"
    )
    line = base.transform_filter("datum.front").mark_line(interpolate="step-after", strokeDash=[4, 3], opacity=0.6).encode(x=x, y="score:Q")
    dots = base.mark_point(filled=True, size=85, opacity=1).encode(
        x=x, y="score:Q", color=alt.Color("front:N", legend=None, sort=[True, False]), tooltip=tip
    )
    labelled = table[table.front].drop_duplicates(["cost", "score"])
    scale = np.log if table.cost.min() > 0 else np.asarray
    ends = (float(scale(table.cost.min())), float(scale(table.cost.max())))
    labelled = labelled[apart(scale(labelled.cost), labelled.score, ends, (table.low.min(), table.high.max()), (0.34, 0.045))]
    names = (
        alt.Chart(labelled)
        .mark_text(align="right", dx=-8, dy=-8, fontSize=11, limit=120, color=TEXT_COLOUR)
        .encode(x=x, y="score:Q", text="label:N")
    )
    return (line + bars + dots + names).properties(height=340)


def forest(table: Any) -> Any:
    """Draws differences with intervals from the columns label, delta, low, high, sign (worse, not significant, better), order."""
    colours = alt.Scale(domain=["worse", "not significant", "better"], range=["#b8475b", "#8b8f94", "#2f8f86"])
    base = alt.Chart(table).encode(
        y=alt.Y("label:N", sort=alt.SortField("order"), title=None, axis=ROWS),
        color=alt.Color("sign:N", scale=colours, legend=None),
        tooltip=[
            "label:N",
            alt.Tooltip("delta:Q", format="+.2f"),
            alt.Tooltip("low:Q", format="+.2f"),
            alt.Tooltip("high:Q", format="+.2f"),
        ],
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color=TEXT_COLOUR, aria=False).encode(x=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title="candidate minus baseline, points", axis=FEW_TICKS), x2="high:Q")
    return (zero + bars + base.mark_point(filled=True, size=75, opacity=1).encode(x="delta:Q")).properties(height=height(len(table)))


def scores(table: Any) -> Any:
    """Draws scores with intervals and chance level from the columns label, score, low, high, chance, order."""
    base = alt.Chart(table).encode(y=alt.Y("label:N", sort=alt.SortField("order"), title=None, axis=ROWS))
    tip = [
        "label:N",
        alt.Tooltip("score:Q", format=".2f"),
        alt.Tooltip("low:Q", format=".2f"),
        alt.Tooltip("high:Q", format=".2f"),
        "chance:Q",
    ]
    bars = base.mark_rule(strokeWidth=2, color=TEXT_COLOUR).encode(
        x=alt.X("low:Q", title="score, points, 95 % confidence interval", scale=alt.Scale(zero=False), axis=FEW_TICKS), x2="high:Q"
    )
    dots = base.mark_point(filled=True, size=75, opacity=1).encode(x="score:Q", tooltip=tip)
    chance = base.transform_filter("isValid(datum.chance)").mark_tick(color="#b8475b", thickness=2).encode(x="chance:Q", tooltip=tip)
    return (bars + dots + chance).properties(height=height(len(table)))


def running_score(table: Any) -> Any:
    """Draws a score over the items finished so far from the columns items, score, low, high."""
    x = alt.X("items:Q", title="items finished", scale=alt.Scale(nice=False), axis=alt.Axis(tickMinStep=1, format="d"))
    base = alt.Chart(table)
    band = base.mark_area(opacity=0.2).encode(x=x, y=alt.Y("low:Q", title="score, points", scale=alt.Scale(zero=False)), y2="high:Q")
    tip = ["items:Q", *(alt.Tooltip(f"{name}:Q", format=".1f") for name in ("score", "low", "high"))]
    return (band + base.mark_line().encode(x=x, y="score:Q", tooltip=tip)).properties(height=170)


def histogram(table: Any, title: str) -> Any:
    """Draws a histogram of the column value in [0, 1]."""
    x = alt.X("value:Q", bin=alt.Bin(extent=[0, 1], step=0.1), title=title)
    return alt.Chart(table).mark_bar().encode(x=x, y=alt.Y("count()", title="items"), tooltip=["count()"]).properties(height=220)


def item_scatter(table: Any) -> Any:
    """Draws items from the columns item, difficulty, discrimination, kind."""
    return (
        alt.Chart(table)
        .mark_circle(size=48, opacity=0.6)
        .encode(
            x=alt.X("difficulty:Q", title="difficulty (share of models that are wrong)", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("discrimination:Q", title="discrimination", scale=alt.Scale(domain=[-1, 1])),
            color=alt.Color("kind:N", legend=alt.Legend(title=None, orient="top")),
            tooltip=["item:N", alt.Tooltip("difficulty:Q", format=".2f"), alt.Tooltip("discrimination:Q", format=".2f"), "kind:N"],
        )
        .properties(height=300)
    )


def gain_against_forgetting(table: Any, methods: Sequence[str]) -> Any:
    """Draws gain on the target against change on retention tasks, from the columns method, family, gain and kept with _low and
    _high, runs, rate, front."""
    base = alt.Chart(table)
    titles = ("change on retention tasks, points (higher is better)", "gain on the target, points (higher is better)")
    x, y = alt.X("kept:Q", title=titles[0]), alt.Y("gain:Q", title=titles[1])
    colour = alt.Color("method:N", legend=None, scale=alt.Scale(domain=list(methods)))
    tip = [
        "method:N",
        "family:N",
        *(alt.Tooltip(f"{name}:Q", format="+.2f") for name in ("gain", "kept")),
        alt.Tooltip("runs:Q", title="seeds"),
        alt.Tooltip("rate:N", title="learning rate"),
    ]
    across = base.mark_rule(opacity=0.4).encode(x=alt.X("kept_low:Q", title=titles[0]), x2="kept_high:Q", y=y, color=colour)
    up = base.mark_rule(opacity=0.4).encode(x=x, y=alt.Y("gain_low:Q", title=titles[1]), y2="gain_high:Q", color=colour)
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color=TEXT_COLOUR, aria=False)
    paths = base.mark_line(opacity=0.3).encode(x=x, y=y, color=colour, detail="method:N", order="rate_order:Q")
    line = base.transform_filter("datum.front").mark_line(strokeDash=[2, 3], color="#8b8f94").encode(x=x, y=y, order="kept:Q")
    dots = base.mark_point(filled=True, size=90).encode(
        x=x, y=y, color=colour, opacity=alt.condition("datum.front", alt.value(1), alt.value(0.45)), tooltip=tip
    )
    left = table.sort_values(["front", "gain"], ascending=False).drop_duplicates("method")
    ends = (table.kept_low.min(), table.kept_high.max()), (table.gain_low.min(), table.gain_high.max())
    names = alt.LayerChart()
    for rise in (-7, 12):  # a label stands above its point, or below it where it would overlap another
        placed = apart(left.kept, left.gain, *ends, (0.14, 0.05))
        text = alt.Chart(left[placed]).mark_text(align="left", dx=8, dy=rise, fontSize=12)
        names += text.encode(x=x, y=y, text="method:N", color=colour)
        left = left[~placed]
    return (zero.encode(x=alt.datum(0)) + zero.encode(y=alt.datum(0)) + paths + across + up + line + dots + names).properties(height=420)


def frontier(table: Any, methods: Sequence[str]) -> Any:
    """Draws gain against the distance from the base model (KL, nats per token, log axis), one line per method, from the columns method,
    kl, gain, low, high, rate. Labels stand at the largest distance."""
    base = alt.Chart(table)
    x = alt.X("kl:Q", title="KL from the base model, nats per token", scale=alt.Scale(type="log", nice=False, padding=30), axis=KL_TICKS)
    y = alt.Y("gain:Q", title="gain on the target, points")
    colour = alt.Color("method:N", legend=None, scale=alt.Scale(domain=list(methods)))
    tip = [
        "method:N",
        alt.Tooltip("rate:N", title="learning rate"),
        alt.Tooltip("gain:Q", format="+.1f"),
        alt.Tooltip("kl:Q", format=".2g"),
    ]
    band = base.mark_area(opacity=0.15).encode(x=x, y=alt.Y("low:Q", title="gain on the target, points"), y2="high:Q", color=colour)
    lines = base.mark_line().encode(x=x, y=y, color=colour, order="kl:Q")
    dots = base.mark_point(filled=True, size=70, opacity=1).encode(x=x, y=y, color=colour, tooltip=tip)
    last = alt.Chart(table.sort_values("kl").groupby("method").tail(1)).mark_text(align="left", dx=8, fontSize=12)
    return (band + lines + dots + last.encode(x=x, y=y, text="method:N", color=colour)).properties(height=380)


def learning_rates(table: Any) -> Any:
    """Draws gain by learning rate from the columns method, lr, gain, low, high, runs."""
    base = alt.Chart(table)
    x = alt.X("lr:Q", scale=alt.Scale(type="log"), title="learning rate", axis=alt.Axis(format=".0e"))
    colour = alt.Color("method:N", legend=alt.Legend(title=None, orient="top", columns=2, symbolOpacity=1))
    tip = [
        "method:N",
        alt.Tooltip("lr:Q", title="learning rate"),
        alt.Tooltip("gain:Q", format="+.2f"),
        alt.Tooltip("runs:Q", title="seeds"),
    ]
    bars = base.mark_rule(opacity=0.4).encode(x=x, y=alt.Y("low:Q", title="gain on the target, points"), y2="high:Q", color=colour)
    line = base.mark_line(point=True).encode(x=x, y="gain:Q", color=colour, tooltip=tip)
    return (bars + line).properties(height=260 + 11 * table.method.nunique())  # two methods per line of the legend


def heatmap(table: Any, title: str, middle: bool = True) -> Any:
    """Draws a matrix from the columns row, column, value; colours diverge from zero if `middle`, else go from 0 to 1."""
    peak = float(table.value.abs().max() or 1.0)
    scale = (
        alt.Scale(domain=[-peak, 0, peak], range=["#b4532f", "#f5f1e8", "#2f7c83"])
        if middle
        else alt.Scale(domain=[0, 1], range=["#efe9dc", "#2f7c83"])
    )
    texts = [f"{each:+.1f}".replace("-", "−") for each in table.value]
    base = alt.Chart(table.assign(text=texts)).encode(
        x=alt.X("column:N", title=None, axis=alt.Axis(labelAngle=-90, labelLimit=140, labelOverlap=False, orient="bottom")),
        y=alt.Y("row:N", title=None, sort=None, axis=ROWS),
    )
    tip = ["row:N", "column:N", alt.Tooltip("value:Q", format="+.2f" if middle else ".2f")]
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color("value:Q", scale=scale, legend=alt.Legend(title=title, orient="top") if middle else None), tooltip=tip
    )
    if middle:  # the text is rounded as in tables: the browser rounds halves differently
        strong = alt.condition(f"abs(datum.value) > {0.6 * peak}", alt.value("white"), alt.value("#1f2528"))
        cells = cells + base.mark_text(fontSize=11).encode(text="text:N", color=strong, tooltip=tip)
    return cells.properties(height=ROW_HEIGHT * table.row.nunique() + 170)


def gate_history(table: Any) -> Any:
    """Draws gate decisions over time from the columns at, delta, low, high, verdict, candidate, baseline."""
    colours = alt.Scale(domain=["pass", "inconclusive", "regressed"], range=["#2f8f86", "#d9822b", "#b8475b"])
    base = alt.Chart(table).encode(
        x=alt.X("at:T", title=None, scale=alt.Scale(padding=24), axis=alt.Axis(format="%Y-%m-%d %H:%M", labelOverlap="greedy")),
        color=alt.Color("verdict:N", scale=colours, legend=alt.Legend(title=None, orient="top")),
        tooltip=["at:T", "candidate:N", "baseline:N", "verdict:N", alt.Tooltip("delta:Q", format="+.2f"), "low:Q", "high:Q"],
    )
    zero = alt.Chart().mark_rule(strokeDash=[4, 3], color=TEXT_COLOUR, aria=False).encode(y=alt.datum(0))
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="candidate minus baseline, points"), y2="high:Q")
    return (zero + bars + base.mark_point(filled=True, size=90, opacity=1).encode(y="delta:Q")).properties(height=280)


def profile(table: Any, names: tuple[str, str]) -> Any:
    """Draws two scores per task from the columns label, own, other, difference, order; `names` are those of own and other."""
    y = alt.Y("label:N", sort=alt.SortField("order"), title=None, axis=ROWS)
    long = table.melt(["label", "difference", "order"], ["own", "other"], "side", "score").replace(
        {"side": {"own": names[0], "other": names[1]}}
    )
    scale = alt.Scale(domain=list(names), range=["#3a8c94", "#8b8f94"])
    tip = ["label:N", "side:N", alt.Tooltip("score:Q", format=".1f"), alt.Tooltip("difference:Q", format="+.1f")]
    lines = (
        alt.Chart(table)
        .mark_rule(strokeWidth=3, opacity=0.35, color=TEXT_COLOUR)
        .encode(y=y, x=alt.X("own:Q", title="score, points", scale=alt.Scale(zero=False), axis=FEW_TICKS), x2="other:Q")
    )
    dots = alt.Chart(long).mark_point(filled=True, size=85, opacity=1)
    dots = dots.encode(
        y=y, x="score:Q", color=alt.Color("side:N", scale=scale, legend=alt.Legend(title=None, orient="top", columns=1)), tooltip=tip
    )
    gaps = alt.Chart(table.assign(right=table[["own", "other"]].max(axis=1))).mark_text(align="left", dx=9, fontSize=11, color=TEXT_COLOUR)
    return (lines + dots + gaps.encode(y=y, x="right:Q", text=alt.Text("difference:Q", format="+.1f"))).properties(
        height=height(len(table))
    )


def checkpoints(table: Any) -> Any:
    """Draws scores by step from the columns step, family, points; labels stand at the last step."""
    x = alt.X("step:Q", title="step", axis=alt.Axis(format="~s", values=sorted(set(table.step))), scale=alt.Scale(padding=24, nice=False))
    y = alt.Y("points:Q", title="mean score of the family, points", scale=alt.Scale(zero=False))
    colour = alt.Color("family:N", legend=None)
    base = alt.Chart(table)
    lines = base.mark_line(point=True).encode(x=x, y=y, color=colour, tooltip=["family:N", "step:Q", alt.Tooltip("points:Q", format=".1f")])
    last = alt.Chart(table[table.step == table.step.max()]).mark_text(align="left", dx=9, fontSize=12)
    return (lines + last.encode(x=x, y=y, text="family:N", color=colour)).properties(height=300)
