"""Takes the README's screenshots of the generated store (`assay board --demo`): `python -m tests.pictures`."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "pictures"
PAGES: dict[str, dict[str, str]] = {
    "board": {},
    "compare": {"first": "beta/heron-3b", "second": "beta/heron-3b+lora-0/result"},
    "tuning": {"study": "studies/arithmetic-multiply"},
}
FRAME = {"x": 0, "y": 56, "width": 1280, "height": 900}
INVISIBLE = 8
"""Largest difference of a colour channel (of 255) that counts as equal."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


@contextmanager
def board() -> Iterator[str]:
    line = [sys.executable, "-m", "assay", "board", "--json", "--demo", "--port", "8720"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["address"]
        finally:
            server.kill()


def take_screenshots(address: str) -> None:
    from playwright.sync_api import sync_playwright

    TARGET.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_context(viewport={"width": 1280, "height": 1080}, color_scheme="light").new_page()
        for name, state in PAGES.items():
            for _ in range(60):
                try:
                    tab.goto(f"{address}/{'' if name == 'board' else name}?{urlencode(state)}")
                    break
                except Exception:
                    tab.wait_for_timeout(500)
            tab.wait_for_selector("h1", timeout=90_000)
            tab.wait_for_timeout(5000)
            tab.wait_for_function("document.querySelector('[data-test-script-state=running]') === null", timeout=90_000)
            tab.wait_for_timeout(2000)
            save(tab.screenshot(clip=FRAME), TARGET / f"{name}.png")
        browser.close()


def save(picture: bytes, path: Path) -> None:
    """Saves with 256 colours (a third of the size). An equal-looking file is kept, because browsers draw rounded corners differently."""
    from PIL import Image, ImageChops

    new = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    if path.is_file() and (old := Image.open(path)).size == new.size:
        strongest = ImageChops.difference(old.convert("RGB"), new.convert("RGB")).getextrema()
        if max(high for _, high in strongest) <= INVISIBLE:
            return
    new.save(path, optimize=True)


if __name__ == "__main__":
    with board() as served:
        take_screenshots(served)
    print("\n".join(str(path.relative_to(ROOT)) for path in sorted(TARGET.glob("*.png"))))
