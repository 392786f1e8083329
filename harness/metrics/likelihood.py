"""Metrics over the likelihood of whole texts (bits per byte, perplexity per token) and of single continuations.

The first two are ratios of sums: the negative log-likelihood of all texts over their total length, as in HELM, not a mean of per-text
ratios. Those of continuations are lm-eval's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Metric, Pooled, Stats
from assay.harness.task.output import Loglikelihoods, TextLogprob

__all__ = ["bits_per_byte", "continuation_perplexity", "greedy_accuracy", "likeliest_accuracy", "perplexity"]


def bits_and_bytes(doc: Doc, output: TextLogprob) -> Stats:
    """(bits, bytes) of one text."""
    if output.bytes <= 0:
        raise AssayError("an empty text has no bits per byte", where=doc.id, do="leave empty texts out of the rows")
    return (-output.logprob / math.log(2), float(output.bytes))


def nats_and_tokens(doc: Doc, output: TextLogprob) -> Stats:
    """(nats, tokens) of one text."""
    if output.tokens <= 0:
        raise AssayError("an empty text has no perplexity", where=doc.id, do="leave empty texts out of the rows")
    return (-output.logprob, float(output.tokens))


def ratio(means: Array) -> Array:
    """The first mean over the second; NaN where the texts have no length."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(means[..., 1] > 0, means[..., 0] / means[..., 1], np.nan)


def exp_ratio(means: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(ratio(means))


def joint_rule(stored: Mapping[str, Any]) -> str:
    """What a text between prompt and reference adds to the signature: earlier versions did not count its bytes."""
    return "joint:counted" if stored.get("joint") else ""


NO_TEXT = "the texts are empty, or too improbable for a finite number"

bits_per_byte: Metric[TextLogprob] = Metric(
    "bits_per_byte",
    bits_and_bytes,
    Pooled(ratio),
    better="lower",
    high=None,
    reads=TextLogprob,
    undefined=NO_TEXT,
    rule=joint_rule,
)
"""Bits that the model needs per UTF-8 byte of text; comparable across tokenizers."""

perplexity: Metric[TextLogprob] = Metric(
    "perplexity", nats_and_tokens, Pooled(exp_ratio), better="lower", low=1.0, high=None, reads=TextLogprob, undefined=NO_TEXT
)
"""Effective branching factor per token, at least 1; comparable only between models with the same tokenizer."""


def likeliest_is_gold(doc: Doc, output: Loglikelihoods) -> Stats:
    """1 if the gold choice has the highest log-likelihood; the first of equal ones counts."""
    return (float(output.sums.index(max(output.sums)) == doc.gold),)


def all_greedy(doc: Doc, output: Loglikelihoods) -> Stats:
    return (float(all(output.greedy)),)


def nats(doc: Doc, output: Loglikelihoods) -> Stats:
    """The negative log-likelihood of the only choice."""
    return (-output.sums[0],)


def exp_mean(means: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(means[..., 0])


likeliest_accuracy: Metric[Loglikelihoods] = Metric("accuracy", likeliest_is_gold, reads=Loglikelihoods, signature="likeliest|ties:first")
"""Share of items whose gold choice is the likeliest after its own context, where the contexts of the choices differ (WinoGrande)."""

greedy_accuracy: Metric[Loglikelihoods] = Metric("accuracy", all_greedy, reads=Loglikelihoods, signature="greedy")
"""Share of items whose continuation greedy decoding would generate, as LAMBADA is scored."""

continuation_perplexity: Metric[Loglikelihoods] = Metric(
    "perplexity",
    nats,
    Pooled(exp_mean),
    better="lower",
    low=1.0,
    high=None,
    reads=Loglikelihoods,
    signature="per continuation",
    undefined=NO_TEXT,
)
"""Exponential of the mean negative log-likelihood of a continuation, whatever its number of tokens: lm-eval's perplexity of LAMBADA."""
