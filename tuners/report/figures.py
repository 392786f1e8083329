"""The figures of a study as SVG, from its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay import AssayError
from assay.tuners.report.claims import Estimate, Row, estimate, main_rows, methods_of, pick
from assay.tuners.report.frontier import Points, frontier_band, paths_of
from assay.tuners.study.forgetting import choice_score

Chart = Any
Point = dict[str, Any]
WIDTH, HEIGHT = 300, 220


def draw(rows: Sequence[Row], folder: Path, points: Points | None = None) -> list[str]:
    """Write every figure for which there are rows; returns the file names. Raises AssayError without altair and vl-convert."""
    try:
        import vl_convert
    except ImportError:
        raise AssayError("figures need altair and vl-convert-python", do="pip install 'assay[report]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    charts = {"frontier": frontiers(rows, points)} if points else {}
    for name, chart in (charts | {name: figure(rows) for name, figure in FIGURES.items()}).items():
        if chart is not None:
            (folder / f"{name}.svg").write_text(vl_convert.vegalite_to_svg(chart.to_json()))
            made.append(f"{name}.svg")
    return made


def short(target: str) -> str:
    """A task's name in figures and tables."""
    return target.rpartition(":")[2].lower().rpartition("/")[2]


def targets_of(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["target"] for row in rows))


def spread(name: str, found: Estimate | None, factor: float = 1.0) -> Point:
    """The estimate as the columns `name`, `name_low` and `name_high`; no bounds without a finite interval."""
    if found is None:
        return {}
    bounds = {f"{name}_low": factor * found.low, f"{name}_high": factor * found.high} if found.half_width < float("inf") else {}
    return {name: factor * found.value, **bounds}


def pareto_points(rows: Sequence[Row]) -> list[Point]:
    """Each method and mitigation at the chosen learning rate, and full tuning at a tenth of it."""
    found: list[Point] = []
    for target in targets_of(rows):
        groups = {(name, "none"): main_rows(rows, target, name) for name in methods_of(rows, target)}
        groups["full", "a tenth of the learning rate"] = pick(rows, target=target, role="tenth_rate")
        for row in pick(rows, target=target, role="mitigation"):
            groups.setdefault((row["method"], row["mitigation"]), []).append(row)
        for (name, mitigation), group in groups.items():
            gain, drop, text = (estimate(group, column) for column in ("gain", "average_drop", "kl_text"))
            if gain and drop:
                point: Point = {"target": short(target), "method": name, "mitigation": mitigation}
                found.append(point | spread("gain", gain, 100) | spread("drop", drop, 100) | spread("kl", text))
    return found


def data(points: Sequence[Point]) -> Any:
    import altair

    return altair.Data(values=list(points))


def plane(points: Sequence[Point], y: str, title: str) -> Chart:
    """Gain against one measure of forgetting, with 95% confidence intervals of both."""
    import altair as alt

    base = alt.Chart(data(points)).encode(color=alt.Color("method:N", title="method", scale=alt.Scale(scheme="tableau20")))
    x = alt.X("gain:Q", title="gain on the target (points)", scale=alt.Scale(zero=True))
    up = alt.Y(f"{y}:Q", title=title, scale=alt.Scale(zero=True))
    dots = base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=up, shape=alt.Shape("mitigation:N", title="mitigation"))
    across = base.mark_rule(opacity=0.35).encode(x="gain_low:Q", x2="gain_high:Q", y=f"{y}:Q")
    along = base.mark_rule(opacity=0.35).encode(x="gain:Q", y=f"{y}_low:Q", y2=f"{y}_high:Q")
    return (across + along + dots).properties(width=WIDTH, height=HEIGHT)


def by_target(points: Sequence[Point], make: Callable[[list[Point]], Chart]) -> Chart:
    import altair as alt

    names = list(dict.fromkeys(point["target"] for point in points))
    return alt.hconcat(*(make([point for point in points if point["target"] == name]).properties(title=name) for name in names))


def pareto(rows: Sequence[Row]) -> Chart | None:
    import altair as alt

    points = pareto_points(rows)
    if not points:
        return None
    lost = by_target(points, lambda some: plane(some, "drop", "average drop of retention tasks (points)"))
    points = [point for point in points if "kl" in point]
    if not points:
        return lost  # the study has no neutral text
    moved = by_target(points, lambda some: plane(some, "kl", "KL(base || tuned) on neutral text (nats per token)"))
    return alt.vconcat(lost, moved)


