"""Perturbations of text with HELM's published parameters, each a pure function of a text and a seeded random generator.

Source: HELM src/helm/benchmark/augmentations and run_expander.py (parameters); the word lists are those of `perturbation_words`.
Words are matched at word boundaries, also at the ends of a text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from assay.harness.prompt.perturbation_words import CONTRACTIONS, DIALECT, FILLERS, KEYS, MISSPELLINGS, NAMES, PRONOUNS

Change = Callable[[str, Random], str]


@dataclass(frozen=True, slots=True)
class Perturbation:
    """`change` returns the perturbed text; `parameters` describes its settings in metric signatures."""

    name: str
    change: Change
    parameters: str


def match_case(word: str, other: str) -> str:
    """Return `other` in the case of `word`: all capitals, first letter capital, or unchanged."""
    if len(word) > 1 and word.isupper():
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


@functools.cache
def word_pattern(*words: str) -> re.Pattern[str]:
    """Return a pattern that matches any of these words, the longest first, ignoring case."""
    listed = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return re.compile(rf"(?<![\w'-])(?:{listed})(?![\w'-])", re.IGNORECASE)


def lower(text: str, draw: Random) -> str:
    return text.lower()


def contract(text: str, draw: Random) -> str:
    """Contract `is not` to `isn't` and the like, only before a space, so that no sentence ends in a short form."""
    pattern = re.compile(rf"{word_pattern(*CONTRACTIONS).pattern}(?= )", re.IGNORECASE)
    return pattern.sub(lambda found: match_case(found[0], CONTRACTIONS[found[0].lower()]), text)


def misspell(text: str, draw: Random, share: float) -> str:
    """Misspell a share of the words that have a known misspelling."""

    def swap(found: re.Match[str]) -> str:
        return match_case(found[0], draw.choice(MISSPELLINGS[found[0].lower()])) if draw.random() < share else found[0]

    return word_pattern(*MISSPELLINGS).sub(swap, text)


def random_spaces(text: str, draw: Random, most: int) -> str:
    """Replace every run of spaces by one to `most` spaces."""
    return re.sub(" +", lambda found: " " * draw.randint(1, most), text)


def mild_mix(text: str, draw: Random) -> str:
    """Apply, in this order: lower case, contractions, misspellings of a tenth of the words, one to three spaces."""
    return random_spaces(misspell(contract(lower(text, draw), draw), draw, 0.1), draw, 3)


def typos(text: str, draw: Random, share: float) -> str:
    """Replace a share of the letters by a neighbouring key."""

    def slip(letter: str) -> str:
        near = KEYS.get(letter.lower())
        return match_case(letter, draw.choice(near)) if near is not None and draw.random() < share else letter

    return "".join(map(slip, text))


def extra_space(text: str, draw: Random, count: int) -> str:
    """Replace every space by `count` spaces."""
    return text.replace(" ", " " * count)


def filler(text: str, draw: Random, share: float) -> str:
    """Insert a filler before a share of the words."""
    return " ".join(f"{draw.choice(FILLERS)} {word}" if draw.random() <= share else word for word in text.split(" "))


def dialect(text: str, draw: Random) -> str:
    return word_pattern(*DIALECT).sub(lambda found: match_case(found[0], DIALECT[found[0].lower()]), text)


def gender(text: str, draw: Random) -> str:
    return word_pattern(*PRONOUNS).sub(lambda found: match_case(found[0], PRONOUNS[found[0].lower()]), text)


def names(text: str, draw: Random) -> str:
    """Replace every first name of one group by one of the other group with the same gender; a name that recurs gets the same one."""
    chosen: dict[str, str] = {}
    known = {name: others for sources, others in NAMES.values() for name in sources}

    def swap(found: re.Match[str]) -> str:
        name = found[0].lower()
        chosen.setdefault(name, draw.choice(known[name]))
        return match_case(found[0], chosen[name])

    return word_pattern(*known).sub(swap, text)


def listed(*found: Perturbation) -> Mapping[str, Perturbation]:
    return {each.name: each for each in found}


PERTURBATIONS = listed(
    Perturbation("mild_mix", mild_mix, "lower,contract,misspell:0.1,spaces:1-3"),
    Perturbation("typos", functools.partial(typos, share=0.1), "p:0.1"),
    Perturbation("typos_medium", functools.partial(typos, share=0.3), "p:0.3"),
    Perturbation("typos_hard", functools.partial(typos, share=0.5), "p:0.5"),
    Perturbation("extra_space", functools.partial(extra_space, count=2), "spaces:2"),
    Perturbation("lowercase", lower, ""),
    Perturbation("contractions", contract, ""),
    Perturbation("misspellings", functools.partial(misspell, share=0.1), "p:0.1"),
    Perturbation("filler", functools.partial(filler, share=0.3), "p:0.3"),
    Perturbation("dialect", dialect, "sae>aave,p:1"),
    Perturbation("gender", gender, "pronouns,male>female,p:1"),
    Perturbation("names", names, "first,white_american>black_american,p:1,keeps-gender"),
)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "robustness": ("mild_mix", "typos", "extra_space"),
    "fairness": ("dialect", "gender", "names"),
    "canonical": ("mild_mix", "dialect", "gender", "names"),
}
"""`canonical` is the set that HELM's own runs use."""
