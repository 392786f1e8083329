"""Extractors of the answer from a response to BIG-bench Hard.

`tolerant` is ours. `paper` is the rule of the paper's notebooks (suzgunmirac/BIG-Bench-Hard, FranxYao/chain-of-thought-hub);
`historic` is the pattern of lm-eval's `bbh_cot_fewshot`.
"""

from __future__ import annotations

import re

from assay import Completion, Doc
from assay.harness.metrics.text import numeric_match
from assay.tasks._helm.math import boxed

OPTION = re.compile(r"\([A-Z]\)")
LETTER = re.compile(r"(?:option |choice )?\(?([A-Za-z])(?:\)|[.:,;](?=\s|$)|$)", re.IGNORECASE)
"""An option's letter at the start: (A), A), A. or A, before a space, or A alone."""
CHOSEN = re.compile(r"(?<![Nn]ot )\([A-Z]\)")
"""An option in parentheses that is not denied."""
HISTORIC = re.compile(r"(?<=the answer is )(.*)(?=.)")
CUE = re.compile(r"\bthe (?:final |correct )?answer(?: is|:)[ \t]*:?", re.IGNORECASE)
NUMBER, BRACKETS = re.compile(r"-?\d+"), re.compile(r"[\[\](){}<>\s]+")
MARKS = "*`\"'$ "
SAME_NUMBER = numeric_match()
NUMERAL = re.compile(r"(?:(?<!\w)[-+\u2212\u2010\u2011])?\d(?:[\d.,\u00a0\u2009\u202f]|\{,\})*")
IS = re.compile(r"=|:|\b(?:is|equals)\b", re.IGNORECASE)


def tolerant(doc: Doc, text: str) -> str:
    r"""Return the answer: what follows the last "the answer is", or the last \boxed{...}; as the reference spells it where it is equal.

    Equal are: an option's letter with and without parentheses; words in upper and lower case, and yes, no, true, false, valid and invalid
    before a comma; numbers with and without thousands separators; lists of words with and without commas; brackets with and without
    spaces. Of several options the one at the start counts, otherwise the first that is not denied; of several numbers the first, after
    the last "=" or "is". A single line without "the answer is" is an answer; several lines without it are none.
    """
    *before, last = CUE.split(text)
    box = (bracket_box if all(map(BRACKETS.fullmatch, doc.references)) else boxed)(last if before else text)
    if not before and not box and "\n" in last.strip():
        return ""
    answer = box or last.strip().partition("\n")[0]
    answer = answer[len("\\text{") : -1] if answer.startswith("\\text{") else answer
    answer = answer.strip().strip(MARKS).removesuffix(".").strip(MARKS)
    return next((gold for gold in doc.references if equal(gold, answer)), spelled(doc, answer))


def bracket_box(text: str) -> str:
    r"""The content of the last \boxed{...} where the answer consists of brackets, which need not close; empty if there is none."""
    _, box, rest = text.rpartition("\\boxed{")
    return re.sub(r"\\(?=[{}])", "", rest.partition("\n")[0].rpartition("}")[0]) if box else ""


def spelled(doc: Doc, answer: str) -> str:
    """A wrong answer in the form of the references: an option as its letter in parentheses."""
    letter = letter_of(answer) if any(map(OPTION.fullmatch, doc.references)) else ""
    return letter or answer


def letter_of(answer: str) -> str:
    """The letter of the option at the start, or of the first in parentheses that is not denied; in parentheses. Empty if there is none."""
    if letter := LETTER.match(answer):
        return f"({letter.group(1).upper()})"
    found = CHOSEN.search(answer)
    return found.group() if found else ""


def number_of(answer: str) -> str:
    """The first number after the last "=", ":" or "is" that a number follows; empty if there is none."""
    found = [number.group() for part in IS.split(answer) if (number := NUMERAL.search(part))]
    return found[-1] if found else ""


def equal(gold: str, answer: str) -> bool:
    if OPTION.fullmatch(gold):
        return letter_of(answer) == gold
    if NUMBER.fullmatch(gold):
        return SAME_NUMBER.measure(Doc("", references=(gold,)), Completion(number_of(answer))) == (1.0,)
    if BRACKETS.fullmatch(gold):
        return "".join(answer.split()) == "".join(gold.split())
    one, other = (re.findall(r"[^\s,;]+", each.casefold()) for each in (gold, answer))
    if gold.casefold() in ("yes", "no", "true", "false", "valid", "invalid"):
        return answer.casefold() == gold.casefold() or re.match(rf"{re.escape(gold)}[,.;:!]", answer, re.IGNORECASE) is not None
    return one == other


def paper(doc: Doc, text: str) -> str:
    """Return the text after the last "answer is ", without one full stop at its end; for options the alphabetically first in it."""
    *before, last = text.split("answer is ")
    if not before:
        return text
    answer = last.strip()
    if any(map(OPTION.fullmatch, doc.references)):
        return min(OPTION.findall(answer), default=answer)
    return answer.removesuffix(".")


def historic(doc: Doc, text: str) -> str:
    """Extract with lm-eval's pattern, which drops the last character."""
    found = HISTORIC.search(text)
    return found.group(1) if found else ""