def frontiers(rows: Sequence[Row], points: Points) -> Chart | None:
    """KL against gain along every run (thin), and each method's frontier: the mean over seeds with its simultaneous band."""
    import altair as alt

    lines, bands = list[Point](), list[Point]()
    for target in targets_of(rows):
        for name in methods_of(rows, target):
            paths = paths_of(rows, points, target, name)
            own = {"target": short(target), "method": name}
            lines += [
                {**own, "run": f"{name} {seed}", "order": order, "gain": 100 * gain, "kl": kl}
                for seed, path in paths.items()
                for order, (gain, kl) in enumerate(path)
                if kl > 0
            ]
            known = [point for point in frontier_band(paths) if math.isfinite(point.high)]
            bands += [{**own, "gain": 100 * at.gain, "kl": at.value, "low": at.low, "high": at.high} for at in known]
    if not lines:
        return None

    def make(some: list[Point]) -> Chart:
        legend = alt.Legend(symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=3)
        colour = alt.Color("method:N", title="method", scale=alt.Scale(scheme="tableau20"), legend=legend)
        x = alt.X("gain:Q", title="gain on the target (points)")
        y = alt.Y("kl:Q", title="KL(base || tuned) (nats per token)", scale=alt.Scale(type="log"))
        runs = alt.Chart(data(some)).mark_line(opacity=0.3, strokeWidth=1, point={"size": 12, "opacity": 0.5})
        chart = runs.encode(x=x, y=y, color=colour, detail="run:N", order="order:Q")
        own = [each for each in bands if each["target"] == some[0]["target"]]
        if own:
            mean = alt.Chart(data(own)).encode(x=x, color=colour)
            chart = mean.mark_area(opacity=0.15).encode(y="low:Q", y2="high:Q") + chart + mean.mark_line(strokeWidth=3).encode(y=y)
        return chart.properties(width=2 * WIDTH, height=2 * HEIGHT)

    return by_target(lines, make)


def rate_points(rows: Sequence[Row]) -> list[Point]:
    return [
        {
            "target": short(row["target"]),
            "method": row["method"],
            "rate": row["lr"],
            "score": score,
            "kl": row.get("kl_text"),
        }
        for row in rows
        if (score := choice_score(row)) is not None and row.get("role") in ("rate", "grid") and row["lr"]
    ]


def rates(rows: Sequence[Row]) -> Chart | None:
    """Validation score (minus the loss, or a share of the items in earlier studies) and KL by learning rate."""
    import altair as alt

    points = rate_points(rows)
    if not points:
        return None

    def curves(column: str, title: str, scale: str) -> Callable[[list[Point]], Chart]:
        def make(some: list[Point]) -> Chart:
            x = alt.X("rate:Q", title="learning rate", scale=alt.Scale(type="log"), axis=alt.Axis(format="~e"))
            y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(type=scale, zero=False), aggregate="mean")
            chart = alt.Chart(data(some)).mark_line(point=True).encode(x=x, y=y, color=alt.Color("method:N", title=None))
            return chart.properties(width=WIDTH, height=HEIGHT)

        return make

    scored = by_target(points, curves("score", "validation: minus the loss, or score", "linear"))
    moved = [point for point in points if point["kl"]]
    return alt.vconcat(scored, by_target(moved, curves("kl", "KL on neutral text (nats per token)", "log"))) if moved else scored


def context_points(rows: Sequence[Row]) -> list[Point]:
    """Gain and context tokens per query of the base with few-shot examples and of every tuned model."""
    found: list[Point] = []
    for target in targets_of(rows):
        for shots in sorted({int(row["shots"]) for row in pick(rows, target=target, role="in_context")}):
            group = pick(rows, target=target, role="in_context", shots=shots)
            found.append(context_point(target, f"{shots} examples", "in context", group))
        found += [context_point(target, name, "tuned", main_rows(rows, target, name)) for name in methods_of(rows, target)]
    return found


def context_point(target: str, name: str, kind: str, group: Sequence[Row]) -> Point:
    tokens = estimate(group, "context_tokens")
    return {"target": short(target), "method": name, "kind": kind, "tokens": tokens.value if tokens else None} | spread(
        "gain", estimate(group, "gain"), 100
    )


