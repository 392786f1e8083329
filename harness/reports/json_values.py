"""Comparisons and gates as JSON values with finite numbers only."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from assay.harness.decide.compare import Comparison, Row, Side
from assay.harness.decide.decision import Decision
from assay.harness.decide.early_stopping import EarlyGate
from assay.harness.decide.verdict import GatedTask
from assay.harness.stats.rule import mde80


def finite(value: Any) -> Any:
    """The value with null in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def side_json(side: Side) -> dict[str, Any]:
    return {
        "run": side.run,
        "model": side.model,
        "digest": side.digest,
        "purpose": side.purpose,
        "evidence": side.evidence,
        **side.settings,
        "noise": dict(side.noise),
    }


def row_json(row: Row, alpha: float) -> dict[str, Any]:
    found = row.difference
    scaled = {name: row.points * getattr(found, name) for name in ("delta", "low", "high", "se")}
    return {
        "task": row.task,
        "metric": row.metric,
        "main": row.main,
        "total": row.total,
        "baseline": row.baseline,
        "candidate": row.candidate,
        "better": row.better,
        "unit": "points" if found.bounded else row.metric,
        **scaled,
        "p": found.p,
        "p_loss": found.p_loss,
        "p_holm": row.p_holm,
        "mde80": row.points * float(mde80(found.se, alpha)),
        "n": found.n,
        "units": found.units,
        "wins": found.wins,
        "losses": found.losses,
        "churn": found.churn,
        "method": found.method,
        "gained": list(row.gained),
        "lost": list(row.lost),
        "causes": dict(row.causes),
        "floor": row.floor,
        "within_floor": row.within_floor,
    }


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    rows = [row_json(row, comparison.alpha) for row in comparison.rows]
    return finite(  # type: ignore[no-any-return]
        {
            "baseline": side_json(comparison.baseline),
            "candidate": side_json(comparison.candidate),
            "purpose": comparison.purpose,
            "evidence": comparison.evidence,
            "alpha": comparison.alpha,
            "results": rows,
            "left_out": list(comparison.left_out),
            "undefined": [asdict(each) for each in comparison.undefined],
            "notes": list(comparison.notes),
        }
    )


def task_json(each: GatedTask, alpha: float) -> dict[str, Any]:
    facts = {name: getattr(each, name) for name in ("margin", "p", "p_holm", "held", "critical", "advisory", "weight", "blind", "signal")}
    known = {"chance": each.row.chance, "majority": each.row.majority, "shown": each.shown}
    smoothed = (
        {name: getattr(each.row.smoothed, name) * each.row.points for name in ("delta", "low", "high")} if each.row.smoothed else None
    )
    return {**row_json(each.row, alpha), **facts, **known, "mde80": each.mde, "smoothed": smoothed}


def gate_json(decision: Decision, comparison: Comparison, exit_code: int) -> dict[str, Any]:
    facts = {key: value for key, value in asdict(decision).items() if key != "tasks"}
    tasks = [task_json(each, decision.alpha) for each in decision.tasks]
    sides = {"baseline": side_json(comparison.baseline), "candidate": side_json(comparison.candidate)}
    evidence = {"purpose": comparison.purpose, "evidence": comparison.evidence, "exit_code": exit_code}
    undefined = [asdict(each) for each in comparison.undefined]
    return finite({**facts, **sides, **evidence, "tasks": tasks, "undefined": undefined})  # type: ignore[no-any-return]


def early_json(found: EarlyGate, exit_code: int) -> dict[str, Any]:
    facts = {**asdict(found), "run": found.bundle.name, "evidence": "early-stopped", "exit_code": exit_code}
    return finite({key: value for key, value in facts.items() if key != "bundle"})  # type: ignore[no-any-return]
