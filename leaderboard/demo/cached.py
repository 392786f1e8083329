"""Keeps the generated store in the cache, so that it is written once."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from assay.leaderboard.demo.store import VERSION, write_store


def demo_store(cache: Path) -> Path:
    """The folder of the generated store; written first where it is missing, in a few seconds."""
    folder = cache / f"board-demo-{VERSION}"
    if (folder / "assay.duckdb").is_file():
        return folder
    print("Writing the demo store: 12 invented models, 14 tasks, 3 studies ...", file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
    try:
        write_store(part)
        if folder.exists():  # cut short by an earlier version of this file, or just written by another process
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
