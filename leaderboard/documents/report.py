"""`assay report`: writes runs as one self-contained HTML or Markdown file."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from assay.harness.errors import AssayError, Incomplete
from assay.harness.store import find_run, index, query, read_run
from assay.leaderboard.documents.publishing import put
from assay.leaderboard.documents.run_report import run_report


def report(
    runs: Annotated[list[str], typer.Argument(help="Runs (id, unique prefix, model name or folder). The first is the baseline.")],
    to: Annotated[Path | None, typer.Option("--to", help="A .html or .md file. [default: Markdown on stdout]")] = None,
    items: Annotated[int, typer.Option(help="Number of flipped items to show per task and direction.", min=0)] = 3,
    results: Annotated[
        Path | None, typer.Option("--results", help="Folder of runs and index. [default: $ASSAY_RESULTS or results]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print exactly one JSON object to stdout.")] = False,
) -> None:
    """Write a self-contained report: scores, differences, flipped items, costs.

    [dim]assay report v1 candidate --to report.html[/dim]
    """
    if to is not None and to.suffix not in (".html", ".md"):
        raise AssayError(f"{to.name} is neither .html nor .md", where="--to", do="choose a file name that ends in .html or .md")
    root = (results or Path(os.environ.get("ASSAY_RESULTS") or "results")).expanduser()
    found = [indexed(root, find_run(root, text)) for text in runs]
    text = run_report(root, tuple(dict.fromkeys(found)), markdown=to is None or to.suffix == ".md", items=items)
    if to is not None:
        put(to, text.encode())
    if as_json:
        print(json.dumps({"runs": found, "file": None if to is None else str(to), **({"markdown": text} if to is None else {})}))
    elif to is None:
        sys.stdout.write(text)
    else:
        print(to)


def indexed(root: Path, bundle: Path) -> str:
    """Returns the id of a complete run, and adds the run to the index if it is not there yet. Raises Incomplete."""
    run = read_run(bundle)
    if run.status != "complete":
        raise Incomplete("the run is not complete", where=run.id, do=f"assay resume {run.id}")
    try:
        known = query(root, "SELECT 1 FROM run WHERE run_id = ? AND status = 'complete'", [run.id])
    except AssayError:
        known = []
    if not known:
        index(root, [bundle])
    return run.id
