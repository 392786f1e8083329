"""Smoke tasks: a few dozen items per family, written by us in each family's row schema. They test the pipeline, not a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from assay import Access, Family, Layout, Shots, Task, jsonl, made
from assay.tasks import bigbench, glue, helm, mmlu, superglue

HERE = Path(__file__).parent
GLUE = ("cola", "sst2", "mrpc", "stsb", "rte")
HELM = {"imdb": "imdb", "openbookqa": "openbookqa", "dialogsum": "dialogsum", "multi30k/en-de": "multi30k", "nq_open": "nq_open"}
SYNTHETIC = ("synthetic_reasoning/pattern_match", "dyck/3")
SUPERGLUE = ("boolq", "cb", "copa", "multirc", "wic")


def named(tasks: tuple[Task, ...], name: str) -> Task:
    return next(task for task in tasks if task.name == name)


def smoke(task: Task, files: str, split: str = "") -> Task:
    """The same task over rows written by us."""
    return replace(
        task, name=f"smoke/{task.name}", rows=jsonl(f"{files}.{{split}}.jsonl").at(HERE), split=split or task.split, purpose="smoke"
    )


def from_glue() -> tuple[Task, ...]:
    return tuple(smoke(named(glue.TASKS, f"glue/{name}"), f"glue_{name}") for name in GLUE)


def from_superglue() -> tuple[Task, ...]:
    return tuple(smoke(named(superglue.TASKS, f"superglue/{name}"), f"superglue_{name}") for name in SUPERGLUE)


def from_mmlu() -> tuple[Task, ...]:
    """One task over rows of all subjects, with two few-shot examples."""
    layout = Layout(instructions="The following are multiple choice questions (with answers).\n\n")
    return (replace(smoke(mmlu.TASKS[0], "mmlu", "test"), name="smoke/mmlu", layout=layout, shots=Shots(2, "dev", "first")),)


def from_bigbench() -> tuple[Task, ...]:
    found = [task for name in ("arithmetic", "emoji") for task in bigbench.from_path(HERE / f"bigbench_{name}.json")]
    return tuple(replace(task, name=f"smoke/{task.name}", purpose="smoke") for task in found)


def from_helm() -> tuple[Task, ...]:
    """Scenarios over rows written by us, and the first items of the synthetic ones."""
    rows = tuple(smoke(named(helm.TASKS, f"helm/{name}"), f"helm_{file}") for name, file in HELM.items())
    synthetic = tuple(first_rows(named(helm.TASKS, f"helm/{name}")) for name in SYNTHETIC)
    return tuple(replace(task, shots=replace(task.shots, count=min(task.shots.count, 2))) for task in (*rows, *synthetic))


def first_rows(task: Task, count: int = 6) -> Task:
    """The first rows of a generated task."""
    rows = made(lambda split: task.rows.load(split, Access()).rows[:count], *task.rows.splits(Access()))
    return replace(task, name=f"smoke/{task.name}", rows=rows, purpose="smoke")


TASKS = (*from_glue(), *from_superglue(), *from_mmlu(), *from_bigbench(), *from_helm())
FAMILIES = (Family("smoke", TASKS, about="Tests the pipeline without external data. Not a benchmark result."),)
