"""The entry script for Streamlit: lists the pages, each a script of its own."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

PAGES_FOLDER = Path(__file__).parent
PAGES = ("Board", "Compare", "Model", "Task", "Items", "Tuning", "Gates", "Runs", "Health")

st.set_page_config(page_title="assay", page_icon="⚖️", layout="wide")
pages = [st.Page(PAGES_FOLDER / f"{name.lower()}.py", title=name, url_path=name.lower(), default=name == "Board") for name in PAGES]
st.navigation(pages, position="top").run()