def contexts(rows: Sequence[Row]) -> Chart | None:
    import altair as alt

    points = context_points(rows)
    if not points:
        return None

    def make(some: list[Point]) -> Chart:
        order = [point["method"] for point in sorted(some, key=lambda point: -point.get("gain", 0.0))]
        base = alt.Chart(data(some)).encode(
            y=alt.Y("method:N", title=None, sort=order), color=alt.Color("kind:N", title=None, legend=alt.Legend(orient="top"))
        )
        bars = base.mark_point(filled=True, size=45).encode(x=alt.X("gain:Q", title="gain over the base without examples (points)"))
        errors = base.mark_rule().encode(x="gain_low:Q", x2="gain_high:Q")
        tokens = base.mark_text(align="left", fontSize=8, dx=4).encode(
            x=alt.value(WIDTH), text=alt.Text("tokens:Q", format=".0f"), color=alt.value("grey")
        )
        return (errors + bars + tokens).properties(width=WIDTH, height=HEIGHT)

    return by_target(points, make)


def heat_points(rows: Sequence[Row]) -> list[Point]:
    """Mean drop of each retention task over seeds, by target and method."""
    cells: dict[tuple[str, str, str], list[float]] = {}
    for target in targets_of(rows):
        for method in methods_of(rows, target):
            for row in main_rows(rows, target, method):
                for task, drop in (row.get("drops") or {}).items():
                    cells.setdefault((short(target), method, short(task.partition("@")[0])), []).append(100 * float(drop))
    return [
        {"target": target, "method": method, "task": task, "drop": sum(drops) / len(drops)}
        for (target, method, task), drops in cells.items()
    ]


def heat(rows: Sequence[Row]) -> Chart | None:
    import altair as alt

    points = heat_points(rows)
    if not points:
        return None
    most = max(1.0, *(abs(point["drop"]) for point in points))

    def make(some: list[Point]) -> Chart:
        scale = alt.Scale(scheme="redblue", domain=[-most, most], reverse=True)
        base = alt.Chart(data(some)).encode(x=alt.X("task:N", title=None), y=alt.Y("method:N", title=None))
        cells = base.mark_rect().encode(color=alt.Color("drop:Q", title="drop (points; negative: rise)", scale=scale))
        return (cells + base.mark_text(fontSize=9).encode(text=alt.Text("drop:Q", format="+.1f"))).properties(width=170, height=HEIGHT)

    return by_target(points, make)


def cost_points(rows: Sequence[Row]) -> list[Point]:
    found: list[Point] = []
    for target in targets_of(rows):
        for method in methods_of(rows, target):
            group = main_rows(rows, target, method)
            known = {name: estimate(group, name) for name in ("saved_bytes", "peak_memory", "gain")}
            if all(known.values()):
                means = {name: each.value for name, each in known.items() if each}
                found.append(
                    {
                        "target": short(target),
                        "method": method,
                        "megabytes": means["saved_bytes"] / 1e6,
                        "memory": means["peak_memory"] / 1e9,
                        "gain": 100 * means["gain"],
                    }
                )
    return found


def costs(rows: Sequence[Row]) -> Chart | None:
    """Gain against the bytes to store per further task, with the peak memory of training."""
    import altair as alt

    points = cost_points(rows)
    if not points:
        return None

    def make(some: list[Point]) -> Chart:
        base = alt.Chart(data(some)).encode(
            x=alt.X("megabytes:Q", title="stored per further task (MB)", scale=alt.Scale(type="log")),
            y=alt.Y("gain:Q", title="gain (points)"),
        )
        dots = base.mark_point(filled=True).encode(size=alt.Size("memory:Q", title="peak memory (GB)", scale=alt.Scale(zero=False)))
        return (dots + base.mark_text(align="left", dx=6, dy=-6, fontSize=8).encode(text="method:N")).properties(width=WIDTH, height=HEIGHT)

    return by_target(points, make)


FIGURES: Mapping[str, Callable[[Sequence[Row]], Chart | None]] = {
    "pareto": pareto, "learning-rates": rates, "in-context": contexts, "retention": heat, "costs": costs,
}  # fmt: skip
CAPTIONS = {
    "frontier.svg": "KL against gain along every run, with each method's frontier and its simultaneous 95% band",
    "pareto.svg": "Gain against forgetting, 95% confidence intervals over items and seeds",
    "learning-rates.svg": "Validation score and KL by learning rate",
    "in-context.svg": "Few-shot examples against tuning; on the right the context tokens per query",
    "retention.svg": "Drop by retention task, mean over seeds",
    "costs.svg": "Gain against the bytes per further task",
}


def figure_links(figures: Sequence[str]) -> Iterator[str]:
    """The first figure, and links to the others."""
    for name in figures[:1]:
        yield ""
        yield f"![{CAPTIONS[name]}](figures/{name})"
    if figures[1:]:
        yield ""
        yield f"Further figures: {'; '.join(f'[{CAPTIONS[name]}](figures/{name})' for name in figures[1:])}."
