"""Text of strangers (models, tasks, outputs) in Markdown that others render: it shows as text, links nowhere, calls nobody."""

from __future__ import annotations

import re

BREAKS = re.compile(
    r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=[^\w/]@)(?=\w)|(?<=^@)(?=\w)|(?<=[^\w&]#)(?=\d)|(?<=^#)(?=\d)", re.IGNORECASE
)
"""Where Markdown would make a link, a mention or a reference; a word joiner there stops it."""


def md(text: object) -> str:
    """One line of Markdown that shows exactly this text. An underscore within a word needs no escape."""
    line = "".join(sign if sign.isprintable() else " " for sign in str(text))
    line = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", line)
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    return BREAKS.sub("\u2060", line)
