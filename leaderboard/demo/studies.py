"""Three invented tuning studies: six methods at three learning rates with three seeds, on one target and four retention tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

METHODS = {
    "full": ("full", 0.150, 0.070, 3_200_000_000, 6_400_000_000),
    "bitfit": ("selective", 0.050, 0.006, 1_200_000, 2_400_000),
    "lora": ("reparameterization", 0.130, 0.022, 8_000_000, 16_000_000),
    "dora": ("reparameterization", 0.135, 0.030, 8_600_000, 17_200_000),
    "pfeiffer": ("additive", 0.100, 0.016, 12_000_000, 24_000_000),
    "ia3": ("additive", 0.045, 0.003, 300_000, 600_000),
    "in_context": ("in_context", 0.040, 0.0, 0, 0),
}
"""Family, gain, drop, trainable parameters, bytes."""
SPENT = {
    "full": (46.1e9, 620.0),
    "bitfit": (8.7e9, 281.0),
    "lora": (9.4e9, 352.0),
    "dora": (10.8e9, 487.0),
    "pfeiffer": (9.1e9, 318.0),
    "ia3": (9.0e9, 334.0),
    "in_context": (7.2e9, 0.0),
}
"""Peak memory in bytes and training time in seconds."""
RATES = {1e-5: 0.45, 1e-4: 1.0, 1e-3: 0.9}
WEIGHTS = {"letters/last@demo": 0.5, "words/order@demo": 1.4, "words/tense@demo": 1.6, "clock/later@demo": 0.5}
STUDIES = {"arithmetic/multiply@demo": 1.0, "reasoning/count@demo": 0.7, "summary/keywords@demo": 1.2}


def trials(study: str, target: str, size: float, draw: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for method, (family, gain, drop, trainable, saved) in METHODS.items():
        for rate, factor in RATES.items() if family != "in_context" else ((None, 1.0),):
            harm = drop * size * (factor if rate != 1e-3 else 2.2)
            for seed in (0, 1, 2) if rate else (0,):
                value = gain * size * factor + float(draw.normal(0, 0.004))
                drops = {task: harm * weight + float(draw.normal(0, 0.001)) for task, weight in WEIGHTS.items()}
                average = float(np.mean(list(drops.values())))
                row: dict[str, Any] = {"study": study, "method": method, "family": family, "lr": rate, "seed": seed, "role": "grid"}
                row |= {"target": target, "gain": value, "gain_low": value - 0.02, "gain_high": value + 0.02, "average_drop": average}
                row |= {"average_drop_low": average - 0.006, "average_drop_high": average + 0.006, "drops": json.dumps(drops)}
                if family == "in_context":  # the base model: no change, as in the studies of `assay study`
                    row |= {"average_drop": 0.0, "average_drop_low": None, "average_drop_high": None, "drops": ""}
                row |= {"mitigation": "none", "labels": "true", "status": "done", "selected": rate in (1e-4, None)}
                row |= {"kl_base": max(1e-4, 0.9 * harm + 0.002 * (rate is not None)), "trainable_parameters": trainable}
                row |= {"saved_bytes": saved, "shots": None if rate else 4}
                row |= {"peak_memory": SPENT[method][0], "seconds": SPENT[method][1] * (1 + 0.01 * seed)}
                rows.append(row)
    control = rows[0] | {"labels": "random", "gain": 0.01 * size, "role": "control"}
    return [*rows, control]


def write_studies(root: Path) -> None:
    """Writes each study as `studies/NAME/trials.parquet`, like `assay study`."""
    import pyarrow
    import pyarrow.parquet

    draw = np.random.default_rng(12)
    for target, size in STUDIES.items():
        name = target.partition("@")[0].replace("/", "-")
        path = root / "studies" / name / "trials.parquet"
        path.parent.mkdir(parents=True)
        rows = trials(name, target, size, draw)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        path.with_name("REPORT.md").write_text(report(target, rows))


def report(target: str, rows: list[dict[str, Any]]) -> str:
    """The table of methods against full tuning, in the form of `assay study`."""
    chosen = {name: [row for row in rows if row["method"] == name and row["lr"] == 1e-4 and row["role"] == "grid"] for name in METHODS}
    gains = {name: 100 * float(np.mean([row["gain"] for row in part])) for name, part in chosen.items() if part}
    kl = {name: float(np.mean([row["kl_base"] for row in part])) for name, part in chosen.items() if part}
    lines = ["| target | method | gain minus full (points) | KL over full | verdict |", "|---|---|---|---|---|"]
    for name in gains:
        gap, factor = gains[name] - gains["full"], kl[name] / kl["full"]
        verdict = "dominates" if factor * 1.3 < 1 and gap - 0.9 > -3 else "cannot tell"
        if name != "full":
            limits = f"{gap:+.1f} [{gap - 0.9:+.1f}, {gap + 0.9:+.1f}] | {factor:.3g}x [{factor / 1.3:.3g}, {factor * 1.3:.3g}]"
            lines.append(f"| {target} | {name} | {limits} | {verdict} |")
    return "# Generated\n\n" + "\n".join(lines) + "\n"
