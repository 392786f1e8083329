"""What all pages share: the store, cached answers, headings, empty states, links between pages.

A key that a link carries is used by one page alone: Streamlit drops a bound value where two pages share its key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from assay.harness.errors import AssayError
from assay.harness.store import RunInfo, list_runs
from assay.leaderboard.data import assembly, frames, queries
from assay.leaderboard.data.shown import ITEMS, folder, plain, visible
from assay.leaderboard.documents.export import FORMATS, harmless

CACHE: dict[str, Any] = {"ttl": 3600, "max_entries": 64, "show_spinner": False}
CONTENT = ("prompt", "output", "gold")
PAGES = Path(__file__).parent


def root() -> Path:
    """The store that the board was started on."""
    return Path(os.environ.get("ASSAY_RESULTS") or "results")


def head(title: str, about: str) -> None:
    st.title(title)
    st.caption(about)


def empty(text: str, command: str = "") -> None:
    """Nothing to show, and the command that changes it."""
    with st.container(border=True):
        st.markdown(plain(text))
        if command:
            st.code(command, language="bash")


def ready() -> bool:
    """Whether there is an index to read; else the page says what to do."""
    found = queries.trouble(root())
    if not found:
        return True
    if (root() / "runs").is_dir() and queries.stamp(root()):
        empty(found, "assay store index")
    elif any((root() / "runs").glob("*/manifest.json")):
        empty("These runs are not indexed yet.", "assay store index")
    else:
        empty("No runs yet. A first one, with the built-in model:", "assay demo")
    return False


def read_now(folder: str, stamp: str, name: str, arguments: tuple[Any, ...]) -> Any:
    call: Callable[..., Any] = getattr(queries, name)
    return call(Path(folder), *arguments)


READ = st.cache_data(**CACHE)(read_now)


def read(name: str, *arguments: Any) -> Any:
    """The result of a query of `data/queries.py`, cached per state of the index, without the texts of items where those are hidden."""
    found = READ(str(root()), queries.stamp(root()), name, arguments)
    return found if items_shown() else veiled(found)


def items_shown() -> bool:
    """Whether this board shows what items say: one that other machines reach does not, unless it is told to."""
    return os.environ.get(ITEMS) != "hidden"


def veiled(found: Any) -> Any:
    """Prompts, answers and gold replaced."""
    if type(found) is tuple:
        return tuple(map(veiled, found))
    columns = [name for name in CONTENT if name in getattr(found, "columns", ())]
    return found.assign(**dict.fromkeys(columns, "(hidden)")) if columns else found


def cells_now(folder: str, stamp: str) -> Any:
    return assembly.with_columns(queries.cells(Path(folder)))


CELLS = st.cache_data(**CACHE)(cells_now)


def cells() -> Any:
    """Every ranked cell with its column and labels."""
    return CELLS(str(root()), queries.stamp(root()))


def board_now(folder: str, stamp: str, wish: assembly.Wish, by: Any) -> assembly.Board:
    return assembly.assemble(Path(folder), cells_now(folder, stamp), wish, by)


BOARD = st.cache_data(**CACHE)(board_now)


def board(wish: assembly.Wish, by: Any) -> assembly.Board:
    found: assembly.Board = BOARD(str(root()), queries.stamp(root()), wish, by)
    return found


def runs_now(folder: str) -> tuple[RunInfo, ...]:
    return list_runs(Path(folder))


RUNS = st.cache_data(ttl=5, show_spinner=False)(runs_now)


def all_runs() -> tuple[RunInfo, ...]:
    """Every run of the store, also running and damaged ones, as of at most five seconds ago."""
    found: tuple[RunInfo, ...] = RUNS(str(root()))
    return found


def run_labels(runs: Any) -> dict[str, str]:
    """Labels by run id: the model's name, engine and id."""
    return {row.run_id: f"{visible(folder(row.model), 40)} · {visible(row.engine, 12)} · {row.run_id}" for row in runs.itertuples()}


def link(page: str, label: str, **state: str) -> None:
    """A link to a page in a state. The label is ours or escaped."""
    st.page_link(str(PAGES / f"{page}.py"), label=label, query_params={name: value for name, value in state.items() if value})


def table(data: Any, column_order: Sequence[str] = (), column_config: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """A table of Streamlit's, in which no text is a formula of a spreadsheet: it has a download of its own."""
    shown = frames.DataFrame(data)
    for name in shown.columns:
        calm = [harmless(value) if isinstance(value, str) else value for value in shown[name]]
        if any(isinstance(old, str) and old != new for old, new in zip(shown[name], calm, strict=True)):
            shown = shown.assign(**{name: calm})
    return st.dataframe(
        shown.rename(columns=harmless),
        column_order=[harmless(name) for name in column_order] or None,
        column_config={harmless(name): value for name, value in (column_config or {}).items()},
        **options,
    )


def downloads(table: Any, name: str) -> None:
    """The table in every format."""
    with st.popover("Export"):
        for title, (suffix, kind, write) in FORMATS.items():
            st.download_button(
                title, data=lambda write=write: write(table), file_name=f"{name}.{suffix}", mime=kind, on_click="ignore", width="stretch"
            )


def guarded(page: Callable[[], None]) -> None:
    """Runs a page; what the store cannot give is one clear line, never a traceback."""
    try:
        if ready():
            page()
    except AssayError as error:
        empty(str(error))
