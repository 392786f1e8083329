"""Reads what the index does not hold: progress of running runs, one item's stored record, stored gate decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.stats.interval import wilson
from assay.harness.store import RunInfo, read_run
from assay.harness.store.bundle import ITEMS, JOURNAL, SAMPLES
from assay.harness.store.journal import count_lines
from assay.harness.store.record import Record
from assay.leaderboard.data import frames
from assay.leaderboard.data.ranking import Z95

GATES = "gates.jsonl"
POINTS_OF_CURVE = 60
Limits = tuple[float, float, float]
"""Score, low and high, in points."""
GATE_COLUMNS = ("at", "verdict", "candidate", "baseline", "delta", "low", "high", "margin", "lost", "attempt", "tried")
GATE_RUNS = ("candidate_run", "baseline_run")


def progress(run: RunInfo) -> int:
    """Number of finished items: whole lines of the journal after its header; all items of a complete run."""
    if run.status == "complete":
        return run.items
    return max(0, count_lines(run.path / JOURNAL, 1 + run.items) - 1)


@dataclass(frozen=True, slots=True)
class LiveTask:
    """One task of a running run. `curve` has the number of scored items and the score on these, in the order of scoring."""

    name: str
    items: int
    done: int
    errors: int
    score: Limits | None
    """Mean of the item scores so far with Wilson's 95 % interval; None where the metric has no item scores."""
    curve: tuple[tuple[int, Limits], ...]


def live_tasks(bundle: Path) -> tuple[LiveTask, ...]:
    """The tasks of a run in planned order, from its journal."""
    run = read_run(bundle)
    by_task: dict[str, list[Record]] = {}
    for record in run.records():
        by_task.setdefault(record.task, []).append(record)
    return tuple(live_task(str(task["name"]), int(task["items"]), by_task.get(str(task["name"]), [])) for task in run.manifest["tasks"])


def live_task(name: str, items: int, records: Sequence[Record]) -> LiveTask:
    values = np.array([record.correct for record in records if record.correct is not None], dtype=np.float64)
    errors = sum(record.status == "error" for record in records)
    counts = np.unique(np.linspace(1, len(values), POINTS_OF_CURVE).astype(int)) if len(values) else np.empty(0, dtype=int)
    means = np.cumsum(values)[counts - 1] / counts if len(values) else values
    curve = tuple((int(count), limits(float(mean), int(count))) for count, mean in zip(counts, means, strict=True))
    return LiveTask(name, items, len(records), errors, curve[-1][1] if curve else None, curve)


def limits(share: float, count: int) -> Limits:
    low, high = wilson(share, count, Z95)
    return 100 * share, 100 * low, 100 * high


def pace(seen: Sequence[tuple[float, int]]) -> float:
    """Items per second over observations (seconds, finished items), oldest first; 0 where nothing was finished between them."""
    if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
        return 0.0
    return max(0, seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])


def plain_way(run: RunInfo) -> str:
    """Why a complete run was scored by plain forwards: what its proof found. Empty for a run scored the fast way, or without a proof."""
    if run.status != "complete":
        return ""
    proof = read_run(run.path).summary().get("proof")
    return str(proof.get("reason") or "") if isinstance(proof, dict) else ""


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """One item of one run as stored in its bundle."""

    prompt: str
    choices: tuple[str, ...]
    shots: tuple[str, ...]
    key: str
    doc: dict[str, Any]
    output: dict[str, Any]


def item_record(bundle: Path, task: str, item: str) -> ItemRecord | None:
    """Reads one item's prompt and output from files checked against their hashes. None if the run has no such item."""
    import pyarrow.compute as compute

    run = read_run(bundle)
    rows = []
    for name, column in ((ITEMS, "id"), (SAMPLES, "item_id")):
        table = run.table(name)
        fits = compute.and_(compute.equal(table["task"], task), compute.equal(table[column], item))
        found = table.filter(fits).to_pylist()
        if not found:
            return None
        rows.append(found[0])
    planned, sample = rows
    doc, output = json.loads(planned["doc"]), json.loads(sample["record"])
    return ItemRecord(planned["prompt"], tuple(planned["choices"]), tuple(planned["shots"]), planned["key"], doc, output)


def token_pieces(folder: Path, text: str) -> list[tuple[int, str]] | None:
    """Splits a text with the tokenizer in a model's folder: (token id, piece). None if it cannot be loaded on this machine."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        found = tokenizer.encode(text, add_special_tokens=False)
    except BaseException as error:  # a panic of the Rust library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        return None
    return [(number, text[start:end]) for number, (start, end) in zip(found.ids, found.offsets, strict=True)]


def loglikelihoods(output: Mapping[str, Any]) -> list[float]:
    """The log-likelihood of each choice in a stored output: stored, or the sum over its tokens; empty for other outputs."""
    if "loglikelihoods" in output:
        return list(output["loglikelihoods"])
    return [sum(each) for each in output.get("logprobs", ())]


def choice_pieces(folder: Path, text: str, count: int) -> list[str]:
    """The tokens of a choice, which was scored after a space unless it begins with one; numbered where they are not `count` tokens."""
    whole = text if text[:1].isspace() else f" {text}"
    for each in (whole, text):
        pieces = token_pieces(folder, each)
        if pieces is not None and len(pieces) == count:
            return [piece for _, piece in pieces]
    return [text] if count == 1 else [f"token {number + 1}" for number in range(count)]


def gates(root: Path) -> Any:
    """Every stored gate decision, newest first. Incomplete and malformed lines are skipped."""
    rows = []
    try:
        lines = (root / GATES).read_bytes().split(b"\n")[:-1] if (root / GATES).is_file() else []
    except OSError:
        lines = []
    for line in lines:
        try:
            entry = json.loads(line)
            rows.append(
                {
                    "at": str(entry["at"])[:19].replace("T", " "),
                    "verdict": str(entry["verdict"]),
                    "candidate": str(entry["candidate"]["model"]),
                    "baseline": str(entry["baseline"]["model"]),
                    **{name: None if entry[name] is None else float(entry[name]) for name in ("delta", "low", "high")},
                    "lost": ", ".join(map(str, entry["lost"])),
                    "attempt": int(entry["attempt"]),
                    "tried": int(entry["tried"]),
                    "margin": float(entry["policy"]["margin"]),
                    "candidate_run": str(entry["candidate"]["run"]),
                    "baseline_run": str(entry["baseline"]["run"]),
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
            continue
    table = frames.DataFrame(rows, columns=[*GATE_COLUMNS, *GATE_RUNS])
    for name in ("delta", "low", "high", "margin"):
        table[name] = frames.to_numeric(table[name], errors="coerce")
    return table.iloc[::-1].reset_index(drop=True)
