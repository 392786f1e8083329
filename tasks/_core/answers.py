r"""Answers that lm-eval finds in generated texts with a regular expression, and compares after some edits.

Source: lm_eval 0.4.13, filters/extraction.py (`regex`) and api/metrics.py (`exact_match`).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable

from assay import Completion, Doc, Metric

NOTHING = "[invalid]"
"""What lm-eval puts for a text in which the pattern is not found."""
PUNCTUATION = str.maketrans("", "", string.punctuation)


def extracted(pattern: re.Pattern[str], which: int, text: str) -> str:
    """The `which`-th match of a pattern: its group, the first that is not empty of several. NOTHING where there is no match."""
    found = pattern.findall(text)
    if not found:
        return NOTHING
    match = found[which]
    return (next(filter(None, match), NOTHING) if isinstance(match, tuple) else str(match)).strip()


def extracted_match(
    name: str,
    pattern: str,
    which: int = 0,
    edit: Callable[[str], str] = str,
    gold: Callable[[Doc], str] = lambda doc: doc.references[0],
    signature: str = "",
) -> Metric[Completion]:
    """Share of texts whose answer equals the gold one, both after `edit` and in lower case. A text without a match is unparsed."""
    compiled = re.compile(pattern)

    def measure(doc: Doc, output: Completion) -> tuple[float, ...]:
        found = extracted(compiled, which, output.text)
        return (float(edit(found).lower() == edit(gold(doc)).lower()),)

    def parses(doc: Doc, output: Completion) -> bool:
        return compiled.search(output.text) is not None

    return Metric(name, measure, reads=Completion, parses=parses, signature=f"lm-eval|{signature}")


def without_marks(text: str) -> str:
    """An answer to GSM8K without commas, dollar signs, what stands before `#### `, and a full stop at its end."""
    for mark in (",", r"\$", r"(?s).*#### ", r"\.$"):
        text = re.sub(mark, "", text)
    return text


def without_punctuation(text: str) -> str:
    return text.translate(PUNCTUATION)


strict_match = extracted_match("strict_match", r"#### (\-?[0-9\.\,]+)", edit=without_marks, signature="after ####")
"""GSM8K: the number after `####`, lm-eval's filter strict-match."""
flexible_match = extracted_match("flexible_match", r"(-?[$0-9.,]{2,})|(-?[0-9]+)", -1, without_marks, signature="last number")
"""GSM8K: the last number of the text, lm-eval's filter flexible-extract."""
