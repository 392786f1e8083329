"""Perturbations of text with HELM's published parameters, each a pure function of a text and a seeded random generator.

Given the same generator, `mild_mix`, `misspellings`, `contractions`, `typos`, `filler`, `extra_space`, `lowercase` and `gender` return the
text that crfm-helm 0.5.16 returns. `dialect` and `names` follow its rules, with word lists of ours: HELM downloads its own.
Source: HELM src/helm/benchmark/augmentations and run_expander.py (parameters).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from random import Random

from assay.harness.errors import AssayError
from assay.harness.prompt.perturbation_words import CONTRACTIONS, DIALECT, FILLERS, KEYS, MISSPELLINGS, NAMES, PRONOUNS

Change = Callable[[str, Random], str]
PACKAGE, WORD_LIST = "crfm-helm", "helm/benchmark/augmentations/correct_to_misspelling.json"
SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Perturbation:
    """`change` returns the perturbed text; `parameters` describes its settings in metric signatures."""

    name: str
    change: Change
    parameters: str
    answers: bool = False
    """Whether references and choices are perturbed too, before the input and with the same generator."""
    together: bool = False
    """Whether all texts of an item are changed as one, so that a name that recurs in another text gets the same substitute."""

    def all(self, texts: Sequence[str], draw: Random) -> tuple[str, ...]:
        """Return the perturbed texts of one item, in the given order."""
        if self.together:
            return tuple(self.change(SEPARATOR.join(texts), draw).split(SEPARATOR)) if texts else ()
        return tuple(self.change(text, draw) for text in texts)


def match_case(word: str, other: str) -> str:
    """Return `other` in the case of `word`: all small, all capitals or first letter capital; unchanged otherwise (HELM's rule)."""
    if all(map(str.islower, word)):
        return other.lower()
    if all(map(str.isupper, word)):
        return other.upper()
    return other.capitalize() if word[:1].isupper() else other


@functools.cache
def either(*words: str) -> str:
    return "|".join(map(re.escape, words))


def lower(text: str, draw: Random) -> str:
    return text.lower()


def contract(text: str, draw: Random) -> str:
    """Contract `is not` to `isn't` and the like, only before a space, so that no sentence ends in a short form."""

    def swap(found: re.Match[str]) -> str:
        return match_case(found[1], CONTRACTIONS[found[1].lower()]) + " "

    return re.sub(rf"\b({either(*CONTRACTIONS)})\b ", swap, text, flags=re.IGNORECASE)


@functools.cache
def helm_misspellings() -> Mapping[str, tuple[str, ...]]:
    """HELM's misspellings by word, read from the installed package. Raises AssayError if crfm-helm is not installed."""
    try:
        content = Path(str(metadata.distribution(PACKAGE).locate_file(WORD_LIST))).read_text(encoding="utf-8")
    except (metadata.PackageNotFoundError, OSError):
        raise AssayError(
            f"HELM's list of misspellings is part of {PACKAGE}, which is not installed",
            where="perturbations mild_mix, misspellings, robustness and canonical",
            do="pip install --no-deps crfm-helm==0.5.16, or use robustness_short, mild_mix_short or misspellings_short (328 words)",
        ) from None
    return {word: tuple(wrong) for word, wrong in json.loads(content).items()}


@functools.cache
def misspelled(known: Callable[[], Mapping[str, tuple[str, ...]]]) -> re.Pattern[str]:
    """A pattern for the words of a list, in its order."""
    return re.compile(rf"\b({'|'.join(known())})\b")


def short_misspellings() -> Mapping[str, tuple[str, ...]]:
    return MISSPELLINGS


def misspell(text: str, draw: Random, share: float, known: Callable[[], Mapping[str, tuple[str, ...]]] = helm_misspellings) -> str:
    """Misspell a share of the words that have a known misspelling."""

    def swap(found: re.Match[str]) -> str:
        return match_case(found[0], draw.choice(known()[found[0]])) if draw.random() < share else found[0]

    return misspelled(known).sub(swap, text)


def random_spaces(text: str, draw: Random, most: int) -> str:
    """Replace every run of spaces by one to `most` spaces."""
    return re.sub(" +", lambda found: " " * draw.randint(1, most), text)


def mild_mix(text: str, draw: Random, known: Callable[[], Mapping[str, tuple[str, ...]]] = helm_misspellings) -> str:
    """Apply, in this order: lower case, contractions, misspellings of a tenth of the words, one to three spaces."""
    return random_spaces(misspell(contract(lower(text, draw), draw), draw, 0.1, known), draw, 3)


def typos(text: str, draw: Random, share: float) -> str:
    """Replace a share of the letters by a neighbouring key."""

    def slip(letter: str) -> str:
        small = letter.lower()
        near = KEYS.get(small)
        new = draw.choice(near) if near is not None and draw.random() < share else small
        return new if letter == small else new.upper()

    return "".join(map(slip, text))


def extra_space(text: str, draw: Random, count: int) -> str:
    """Replace every space by `count` spaces."""
    return text.replace(" ", " " * count)


def filler(text: str, draw: Random, share: float) -> str:
    """Insert a filler before a share of the words."""
    return " ".join(f"{draw.choice(FILLERS)} {word}" if draw.random() <= share else word for word in text.split(" "))


def dialect(text: str, draw: Random) -> str:
    """Replace every listed word that stands between two characters other than letters, digits and hyphens (HELM's rule)."""
    pattern = rf"([^\w-])({either(*DIALECT)})([^\w-])"
    return re.sub(pattern, lambda found: found[1] + match_case(found[2], DIALECT[found[2].lower()]) + found[3], text, flags=re.IGNORECASE)


def gender(text: str, draw: Random) -> str:
    """Replace every male pronoun that stands between two characters other than letters and digits, one pronoun after the other.

    HELM's rule: a pronoun at either end of a text stays.
    """
    for word, other in PRONOUNS.items():

        def swap(found: re.Match[str], other: str = other) -> str:
            return found[1] + match_case(found[2], other) + found[3]

        text = re.sub(rf"([^\w])({word})([^\w])", swap, text, flags=re.IGNORECASE)
    return text


def names(text: str, draw: Random) -> str:
    """Replace every first name of one group by one of the other group with the same gender; a name that recurs gets the same one."""
    chosen: dict[str, str] = {}
    known = {name: others for sources, others in NAMES.values() for name in sources}

    def swap(word: str) -> str:
        name = word.lower()
        if name not in known:
            return word
        chosen.setdefault(name, draw.choice(known[name]))
        return match_case(word, chosen[name])

    return "".join(map(swap, re.split(r"([^\w])", text)))


def listed(*found: Perturbation) -> Mapping[str, Perturbation]:
    return {each.name: each for each in found}


HELM_LIST, SHORT_LIST = "crfm-helm 0.5.16", "328 words"
PERTURBATIONS = listed(
    Perturbation("mild_mix", mild_mix, f"lower,contract,misspell:0.1:{HELM_LIST},spaces:1-3"),
    Perturbation("mild_mix_short", functools.partial(mild_mix, known=short_misspellings), "lower,contract,misspell:0.1,spaces:1-3"),
    Perturbation("typos", functools.partial(typos, share=0.1), "p:0.1"),
    Perturbation("typos_medium", functools.partial(typos, share=0.3), "p:0.3"),
    Perturbation("typos_hard", functools.partial(typos, share=0.5), "p:0.5"),
    Perturbation("extra_space", functools.partial(extra_space, count=2), "spaces:2"),
    Perturbation("lowercase", lower, ""),
    Perturbation("contractions", contract, "helm"),
    Perturbation("misspellings", functools.partial(misspell, share=0.1), f"p:0.1,{HELM_LIST}"),
    Perturbation("misspellings_short", functools.partial(misspell, share=0.1, known=short_misspellings), "p:0.1"),
    Perturbation("filler", functools.partial(filler, share=0.3), "p:0.3"),
    Perturbation("dialect", dialect, f"sae>aave,p:1,{len(DIALECT)} words,answers", answers=True),
    Perturbation("gender", gender, "pronouns,male>female,p:1,answers", answers=True),
    Perturbation("names", names, "first,white_american>black_american,p:1,keeps-gender,answers", answers=True, together=True),
)
GROUPS: Mapping[str, tuple[str, ...]] = {
    "robustness": ("mild_mix",),
    "fairness": ("dialect", "gender", "names"),
    "canonical": ("mild_mix", "dialect", "gender", "names"),
    "robustness_short": ("mild_mix_short", "typos", "extra_space"),
}
"""HELM's groups; `canonical` is the set that its own runs use. `robustness_short` is ours and needs no package."""
