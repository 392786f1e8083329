"""Keeps the generated store in the cache, so that it is written once."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = 5
"""Of the generated content: a store of another version is not used."""


def demo_store(cache: Path) -> Path:
    """The folder of the generated store; written first where it is missing, in a few seconds."""
    folder = cache / f"board-demo-{VERSION}"
    if (folder / "assay.duckdb").is_file():
        return folder
    print("Writing the demo store: 12 invented models, 14 tasks, 3 studies ...", file=sys.stderr)
    cache.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
    try:
        # In a process of its own: the command stays light, and the statistics are not loaded where the store is there already.
        subprocess.run([sys.executable, "-m", "assay.leaderboard.demo.store", str(part)], check=True)
        if folder.exists():  # without an index: the copy was cut short
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
