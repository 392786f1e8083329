"""Which plugins are installed, from what, and whether they load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from assay.harness.task.catalogue import GROUP, find_spec, sound_modules

GROUPS = (GROUP, "assay.engines", "assay.adapters", "assay.commands")


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point. `fault` says why it does not load, empty where it does."""

    group: str
    name: str
    target: str
    distribution: str
    version: str
    fault: str = ""


def plugins() -> Iterator[Plugin]:
    """All of them. Task plugins are imported; what may be heavy is only looked for."""
    for group in GROUPS:
        for point in metadata.entry_points(group=group):
            owner = (point.dist.name, point.dist.version) if point.dist is not None else ("an unknown package", "")
            yield Plugin(group, point.name, point.value, *owner, fault=fault_of(group, point.module))


def fault_of(group: str, module: str) -> str:
    if find_spec(module) is None:
        return f"there is no module {module}"
    if group != GROUP:
        return ""
    return "; ".join(error.what for error in sound_modules([module])[1])
