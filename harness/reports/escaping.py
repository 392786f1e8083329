"""Escapes untrusted text (of models, tasks, outputs) for Markdown: it is shown as is, without links or mentions."""

from __future__ import annotations

import re

BREAKS = re.compile(
    r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=[^\w/]@)(?=\w)|(?<=^@)(?=\w)|(?<=[^\w&]#)(?=\d)|(?<=^#)(?=\d)", re.IGNORECASE
)
"""Where Markdown would make a link, a mention or an issue reference; a word joiner inserted there prevents it."""


def md(text: object) -> str:
    """One line of Markdown that shows exactly this text. Underscores within words need no escape."""
    line = "".join(sign if sign.isprintable() else " " for sign in str(text))
    line = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    return BREAKS.sub("\u2060", line)
