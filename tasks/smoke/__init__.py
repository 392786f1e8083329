"""A few dozen items per family, written by us in each family's row schema, to prove that everything works. Not a benchmark."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness import Family, Layout, Shots, Task, jsonl
from tasks import glue, mmlu, superglue

HERE = Path(__file__).parent
GLUE = ("cola", "sst2", "mrpc", "stsb", "rte")
SUPERGLUE = ("boolq", "cb", "copa", "multirc", "wic")


def named(tasks: tuple[Task, ...], name: str) -> Task:
    return next(task for task in tasks if task.name == name)


def smoke(task: Task, files: str, split: str = "") -> Task:
    """The same task over our own rows."""
    return replace(
        task, name=f"smoke/{task.name}", rows=jsonl(f"{files}.{{split}}.jsonl").at(HERE), split=split or task.split, purpose="smoke"
    )


def from_glue() -> tuple[Task, ...]:
    return tuple(smoke(named(glue.TASKS, f"glue/{name}"), f"glue_{name}") for name in GLUE)


def from_superglue() -> tuple[Task, ...]:
    return tuple(smoke(named(superglue.TASKS, f"superglue/{name}"), f"superglue_{name}") for name in SUPERGLUE)


def from_mmlu() -> tuple[Task, ...]:
    """One mixed task over all subjects of our rows, with two exemplars."""
    layout = Layout(instructions="The following are multiple choice questions (with answers).\n\n")
    return (replace(smoke(mmlu.TASKS[0], "mmlu", "test"), name="smoke/mmlu", layout=layout, shots=Shots(2, "dev", "first")),)


TASKS = (*from_glue(), *from_superglue(), *from_mmlu())
FAMILIES = (Family("smoke", TASKS, about="Proves that everything works, without any data. Not a benchmark result."),)
