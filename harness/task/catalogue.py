"""Find tasks in installed modules and in files. The built-in benchmarks are plugins too: entry-point group `assay.tasks`."""

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
from typing import Any

from assay.harness.errors import AssayError
from assay.harness.files.paths import is_file
from assay.harness.files.places import Access
from assay.harness.task.former_names import former_import, present_name
from assay.harness.task.task import Family, Task
from assay.harness.task.trusted_code import CodeCheck

GROUP = "assay.tasks"
OWN_PACKAGE = "assay"


def module_names() -> tuple[str, ...]:
    """Return the modules that may define tasks: the module of each entry point and, if it is a package, its public modules."""
    names: list[str] = []
    for point in metadata.entry_points(group=GROUP):
        names.append(point.module)
        spec = find_spec(point.module)
        if spec is not None and spec.submodule_search_locations:
            found = pkgutil.iter_modules(spec.submodule_search_locations)
            names += [f"{point.module}.{info.name}" for info in found if not info.name.startswith("_")]
    return tuple(dict.fromkeys(names))


def find_spec(name: str) -> ModuleSpec | None:
    """Return the spec of a module; None if it does not exist or its parent package cannot be imported."""
    try:
        return importlib.util.find_spec(name)
    except (Exception, SystemExit):  # this imports the parent packages, which may raise anything
        return None


def load_module(name: str) -> ModuleType:
    """Import a task module. Raises AssayError if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except AssayError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may raise anything
        if former := former_import(error, source_of(name), name):
            raise former from None
        what = f"this task plugin cannot be imported: {type(error).__name__}: {error}"
        raise AssayError(what, where=name, do="fix or uninstall it") from error


def source_of(name: str) -> str:
    """The source text of a module; empty if it has none that can be read."""
    spec = find_spec(name)
    try:
        return Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else ""
    except (OSError, ValueError):
        return ""


def families(modules: Iterable[str] | None = None) -> Iterator[tuple[str, Family]]:
    """Yield every family with its module. Tasks of a module that belong to none of its FAMILIES form a family with the module's name."""
    for name in module_names() if modules is None else modules:
        module = load_module(name)
        listed: tuple[Family, ...] = getattr(module, "FAMILIES", ())
        tasks: tuple[Task, ...] = getattr(module, "TASKS", ())
        yield from ((name, family) for family in listed)
        covered = {task.full_name for family in listed for task in family.tasks}
        rest = tuple(task for task in tasks if task.full_name not in covered)
        if rest:
            yield name, Family(name.rpartition(".")[2], rest, about=(module.__doc__ or "").strip().split("\n")[0])


def loadable_modules(names: Iterable[str] | None = None) -> tuple[tuple[str, ...], tuple[AssayError, ...]]:
    """Return the valid modules, and an error for each of the others: a broken plugin does not affect the rest."""
    valid: list[str] = []
    errors: list[AssayError] = []
    for name in module_names() if names is None else names:
        try:
            module = load_module(name)
            listed, names_listed, exports = list(families([name])), getattr(module, "NAMES", ()), getattr(module, "EXPORTS", {})
            if not all(isinstance(family, Family) for _, family in listed) or not isinstance(exports, Mapping):
                raise TypeError("FAMILIES must contain Family values, EXPORTS must map names to functions")
            if not all(isinstance(each, str) for each in names_listed):
                raise TypeError("NAMES must contain strings")
            valid.append(name)
        except AssayError as error:
            errors.append(error)
        except (Exception, SystemExit) as error:
            what = f"this task plugin is broken: {type(error).__name__}: {error}"
            errors.append(AssayError(what, where=name, do="fix or uninstall it"))
    return tuple(valid), tuple(errors)


