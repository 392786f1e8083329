"""Differences of two texts by words, and the start that all prompts of a task share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Literal

Kind = Literal["same", "removed", "added"]
MOST_WORDS = 4000
"""Longer texts are compared up to here: the comparison takes quadratic time."""
PIECES = re.compile(r"\s+|\w+|[^\w\s]")


def word_difference(one: str, two: str) -> tuple[list[tuple[Kind, str]], list[tuple[Kind, str]]]:
    """Both texts as pieces: `removed` are words of the first that the second lacks, `added` the reverse."""
    first, second = (PIECES.findall(text)[:MOST_WORDS] for text in (one, two))
    left: list[tuple[Kind, str]] = []
    right: list[tuple[Kind, str]] = []
    for name, a, b, c, d in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if b > a:
            left.append(("same" if name == "equal" else "removed", "".join(first[a:b])))
        if d > c:
            right.append(("same" if name == "equal" else "added", "".join(second[c:d])))
    return left, right


def shared_start(prompt: str, others: Sequence[str]) -> int:
    """How many characters of a prompt are instructions and few-shot examples: what all prompts of the task share, up to a blank line."""
    if not others:
        return 0
    length = min(map(len, (prompt, *others)))
    same = (all(other[place] == prompt[place] for other in others) for place in range(length))
    start = prompt[: next((place for place, equal in enumerate(same) if not equal), length)]
    return start.rfind("\n\n") + 2 if "\n\n" in start else 0
