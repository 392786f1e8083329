"""Trials of tuning studies: gain on the target task, change on the retention tasks, and cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.stats.distributions import t_quantile
from assay.leaderboard.data import frames
from assay.leaderboard.data.ranking import Z95, pareto_front

NUMBERS = (
    *("lr", "seed", "gain", "gain_low", "gain_high", "average_drop", "average_drop_low", "average_drop_high", "seconds", "train_seconds"),
    *("trainable_parameters", "saved_bytes", "peak_memory", "shots", "loss_tokens", "kl_base"),
)
REPORT, FRONTIERS = "REPORT.md", "frontiers.json"
FULL = "full"
OPPOSITE = {"dominates": "dominated", "dominated": "dominates"}
TEXTS = ["study", "method", "family", "mitigation", "role", "target", "labels", "status", "run_id", "drops"]


def stamp(root: Path) -> str:
    """A cache key that changes with the files of the studies."""
    return "|".join(f"{path}:{path.stat().st_mtime_ns}" for path in files(root))


def files(root: Path) -> list[Path]:
    return sorted([*root.glob("studies/*/trials.parquet"), *root.glob("tuned/*/trials.parquet")])


def trials(root: Path, indexed: Any) -> Any:
    """One row per trial from the files of the studies, or from `indexed` (fewer columns) where the files are missing.

    Scores are fractions: 0.01 is one point. Missing columns are empty; `selected` marks rows with the selected learning rate."""
    import pyarrow

    parts = []
    for path in files(root):
        try:
            part = frames.read_parquet(path)
        except (OSError, ValueError, pyarrow.ArrowException):
            continue
        part["study"] = f"{path.parent.parent.name}/{path.parent.name}"
        parts.append(part)
    if not parts and len(indexed):
        parts.append(indexed)
    rows = frames.concat(parts, ignore_index=True) if parts else frames.DataFrame()
    for name in NUMBERS:
        rows[name] = frames.to_numeric(rows[name], errors="coerce") if name in rows else np.nan
    for name in TEXTS:
        rows[name] = rows[name].fillna("").astype(str) if name in rows else ""
    if "selected" not in rows:
        rows["selected"] = True
    rows["selected"] = rows.selected.isna() | (rows.selected == True)  # noqa: E712
    rows["seconds"] = rows.train_seconds.fillna(rows.seconds)
    return rows


def plotted(rows: Any) -> Any:
    """Rows with a gain and an average drop, without baselines and controls; the base model is the origin of the chart."""
    kept = rows[
        rows.gain.notna() & rows.average_drop.notna() & ~rows.labels.isin(["random"]) & ~rows.role.isin(["base", "control", "untrained"])
    ]
    return kept.assign(mitigation=kept.mitigation.replace("", "none"), labels=kept.labels.replace("", "true"))


def failed(rows: Any) -> Any:
    """Rows without a result. A trial that a mitigation stopped early has a result."""
    return rows[~rows.status.isin(["done", "complete", "stopped", ""])]


def spread(values: Any, low: Any, high: Any) -> tuple[float, float, float]:
    """Mean over seeds with a 95 % interval that combines the error of the items, which all seeds share, with the variation between
    seeds (Student's t). Limits are NaN where neither is known."""
    value, count = float(values.mean()), len(values)
    items = np.nanmean(((high - low) / (2 * Z95)) ** 2) if (high - low).notna().any() else 0.0
    seeds = float(t_quantile(0.975, count - 1)) ** 2 * float(values.var(ddof=1)) / count if count > 1 else 0.0
    half = float(np.sqrt(Z95**2 * items + seeds))
    return (value, value - half, value + half) if half > 0 else (value, np.nan, np.nan)


def points(rows: Any) -> Any:
    """One row per method, mitigation and learning rate, averaged over seeds: gain and change on retention tasks with 95 % intervals
    (points, higher is better), and costs."""
    found = []
    keys = ["method", "family", "mitigation", "lr", "shots"]
    for (method, family, mitigation, lr, shots), part in plotted(rows).groupby(keys, dropna=False, sort=True):
        gain = [100 * each for each in spread(part.gain, part.gain_low, part.gain_high)]
        kept = [100 * each for each in spread(-part.average_drop, -part.average_drop_high, -part.average_drop_low)]
        name = (
            method
            + (f" + {mitigation}" if mitigation != "none" else "")
            + (f" {shots:.0f}-shot" if family == "in_context" and shots == shots else "")
        )
        costs = {
            each: part[each].mean() for each in ("trainable_parameters", "saved_bytes", "peak_memory", "seconds", "loss_tokens", "kl_base")
        }
        found.append(
            {"method": name, "family": family or "other", "lr": lr, "runs": len(part), "selected": bool(part.selected.all())}
            | dict(zip(("gain", "gain_low", "gain_high"), gain, strict=True))
            | dict(zip(("kept", "kept_low", "kept_high"), kept, strict=True))
            | costs
        )
    table = frames.DataFrame(found)
    if len(table):
        table["front"] = pareto_front(table.gain.to_numpy(), table.kept.to_numpy())
        table["rate"] = ["–" if lr != lr else f"{lr:.0e}" for lr in table.lr]
        table["rate_order"] = table.lr.fillna(0.0)
    return table


def frontier_verdicts(study: Path, target: str) -> Any:
    """Each method against full tuning at equal gain along the runs, from a study's frontiers.json: method, smaller final gain, KL over
    full, seeds, verdict. Empty where the runs were not scored along their way, or the file cannot be read."""
    rows = []
    try:
        for each in json.loads((study / FRONTIERS).read_bytes()):
            if str(each["target"]) != target:
                continue
            for pair in each["verdicts"]:
                if FULL in (pair["method"], pair["other"]):
                    rows.append(against_full(pair))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        rows = []
    return frames.DataFrame(rows, columns=["method", "smaller final gain (points)", "KL over full", "seeds", "verdict"])


def against_full(pair: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
    """One row of `frontier_verdicts`; a pair may name full tuning first."""
    turned = pair["method"] == FULL
    factor = pair["factor"]
    if factor is not None and turned:
        factor = [1 / factor[0], 1 / factor[2], 1 / factor[1]]
    ratio = "–" if factor is None else "{:.3g}x [{:.3g}, {:.3g}]".format(*factor)
    gain = "–" if pair["gain"] is None else f"{100 * pair['gain']:+.1f}"
    verdict = OPPOSITE.get(pair["verdict"], pair["verdict"]) if turned else pair["verdict"]
    return str(pair["other"] if turned else pair["method"]), gain, ratio, str(pair["seeds"]), str(verdict)


def verdicts(study: Path, target: str) -> Any:
    """The table of methods compared with full tuning from a study's REPORT.md, of one target; empty where there is none."""
    try:
        lines = (study / REPORT).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    head: list[str] = []
    rows = []
    for line in lines:
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if cells[:2] == ["target", "method"] and cells[-1] == "verdict":
            head = cells
        elif head and len(cells) == len(head) and set(line) - set("|- "):
            rows.append(dict(zip(head, cells, strict=True)))
        elif rows and not cells:
            break
    table = frames.DataFrame(rows, columns=head)
    return table[[str(name) in target for name in table.target]].drop(columns="target") if len(table) else table


def retention(rows: Any) -> Any:
    """Change on each retention task in points, mean over seeds at the selected learning rate: row (method), column (task), value."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in plotted(rows)[lambda rows: rows.selected].itertuples():
        try:
            drops = json.loads(row.drops) if row.drops else {}
        except ValueError:
            continue
        name = row.method + (f" + {row.mitigation}" if row.mitigation != "none" else "")
        for task, drop in drops.items() if isinstance(drops, dict) else ():
            if isinstance(drop, int | float):
                found.setdefault((name, str(task)), []).append(-100 * float(drop))
    return frames.DataFrame([{"row": name, "column": task, "value": float(np.mean(values))} for (name, task), values in found.items()])
