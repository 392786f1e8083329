"""Import names that were in use before the package was called `assay`: what they stand for now.

Stored runs that name `tuners.toy:MAX` stay readable. Task files and plugins that import a former name get one error with the new line.
"""

from __future__ import annotations

import ast

from assay.harness.errors import AssayError

PACKAGES = ("harness", "leaderboard", "tasks", "tuners")
CLASSES = {"Said": "Completion", "Chosen": "ChoiceScores", "Surprise": "TextLogprob", "Estimate": "ExpectedValue"}


def present_name(module: str) -> str:
    """The present name of a module: `tuners.toy` is `assay.tuners.toy`. A module of another package keeps its name."""
    return f"assay.{module}" if module.split(".")[0] in PACKAGES else module


def former_import(error: BaseException, source: str, where: str) -> AssayError | None:
    """An error with the new import line, if `error` came from importing a former name in `source`; else None."""
    module = getattr(error, "name", None) or ""
    if not isinstance(error, ImportError) or module.split(".")[0] not in PACKAGES:
        return None
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    lines = [(node.lineno, new_line(node)) for node in imports if is_former(node)]
    if not lines:
        return None
    number, line = lines[0]
    former = module.split(".")[0]
    more = f" ({len(lines)} lines import former names)" if len(lines) > 1 else ""
    return AssayError(f"the package is now called `assay`, not `{former}`{more}", where=f"{where}:{number}", do=f"write: {line}")


def is_former(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.level == 0 and (node.module or "").split(".")[0] in PACKAGES
    return isinstance(node, ast.Import) and node.names[0].name.split(".")[0] in PACKAGES


def new_line(node: ast.AST) -> str:
    """The import statement with present names."""
    if isinstance(node, ast.ImportFrom):
        module = "assay" if node.module == "harness" else present_name(node.module or "")
        names = [CLASSES.get(alias.name, alias.name) + (f" as {alias.asname}" if alias.asname else "") for alias in node.names]
        return f"from {module} import {', '.join(names)}"
    assert isinstance(node, ast.Import)
    return "import " + ", ".join("assay" if alias.name == "harness" else present_name(alias.name) for alias in node.names)
