"""The page of promises names only tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "harness" / "TRUST.md"


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| **")]
    assert len(rows) >= 10
    missing = []
    for row in rows:
        named = re.findall(r"`([\w./]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            tree = ast.parse((HERE / file).read_text()) if (HERE / file).is_file() else ast.parse("")
            if name not in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}:
                missing.append(f"{file}::{name}")
    assert not missing, "\n".join(missing)
