"""`assay store publish`: writes the leaderboard as one self-contained page with its data, for any web host.

Prompts, responses and gold are published only with --items: else only scores and per-item statistics, from which every interval and test
can be recomputed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from assay.harness.errors import AssayError
from assay.leaderboard.data import queries, studies
from assay.leaderboard.data.assembly import Filters, assemble, with_columns
from assay.leaderboard.data.ranking import AGGREGATORS
from assay.leaderboard.documents import contents, item_pages
from assay.leaderboard.documents.document import Heading, Link, Paragraph, Part, html_file
from assay.leaderboard.documents.export import to_csv, to_parquet

ITEMS = "items.html"
ABOUT = "Models ranked by score, with 95 % rank intervals from resampled items."


def publish(root: Path, folder: Path, items: bool = False) -> list[Path]:
    """Writes index.html, data/ and with `items` items.html into a folder that is new, empty or an earlier snapshot. Returns the files.

    Raises AssayError if the store has no index or the folder holds other files.
    """
    page = folder / "index.html"
    if folder.exists() and any(folder.iterdir()) and not (folder / "data" / "scores.csv").is_file():
        raise AssayError("the folder holds other files", where=str(folder), do="choose a new or empty folder")
    cells = with_columns(queries.cells(root))
    found = assemble(root, cells, Filters(), AGGREGATORS[0])
    files = write_data(root, folder / "data", cells, found.table)
    parts: list[Part] = [*contents.board(root, cells), *contents.neighbours(root, cells, found)]
    if len(cells):
        parts += [*contents.models(cells), *contents.tasks(cells)]
    parts += [*contents.tuning(root), *contents.gates(root), *contents.health(root, cells)]
    parts += [
        Heading("Data"),
        Paragraph("Scores and per-item statistics: every interval and test can be recomputed from them."),
    ]
    parts += [Link(f"data/{path.name}", f"{path.stat().st_size:,} bytes, SHA-256 {digest(path)}") for path in files]
    if not items:
        (folder / ITEMS).unlink(missing_ok=True)  # of an earlier snapshot
        put(page, html_file("assay leaderboard", ABOUT, parts, search=True).encode())
        return [page, *files]
    put(page, html_file("assay leaderboard", ABOUT, [Link(ITEMS, item_pages.ABOUT), *parts], search=True).encode())
    texts: list[Part] = [Link("index.html", "The leaderboard"), *item_pages.items(root)]
    put(folder / ITEMS, html_file("Items", item_pages.ABOUT, texts, search=False).encode())
    return [page, folder / ITEMS, *files]


def write_data(root: Path, folder: Path, cells: Any, board: Any) -> list[Path]:
    """Writes the numbers of the page as CSV and Parquet."""
    scores = queries.published_scores(root)
    trials = studies.trials(root, queries.tuning(root))
    tables: list[tuple[str, Any, Callable[[Any], bytes]]] = [
        ("board.csv", board.drop(columns=["best", "worst"], errors="ignore"), to_csv),
        ("scores.csv", scores, to_csv),
        ("scores.parquet", scores, to_parquet),
        ("item_stats.parquet", queries.published_stats(root), to_parquet),
    ]
    if len(trials):
        tables.append(("tuning.csv", trials, to_csv))
    found = []
    for name, table, write in tables:
        put(folder / name, write(table))
        found.append(folder / name)
    return found


def put(path: Path, data: bytes) -> None:
    """Writes a file atomically. Raises AssayError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise AssayError(f"cannot write the file: {error.strerror or error}", where=str(path), do="choose another folder") from None


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def publish_command(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, or an earlier snapshot to overwrite.")],
    items: Annotated[
        bool, typer.Option("--items", help="Also publish prompts, gold and responses of the items that tell the models apart.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option("--results", help="Folder of runs and index. [default: $ASSAY_RESULTS or results]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print exactly one JSON object to stdout.")] = False,
) -> None:
    """Write the leaderboard as a static page with its data, for any web host.

    [dim]assay store publish site/[/dim]
    """
    root = (results or Path(os.environ.get("ASSAY_RESULTS") or "results")).expanduser()
    files = publish(root, folder, items)
    if as_json:
        print(json.dumps({"files": [str(path) for path in files]}))
    else:
        print("\n".join(map(str, files)))
