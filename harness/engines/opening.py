"""Opens an engine by name: through the entry-point group `assay.engines`, so a stranger's engine is opened like ours."""

from __future__ import annotations

import difflib
from importlib import metadata

from harness.engines import Engine, Settings
from harness.errors import AssayError
from harness.model import ModelRef

GROUP = "assay.engines"


def engine_names() -> tuple[str, ...]:
    return tuple(sorted({point.name for point in metadata.entry_points(group=GROUP)}))


def open_engine(name: str, model: ModelRef, settings: Settings) -> Engine:
    """Load the model into the named engine. What follows a colon in the name is the engine's own (scripted:uniform).

    Raises AssayError for an unknown engine or a missing library.
    """
    name, _, script = name.partition(":")
    found = {point.name: point for point in metadata.entry_points(group=GROUP)}
    if name not in found:
        close = difflib.get_close_matches(name, found, 1)
        raise AssayError(
            f"unknown engine {name!r}", do=f"did you mean {close[0]}?" if close else f"choose one of {', '.join(sorted(found))}"
        )
    try:
        opener = found[name].load()
    except ImportError as error:
        raise AssayError(f"engine {name!r} cannot be imported: {error}", do="assay doctor shows what is missing") from None
    engine: Engine = opener(model, settings, script) if script else opener(model, settings)
    return engine
