"""What the cases share: task files of our own, runs of them on a tiny model or answered by a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes import place

from assay import Plan, Run, evaluate, read_run
from assay.harness.checking import Checked
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Answer, Scripted
from assay.harness.model.find import ModelRef
from assay.harness.run.evaluate import OpenEngine

IMPORTS = "from assay import Choose, Doc, Generate, Perplexity, Regress, Shots, Task, accuracy, exact_match, inline\n"


def by(answer: Answer) -> OpenEngine:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        return Scripted(answer)

    return opener


def file_of(folder: Path, code: str, name: str = "own") -> str:
    """A task file; its code finds the names of a task author imported."""
    path = folder / f"{name}.py"
    path.write_text(IMPORTS + code)
    return str(path)


def scored(model: Path, folder: Path, *tasks: str, answer: Answer | None = None, **options: Any) -> Run:
    """A run on the tiny model, or answered by a script."""
    plan = Plan(model=str(model), tasks=tasks, engine="hf" if answer is None else "scripted", device="cpu", **options)
    return read_run(evaluate(plan, place(folder)) if answer is None else evaluate(plan, place(folder), opener=by(answer)))


def results(run: Run) -> dict[tuple[str, str], dict[str, Any]]:
    return {(each["task"], each["metric"]): each for each in run.summary()["results"]}


def levels(checked: list[Checked]) -> dict[str, str]:
    return {finding.check: finding.level for each in checked for finding in each.findings}
