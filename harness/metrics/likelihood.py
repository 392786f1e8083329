"""Metrics over the likelihood of whole texts: bits per byte and perplexity per token.

Both are ratios of sums: the negative log-likelihood of all texts over their total length, as in HELM, not a mean of per-text ratios.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Metric, Pooled, Stats
from assay.harness.task.output import TextLogprob

__all__ = ["bits_per_byte", "perplexity"]


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
