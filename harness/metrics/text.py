"""Metrics over generated text: matches, token overlap, ROUGE, BLEU, chrF and TER.

The completion is compared with every reference and the best score counts. Corpus metrics store the counts of each item, so that the
score of any set of items follows from sums. Sources: sacrebleu, rouge-score, and HELM's evaluate_reference_metrics.py.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.metrics.words import TOKENS, Tokens, missing, outside_ascii, spaceless, splitter, where_all
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Codes, Metric, Pooled, Stats
from assay.harness.task.output import Completion

__all__ = [
    "bleu",
    "chrf",
    "exact_match",
    "exact_match_indicator",
    "f1_words",
    "final_number",
    "normalize_text",
    "numeric_match",
    "prefix_exact_match",
    "quasi_exact_match",
    "quasi_exact_match_symbols",
    "rouge",
    "ter",
]

LATIN = 'its tokenizer keeps a to z and 0 to 9 only, so even an equal text scores 0; use rouge(..., tokenizer="unicode")'
NO_SPACES = "words end at spaces, which the script of the references does not have"
SPACED = ("13a", "intl", "none")
Rouge = Literal["rouge1", "rouge2", "rougeL", "rougeLsum"]
NUMBER = re.compile(r"-?[\d,]+(?:.\d+)?")  # HELM's pattern; its dot is any character, kept for parity
DECIMAL = re.compile(r"(?:(?<!\w)[-+])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")  # the 25 of "20-25" has no sign
TIME = re.compile(r"\d+(?::\d+)+")
"""A time of day or a ratio: no number."""
OPERATORS = frozenset("+-*/=<>^%|&~!")
GROUPED = re.compile(r"(?<=\d)(?:\{,\}|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
"""Thousands separators of LaTeX, and spaces that do not break a line."""
MINUS = str.maketrans("\u2212\u2010\u2011", "---")


@functools.cache
def version(package: str) -> str:
    return metadata.version(package)


def golds(doc: Doc) -> tuple[str, ...]:
    """The references, or the gold answer. Raises AssayError where the label is hidden."""
    return doc.references or (doc.answer,)


def best(compare: Callable[[str, str], float], full: float | None = 1.0) -> Callable[[Doc, Completion], Stats]:
    """A measure that returns the highest `compare(reference, text)` over the references.

    A blank reference (no answer exists) is met by a blank text only, with the score `full`; where that is None, `compare` decides.
    """

    def score(gold: str, text: str) -> float:
        return float(compare(gold, text)) if gold.strip() or full is None else full * (not text.strip())

    def measure(doc: Doc, output: Completion) -> Stats:
        return (max(score(gold, output.text) for gold in golds(doc)),)

    return measure


def blank_rule(stored: Mapping[str, Any]) -> str:
    """What a blank reference adds to the signature: earlier versions compared it as any other text."""
    return "blank:equal" if any(not text.strip() for text in stored.get("references", ())) else ""


def normalize_text(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (the QuAC script's order, as in HELM)."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def same(gold: str, text: str) -> float:
    return float(bool(text) and gold.strip() == text.strip())


def quasi_same(gold: str, text: str) -> float:
    return float(bool(text.strip()) and normalize_text(gold) == normalize_text(text))


def keep_symbols(text: str) -> str:
    """`normalize_text` with two exceptions: words of operators only (+, ->, <=) stay, and so does a text of which nothing else is left."""
    kept = " ".join(word if not set(word) - OPERATORS else normalize_text(word) for word in text.split())
    return " ".join(kept.split()) or " ".join(text.lower().split())


def symbols_same(gold: str, text: str) -> float:
    return float(bool(text.strip()) and keep_symbols(gold) == keep_symbols(text))


def begins(gold: str, text: str) -> float:
    return float(bool(text) and text.strip().startswith(gold.strip()))


def last_piece(gold: str, text: str) -> float:
    """HELM strips the response, not the reference, before it splits at the last space."""
    return same(gold.split(" ")[-1].strip(), text.strip().split(" ")[-1].strip())


def word_f1(gold: str, text: str) -> float:
    """F1 of the sets of normalised words: HELM's, where a repeated word counts once."""
    wanted, given = set(normalize_text(gold).split()), set(normalize_text(text).split())
    common = len(wanted & given)
    return 2 * common / (len(wanted) + len(given)) if common else 0.0


def bare(text: str) -> bool:
    """Whether nothing of a text is left without articles and punctuation."""
    return bool(text.strip()) and not normalize_text(text)


def number_in(text: str) -> str:
    """The last number in a text without its thousands separators; empty where there is none."""
    found = NUMBER.findall(text)
    return found[-1].replace(",", "") if found else ""


def same_final_number(gold: str, text: str) -> float:
    return same(number_in(gold), number_in(text))


def has_number(doc: Doc, output: Completion) -> bool:
    return bool(number_in(output.text))


def as_number(text: str) -> float | None:
    """The last number in a text, whatever its minus sign and its thousands separators are; None where there is none.

    A time or ratio such as 7:30 is no number.
    """
    found = DECIMAL.findall(TIME.sub(" ", GROUPED.sub("", text.translate(MINUS))))
    return float(found[-1].replace(",", "")) if found else None


