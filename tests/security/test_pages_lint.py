"""No page passes untrusted text to a function that renders HTML, but those for responses and for tables as cards, which escape it."""

from __future__ import annotations

import ast
from html.parser import HTMLParser
from pathlib import Path

import pytest

from assay.leaderboard.charts.cards import cards
from assay.leaderboard.data import frames
from assay.leaderboard.pages.reading import article, marked, safe, shaded

ROOT = Path(__file__).parent.parent.parent / "leaderboard"
BANNED = {"st.html", "st.write", "st.write_stream", "st.components.v1.html", "components.html", "st.iframe"}


def html_calls(text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            named = {keyword.arg for keyword in node.keywords}
            if ast.unparse(node.func) in BANNED or "unsafe_allow_html" in named or "unsafe_allow_javascript" in named:
                found.append(ast.unparse(node.func))
    return found


def test_no_page_shows_html() -> None:
    paths = sorted(ROOT.rglob("*.py"))
    listed = [f"{path.relative_to(ROOT)}: {call}" for path in paths for call in html_calls(path.read_text(encoding="utf-8"))]
    # a constant, and texts that are escaped: see below
    assert listed == ["pages/app.py: st.html", "pages/reading.py: st.html", "pages/shell.py: st.html"]


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{tag} {name}={value}" for name, value in attrs)}


@pytest.mark.parametrize(
    "hostile", ['<img src=x onerror="alert(1)">', "</p><script>alert(1)</script>", '" onclick="alert(1)', "<svg/onload=1>"]
)
def test_texts_of_models_are_escaped(hostile: str) -> None:
    page = Tags()
    page.feed(article(hostile, hostile, safe(hostile) + marked([("removed", hostile), ("added", hostile), ("same", hostile)]), hostile))
    assert page.found == {"article", "article class=other", "header", "span", "details", "summary", "p", "del", "ins"}
    tokens = Tags()
    tokens.feed(shaded([((hostile, hostile), (-0.5, -9.0))]))
    assert {tag for tag in tokens.found if " " not in tag} == {"article", "p", "span", "small"}
    assert {tag.split("=")[0] for tag in tokens.found if " " in tag} == {"span style", "span title"}
    folded = Tags()
    folded.feed(cards(frames.DataFrame({hostile: [hostile], "b": [hostile]}), (), {"b": {"label": hostile}}, ["items?item=" + hostile]))
    assert {tag for tag in folded.found if " " not in tag} == {"div", "article", "a", "dl", "dt", "dd"}
    assert {tag.split("=")[0] for tag in folded.found if " " in tag} == {"div class", "a href"}


@pytest.mark.parametrize("call", ["st.markdown(name, unsafe_allow_html=True)", "st.write(name)", "st.html(name)"])
def test_the_lint_finds_html(call: str) -> None:
    assert html_calls(call) == [call.split("(")[0]]
