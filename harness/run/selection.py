"""Names to tasks: families, single tasks, files, `module:NAME`, and any of them under perturbations.

Names come from a person (`select`) or from a manifest (`select_stored`). A manifest may load no code that no person named.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.paths import is_there
from assay.harness.files.places import Access
from assay.harness.prompt.perturb import perturbed_family, split_name
from assay.harness.run.file_task import rows_task
from assay.harness.task.catalogue import from_colon, from_python, known_names, module_names, sound_modules, within
from assay.harness.task.task import Family, Task, Total
from assay.harness.task.trusted_code import Gate, refusing, remembering

FILES = (".py", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list of names stands for: tasks in order, each once, and the totals whose terms are all among them.

    `members` (full names) came in with a whole family only: a run goes on without those whose data are missing, and says so.
    """

    tasks: tuple[Task, ...]
    totals: tuple[Total, ...]
    members: frozenset[str] = frozenset()


def select(names: Sequence[str], access: Access) -> Selection:
    """The tasks that a person's `names` stand for; their code counts as named from now on.

    Raises AssayError for an unknown name, with the nearest known one.
    """
    return selected(names, access, remembering(access))


def select_stored(manifest: Mapping[str, Any], access: Access) -> Selection:
    """The tasks of a stored run. Raises AssayError for one that is not known, and for code that no person named on this machine."""
    plan = manifest.get("plan")
    names = plan.get("tasks") if isinstance(plan, Mapping) else None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise AssayError("the run's plan names no tasks", where=str(manifest.get("run", "")), do="restore the run from a copy")
    return selected(names, access, refusing(access))


def selected(names: Sequence[str], access: Access, gate: Gate) -> Selection:
    """The same, with a `gate` that hears of all code before it is run."""
    tasks: dict[str, Task] = {}
    totals: dict[str, Total] = {}
    asked: set[str] = set()
    for name in map(str.strip, names):
        for family in resolve(name, access, gate):
            tasks.update((task.full_name, task) for task in family.tasks)
            totals.update((total.name, total) for total in family.totals)
            if sum(task.varies is None for task in family.tasks) == 1 or split_name(name)[0].endswith(FILES) or ":" in name:
                asked.update(task.full_name for task in family.tasks)
    whole = [total for total in totals.values() if all(term.task in tasks for term in total.terms)]
    return Selection(tuple(tasks.values()), tuple(whole), frozenset(tasks) - asked)


def anchored(name: str) -> str:
    """The name with the path of a task file made absolute, so that a stored run finds its task from any folder."""
    plain, _ = split_name(name)
    text = plain.partition(":")[2] or plain
    named = is_there(text) and (text.endswith(FILES) or text != plain)
    return name.replace(text, str(Path(text).resolve()), 1) if named else name


def resolve(name: str, access: Access, gate: Gate) -> tuple[Family, ...]:
    """One name: a family, a task with or without its protocol, a file, `module:NAME`, or `bigbench:path`."""
    plain, perturbations = split_name(name)
    if perturbations:
        return tuple(perturbed_family(family, perturbations) for family in resolve(plain, access, gate))
    if name.endswith(".py"):
        return (from_python(Path(name), gate),)
    if name.endswith((".jsonl", ".csv", ".parquet")):
        return (Family(Path(name).stem, (rows_task(Path(name)),)),)
    head, colon, rest = name.partition(":")
    if colon:
        return (from_colon(head, rest, gate),)
    stem = re.split(r"[/@-]", name)[0]
    modules = module_names()
    near = [module for module in modules if module.rpartition(".")[2] == stem]
    sound, broken = sound_modules(near)
    if found := within(name, sound, access):
        return found
    if broken:
        raise broken[0]
    others, broken = sound_modules([module for module in modules if module not in near])
    if found := within(name, others, access):
        return found
    known = known_names((*sound, *others))
    close = difflib.get_close_matches(name, known, 3, 0.6) or [other for other in known if name.split("/")[-1] == other.split("/")[-1]]
    hint = f"did you mean {' or '.join(close[:3])}?" if close else "`assay tasks` lists all"
    if broken:
        hint += f"; {', '.join(error.where for error in broken)} cannot be loaded (assay doctor)"
    raise AssayError(f"unknown task {name!r:.120}", do=hint)
