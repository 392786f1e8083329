"""Regular expressions from files: only those that cannot take forever."""

from __future__ import annotations

import re

from harness.errors import AssayError

LONGEST, REPEATS = 300, 2


def check_regex(pattern: str, where: str) -> None:
    """Raises AssayError for a pattern that is none, or whose search may take more than cubic time: Python's engine backtracks.

    Refused are repeated groups and more than two open repeats; `[-+]?\\d+` and `(\\d+)[.]{0,1}$` are fine.
    """
    what = ""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        what = f"is no regular expression ({error})"
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", re.sub(r"\\.", "x", pattern, flags=re.DOTALL))
    if len(pattern) > LONGEST:
        what = what or f"is longer than {LONGEST} characters"
    elif re.search(r"\)\s*([*+]|\{)", bare):
        what = what or "repeats a group, which can take forever"
    elif len(re.findall(r"[*+]|\{\d*,?\d*\}", bare)) - len(re.findall(r"\{0?,1\}", bare)) > REPEATS:
        what = what or f"has more than {REPEATS} repeats, which can take forever"
    if what:
        raise AssayError(f"{pattern!r:.80} {what}", where=where, do="write a plainer pattern")
