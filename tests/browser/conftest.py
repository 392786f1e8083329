"""Served leaderboards and a browser."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "leaderboard"))

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def served(store: Path, port: int) -> Iterator[str]:
    """Serves a store; gives the address once the server responds."""
    code = f"from pathlib import Path; from assay.leaderboard import commands; commands.board({port}, Path({str(store)!r}), as_json=True)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT, env=environment) as server:
        assert server.stdout is not None
        found = json.loads(server.stdout.readline())["address"]
        for _ in range(300):
            try:
                urllib.request.urlopen(found + "/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        try:
            yield found
        finally:
            server.kill()


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A leaderboard on scripted runs, one of them hostile."""
    from made_store import make_store

    with served(make_store(tmp_path_factory.mktemp("store"), hostile=True), 8760) as found:
        yield found


@pytest.fixture(scope="session")
def real_store(tmp_path_factory: pytest.TempPathFactory, builtin_model: Path) -> Path:
    """Real runs of two models and a tuning study; $ASSAY_REAL_STORE keeps them between calls."""
    from real_store import make_real_store

    kept = os.environ.get("ASSAY_REAL_STORE")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("real")
    return folder if (folder / "assay.duckdb").exists() else make_real_store(folder, builtin_model)


@pytest.fixture(scope="session")
def real_address(real_store: Path) -> Iterator[str]:
    with served(real_store, 8790) as found:
        yield found


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for screenshots: $ASSAY_SCREENSHOTS, else a temporary folder."""
    folder = Path(os.environ.get("ASSAY_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
