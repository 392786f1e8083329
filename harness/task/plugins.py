"""List the installed plugins, their distributions, and whether they load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from assay.harness.task.catalogue import GROUP, find_spec, loadable_modules

GROUPS = (GROUP, "assay.engines", "assay.adapters", "assay.commands")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point. `fault` is the reason why it does not load, empty if it loads."""

    group: str
    name: str
    target: str
    distribution: str
    version: str
    fault: str = ""


def plugins() -> Iterator[Plugin]:
    """Yield every plugin. Task plugins are imported; for the others, which may be slow to import, only the module is located."""
    for group in GROUPS:
        for point in metadata.entry_points(group=group):
            owner = (point.dist.name, point.dist.version) if point.dist is not None else ("an unknown package", "")
            yield Plugin(group, point.name, point.value, *owner, fault=fault_of(group, point.module))


def fault_of(group: str, module: str) -> str:
    """Return why a plugin does not load, empty if it loads."""
    if find_spec(module) is None:
        return f"there is no module {module}"
    if group != GROUP:
        return ""
    return "; ".join(error.what for error in loadable_modules([module])[1])
