"""Golden prompts: every task renders its worked examples exactly as recorded. Run: pytest tests/golden

A changed prompt fails until the task's version rises; then `ASSAY_RECORD=1 pytest tests/golden` records it (and every new task).
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay import Task
from assay.harness.prompt.render import render
from assay.harness.task.catalogue import families, load_module, module_names

FOLDER = Path(__file__).parent
OURS = "assay.tasks."


def all_tasks() -> dict[str, list[Task]]:
    """Every static task of ours by module, each once."""
    found: dict[str, dict[str, Task]] = defaultdict(dict)
    for name in module_names():
        if name.startswith(OURS):
            for task in getattr(load_module(name), "TASKS", ()):
                found[name].setdefault(task.full_name, task)
    for name, family in families():
        if name.startswith(OURS):
            for task in family.tasks:
                found[name].setdefault(task.full_name, task)
    return {name: list(tasks.values()) for name, tasks in found.items()}


def rendering(task: Task) -> dict[str, Any]:
    """The worked examples with one of them as exemplar: prompt, continuations, gold."""
    docs = [task.doc(worked.row) for worked in task.worked]
    shown = [render(task, doc, docs[:1] if doc.labelled and docs[0].labelled else ()) for doc in docs]
    return {
        "version": task.version,
        "ask": repr(task.ask),
        "prompts": [{"prompt": text.prompt, "continuations": list(text.continuations)} for text in shown],
        "gold": [doc.answer if doc.labelled else None for doc in docs],
    }


def path_of(module: str) -> Path:
    return FOLDER / f"{module.removeprefix(OURS)}.json"


@pytest.mark.parametrize("module", sorted(all_tasks()))
def test_prompts_are_as_recorded(module: str) -> None:
    path = path_of(module)
    recorded = json.loads(path.read_text()) if path.is_file() else {}
    now = {task.full_name: rendering(task) for task in all_tasks()[module]}
    if os.environ.get("ASSAY_RECORD"):
        kept = {name: recorded[name] if recorded.get(name, {}).get("version") == found["version"] else found for name, found in now.items()}
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        recorded = kept
    for name, found in now.items():
        assert name in recorded, f"{name} is new: record it with ASSAY_RECORD=1 pytest tests/golden"
        if found != recorded[name]:
            step = "raise its version" if found["version"] == recorded[name]["version"] else "record it with ASSAY_RECORD=1"
            assert found == recorded[name], f"the prompt of {name} changed: {step}"
    assert set(recorded) == set(now), "a task is gone: delete it from the golden file on purpose"


@pytest.mark.parametrize("module", sorted(all_tasks()))
def test_every_task_is_described_and_worked(module: str) -> None:
    for task in all_tasks()[module]:
        assert task.about and task.licence and task.citation, f"{task.full_name} lacks about, licence or citation"
        from_file = task.purpose == "smoke" and not task.worked  # a BIG-bench file brings its prompts with it
        assert task.worked or from_file, f"{task.full_name} has no worked example"
        for worked in task.worked:
            doc = task.doc(worked.row)
            assert (
                render(task, doc).prompt.removeprefix(task.layout.instructions) == worked.prompt
                or render(task, doc).prompt == worked.prompt
            )
            assert (doc.answer if doc.labelled else "") == worked.answer, task.full_name


def test_a_changed_prompt_is_noticed() -> None:
    task = all_tasks()["assay.tasks.glue"][0]
    before = rendering(task)
    assert rendering(replace(task, doc=lambda row: replace(task.doc(row), prompt=task.doc(row).prompt + "!"))) != before
