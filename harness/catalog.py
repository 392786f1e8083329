"""Names to tasks. Our own benchmarks are found exactly as a stranger's: by the entry-point group `assay.tasks`.

Names come from a person (`select`) or from a manifest (`select_stored`), which may load no code that no person named.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from harness.errors import AssayError
from harness.named_code import Gate, refusing, remembering
from harness.paths import is_file, is_there
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
        spec = find_spec(point.module)
        if spec is not None and spec.submodule_search_locations:
            found = pkgutil.iter_modules(spec.submodule_search_locations)
            names += [f"{point.module}.{info.name}" for info in found if not info.name.startswith("_")]
    return tuple(dict.fromkeys(names))


def find_spec(name: str) -> ModuleSpec | None:
    """Where a module is; None where it is not, or where what it lies in cannot be imported."""
    try:
        return importlib.util.find_spec(name)
    except (Exception, SystemExit):  # the packages that it lies in are imported for this
        return None


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


def sound_modules(names: Iterable[str] | None = None) -> tuple[tuple[str, ...], tuple[AssayError, ...]]:
    """The modules that load and hold what they should, and what is wrong with each of the others: one broken plugin breaks no other."""
    sound: list[str] = []
    faults: list[AssayError] = []
    for name in module_names() if names is None else names:
        try:
            module = load_module(name)
            listed, told, brought = list(families([name])), getattr(module, "NAMES", ()), getattr(module, "EXPORTS", {})
            if not all(isinstance(family, Family) for _, family in listed) or not isinstance(brought, Mapping):
                raise TypeError("FAMILIES must hold families, EXPORTS functions by name")
            if not all(isinstance(each, str) for each in told):
                raise TypeError("NAMES must hold texts")
            sound.append(name)
        except AssayError as error:
            faults.append(error)
        except (Exception, SystemExit) as error:
            what = f"this task plugin is broken: {type(error).__name__}: {error}"
            faults.append(AssayError(what, where=name, do="mend or uninstall it"))
    return tuple(sound), tuple(faults)


def known_names(modules: Iterable[str] | None = None) -> tuple[str, ...]:
    """Every name that can be asked for without reading data."""
    names: dict[str, None] = {}
    for module, family in families(modules):
        names[family.name] = None
        names.update(dict.fromkeys(task.name for task in family.tasks))
        names.update(dict.fromkeys(getattr(load_module(module), "NAMES", ())))
    return tuple(names)


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


def from_colon(head: str, rest: str, gate: Gate) -> Family:
    """`bigbench:path` goes to the family's from_path; `module:NAME` is a Task, a Family or a tuple of tasks in a module."""
    installed = module_names()
    for module_name in installed:
        if module_name.rpartition(".")[2] == head:
            maker = getattr(load_module(module_name), "from_path", None)
            if maker is not None:
                try:
                    return Family(f"{head}:{rest}", tuple(maker(Path(rest))))
                except (OSError, ValueError) as error:
                    reason = (isinstance(error, OSError) and error.strerror) or error
                    raise AssayError(f"cannot be read: {reason}", where=f"{head}:{rest:.120}", do="check the path") from None
    top = find_spec(head.split(".")[0])  # a module's own place is only known once the packages that it lies in are imported
    if top is None:
        raise AssayError(f"no module {head!r}", where=f"{head}:{rest}", do="name an installed module, or a .py file by its path")
    if head not in installed:
        path = Path(top.origin or next(iter(top.submodule_search_locations or ()), head))
        gate(f"{head}:{rest}", path, path.read_bytes() if is_file(path) else b"")
    found = getattr(load_module(head), rest, None)
    return as_family(found, f"{head}:{rest}")


class FromText(SourceFileLoader):
    """Runs the text that was looked at: never a compiled copy beside it, which may be another program."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self.content = content

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.content, self.path)


def from_python(path: Path, gate: Gate) -> Family:
    """A task file: TASKS, TASK or FAMILY at its top level; relative data paths are resolved against its folder."""
    if not is_file(path):
        raise AssayError("no such task file", where=str(path), do="check the path")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AssayError(f"cannot be read: {error.strerror}", where=str(path), do="check its permissions") from None
    gate(str(path), path, content)
    name = f"assay_task_file_{re.sub(r'[^0-9a-zA-Z]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path, loader=FromText(name, str(path), content))
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
