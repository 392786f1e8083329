"""Opens an engine by name. Engines of assay and of other packages are found in the entry-point group `assay.engines`."""

from __future__ import annotations

import difflib
from importlib import metadata

from assay.harness.engines import Engine, Settings
from assay.harness.engines.parallel import open_parallel
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef

GROUP = "assay.engines"


def engine_names() -> tuple[str, ...]:
    return tuple(sorted({point.name for point in metadata.entry_points(group=GROUP)}))


def check_name(name: str) -> None:
    """Raises AssayError if no engine of this name is installed, and suggests the most similar name."""
    plain, known = name.partition(":")[0], engine_names()
    if plain not in known:
        close = difflib.get_close_matches(plain, known, 1)
        raise AssayError(f"unknown engine {plain!r}", do=f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}")


def open_engine(name: str, model: ModelRef, settings: Settings) -> Engine:
    """Load the model into the named engine, in several processes if the settings say so.

    The text after a colon in the name is passed to the engine (scripted:uniform).

    Raises AssayError for an unknown engine or a missing library.
    """
    check_name(name)
    if settings.data_parallel > 1:
        return open_parallel(name, model, settings)
    name, _, script = name.partition(":")
    found = {point.name: point for point in metadata.entry_points(group=GROUP)}
    try:
        opener = found[name].load()
    except ImportError as error:
        raise AssayError(f"engine {name!r} cannot be imported: {error}", do="find the cause with `assay doctor`") from None
    engine: Engine = opener(model, settings, script) if script else opener(model, settings)
    return engine
