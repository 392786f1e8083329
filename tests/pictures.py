"""Takes the README's screenshots from real runs: `python -m tests.pictures [FOLDER]`.

Scores the built-in model and a copy with weights rounded to 4 bits on complete validation sets, and tunes the toy model. Runs stay in
FOLDER (default: results/pictures, ignored by git), so a second call only takes the screenshots.
"""

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
from typing import Any

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs" / "pictures"
MODEL = Path(os.environ.get("ASSAY_CACHE") or Path.home() / ".cache" / "assay") / "models" / "smollm2-135m-instruct"
TASKS = "glue/rte,glue/wnli,glue/mrpc,superglue/copa,superglue/cb,superglue/wsc,mmlu/anatomy"
TUNED = {
    "--model": "toy",
    "--task": "assay.tuners.toy:MAX",
    "--retain": "assay.tuners.toy:ADD,assay.tuners.toy:FIRST,assay.tuners.toy:MOOD,assay.tuners.toy:SECOND",
    "--method": "full,layernorm,lora,pfeiffer,ia3,prompt_tuning",
    "--seeds": "2",
}
FRAME = {"x": 40, "y": 110, "width": 1200, "height": 900}
INVISIBLE = 8
"""Largest difference of a colour channel (of 255) that counts as equal."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def score(home: Path) -> None:
    """Makes the runs that are missing."""
    home.mkdir(parents=True, exist_ok=True)
    models = {"smollm2-135m": home / "smollm2-135m", "smollm2-135m-4bit": home / "smollm2-135m-4bit"}
    if not models["smollm2-135m"].exists():
        models["smollm2-135m"].symlink_to(MODEL, target_is_directory=True)
    if not models["smollm2-135m-4bit"].exists():
        subprocess.run([sys.executable, ROOT / "tests" / "rounding.py", MODEL, models["smollm2-135m-4bit"]], check=True)
    done = {run["model"] for run in assay(home, "store", "ls", "--json")["runs"] if run["status"] == "complete"}
    for name in models:
        if name not in done:
            assay(home, "run", "--model", name, "--tasks", TASKS, "--engine", "hf", "--json")
    assay(home, "tune", *(part for option in TUNED.items() for part in option), "--json")


def assay(home: Path, *arguments: str) -> Any:
    """Runs a command in `home`, the folder of models and results. Returns its JSON output."""
    line = [sys.executable, "-m", "assay", *arguments]
    env = {**os.environ, "ASSAY_RESULTS": "results", "PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(line, check=True, stdout=subprocess.PIPE, cwd=home, env=env).stdout)


@contextmanager
def board(home: Path) -> Iterator[str]:
    line = [sys.executable, "-m", "assay", "board", "--json", "--results", str(home / "results")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["address"]
        finally:
            server.kill()


def take_screenshots(address: str, home: Path) -> None:
    from playwright.sync_api import sync_playwright

    names = [f"{name}" for name in ("smollm2-135m", "smollm2-135m-4bit")]
    pages = {"board": "", "compare": f"compare?first={names[0]}&second={names[1]}", "tuning": "tuning"}
    TARGET.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_context(viewport={"width": 1280, "height": 1080}, color_scheme="light").new_page()
        for name, path in pages.items():
            for _ in range(60):
                try:
                    tab.goto(f"{address}/{path}")
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
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "results" / "pictures").resolve()
    score(place)
    with board(place) as served:
        take_screenshots(served, place)
    print("\n".join(str(path.relative_to(ROOT)) for path in sorted(TARGET.glob("*.png"))))
