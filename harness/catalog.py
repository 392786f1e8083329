"""Names to tasks. Our own benchmarks are found exactly as a stranger's: by the entry-point group `assay.tasks`."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType, TracebackType

from harness.errors import AssayError
from harness.perturb import perturbed_family, split_name
from harness.rows_task import rows_task
from harness.source import Access
from harness.task import Family, Task, Total

GROUP = "assay.tasks"
FILES = (".py", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Selection:
    """What a list of names stands for: tasks in order, each once, and the totals whose terms are all among them.

    `members` (full names) came in with a whole family only: a run goes on without those whose data are missing, and says so.
    """

    tasks: tuple[Task, ...]
    totals: tuple[Total, ...]
    members: frozenset[str] = frozenset()


def module_names() -> tuple[str, ...]:
    """Modules that may hold tasks: each entry point's and, where it is a package, its public modules."""
    names: list[str] = []
    for point in metadata.entry_points(group=GROUP):
        names.append(point.module)
        spec = importlib.util.find_spec(point.module)
        if spec is not None and spec.submodule_search_locations:
            found = pkgutil.iter_modules(spec.submodule_search_locations)
            names += [f"{point.module}.{info.name}" for info in found if not info.name.startswith("_")]
    return tuple(dict.fromkeys(names))


def load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except AssayError:
        raise
    except (Exception, SystemExit) as error:  # a stranger's plugin may raise anything
        what = f"this task plugin cannot be imported: {type(error).__name__}: {error}"
        raise AssayError(what, where=name, do="mend or uninstall it") from error


def families(modules: Iterable[str] | None = None) -> Iterator[tuple[str, Family]]:
    """Every family with the module it comes from. A module without FAMILIES is one family of its own name."""
    for name in module_names() if modules is None else modules:
        module = load_module(name)
        listed: tuple[Family, ...] = getattr(module, "FAMILIES", ())
        tasks: tuple[Task, ...] = getattr(module, "TASKS", ())
        yield from ((name, family) for family in listed)
        covered = {task.full_name for family in listed for task in family.tasks}
        loose = tuple(task for task in tasks if task.full_name not in covered)
        if loose:
            yield name, Family(name.rpartition(".")[2], loose, about=(module.__doc__ or "").strip().split("\n")[0])


def known_names() -> tuple[str, ...]:
    """Every name that can be asked for without reading data."""
    names: dict[str, None] = {}
    for module, family in families():
        names[family.name] = None
        names.update(dict.fromkeys(task.name for task in family.tasks))
        names.update(dict.fromkeys(getattr(load_module(module), "NAMES", ())))
    return tuple(names)


def select(names: Sequence[str], access: Access) -> Selection:
    """The tasks that `names` stand for. Raises AssayError for an unknown name, with the nearest known one."""
    tasks: dict[str, Task] = {}
    totals: dict[str, Total] = {}
    asked: set[str] = set()
    for name in map(str.strip, names):
        for family in resolve(name, access):
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
    is_file = Path(text).exists() and (text.endswith(FILES) or text != plain)
    return name.replace(text, str(Path(text).resolve()), 1) if is_file else name


def resolve(name: str, access: Access) -> tuple[Family, ...]:
    """One name: a family, a task with or without its protocol, a file, `module:NAME`, or `bigbench:path`."""
    plain, perturbations = split_name(name)
    if perturbations:
        return tuple(perturbed_family(family, perturbations) for family in resolve(plain, access))
    if name.endswith(".py"):
        return (from_python(Path(name)),)
    if name.endswith((".jsonl", ".csv", ".parquet")):
        return (Family(Path(name).stem, (rows_task(Path(name)),)),)
    head, colon, rest = name.partition(":")
    if colon:
        return (from_colon(head, rest),)
    stem = re.split(r"[/@-]", name)[0]
    modules = module_names()
    near = [module for module in modules if module.rpartition(".")[2] == stem]
    for group in (near, [module for module in modules if module not in near]):
        found = within(name, group, access)
        if found:
            return found
    known = known_names()
    close = difflib.get_close_matches(name, known, 3, 0.6) or [other for other in known if name.split("/")[-1] == other.split("/")[-1]]
    hint = f"did you mean {' or '.join(close[:3])}?" if close else "`assay tasks` lists all"
    raise AssayError(f"unknown task {name!r}", do=hint)


