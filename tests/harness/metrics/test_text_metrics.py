"""Text metrics against sacrebleu, rouge-score and HELM's published definitions."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from assay.harness.errors import AssayError
from assay.harness.metrics.likelihood import bits_per_byte, perplexity
from assay.harness.metrics.text import (
    bleu,
    bleu_of,
    chrf,
    chrf_of,
    exact_match,
    exact_match_indicator,
    f1_words,
    final_number,
    numeric_match,
    prefix_exact_match,
    quasi_exact_match,
    rouge,
    ter,
    ter_of,
)
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Metric
from assay.harness.task.output import Completion, TextLogprob

SENTENCE = "the cat sat on a red mat while it rained ; nobody - not even Ann's dog (old) - saw 3,000 birds . Über größe"
WORDS = SENTENCE.split()


def corpus(seed: int, n: int = 40, references: int = 1) -> list[tuple[str, tuple[str, ...]]]:
    """Pairs of a text and its references that share words, with an empty text and an equal pair among them."""
    draw = random.Random(seed)
    pairs = []
    for index in range(n):
        golds = [" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) for _ in range(references)]
        words = [word if draw.random() < 0.6 else draw.choice(WORDS) for word in golds[0].split()][: draw.randint(0, 14)]
        text = golds[0] if index == 3 else "" if index == 5 else " ".join(words)
        pairs.append((text, tuple(golds)))
    return pairs


def stats_of(metric: Metric[Any], pairs: list[tuple[str, tuple[str, ...]]]) -> np.ndarray:
    return np.array([metric.measure(Doc("q", references=golds), Completion(text)) for text, golds in pairs])


def score(metric: Metric[Any], pairs: list[tuple[str, tuple[str, ...]]]) -> float:
    stats = stats_of(metric, pairs)
    return metric.combine(stats, np.arange(len(stats)))


def split(pairs: list[tuple[str, tuple[str, ...]]]) -> tuple[list[str], list[list[str]]]:
    return [text for text, _ in pairs], [list(column) for column in zip(*(golds for _, golds in pairs), strict=True)]


@pytest.mark.parametrize("references", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_corpus_scores_equal_sacrebleu(seed: int, references: int) -> None:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    pairs = corpus(seed, references=references)
    texts, golds = split(pairs)
    for ours, theirs in [
        (bleu(), BLEU()),
        (bleu("intl"), BLEU(tokenize="intl")),
        (bleu("char", lowercase=True), BLEU(tokenize="char", lowercase=True)),
        (chrf(), CHRF()),
        (chrf(word_order=2), CHRF(word_order=2)),
        (ter(), TER()),
    ]:
        assert score(ours, pairs) == pytest.approx(theirs.corpus_score(texts, golds).score, rel=1e-13, abs=1e-12), ours.name
        theirs_signature = str(theirs.get_signature()).split("|", 1)[1].replace("none|", "")
        assert ours.signature == theirs_signature


def test_bleu_smoothing_needs_the_number_of_ngrams() -> None:
    """No 4-gram matches: the smoothed precision depends on how many there were, so means would be wrong by the number of items."""
    from sacrebleu.metrics.bleu import BLEU

    pairs = [("the cat sat here today again", ("the cat sat on red mats",)), ("a dog saw old birds now", ("a dog saw two mats fall",))] * 4
    texts, golds = split(pairs)
    expected = BLEU().corpus_score(texts, golds).score
    assert score(bleu(), pairs) == pytest.approx(expected, rel=1e-13)
    assert float(bleu_of(stats_of(bleu(), pairs).mean(axis=0))) != pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("finish", "metric"), [(bleu_of, bleu()), (chrf_of, chrf(2)), (ter_of, ter())])
def test_finish_works_on_many_rows_at_once(finish: Any, metric: Metric[Any]) -> None:
    rows = stats_of(metric, corpus(1, 30)).reshape(5, 6, -1).sum(axis=1)
    rows[2] = 0
    together = finish(rows)
    assert together.shape == (5,)
    assert np.array_equal(together, [float(finish(row)) for row in rows], equal_nan=True)
    assert np.isnan(together).tolist() == [False, False, True, False, False], "no reference text in row 2"


def test_empty_everything() -> None:
    pairs = [("", ("",))] * 3
    for metric in (bleu(), chrf(), ter()):
        assert np.isnan(score(metric, pairs)) and metric.undefined == "all references are empty"
        assert np.isnan(score(metric, [("word", ("",))]))
    empty = [("", ("a reference of five words",))]
    assert (score(bleu(), empty), score(chrf(), empty), score(ter(), empty)) == (0.0, 0.0, 100.0), "a model that says nothing is wrong"
    for kind in ("rouge1", "rougeLsum"):
        assert score(rouge(kind), pairs) == 1.0  # type: ignore[arg-type]
        assert score(rouge(kind), [("word", ("",))]) == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["rouge1", "rouge2", "rougeL", "rougeLsum"])
@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_equals_rouge_score(kind: Any, stemmer: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    pairs = [(text.replace(" ; ", "\n"), tuple(gold.replace(" - ", "\n") for gold in golds)) for text, golds in corpus(7, references=2)]
    scorer = RougeScorer([kind], use_stemmer=stemmer)
    expected = [max(scorer.score(gold, text)[kind].fmeasure for gold in golds) for text, golds in pairs]
    assert stats_of(rouge(kind, stemmer=stemmer), pairs)[:, 0].tolist() == expected
    assert score(rouge(kind, stemmer=stemmer), pairs) == pytest.approx(np.mean(expected), rel=1e-15)


def one(metric: Metric[Any], text: str, *golds: str) -> float:
    return metric.measure(Doc("q", references=golds), Completion(text))[0]


def test_matches() -> None:
    assert one(exact_match, " Paris\n", "Rome", "Paris") == 1
    assert one(exact_match, "paris", "Paris") == 0
    assert one(exact_match, "", "Paris") == 0
    assert one(quasi_exact_match, "The  Eiffel-Tower!", "eiffeltower") == 1
    assert one(quasi_exact_match, "an apple", "apples") == 0
    assert one(prefix_exact_match, "Yes, it is", "Yes") == 1
    assert one(exact_match_indicator, "[ ( >", "} >") == 1, "only the last piece counts, as HELM scores Dyck words"
    assert exact_match.measure(Doc("q", choices=("no", "yes"), gold=1), Completion("yes")) == (1.0,)


@pytest.mark.parametrize("metric", [exact_match, quasi_exact_match, prefix_exact_match, exact_match_indicator, f1_words, final_number])
def test_an_empty_reference_is_met_by_an_empty_text_only(metric: Metric[Any]) -> None:
    assert [one(metric, text, "") for text in ("", " \n", "rice", ".")] == [1, 1, 0, 0]
    assert one(metric, "", "rice 5") == 0
    assert one(metric, "", "rice 5", "") == 1, "one of the references is empty"


@pytest.mark.parametrize("gold", ["", "none"])
def test_a_numeric_reference_without_a_number_is_an_error(gold: str) -> None:
    with pytest.raises(AssayError, match="holds no number"):
        one(numeric_match(), "", gold)


def test_f1_is_over_sets_of_words() -> None:
    assert one(f1_words, "cat cat cat dog", "the cat") == pytest.approx(2 / 3)
    assert one(f1_words, "the", "a") == 0, "nothing left after normalising is no match"
    assert one(f1_words, "big cat", "dog", "cat sat") == 0.5


def test_numbers() -> None:
    assert one(final_number, "so 4 + 4 is 8, she has $1,234 left.", "#### 1234") == 1
    assert one(final_number, "It is 7 eggs", "8") == 0
    assert one(final_number, "many", "8") == 0
    assert final_number.parses is not None
    assert not final_number.parses(Doc("q", references=("8",)), Completion("many"))
    assert one(numeric_match(0.1), "about 109", "100") == 1
    assert one(numeric_match(0.1), "111", "100") == 0
    assert one(numeric_match(0.1), "-109", "-100") == 1
    assert one(numeric_match(), "1,000.0", "1000") == 1


def test_likelihood_pools_lengths() -> None:
    docs = [(TextLogprob(-8 * math.log(2), 2, 4), 8, 4), (TextLogprob(-2 * math.log(2), 6, 16), 2, 16)]
    bits = np.array([bits_per_byte.measure(Doc("", references=("x",)), surprise) for surprise, _, _ in docs])
    nats = np.array([perplexity.measure(Doc("", references=("x",)), surprise) for surprise, _, _ in docs])
    assert bits_per_byte.combine(bits, np.arange(2)) == pytest.approx(10 / 20)
    assert perplexity.combine(nats, np.arange(2)) == pytest.approx(2 ** (10 / 8))
