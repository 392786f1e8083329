"""Shared by all pages: cached queries, headings, empty states, tables, downloads, links.

Every URL key is used by one page only: Streamlit drops a bound value if two pages share its key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from assay.harness.errors import AssayError
from assay.harness.store import RunInfo, list_runs
from assay.leaderboard.charts.cards import WIDE, cards
from assay.leaderboard.data import assembly, frames, queries
from assay.leaderboard.data.safe_text import EXPOSED, ITEMS, folder, plain, visible
from assay.leaderboard.documents.export import FORMATS, formula_safe

CACHE: dict[str, Any] = {"ttl": 3600, "max_entries": 64, "show_spinner": False}
CONTENT = ("prompt", "output", "gold", "baseline_output", "candidate_output")
PAGES = Path(__file__).parent


def root() -> Path:
    """The results folder that the leaderboard serves."""
    return Path(os.environ.get("ASSAY_RESULTS") or "results")


def stamp() -> str:
    return queries.stamp(root())


def other_prompts(run: str, task: str, item: str) -> list[str]:
    """Prompts of other items of a task, which tell what all of them share; none where prompts are hidden."""
    return read("other_prompts", run, task, item).prompt.tolist() if items_shown() else []


def head(title: str, about: str) -> None:
    st.title(title)
    st.caption(about)


def empty(text: str, command: str = "") -> None:
    """Shows why there is nothing to show, and the command that helps."""
    with st.container(border=True):
        st.markdown(plain(text))
        if command:
            st.code(command, language=None)


def ready() -> bool:
    """Whether the index can be read; if not, shows what to do."""
    error = queries.index_error(root())
    if not error:
        return True
    if (root() / "runs").is_dir() and queries.stamp(root()):
        empty(error, "assay store index")
    elif any((root() / "runs").glob("*/manifest.json")):
        empty("These runs are not indexed yet. Index them:", "assay store index")
    else:
        empty("No runs yet. Create one with the built-in model:", "assay demo")
    return False


def run_query(folder: str, stamp: str, name: str, arguments: tuple[Any, ...]) -> Any:
    call: Callable[..., Any] = getattr(queries, name)
    return call(Path(folder), *arguments)


cached_query = st.cache_data(**CACHE)(run_query)


def read(name: str, *arguments: Any) -> Any:
    """The result of a query in `data/queries.py`, cached per state of the index; item texts are hidden if they must not be shown."""
    found = cached_query(str(root()), queries.stamp(root()), name, arguments)
    return found if items_shown() else hide_item_text(found)


def items_shown() -> bool:
    """Whether prompts, gold and responses may be shown; not on an exposed leaderboard without --show-items."""
    return os.environ.get(ITEMS) != "hidden"


def exposed() -> bool:
    """Whether other machines can reach the leaderboard: then it writes nothing."""
    return os.environ.get(EXPOSED) == "1"


def hide_item_text(found: Any) -> Any:
    """Replaces prompts, gold and responses by "(hidden)"."""
    if type(found) is tuple:
        return tuple(map(hide_item_text, found))
    columns = [name for name in CONTENT if name in getattr(found, "columns", ())]
    return found.assign(**dict.fromkeys(columns, "(hidden)")) if columns else found


def load_cells(folder: str, stamp: str) -> Any:
    return assembly.with_columns(queries.cells(Path(folder)))


cached_cells = st.cache_data(**CACHE)(load_cells)


def cells() -> Any:
    """Every ranked cell with its column and labels."""
    return cached_cells(str(root()), queries.stamp(root()))


def load_board(folder: str, stamp: str, filters: assembly.Filters, by: Any) -> assembly.Board:
    return assembly.assemble(Path(folder), cached_cells(folder, stamp), filters, by)


cached_board = st.cache_data(**CACHE)(load_board)


def board(filters: assembly.Filters, by: Any) -> assembly.Board:
    found: assembly.Board = cached_board(str(root()), queries.stamp(root()), filters, by)
    return found


def load_runs(folder: str) -> tuple[RunInfo, ...]:
    return list_runs(Path(folder))


cached_runs = st.cache_data(ttl=5, show_spinner=False)(load_runs)


def all_runs() -> tuple[RunInfo, ...]:
    """Every run of the store, including running and damaged ones, at most five seconds old."""
    found: tuple[RunInfo, ...] = cached_runs(str(root()))
    return found


def run_labels(runs: Any) -> dict[str, str]:
    """Labels by run id: the model's name, engine and id."""
    return {row.run_id: f"{visible(folder(row.model), 40)} · {visible(row.engine, 12)} · {row.run_id}" for row in runs.itertuples()}


def link(page: str, label: str, **state: str) -> None:
    """A link to a page with a state. The label must be escaped."""
    st.page_link(str(PAGES / f"{page}.py"), label=label, query_params={name: value for name, value in state.items() if value})


def open_page(page: str, **state: Any) -> None:
    """Opens a page with a state."""
    st.switch_page(str(PAGES / f"{page}.py"), query_params=state)


def table(
    data: Any,
    column_order: Sequence[str] = (),
    column_config: Mapping[str, Any] | None = None,
    links: Sequence[str] = (),
    **options: Any,
) -> Any:
    """A table whose texts are formula-safe, because Streamlit offers it for download as CSV. Narrow windows show cards instead, whose
    titles lead to `links`, one per row."""
    shown = rounded(frames.DataFrame(data), column_config or {})
    folded = cards(shown, column_order, column_config or {}, links)
    for name in shown.columns:
        safe = [formula_safe(value) if isinstance(value, str) else value for value in shown[name]]
        if any(isinstance(old, str) and old != new for old, new in zip(shown[name], safe, strict=True)):
            shown = shown.assign(**{name: safe})
    with st.container(gap=None):
        st.html(folded)
        with st.container(key=WIDE + str(options["alt"])):
            return st.dataframe(
                shown.rename(columns=formula_safe),
                column_order=[formula_safe(name) for name in column_order] or None,
                column_config={formula_safe(name): value for name, value in (column_config or {}).items()},
                **options,
            )


def rounded(data: Any, config: Mapping[str, Any]) -> Any:
    """The numbers that `config` shows with a fixed number of decimals, rounded here: the browser and Python round halves differently, so
    that a wide and a narrow window would show two numbers."""
    for name in data.columns:
        settings = config.get(name)
        form = re.fullmatch(r"%\+?\.(\d)f", str((settings.get("type_config") or {}).get("format"))) if isinstance(settings, dict) else None
        if form:
            data = data.assign(**{name: [round(each, int(form[1])) if isinstance(each, float) else each for each in data[name]]})
    return data


def address(page: str, **state: str) -> str:
    """A link to a page with a state, relative to this page."""
    return f"{page}?{urlencode(state)}"


def fitting(rows: int, most: int = 20) -> Any:
    """The height of a table: all rows, or the first `most` and a scroll bar."""
    return "content" if rows <= most else 38 + 35 * most


def downloads(table: Any, name: str) -> None:
    """Download buttons for all formats."""
    with st.popover("Export"):
        for title, (suffix, kind, write) in FORMATS.items():
            st.download_button(
                title, data=lambda write=write: write(table), file_name=f"{name}.{suffix}", mime=kind, on_click="ignore", width="stretch"
            )


def run_page(page: Callable[[], None]) -> None:
    """Runs a page if the index can be read; an AssayError is shown as one line, without a traceback."""
    try:
        if ready():
            page()
    except AssayError as error:
        empty(str(error))