def within(name: str, modules: Sequence[str], access: Access) -> tuple[Family, ...]:
    """The family or task of that name in these modules, or nothing."""
    plain, _, protocol = name.partition("@")
    listed = list(families(modules))
    for _, family in listed:
        if family.name == name:
            return (family,)
    every = [task for _, family in listed for task in family.tasks]
    every += [task for module in modules for task in getattr(load_module(module), "TASKS", ())]
    for task in every:  # the first listed protocol of a name is its default
        if task.full_name == name or (task.name == plain and not protocol):
            return (Family(task.name, (task,)),)
    if protocol:
        family_tasks = {task.full_name: task for task in every if task.name.split("/")[0] == plain and task.protocol == protocol}
        if family_tasks:
            return (Family(name, tuple(family_tasks.values())),)
    for module in modules:  # families that need their data to be read
        find_family = getattr(load_module(module), "find_family", None)
        found = find_family(name, access) if find_family is not None else None
        if found is not None:
            return (found,)
    return ()


def from_colon(head: str, rest: str) -> Family:
    """`bigbench:path` goes to the family's from_path; `module:NAME` is a Task, a Family or a tuple of tasks in a module."""
    for module_name in module_names():
        if module_name.rpartition(".")[2] == head:
            maker = getattr(load_module(module_name), "from_path", None)
            if maker is not None:
                return Family(f"{head}:{rest}", tuple(maker(Path(rest))))
    if importlib.util.find_spec(head.split(".")[0]) is None:
        raise AssayError(f"no module {head!r}", where=f"{head}:{rest}", do="name an installed module, or a .py file by its path")
    found = getattr(load_module(head), rest, None)
    return as_family(found, f"{head}:{rest}")


def from_python(path: Path) -> Family:
    """A task file: TASKS, TASK or FAMILY at its top level; relative data paths are resolved against its folder."""
    if not path.is_file():
        raise AssayError("no such task file", where=str(path), do="check the path")
    name = f"assay_task_file_{re.sub(r'[^0-9a-zA-Z]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling-free workers look their module up
    try:
        spec.loader.exec_module(module)
    except AssayError as error:
        raise AssayError(error.what, where=f"{path}{': ' + error.where if error.where else ''}", do=error.do) from None
    except SyntaxError as error:
        raise AssayError(f"{error.msg}: {(error.text or '').strip()}", where=f"{path}:{error.lineno}", do="mend the syntax") from None
    except (Exception, SystemExit) as error:
        line = next(
            (frame.tb_lineno for frame in frames(error) if Path(frame.tb_frame.f_code.co_filename).resolve() == path.resolve()), None
        )
        where = f"{path}:{line}" if line else str(path)
        raise AssayError(f"{type(error).__name__}: {error}", where=where, do="mend the task file") from None
    found = next((getattr(module, key) for key in ("FAMILY", "TASKS", "TASK") if hasattr(module, key)), None)
    family = as_family(found, str(path))
    home = path.resolve().parent
    return replace(family, tasks=tuple(replace(task, rows=task.rows.at(home)) for task in family.tasks))


def frames(error: BaseException) -> Iterator[TracebackType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def as_family(found: object, where: str) -> Family:
    if isinstance(found, Family):
        return found
    tasks = (found,) if isinstance(found, Task) else tuple(found) if isinstance(found, tuple | list) else ()
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise AssayError("holds no task", where=where, do="define TASKS = (Task(...),) at its top level")
    return Family(tasks[0].name, tasks)