exact_match: Metric[Completion] = Metric("exact_match", best(same), reads=Completion, signature="strip|best-reference", rule=blank_rule)
"""Share of texts equal to a reference, ignoring leading and trailing whitespace."""

quasi_exact_match: Metric[Completion] = Metric(
    "quasi_exact_match",
    best(quasi_same),
    reads=Completion,
    signature="helm|best-reference",
    unmeasurable=where_all(bare, "references of articles and punctuation only, which do not count; use exact_match"),
    rule=blank_rule,
)
"""Exact match after lower-casing and dropping punctuation, articles and extra spaces."""

quasi_exact_match_symbols: Metric[Completion] = Metric(
    "quasi_exact_match_symbols", best(symbols_same), reads=Completion, signature="operators kept|best-reference", rule=blank_rule
)
"""The same, but operators that stand alone count, and an answer of articles and punctuation only is compared as it is. Not HELM's."""

prefix_exact_match: Metric[Completion] = Metric(
    "prefix_exact_match", best(begins), reads=Completion, signature="strip|best-reference", rule=blank_rule
)
"""Share of texts that begin with a reference: for models that continue after the answer."""

exact_match_indicator: Metric[Completion] = Metric(
    "exact_match_indicator", best(last_piece), reads=Completion, signature="helm|strip|after:space", rule=blank_rule
)
"""Exact match of what follows the last space only, as HELM scores Dyck words and GSM8K."""

f1_words: Metric[Completion] = Metric(
    "f1",
    best(word_f1),
    reads=Completion,
    signature="helm|word-sets|best-reference",
    unmeasurable=where_all(lambda text: bare(text) or spaceless(text), f"articles and punctuation do not count, {NO_SPACES}"),
    rule=blank_rule,
)
"""F1 of the sets of normalised words, best reference. (SQuAD's F1 counts repeated words; this one does not.)"""

final_number: Metric[Completion] = Metric(
    "final_number_exact_match",
    best(same_final_number),
    reads=Completion,
    parses=has_number,
    signature="helm|best-reference",
    rule=blank_rule,
)
"""Share of texts whose last number is, digit by digit, the last number of a reference."""


def numeric_match(tolerance: float = 0.0) -> Metric[Completion]:
    """Share of texts whose last number differs from a reference's by at most `tolerance` of it (absolute at a gold of 0)."""

    def near(gold: str, text: str) -> float:
        wanted, given = as_number(gold), as_number(text)
        if wanted is None:
            raise AssayError(f"the reference {gold!r} holds no number", do="give numeric references for numeric_match")
        return float(given is not None and abs(given - wanted) <= tolerance * (abs(wanted) or 1.0))

    return Metric("numeric_match", best(near, full=None), reads=Completion, parses=has_number, signature=f"tolerance:{tolerance:g}|signs:3")


@functools.cache
def rouge_scorer(kind: Rouge, stemmer: bool, tokenizer: Tokens) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=stemmer, tokenizer=None if tokenizer == "default" else splitter(tokenizer))


def rouge(
    kind: Rouge,
    *,
    stemmer: bool = True,
    prepare: Callable[[str], str] | None = None,
    scale: float = 1.0,
    tokenizer: Tokens = "default",
) -> Metric[Completion]:
    """ROUGE F1 by rouge-score, best reference, averaged over items. rougeLsum expects one sentence per line.

    `prepare` is applied to both texts (sentence splitting); `scale` 100 for percent. The default `tokenizer` keeps a to z and 0 to 9 only;
    "unicode" is for every script (no stemmer), "zh", "ja-mecab", "ko-mecab" and "char" are sacrebleu's. Raises AssayError for any other.
    """
    if tokenizer not in TOKENS:
        splitter(tokenizer)

    def compare(gold: str, text: str) -> float:
        pair = (gold, text) if prepare is None else (prepare(gold), prepare(text))
        return scale * float(rouge_scorer(kind, stemmer, tokenizer).score(*pair)[kind].fmeasure)

    default = tokenizer == "default"
    signature = f"rouge-score:{version('rouge-score')}|stem:{'yes' if stemmer and default else 'no'}|best-reference"
    return Metric(
        kind,
        best(compare, scale),
        high=scale,
        reads=Completion,
        signature=signature if default else f"{signature}|tok:{tokenizer}",
        unmeasurable=where_all(outside_ascii, LATIN) if default else None,
        rule=blank_rule,
    )


@dataclass(frozen=True, slots=True)
class Summed:
    """A score from the sums of the statistics where means are not enough: BLEU's smoothing depends on the number of n-grams.

    `finish` maps sums [..., k] to values [...].
    """

    finish: Callable[[Array], Array]

    def __call__(self, stats: Array, groups: Codes) -> float:
        return float(self.finish(stats.sum(axis=0)))


