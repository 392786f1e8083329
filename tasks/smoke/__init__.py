"""The smoke suite: a few rows written for the purpose, in the schema of the real data, so that every benchmark can be tried offline.

It proves that the pipeline works and takes seconds on a small model. It is not a benchmark: its scores are never ranked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness import Access, Family, Task, jsonl, made
from tasks import glue, mmlu, superglue

HOME = Path(__file__).parent
SUBJECTS = ("astronomy", "elementary_mathematics", "high_school_geography")


def small(task: Task, family: str) -> Task:
    """The task over the smoke rows of its name."""
    short = task.name.rpartition("/")[2]
    rows = jsonl(f"{family}_{short}.{{split}}.jsonl").at(HOME)
    return replace(task, name=f"smoke/{short}", rows=rows, purpose="smoke", about=f"Smoke rows for {task.full_name}. {task.about}")


def of_subject(subject: str, split: str) -> Iterable[Mapping[str, Any]]:
    """The smoke rows of one MMLU subject."""
    rows = jsonl("mmlu.{split}.jsonl").at(HOME).load(split, Access()).rows
    return [row for row in rows if row["subject"] == subject]


def small_subject(subject: str) -> Task:
    task = mmlu.LETTER_TASKS[subject]
    rows = made(partial(of_subject, subject), "dev", "test")
    return replace(task, name=f"smoke/mmlu_{subject}", rows=rows, purpose="smoke", about=f"Smoke rows for {task.full_name}. {task.about}")


TASKS = (
    *(small(task, "glue") for task in (glue.SST2, glue.RTE, glue.COLA, glue.MRPC, glue.STSB)),
    *(small(task, "superglue") for task in (superglue.COPA, superglue.CB, superglue.WIC, superglue.BOOLQ, superglue.MULTIRC)),
    *(small_subject(subject) for subject in SUBJECTS),
)

FAMILIES = (Family("smoke", TASKS, about="A few hand-written rows per task: does the whole pipeline work? Never a benchmark."),)
