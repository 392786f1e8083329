"""No page passes untrusted text to a function that renders HTML."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent / "leaderboard"
BANNED = {"st.html", "st.write", "st.write_stream", "st.components.v1.html", "components.html", "st.iframe"}


def html_calls(text: str) -> list[int]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            named = {keyword.arg for keyword in node.keywords}
            if ast.unparse(node.func) in BANNED or "unsafe_allow_html" in named or "unsafe_allow_javascript" in named:
                found.append(node.lineno)
    return found


def test_no_page_shows_html() -> None:
    listed = [f"{path}:{line}" for path in sorted(ROOT.rglob("*.py")) for line in html_calls(path.read_text(encoding="utf-8"))]
    assert not listed, "\n".join(listed)


def test_the_lint_finds_html() -> None:
    assert html_calls("st.markdown(name, unsafe_allow_html=True)") == html_calls("st.write(name)") == html_calls("st.html(name)") == [1]
