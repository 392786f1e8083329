"""The table of faults names thirty rows and only tests that exist. Run: pytest tests/faults/test_readme.py"""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent


def rows() -> list[list[str]]:
    lines = (HERE / "README.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]


def test_every_row_is_there_and_names_tests() -> None:
    assert [row[0] for row in rows()] == [str(number) for number in range(1, 31)]
    assert all(len(row) == 5 and all(row) for row in rows())


def test_every_named_test_exists() -> None:
    missing = []
    for row in rows():
        named = re.findall(r"`([\w./]+)::(\w+)`", row[4])
        assert named, f"row {row[0]} names no test"
        for file, name in named:
            tree = ast.parse((HERE / file).read_text()) if (HERE / file).is_file() else ast.parse("")
            if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
                missing.append(f"{row[0]}: {file}::{name}")
    assert not missing
