"""Prompts and responses to read: few-shot examples and thinking are folded, differences are marked by word. All texts are escaped here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from assay.leaderboard.charts.drawing import escaped
from assay.leaderboard.data.safe_text import visible
from assay.leaderboard.data.words import Kind, shared_start, word_difference

LONGEST = 20_000
STYLE = """<style>
.answers { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 250px), 1fr)); gap: 10px; }
.answers article { border: 1px solid color-mix(in srgb, currentColor 22%, transparent); border-radius: 6px; padding: 8px 12px;
  border-top-width: 3px; min-width: 0; }
.answers article.right { border-top-color: #2b7f77; }
.answers article.wrong { border-top-color: #b8475b; }
.answers header { display: flex; justify-content: space-between; gap: 8px; font-weight: 600; font-size: .85rem; overflow-wrap: anywhere; }
.answers header span:last-child { font-weight: 400; white-space: nowrap; }
.answers p { margin: 6px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; font-family: monospace; font-size: .84rem; }
.answers details { margin-top: 6px; font-size: .84rem; }
.answers summary { cursor: pointer; }
.answers del, .answers ins { background: color-mix(in srgb, #8b8f94 30%, transparent); text-decoration: none; border-radius: 2px; }
.answers .right :is(del, ins) { background: color-mix(in srgb, #2b7f77 32%, transparent); }
.answers .wrong :is(del, ins) { background: color-mix(in srgb, #b8475b 26%, transparent); }
</style>"""
SIGNS = {"right": "✓ right", "wrong": "✗ wrong"}
TAGS: dict[Kind, str] = {"removed": "del", "added": "ins"}


def outcome(row: Any) -> str:
    """right, wrong, or the status of a response that was not scored as usual."""
    if row.status != "scored":
        return str(row.status)
    return "–" if row.correct is None or row.correct != row.correct else "right" if row.correct >= 0.5 else "wrong"


def prompt(text: str, others: Sequence[str]) -> None:
    """The prompt, its start folded where all prompts of the task (`others`) share it."""
    cut = shared_start(text, others)
    if cut:
        with st.expander(f"Instructions and few-shot examples, the same in all prompts ({cut:,} characters)"):
            st.code(visible(text[:cut], LONGEST, lines=True), language=None, wrap_lines=True)
    st.code(visible(text[cut:], LONGEST, lines=True), language=None, wrap_lines=True)


def short_prompt(text: str, gold: str, others: Sequence[str], most: int) -> None:
    """The last `most` characters of a prompt's own part, and the gold answer."""
    own = text[shared_start(text, others) :].strip()
    short = own if len(own) <= most else "… " + own[-most:]
    st.code(f"{visible(short, lines=True)}\n\nGold: {visible(gold, most)}", language=None, wrap_lines=True)


def marked(pieces: Sequence[tuple[Kind, str]]) -> str:
    return "".join(f"<{TAGS[kind]}>{safe(text)}</{TAGS[kind]}>" if kind in TAGS else safe(text) for kind, text in pieces)


def safe(text: str) -> str:
    return "\n".join(escaped(line) for line in text[:LONGEST].split("\n"))


def article(name: str, outcome: str, body: str, thought: str = "") -> str:
    """One response; `body` is HTML."""
    fold = f"<details><summary>thinking ({len(thought.split()):,} words)</summary><p>{safe(thought)}</p></details>" if thought else ""
    kind = outcome if outcome in SIGNS else "other"
    head = f"<header><span>{escaped(name, 80)}</span><span>{escaped(SIGNS.get(outcome, outcome))}</span></header>"
    return f'<article class="{kind}">{head}{fold}<p>{body or "(empty)"}</p></article>'


def shaded(choices: Sequence[tuple[Sequence[str], Sequence[float]]]) -> str:
    """Choices as (tokens, log-probabilities), for `answers`: each token is redder the less likely it was, full at the least likely one
    here, or at 1 in 20 if none is below that."""
    lines = []
    least = min([-3.0, *(value for _, values in choices for value in values)])
    for pieces, values in choices:
        marks = "".join(
            f'<span style="background: color-mix(in srgb, #b8475b {max(0, round(70 * value / least))}%, transparent)" '
            f'title="{value:.2f} nats, probability {math.exp(min(value, 0)):.3f}">{escaped(piece)}</span>'
            for piece, value in zip(pieces, values, strict=False)
        )
        lines.append(f"<p>{marks} <small>{sum(values):.2f}</small></p>")
    return f"<article>{''.join(lines)}</article>"


def answers(articles: Sequence[str]) -> None:
    """Responses beside each other."""
    st.html(f'{STYLE}<div class="answers">{"".join(articles)}</div>')


def two_answers(names: tuple[str, str], outcomes: tuple[str, str], texts: tuple[str, str]) -> None:
    """Two responses beside each other, with the words marked in which they differ."""
    parts = map(marked, word_difference(texts[0][:LONGEST], texts[1][:LONGEST]))
    answers([article(name, outcome, body) for name, outcome, body in zip(names, outcomes, parts, strict=True)])