def counted(scorer: Callable[[], Any]) -> Callable[[Doc, Completion], Stats]:
    """A measure that returns sacrebleu's counts; `scorer` makes the sacrebleu metric at the first use."""

    def measure(doc: Doc, output: Completion) -> Stats:
        (counts,) = scorer()._extract_corpus_statistics([output.text], [[gold] for gold in golds(doc)])
        return tuple(float(value) for value in counts)

    return measure


EMPTY = "all references are empty"


def bleu_of(sums: Array) -> Array:
    """Corpus BLEU-4 of sums [..., 10] of (length, reference length, 4 matches, 4 totals), smoothing `exp`. Source: sacrebleu.

    NaN (sacrebleu: 0) where all references are empty. Empty completions score 0: the brevity penalty goes to 0.
    """
    length, target = sums[..., 0], sums[..., 1]
    right, total = sums[..., 2:6], sums[..., 6:10]
    with np.errstate(divide="ignore", invalid="ignore"):
        short = np.where(length > 0, np.exp(1 - target / length), 0.0)
        halvings = np.cumsum((right == 0) & (total > 0), axis=-1)
        precision = np.where(right > 0, 100.0 * right / total, 100.0 / (2.0**halvings * total))
        logs = np.log(np.where(total > 0, precision, 0.0))
        score = np.where(length < target, short, 1.0) * np.exp((logs[..., 0] + logs[..., 1] + logs[..., 2] + logs[..., 3]) / 4)
    return np.where(target > 0, np.where(right.any(axis=-1), score, 0.0), np.nan)


def bleu(tokenize: str = "13a", *, lowercase: bool = False) -> Metric[Completion]:
    """Corpus BLEU-4 in [0, 100], as sacrebleu computes it. `tokenize`: 13a, intl, zh, ja-mecab, ko-mecab, char, none."""

    @functools.cache
    def scorer() -> Any:
        from sacrebleu.metrics.bleu import BLEU

        try:
            return BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
        except RuntimeError:
            raise missing(tokenize) from None

    release = version("sacrebleu")
    signature = f"case:{'lc' if lowercase else 'mixed'}|eff:no|tok:{tokenize}|smooth:exp|version:{release}"
    lost = where_all(spaceless, f'{NO_SPACES}; use bleu("zh"), bleu("ja-mecab") or bleu("char")') if tokenize in SPACED else None
    metric = Metric("bleu", counted(scorer), Summed(bleu_of), high=100.0, reads=Completion, signature=signature, undefined=EMPTY)
    return replace(metric, unmeasurable=lost)


def chrf_of(means: Array) -> Array:
    """chrF2 of mean counts [..., 3 * orders] of (hypothesis, reference, match), averaged over the effective orders. Source: sacrebleu.

    NaN (sacrebleu: 0) where all references are empty.
    """
    counts = means.reshape(*means.shape[:-1], -1, 3)
    given, wanted, match = counts[..., 0], counts[..., 1], counts[..., 2]
    real = (given > 0) & (wanted > 0)
    orders = np.maximum(real.sum(axis=-1), 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(real, match / given, 0.0).sum(axis=-1) / orders
        recall = np.where(real, match / wanted, 0.0).sum(axis=-1) / orders
        score = 100 * 5 * precision * recall / (4 * precision + recall)
    return np.where((wanted > 0).any(axis=-1), np.where(precision + recall > 0, score, 0.0), np.nan)


def chrf(word_order: int = 0) -> Metric[Completion]:
    """Corpus chrF2 in [0, 100] (chrF2++ with word_order 2), as sacrebleu computes it."""

    @functools.cache
    def scorer() -> Any:
        from sacrebleu.metrics.chrf import CHRF

        return CHRF(word_order=word_order)

    signature = f"case:mixed|eff:yes|nc:6|nw:{word_order}|space:no|version:{version('sacrebleu')}"
    name = "chrf" + "++" * (word_order == 2)
    return Metric(name, counted(scorer), Pooled(chrf_of), high=100.0, reads=Completion, signature=signature, undefined=EMPTY)


def ter_of(means: Array) -> Array:
    """TER of mean (edits, reference length) [..., 2]; NaN (sacrebleu: 0 or 100) where all references are empty. Source: sacrebleu."""
    edits, length = means[..., 0], means[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * np.where(length > 0, edits / length, np.nan)


def ter(*, asian: bool = False) -> Metric[Completion]:
    """Translation edit rate in percent, lower is better and unbounded above, as sacrebleu computes it.

    `asian`: each Chinese, Japanese or Korean character is a word (sacrebleu's `asian_support`, with `normalized`).
    """

    @functools.cache
    def scorer() -> Any:
        from sacrebleu.metrics.ter import TER

        return TER(normalized=asian, asian_support=asian)

    yes = "yes" if asian else "no"
    signature = f"case:lc|tok:tercom|norm:{yes}|punct:yes|asian:{yes}|version:{version('sacrebleu')}"
    metric = Metric("ter", counted(scorer), Pooled(ter_of), "lower", high=None, reads=Completion, signature=signature, undefined=EMPTY)
    return metric if asian else replace(metric, unmeasurable=where_all(spaceless, f"{NO_SPACES}; use ter(asian=True)"))
