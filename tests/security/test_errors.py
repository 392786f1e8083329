"""Every error in the packages says what and what to do; where it is raised far from a place, the place is added on the way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
KINDS = {"AssayError", "Missing", "NotComparable", "Incomplete", "Invalid"}
PACKAGES = ("harness", "tasks", "tuners", "leaderboard")


def errors(text: str) -> Iterator[tuple[int, ast.Call]]:
    """Every error that is made in a source text, with its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            yield node.lineno, node


def faults(text: str) -> list[int]:
    """Lines of errors that do not say what is wrong, or leave out what to do about it."""
    found = []
    for line, call in errors(text):
        named = {keyword.arg: keyword.value for keyword in call.keywords}
        do = named.get("do")
        empty = isinstance(do, ast.Constant) and not do.value
        if not call.args or do is None or empty:
            found.append(line)
    return found


def test_every_error_says_what_to_do() -> None:
    listed = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in faults(path.read_text(encoding="utf-8"))
    ]
    assert not listed, "\n".join(listed)


def test_the_check_sees_an_error_that_does_not() -> None:
    assert faults("raise AssayError('bad')") == [1]
    assert faults("raise Invalid('bad', where='x', do='')") == [1]
    assert faults("raise Incomplete('bad', do='assay resume x')") == []


def test_there_is_much_to_check() -> None:
    count = sum(len(list(errors(path.read_text()))) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert count > 250


def test_libraries_are_told_to_run_no_code_and_read_no_pickle() -> None:
    """Every from_pretrained of an Auto class refuses remote code; every model is read from safetensors."""
    listed = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"):
                    continue
                owner = ast.unparse(node.func.value)
                named = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                if "Auto" in owner and named.get("trust_remote_code") != "False":
                    listed.append(f"{path}:{node.lineno} trusts code")
                if "AutoModel" in owner and named.get("use_safetensors") != "True":
                    listed.append(f"{path}:{node.lineno} reads pickle")
    assert not listed, "\n".join(listed)