def known_names(modules: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return every name that can be selected without reading data."""
    names: dict[str, None] = {}
    for module, family in families(modules):
        names[family.name] = None
        names.update(dict.fromkeys(task.name for task in family.tasks))
        names.update(dict.fromkeys(getattr(load_module(module), "NAMES", ())))
    return tuple(names)


def find_in_modules(name: str, modules: Sequence[str], access: Access) -> tuple[Family, ...]:
    """Return the family or task with this name in these modules, or an empty tuple."""
    plain, _, protocol = name.partition("@")
    listed = list(families(modules))
    for _, family in listed:
        if family.name == name:
            return (family,)
    every = [task for _, family in listed for task in family.tasks]
    every += [task for module in modules for task in getattr(load_module(module), "TASKS", ())]
    for task in every:  # the first protocol listed for a name is its default
        if task.full_name == name or (task.name == plain and not protocol):
            return (Family(task.name, (task,)),)
    if protocol:
        family_tasks = {task.full_name: task for task in every if task.name.split("/")[0] == plain and task.protocol == protocol}
        if family_tasks:
            return (Family(name, tuple(family_tasks.values())),)
    for module in modules:  # families whose tasks depend on their data
        find_family = getattr(load_module(module), "find_family", None)
        found = find_family(name, access) if find_family is not None else None
        if found is not None:
            return (found,)
    return ()


def plugin_of(head: str) -> ModuleType | None:
    """Return the installed module that `head:...` names: `lm-eval` is the module `lm_eval`."""
    name = next((name for name in module_names() if name.rpartition(".")[2] == head.replace("-", "_")), None)
    return None if name is None else load_module(name)


def from_facts(facts: Sequence[Mapping[str, Any]], access: Access, check_code: CodeCheck) -> tuple[Family, ...]:
    """Return the tasks of a stored run whose sources describe them in its manifest (`PromptSource.facts`), one family per plugin."""
    by_plugin: dict[str, list[Mapping[str, Any]]] = {}
    for each in facts:
        by_plugin.setdefault(str(each.get("of")), []).append(each)
    found = []
    for head, own in by_plugin.items():
        maker = getattr(plugin_of(head), "from_facts", None)
        if maker is None:
            raise AssayError(f"no plugin {head!r:.60} defines the tasks of this run", do="install the plugin")
        found.append(maker(own, access, check_code))
    return tuple(found)


def from_reference(head: str, rest: str, access: Access, check_code: CodeCheck) -> Family:
    """Return the tasks of `bigbench:path` (the family's from_path), of `lm-eval:NAME` (the plugin's from_reference) or of `module:NAME`
    (a Task, a Family or a tuple of tasks)."""
    installed = module_names()
    if (finder := getattr(plugin_of(head), "from_reference", None)) is not None:
        found: Family = finder(rest, access, check_code)
        return found
    for module_name in installed:
        if module_name.rpartition(".")[2] == head:
            maker = getattr(load_module(module_name), "from_path", None)
            if maker is not None:
                try:
                    return Family(f"{head}:{rest}", tuple(maker(Path(rest))))
                except (OSError, ValueError) as error:
                    reason = (isinstance(error, OSError) and error.strerror) or error
                    raise AssayError(f"cannot be read: {reason}", where=f"{head}:{rest:.120}", do="check the path") from None
    own = present_name(head)  # never look for `head` itself before the check: that imports its parent packages
    if own != head and find_spec(own) is not None and hasattr(load_module(own), rest):
        head = own
    top = find_spec(head.split(".")[0])  # the path of the module itself is known only after its parent packages are imported
    if top is None:
        raise AssayError(f"no module {head!r}", where=f"{head}:{rest}", do="use an installed module, or the path of a .py file")
    if head not in installed and head.split(".")[0] != OWN_PACKAGE:
        path = Path(top.origin or next(iter(top.submodule_search_locations or ()), head))
        check_code(f"{head}:{rest}", path, path.read_bytes() if is_file(path) else b"")
    return as_family(getattr(load_module(head), rest, None), f"{head}:{rest}")


class SourceTextLoader(SourceFileLoader):
    """Runs the source text that was checked, never a compiled file (.pyc), which may contain other code."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self.content = content

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.content, self.path)


def from_python(path: Path, check_code: CodeCheck) -> Family:
    """Return the tasks of a task file: FAMILY, TASKS or TASK at its top level. Relative data paths are resolved against its folder."""
    if not is_file(path):
        raise AssayError("no such task file", where=str(path), do="check the path")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AssayError(f"cannot be read: {error.strerror}", where=str(path), do="check its permissions") from None
    check_code(str(path), path, content)
    name = f"assay_task_file_{re.sub(r'[^0-9a-zA-Z]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path, loader=SourceTextLoader(name, str(path), content))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except AssayError as error:
        raise AssayError(error.what, where=f"{path}{': ' + error.where if error.where else ''}", do=error.do) from None
    except SyntaxError as error:
        raise AssayError(f"{error.msg}: {(error.text or '').strip()}", where=f"{path}:{error.lineno}", do="fix the syntax") from None
    except (Exception, SystemExit) as error:
        if former := former_import(error, content.decode(), str(path)):
            raise former from None
        line = next(
            (frame.tb_lineno for frame in tracebacks(error) if Path(frame.tb_frame.f_code.co_filename).resolve() == path.resolve()), None
        )
        where = f"{path}:{line}" if line else str(path)
        raise AssayError(f"{type(error).__name__}: {error}", where=where, do="fix the task file") from None
    found = next((getattr(module, key) for key in ("FAMILY", "TASKS", "TASK") if hasattr(module, key)), None)
    family = as_family(found, str(path))
    home = path.resolve().parent
    return replace(family, tasks=tuple(replace(task, rows=task.rows.at(home)) for task in family.tasks))


def tracebacks(error: BaseException) -> Iterator[TracebackType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace
        trace = trace.tb_next


def as_family(found: object, where: str) -> Family:
    if isinstance(found, Family):
        return found
    tasks = (found,) if isinstance(found, Task) else tuple(found) if isinstance(found, tuple | list) else ()
    if not tasks or not all(isinstance(task, Task) for task in tasks):
        raise AssayError("defines no task", where=where, do="define TASKS = (Task(...),) at its top level")
    return Family(tasks[0].name, tasks)
