"""Find tasks by name: families, single tasks, files, `module:NAME`, each with or without perturbations.

Names come from the user (`select`) or from a manifest (`select_stored`). A name in a manifest loads code only if the user named the
same code on this machine before.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.paths import exists
from assay.harness.files.places import Access
from assay.harness.prompt.perturb import perturbed_family, split_name
from assay.harness.run.file_task import rows_task
from assay.harness.store.plan import Plan, generation_options
from assay.harness.task.catalogue import (
    find_in_modules,
    from_facts,
    from_python,
    from_reference,
    known_names,
    load_module,
    loadable_modules,
    module_names,
    plugin_of,
)
from assay.harness.task.task import Family, Generate, Task, Total
from assay.harness.task.trusted_code import CodeCheck, record_trusted, require_trusted

FILES = (".py", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Selection:
    """The tasks of a list of names, in order and each once, and the totals whose terms are all among them.

    `members`: full names of tasks selected only as part of a family; a run leaves out those whose data are missing.
    """

    tasks: tuple[Task, ...]
    totals: tuple[Total, ...]
    members: frozenset[str] = frozenset()


def select(names: Sequence[str], access: Access) -> Selection:
    """The tasks that the user's `names` select; their code is trusted on this machine from now on.

    Raises AssayError for an unknown name, with the nearest known one.
    """
    return selected(names, access, record_trusted(access))


def select_stored(manifest: Mapping[str, Any], access: Access) -> Selection:
    """The tasks of a stored run. Raises AssayError for an unknown task, and for code that the user has not named on this machine."""
    plan = manifest.get("plan")
    names = plan.get("tasks") if isinstance(plan, Mapping) else None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise AssayError("the run's plan names no tasks", where=str(manifest.get("run", "")), do="restore the run from a copy")
    facts = manifest.get("tasks")
    sources = [each["source"] for each in facts if isinstance(each.get("source"), Mapping)] if isinstance(facts, list | tuple) else []
    heads = {str(each.get("of")) for each in sources}
    rest = [name for name in names if name.partition(":")[0].replace("-", "_") not in heads]
    found = selected(rest, access, require_trusted(access), from_facts(sources, access, require_trusted(access)))
    return overridden(found, generation_options(plan if isinstance(plan, Mapping) else {}))


def select_planned(plan: Plan, access: Access) -> Selection:
    """The tasks of a new plan, with its options. Raises AssayError where options for generated text concern no task."""
    found, options = select(plan.tasks, access), generation_options(plan.as_json())
    if options and not any(isinstance(task.ask, Generate) for task in found.tasks):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in options)
        raise AssayError(f"no task of {', '.join(plan.tasks)} generates text", where=flags, do="leave the options out")
    chosen = overridden(found, options)
    if (
        plan.samples is not None
        and plan.samples > 1
        and any(isinstance(each.ask, Generate) and not each.ask.temperature for each in chosen.tasks)
    ):
        raise AssayError("all samples are equal at temperature 0", where=f"--samples {plan.samples}", do="add --temperature 0.7")
    return chosen


def overridden(selection: Selection, options: Mapping[str, Any]) -> Selection:
    """The selection with the fields of every Generate task that a plan's options set. Raises AssayError for a value out of range."""
    tasks = (replace(task, ask=replace(task.ask, **options)) if isinstance(task.ask, Generate) else task for task in selection.tasks)
    return replace(selection, tasks=tuple(tasks)) if options else selection


def selected(names: Sequence[str], access: Access, check: CodeCheck, described: Sequence[Family] = ()) -> Selection:
    """The tasks of `names`, after those that a manifest has `described`; `check` is called with all code before it runs."""
    tasks: dict[str, Task] = {}
    totals: dict[str, Total] = {}
    named: set[str] = set()
    for name, families in [("", described), *((name.strip(), None) for name in names)]:
        for family in resolve(name, access, check) if families is None else families:
            tasks.update((task.full_name, task) for task in family.tasks)
            totals.update((total.name, total) for total in family.totals)
            if sum(task.varies is None for task in family.tasks) == 1 or split_name(name)[0].endswith(FILES) or ":" in name:
                named.update(task.full_name for task in family.tasks)
    whole = [total for total in totals.values() if all(term.task in tasks for term in total.terms)]
    return Selection(tuple(tasks.values()), tuple(whole), frozenset(tasks) - named)


def anchored(name: str) -> str:
    """The name with the path of a task file made absolute, so that a stored run finds its task from any folder."""
    plain, _ = split_name(name)
    text = plain.partition(":")[2] or plain
    named = exists(text) and (text.endswith(FILES) or text != plain)
    return name.replace(text, str(Path(text).resolve()), 1) if named else name


def defined_in(home: Path | None, name: str, access: Access) -> str:
    """`plugin:NAME` with the user's folder (--include-path) that defines NAME; other names as they are."""
    head, colon, rest = name.partition(":")
    include = getattr(plugin_of(head), "include", None) if home is not None and colon else None
    return name if include is None else f"{head}:{include(home, rest, access)}"


def resolve(name: str, access: Access, check: CodeCheck) -> tuple[Family, ...]:
    """One name: a family, a task with or without its protocol, a file, `module:NAME`, or `bigbench:path`."""
    plain, perturbations = split_name(name)
    if perturbations:
        families = resolve(plain, access, check)
        if any(task.shots.order == "source" for family in families for task in family.tasks):
            what = "its source renders the prompts, so that assay cannot perturb the items in them"
            raise AssayError(what, where=name, do="perturb a task that `assay tasks` lists")
        return tuple(perturbed_family(family, perturbations) for family in families)
    if name.endswith(".py"):
        return (from_python(Path(name), check),)
    if name.endswith((".jsonl", ".csv", ".parquet")):
        return (Family(Path(name).stem, (rows_task(Path(name)),)),)
    head, colon, rest = name.partition(":")
    if colon:
        return (from_reference(head, rest, access, check),)
    stem = re.split(r"[/@-]", name)[0]
    modules = module_names()
    near = [module for module in modules if module.rpartition(".")[2] == stem]
    sound, broken = loadable_modules(near)
    if found := find_in_modules(name, sound, access):
        return found
    if broken:
        raise broken[0]
    others, broken = loadable_modules([module for module in modules if module not in near])
    if found := find_in_modules(name, others, access):
        return found
    known = known_names((*sound, *others))
    close = difflib.get_close_matches(name, known, 3, 0.6) or [other for other in known if name.split("/")[-1] == other.split("/")[-1]]
    hint = f"did you mean {' or '.join(close[:3])}?" if close else "list the tasks with: assay tasks"
    suggestion = next(filter(None, (suggested(module, name, access) for module in (*sound, *others))), "")
    hint = suggestion if suggestion and (not close or f":{name}?" in suggestion) else hint
    if broken:
        hint += f"; {', '.join(error.where for error in broken)} cannot be loaded (assay doctor)"
    raise AssayError(f"unknown task {name!r:.120}", do=hint)


def suggested(module: str, name: str, access: Access) -> str:
    """What a plugin suggests for an unknown name; empty if it knows nothing."""
    suggest = getattr(load_module(module), "suggest", None)
    return str(suggest(name, access)) if suggest is not None else ""
