"""Makes untrusted text (names of models and tasks, prompts, responses) safe to display."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

LABEL_LENGTH = 48
ITEMS = "ASSAY_BOARD_ITEMS"
"""Environment variable of the server: "hidden" where prompts, gold and responses must not be shown."""

EXPOSED = "ASSAY_BOARD_EXPOSED"
"""Environment variable of the server: "1" where other machines can reach it."""


def visible(text: object, limit: int = 0, lines: bool = False) -> str:
    """Returns the text with control, bidirectional and invisible characters as visible ones, cut to `limit` characters (0: not cut)."""
    whole = str(text)
    cut = whole[:limit] + "…" if limit and len(whole) > limit else whole
    return cut if cut.isprintable() else "".join(visible_character(character, lines) for character in cut)


def visible_character(character: str, lines: bool) -> str:
    if character.isprintable() or (lines and character in "\n\t"):
        return character
    if unicodedata.category(character) in ("Zs", "Zl", "Zp"):
        return " "
    return {"\n": "↵", "\t": "⇥"}.get(character, f"\\x{ord(character):02x}")


LINKS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)|(?<=@)(?=[\w-]+\.\w)", re.IGNORECASE)
"""Places in a bare address where an inserted word joiner stops Markdown from making a link."""


def plain(text: object, limit: int = 0) -> str:
    """Escapes text for Markdown: no markup, no links from bare addresses."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+-.!|~$:&" else c for c in LINKS.sub("\u2060", visible(text, limit)))


def labels(names: Sequence[str], ids: Sequence[str]) -> list[str]:
    """Returns short distinct labels for models. Names that look alike or were cut get the first characters of their id appended."""
    shortened = [folder(name) for name in names]
    short = [visible(name, LABEL_LENGTH) or "(no name)" for name in shortened]
    counts = Counter(short)
    return [
        f"{label} · {visible(own_id, 8).rstrip('…')}" if counts[label] > 1 or len(name) > LABEL_LENGTH else label
        for label, name, own_id in zip(short, shortened, ids, strict=True)
    ]


def folder(name: str) -> str:
    """Shortens an absolute path to its last part, and an adapter path (after a plus) to its last two; other names stay whole."""
    base, plus, adapter = name.partition("+")
    short = PurePath(base).name or base if base.startswith("/") else base
    return short + plus + "/".join(PurePath(adapter).parts[-2:])


def family(name: str) -> str:
    """Guesses a model's family from its name: the last path part up to the first dash."""
    last = PurePath(name.partition("+")[0].replace(":", "/")).name
    return visible(last.split("-")[0].lower(), 24) or "other"
