"""lm-eval's aggregations as metrics, over the values of its items: from the samples that it wrote, or from its task objects.

Source: lm_eval 0.4.13, api/metrics.py. For each metric an item has a number, or the pair that the aggregation needs:
(gold, prediction) for F1 and MCC, (log-likelihood, words or bytes) for perplexities, (reference, text) for BLEU, (gold, probabilities)
for the Brier score. A task's own aggregation is opaque: it gets the values back as they were (`packed`, `unpacked`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.metrics.choice import OrZero, f1_of_label_1, matthews
from assay.harness.metrics.likelihood import exp_ratio, ratio
from assay.harness.metrics.text import bleu, chrf, ter
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Array, Codes, Combine, Metric, Pooled, Stats, mean
from assay.harness.task.output import Completion

DEFAULTS = {
    **dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "likelihood"), "mean"),
    **dict.fromkeys(("word_perplexity", "byte_perplexity"), "weighted_perplexity"),
    **{name: name for name in ("perplexity", "bits_per_byte", "f1", "bleu", "chrf", "chrf++", "ter")},
    "mcc": "matthews_corrcoef",
}
"""lm-eval's aggregation of each metric where a task names none."""
SHARES = ("acc", "exact_match", "em", "f1", "pass@", "contains", "prompt_level", "inst_level", "likelihood")
"""Prefixes of the names of metrics whose item values are scores in [0, 1]."""
PAIR, WEIGHTED = ("f1", "matthews_corrcoef"), ("weighted_perplexity", "bits_per_byte")
OPAQUE = "opaque"
"""A task's own aggregation function, over packed values."""
BYTES, WIDTH = 6, 512
"""A packed value is JSON in UTF-8: BYTES bytes in each of WIDTH numbers (all integers below 2**53 are exact)."""
TEXT: Mapping[str, Callable[[], Metric[Completion]]] = {
    "bleu": cache(bleu),
    "chrf": cache(chrf),
    "chrf++": cache(lambda: chrf(2)),
    "ter": cache(ter),
}


@dataclass(frozen=True, slots=True)
class Scorer:
    """How the values of a metric's items are combined, as a manifest stores it. `shares`: all values lie in [0, 1]."""

    name: str
    aggregation: str
    better: str = "higher"
    classes: int = 0
    shares: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def scorer_of(name: str, aggregation: str, better: str, values: Sequence[Any], classes: int) -> Scorer | None:
    """The scorer for these values; None where the aggregation is unknown or does not fit the values."""
    base = name.split(",", 1)[0]
    numbers = all(isinstance(value, int | float) for value in values)
    if aggregation in ("mean", "nanmean", "median", "perplexity") and numbers:
        shares = aggregation == "mean" and base.startswith(SHARES) and all(0 <= value <= 1 for value in values)
        return Scorer(name, aggregation.removeprefix("nan"), better, shares=shares)
    pairs = all(isinstance(value, list) and len(value) == 2 for value in values)
    if aggregation in PAIR and pairs and all(type(end) is int and end >= 0 for value in values for end in value):
        most = 1 + max(end for value in values for end in value)
        if aggregation == "f1":
            return Scorer(name, aggregation, better, 2) if most <= 2 else None
        return Scorer(name, aggregation, better, max(classes, most, 2))
    if aggregation in WEIGHTED and pairs and all(isinstance(end, int | float) for value in values for end in value):
        return Scorer(name, aggregation, better)
    if aggregation in TEXT and pairs and all(isinstance(text(end), str) for value in values for end in value):
        return Scorer(name, aggregation, better)
    if aggregation == "brier_score" and pairs and all(type(gold) is int and isinstance(shares, list) for gold, shares in values):
        return Scorer(name, aggregation, better)
    return None


