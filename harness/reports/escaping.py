"""Escapes untrusted text (of models, tasks, outputs) for terminals, XML and Markdown, where it makes no links or mentions."""

from __future__ import annotations

import re

BREAKS = re.compile(
    r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=[^\w/]@)(?=\w)|(?<=^@)(?=\w)|(?<=[^\w&]#)(?=\d)|(?<=^#)(?=\d)", re.IGNORECASE
)
"""Where Markdown would make a link, a mention or an issue reference; a word joiner inserted there prevents it."""


def printable(text: str) -> str:
    """The text with a space for each unprintable character: terminals obey some of them, and XML 1.0 forbids them."""
    return "".join(character if character.isprintable() else " " for character in text)


def md(text: object) -> str:
    """One line of Markdown that shows exactly this text. Underscores within words need no escape."""
    line = re.sub(r"([\\`*\[\]<>|~$])", r"\\\1", printable(str(text)))
    line = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", line)
    return BREAKS.sub("\u2060", line)
