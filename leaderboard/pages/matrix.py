"""The matrix of models and tasks as a part of a page: a click on a cell, a task or a model opens its page."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from assay.leaderboard.charts.matrix import html
from assay.leaderboard.charts.matrix_style import CSS, SCRIPT
from assay.leaderboard.charts.theme import CATEGORIES
from assay.leaderboard.data.matrix import Matrix
from assay.leaderboard.pages import shell

COLOURS = {
    "ink": "var(--st-text-color)",
    "paper": "var(--st-background-color)",
    "soft": "var(--st-secondary-background-color)",
    "line": "var(--st-border-color)",
    "link": "var(--st-link-color)",
    "tint": "var(--st-primary-color)",
    "quiet": "color-mix(in srgb, var(--st-text-color) 72%, var(--st-background-color))",
}
MARKS = "\n".join(f".c{number} {{ --mark: {colour}; }}" for number, colour in enumerate(CATEGORIES))
STYLE = f":host {{ {' '.join(f'--{name}: {value};' for name, value in COLOURS.items())} font-family: var(--st-font); }}\n{MARKS}\n{CSS}"
MOUNT = """
export default function({ data, parentElement, setTriggerValue }) {
  const place = parentElement.querySelector(".place");
  if (place.dataset.shown === data.html) return;
  place.dataset.shown = data.html;
  place.innerHTML = data.html;
  liveMatrix(place.firstElementChild, target => setTriggerValue("go", target));
}
"""
PAGES = ("items", "model", "task", "compare")

mount = st.components.v2.component("assay_matrix", html='<div class="place"></div>', css=STYLE, js=SCRIPT + MOUNT)


def show(matrix: Matrix, ranked: bool = True) -> None:
    """Shows the matrix, and opens the page of what was clicked."""
    result: Any = mount(data={"html": html(matrix, ranked=ranked)}, key="matrix", on_go_change=lambda: None)
    if result.go:
        target = json.loads(str(result.go))
        if target["page"] in PAGES:
            shell.open_page(target["page"], **{name: value for name, value in target["state"].items() if value})