def text(value: Any) -> Any:
    """A text, unwrapped where it is the only element of a list."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def statistics(scorer: Scorer, value: Any, where: str) -> Stats:
    """The statistics of one sample's value. Raises AssayError where one is not finite."""
    if scorer.aggregation in PAIR:
        gold, pick = value
        found = tuple(float(cell == gold * scorer.classes + pick) for cell in range(scorer.classes**2))
    elif scorer.aggregation == "weighted_perplexity":
        found = (-float(value[0]), float(value[1]))
    elif scorer.aggregation == "bits_per_byte":
        found = (-float(value[0]) / math.log(2), float(value[1]))
    elif scorer.aggregation == "brier_score":
        gold, shares = value
        found = (math.fsum((share - (place == gold)) ** 2 for place, share in enumerate(shares)),)
    elif scorer.aggregation == OPAQUE:
        found = packed(value, where)
    elif scorer.aggregation in TEXT:
        reference, completion = map(text, value)
        found = TEXT[scorer.aggregation]().measure(Doc("", references=(reference,)), Completion(completion))
    else:
        found = (-float(value) if scorer.aggregation == "perplexity" else float(value),)
    if not all(map(math.isfinite, found)):
        raise AssayError(f"{scorer.name} is {value}", where=where, do="run the task again with lm-eval")
    return found


ELSEWHERE = "run this task with lm-eval, and import its results: assay store import"


def packed(value: Any, where: str) -> Stats:
    """A value of any JSON type as WIDTH numbers. Raises AssayError for one that is no JSON, or too long."""
    try:
        data = json.dumps(value, ensure_ascii=False).encode()
    except (TypeError, ValueError, UnicodeEncodeError) as error:
        raise AssayError(f"its value cannot be stored: {error}", where=where, do=ELSEWHERE) from None
    if len(data) > BYTES * WIDTH:
        what = f"its value has {len(data)} bytes, at most {BYTES * WIDTH} are stored"
        raise AssayError(what, where=where, do=ELSEWHERE)
    data = data.ljust(BYTES * WIDTH)
    return tuple(float(int.from_bytes(data[start : start + BYTES], "big")) for start in range(0, len(data), BYTES))


def unpacked(stats: Sequence[float]) -> Any:
    """The value that was packed."""
    return json.loads(b"".join(int(number).to_bytes(BYTES, "big") for number in stats))


def upper_median(stats: Array, groups: Codes) -> float:
    return float(np.sort(stats[:, 0])[len(stats) // 2])


def exp_first(means: Array) -> Array:
    return np.exp(means[..., 0])


def cannot_measure(doc: Doc, output: Any) -> Stats:
    raise AssayError(
        "an imported metric cannot score new outputs; it only combines imported values",
        where=doc.id,
        do="score the model with a task that `assay tasks` lists",
    )


def metric_of(scorer: Scorer, measure: Callable[[Doc, Any], Stats] = cannot_measure, own: Combine | None = None) -> Metric[Any]:
    """The metric whose `combine` is lm-eval's aggregation; of an opaque one it is `own`. Without `measure` it only combines values."""
    signature = f"lm-eval:{scorer.aggregation}"
    combine: Any
    if scorer.aggregation in PAIR:
        finish, least = (f1_of_label_1, 0.0) if scorer.aggregation == "f1" else (matthews, -1.0)
        combine = Pooled(OrZero(finish))  # lm-eval takes scikit-learn's 0 where a score is undefined
        return Metric(scorer.name, measure, combine, scorer.better, least, 1.0, signature=f"{signature} {scorer.classes}", partial=True)
    if scorer.aggregation in TEXT:
        text_metric = TEXT[scorer.aggregation]()
        bounds = (text_metric.low, text_metric.high)
        return Metric(scorer.name, measure, text_metric.combine, scorer.better, *bounds, signature=signature, partial=True)
    combine = {
        OPAQUE: own,
        "mean": mean,
        "brier_score": mean,
        "median": upper_median,
        "perplexity": Pooled(exp_first),
        "weighted_perplexity": Pooled(exp_ratio),
        "bits_per_byte": Pooled(ratio),
    }[scorer.aggregation]
    low, high = (0.0, 1.0) if scorer.shares else (1.0, None) if "perplexity" in scorer.aggregation else (None, None)
    low, high = (0.0, 2.0) if scorer.aggregation == "brier_score" else (low, high)
    signature += " share" if scorer.shares else ""
    return Metric(scorer.name, measure, combine, scorer.better, low, high, signature=signature, partial=True)
