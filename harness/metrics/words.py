"""How metrics split text into words: tokenizers for scripts other than Latin, and what a tokenizer loses of a text."""

from __future__ import annotations

import functools
import importlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc

Tokens = Literal["default", "unicode", "zh", "ja-mecab", "ko-mecab", "char"]
TOKENS: tuple[str, ...] = ("default", "unicode", "zh", "ja-mecab", "ko-mecab", "char")
SACREBLEU = {
    "zh": ("tokenizer_zh", "TokenizerZh"),
    "ja-mecab": ("tokenizer_ja_mecab", "TokenizerJaMecab"),
    "ko-mecab": ("tokenizer_ko_mecab", "TokenizerKoMecab"),
    "char": ("tokenizer_char", "TokenizerChar"),
}
SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
"""Beginnings of the Unicode names of letters of scripts that put no spaces between words."""
MOST = 0.5
"""A text is lost, or of a script without spaces, if more than this share of its letters and digits is."""


@functools.lru_cache(maxsize=1 << 16)
def kind_of(character: str) -> str:
    """ "word", "single" (a letter of a script without spaces), "mark", "format" (belongs to no word and ends none), or "" (ends a word)."""
    category = unicodedata.category(character)
    if category == "Cf":
        return "format"
    if category[0] == "M":
        return "mark"
    if category[0] not in "LN":
        return ""
    return "single" if unicodedata.name(character, "").startswith(SPACELESS) else "word"


def words(text: str) -> list[str]:
    """The words of a text in any script, NFKC and casefolded; a letter of a script without spaces is one word with its marks."""
    found: list[str] = []
    before = ""
    for character in unicodedata.normalize("NFKC", text).casefold():
        kind = kind_of(character)
        if kind == "format":
            continue
        if (kind == "mark" and before) or (kind == "word" and before == "word"):
            found[-1] += character
            continue
        before = kind if kind in ("word", "single") else ""
        if before:
            found.append(character)
    return found


@dataclass(frozen=True, slots=True)
class Splitter:
    """A tokenizer as rouge-score takes one. `split` gives a list of words."""

    split: Callable[[str], list[str]]

    def tokenize(self, text: str) -> list[str]:
        return self.split(text)


@functools.cache
def splitter(tokens: str) -> Splitter:
    """The tokenizer of this name, but for "default". Raises AssayError for an unknown name or a package that is not installed."""
    if tokens == "unicode":
        return Splitter(words)
    if tokens not in SACREBLEU:
        raise AssayError(f"unknown tokenizer {tokens!r:.40}", do=f"use one of {', '.join(TOKENS)}")
    module, name = SACREBLEU[tokens]
    try:
        made: Any = getattr(importlib.import_module(f"sacrebleu.tokenizers.{module}"), name)()
    except (ImportError, RuntimeError):
        raise missing(tokens) from None
    return Splitter(lambda text: [word for word in made(text.lower()).split() if any(map(kind_of, word))])


def missing(tokens: str) -> AssayError:
    extra = tokens.partition("-")[0]
    return AssayError(f"the tokenizer {tokens!r:.40} needs packages that are not installed", do=f"pip install 'sacrebleu[{extra}]'")


def letters(text: str) -> list[str]:
    return [character for character in text if kind_of(character) in ("word", "single")]


def outside_ascii(text: str) -> bool:
    """Whether rouge-score's default tokenizer drops most of a text: it keeps a to z and 0 to 9."""
    found = letters(text)
    return sum(not character.isascii() for character in found) > MOST * len(found)


def spaceless(text: str) -> bool:
    """Whether a text is mostly of a script that puts no spaces between words."""
    found = letters(text)
    return sum(kind_of(character) == "single" for character in found) > MOST * len(found)


def where_all(fits: Callable[[str], bool], reason: str) -> Callable[[Doc], str]:
    """A function that gives `reason` for a Doc if `fits` holds for all its references, and "" otherwise."""

    def unmeasurable(doc: Doc) -> str:
        golds: Sequence[str] = doc.references or ((doc.answer,) if doc.labelled else ())
        return reason if golds and all(map(fits, golds)) else ""

    return unmeasurable
