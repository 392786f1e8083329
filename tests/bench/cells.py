"""What is compared: each cell is one kind of task, cut into slices that both sides answer in turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
FEW = ("abstract_algebra", "computer_security", "jurisprudence", "management", "medical_genetics")
"""Subjects with short exemplars: less to share (23x and 5.8x) than in the mean of all subjects (24.5x and 6.1x)."""


@dataclass(frozen=True, slots=True)
class Slice:
    """One task under its name here and in lm-eval."""

    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class Bars:
    """What must hold: least ratios of lm-eval's tokens and seconds to ours, most computed tokens per ideal token."""

    tokens_hf: float
    tokens_vllm: float
    wall_hf: float
    ideal_hf: float = 1.10
    ideal_vllm: float = 1.20


@dataclass(frozen=True, slots=True)
class Cell:
    name: str
    about: str
    slices: tuple[Slice, ...]
    shots: int
    bars: Bars
    limit: int | None = None
    partial: bool = False
    """Whether a split that is not whole may be used."""


CELLS = (
    Cell(
        "single-token-0-shot",
        "RTE, no shots, two answers of one token",
        (Slice("glue/rte@lm-eval", "rte"),),
        0,
        Bars(1, 1, 1),
        limit=64,
    ),
    Cell(
        "hellaswag-0-shot",
        "HellaSwag, no shots, four endings",
        (Slice(f"{HERE / 'hellaswag.py'}", "hellaswag"),),
        0,
        Bars(1.7, 1.7, 1.7),
        limit=32,
        partial=True,
    ),
    Cell(
        "mmlu-5-shot",
        "MMLU, 5 shots, five subjects, all items, letters",
        tuple(Slice(f"mmlu/{subject}@lm-eval", f"mmlu_{subject}") for subject in FEW),
        5,
        Bars(5, 20, 4),
    ),
    Cell(
        "multi-token-5-shot",
        "MMLU, 5 fixed shots, one subject, all items, the texts of the choices",
        (Slice("mmlu/management@continuation", "mmlu_management_continuation"),),
        5,
        Bars(10, 10, 10),
    ),
)
"""Quick ones first."""
