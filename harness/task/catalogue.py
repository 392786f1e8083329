"""Finds tasks in installed modules and in files. Our own benchmarks are plugins too: entry-point group `assay.tasks`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType

from assay.harness.errors import AssayError
from assay.harness.files.paths import is_file
from assay.harness.files.places import Access
from assay.harness.task.task import Family, Task
from assay.harness.task.trusted_code import Gate

GROUP = "assay.tasks"


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
