"""Equivalence of short LaTeX answers, as the MATH benchmark defines it.

Source: hendrycks/math, math_equivalence.py (MIT), which HELM's math_scenario.py uses. Answers are compared after removing spaces,
units, bracket sizes and similar; 1/2, 0.5 and \\frac12 are equal. No expression is evaluated.
"""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal

from assay import Completion, Doc, Metric
from assay.harness.metrics.text import exact_match


def boxed(text: str) -> str:
    r"""The content of the last \boxed{...} or \fbox{...}; empty if there is none or its braces do not close."""
    at = max(text.rfind("\\boxed"), text.rfind("\\fbox") if "\\boxed" not in text else -1)
    if at < 0:
        return ""
    depth = 0
    for place in range(at, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0 and text[place] == "}":
            found = text[at : place + 1]
            return found.removeprefix("\\boxed{")[:-1] if found.startswith("\\boxed{") else ""
    return ""


def braced_fractions(text: str) -> str:
    r"""Add braces to \frac1b and \frac12; a text with a malformed fraction is returned unchanged."""
    head, *tails = text.split("\\frac")
    for tail in tails:
        head += "\\frac"
        if tail.startswith("{"):
            head += tail
        elif len(tail) < 2:
            return text
        elif tail[1] == "{":
            head += "{" + tail[0] + "}" + tail[1:]
        else:
            head += "{" + tail[0] + "}{" + tail[1] + "}" + tail[2:]
    return head


def slash_as_fraction(text: str) -> str:
    parts = text.split("/")
    if len(parts) == 2 and all(re.fullmatch(r"0|-?[1-9]\d*", part) for part in parts):
        return f"\\frac{{{parts[0]}}}{{{parts[1]}}}"
    return text


def canonical(text: str) -> str:
    """The normalised form used to compare two answers."""
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "")
    if text.count("\\text{ ") == 1:
        text = text.split("\\text{ ")[0]
    text = text.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0]) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = braced_fractions(text)
    return slash_as_fraction("\\frac{1}{2}" if text == "0.5" else text)


def same_answer(gold: str, text: str) -> bool:
    return canonical(gold) == canonical(text)


def measure(doc: Doc, output: Completion) -> tuple[float, ...]:
    answer = boxed(output.text)
    return (float(bool(answer) and any(same_answer(boxed(gold) or gold, answer) for gold in doc.references)),)


def has_box(doc: Doc, output: Completion) -> bool:
    return bool(boxed(output.text))


math_equivalent: Metric[Completion] = replace(
    exact_match, name="math_equiv_chain_of_thought", measure=measure, parses=has_box, signature="hendrycks|last-boxed"
)
r"""Share of texts whose last \boxed{...} is equivalent to the reference's. A response without a box counts as unparsed."""

MINUS = str.maketrans("\u2212\u2013\uff0d", "---")
UNITS = re.compile(r"\\(?:text|mathrm|mbox)\{[^{}]*\}(?:\^\{?\d\}?)?$|(?:\^\{?\\circ\}?|\\degree|°)")
NUMBER = re.compile(r"[-+]?(?:\d+|\d{1,3}(?:(?:,|\{,\}|\\,|\\ |\u202f|\u00a0)\d{3})+)(?:\.\d+)?")

SEPARATORS = r"\{,\}|\\,|\\ |[\u202f\u00a0,]"


def as_text(text: str) -> str:
    r"""The answer without units at its end, degree signs, currency and thousands separators; \text{...} around all of it is dropped."""
    text = text.translate(MINUS).strip().strip("$").strip().removesuffix(".")
    if whole := re.fullmatch(r"\\(?:text|mathrm|mbox|textbf)\{([^{}]*)\}", text):
        text = whole.group(1)
    text = UNITS.sub("", text).strip()
    if NUMBER.fullmatch(bare := text.removeprefix("\\$").removeprefix("$").replace("\\!", "").strip()):
        return f"{Decimal(re.sub(SEPARATORS, '', bare)).normalize():f}"
    return text


def tolerant_measure(doc: Doc, output: Completion) -> tuple[float, ...]:
    answer = boxed(output.text)
    golds = [boxed(gold) or gold for gold in doc.references]
    return (float(bool(answer) and any(same_answer(as_text(gold), as_text(answer)) for gold in golds)),)


math_tolerant: Metric[Completion] = replace(
    exact_match, name="math_tolerant", measure=tolerant_measure, parses=has_box, signature="hendrycks|last-boxed|units|thousands|minus"
)
r"""The same, where also 1,000 equals 1000, 90° equals 90, 5\text{ cm} equals 5 and a Unicode minus is a minus."""
