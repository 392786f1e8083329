"""The entry script for Streamlit: lists the pages, each a script of its own."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from assay.leaderboard.charts import cards

PAGES_FOLDER = Path(__file__).parent
PAGES = ("Board", "Compare", "Model", "Task", "Items", "Tuning", "Gates", "Runs", "Health")
STYLE = """<style>
.stMainBlockContainer { padding: 4.2rem 2.5rem 4rem; max-width: 1680px; }
.stMainBlockContainer h1 { padding: 0 0 .2rem; }
[data-testid=stCaptionContainer] { color: inherit; opacity: .78; }
@media (max-width: 640px) { .stMainBlockContainer { padding: 4rem 1rem 3rem; } }
</style>"""  # less empty space around a page

st.set_page_config(page_title="assay", page_icon="⚖️", layout="wide")
pages = [st.Page(PAGES_FOLDER / f"{name.lower()}.py", title=name, url_path=name.lower(), default=name == "Board") for name in PAGES]
st.html(STYLE + cards.STYLE)
st.navigation(pages, position="top").run()
