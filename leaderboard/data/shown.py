"""Text of strangers made safe to look at: models, tasks and outputs may hold anything."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

LABEL = 48
ITEMS = "ASSAY_BOARD_ITEMS"
"""Environment variable that tells the server whether it may show what items say."""


def visible(text: object, limit: int = 0, lines: bool = False) -> str:
    """Control, bidirectional and other invisible characters become visible signs; cut to `limit` characters (0: whole)."""
    whole = str(text)
    cut = whole[:limit] + "…" if limit and len(whole) > limit else whole
    return "".join(sign(character, lines) for character in cut)


def sign(character: str, lines: bool) -> str:
    if character.isprintable() or (lines and character in "\n\t"):
        return character
    if unicodedata.category(character) in ("Zs", "Zl", "Zp"):
        return " "
    return {"\n": "↵", "\t": "⇥"}.get(character, f"\\x{ord(character):02x}")


LINKS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)|(?<=@)(?=[\w-]+\.\w)", re.IGNORECASE)
"""Where Markdown would make a link of a bare address; a word joiner there stops it."""


def plain(text: object, limit: int = 0) -> str:
    """Text that Markdown shows as it is: every sign that could start markup is escaped, every bare address broken."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]<>()#+-.!|~$:&" else c for c in LINKS.sub("\u2060", visible(text, limit)))


def labels(names: Sequence[str], marks: Sequence[str]) -> list[str]:
    """Short distinct labels for models: where two names look alike, or one was cut, the beginning of its mark follows."""
    called = [folder(name) for name in names]
    short = [visible(name, LABEL) or "(no name)" for name in called]
    times = Counter(short)
    return [
        f"{label} · {visible(mark, 8).rstrip('…')}" if times[label] > 1 or len(name) > LABEL else label
        for label, name, mark in zip(short, called, marks, strict=True)
    ]


def folder(name: str) -> str:
    """The last part of an absolute path; every other name whole. Of an adapter, named after a plus, the last two parts."""
    base, plus, adapter = name.partition("+")
    short = PurePath(base).name or base if base.startswith("/") else base
    return short + plus + "/".join(PurePath(adapter).parts[-2:])


def family(name: str) -> str:
    """The family that a model's name suggests: its last part up to the first dash."""
    last = PurePath(name.partition("+")[0].replace(":", "/")).name
    return visible(last.split("-")[0].lower(), 24) or "other"


def points(value: float | None, unit: float | None) -> str:
    """A score in percent where it has a unit, else as it is."""
    if value is None or value != value:
        return "–"
    return f"{100 * value / unit:.1f}" if unit else f"{value:.3g}"


def span(low: float | None, high: float | None, unit: float | None) -> str:
    return "–" if low is None or high is None or low != low or high != high else f"{points(low, unit)} – {points(high, unit)}"


def range_text(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}–{worst}"


def amount(value: float | None) -> str:
    """A count for people: 135 M, 7 B."""
    if value is None or value != value:
        return "–"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def size(value: float | None) -> str:
    """A size in bytes for people: 17 MB."""
    found = amount(value).replace(" B", " G")
    return found if found == "–" else f"{found}B" if " " in found else f"{found} B"
