"""Documentation cannot rot: generated pages equal the code, and what the READMEs name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from catalogue import ROOT, pages


def is_ours(path: Path) -> bool:
    """Not of a run, a build, or a virtual environment, whatever its name."""
    folders = path.relative_to(ROOT).parts
    return not {".git", "runs", "build"} & set(folders) and not any((folder / "pyvenv.cfg").exists() for folder in path.parents)


READMES = sorted(filter(is_ours, ROOT.rglob("*.md")))


def test_generated_pages_are_fresh() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{stale} differ from the code: python -m tests.catalogue"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


PYTHON = [(f"{path.relative_to(ROOT)}:{number}", block) for path in READMES for number, block in enumerate(blocks(path, "python"))]


@pytest.mark.parametrize("block", [block for _, block in PYTHON], ids=[name for name, _ in PYTHON])
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    """Each block stands alone: imports that fail and names that are gone fail here."""
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr


def test_commands_of_the_readme_are_run() -> None:
    """Every command of the front page is a line of the walks or of CI, which run it for real."""
    run = "\n".join(
        path.read_text(encoding="utf-8") for path in [*(ROOT / "tests" / "walks").glob("*"), ROOT / ".ci" / "run"] if path.is_file()
    )
    lines = [part.strip() for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines() for part in line.split("&&")]
    commands = [line for line in lines if line.startswith("assay ")]
    assert len(commands) > 8 and not [command for command in commands if command not in run]
    extras = {extra for line in lines for group in re.findall(r"\[([\w,]+)\]", line) for extra in group.split(",")}
    installed = {extra for group in re.findall(r"\[([\w,]+)\]", run) for extra in group.split(",")}
    assert extras and extras <= installed | {"tune"}  # dev brings tune


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_linked_files_exist(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert not [link for link in links if not (path.parent / link).exists()]
