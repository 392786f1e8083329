"""Reads what the index does not hold: progress of running runs, one item's stored record, stored gate decisions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.store import RunInfo, read_run
from assay.harness.store.bundle import ITEMS, JOURNAL, SAMPLES
from assay.harness.store.journal import count_lines
from assay.leaderboard.data import frames

GATES = "gates.jsonl"
GATE_COLUMNS = ("at", "verdict", "candidate", "baseline", "delta", "low", "high", "margin", "lost", "attempt", "tried")
GATE_RUNS = ("candidate_run", "baseline_run")


def progress(run: RunInfo) -> int:
    """Number of finished items: whole lines of the journal after its header; all items of a complete run."""
    if run.status == "complete":
        return run.items
    return max(0, count_lines(run.path / JOURNAL, 1 + run.items) - 1)


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
