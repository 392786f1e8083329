"""BIG-bench's own metrics, as its JSON scorer computes them, and the normalised score of the preferred one.

Source: package `bigbench` 1.0.0, api/task_metrics.py, api/json_task.py, models/model_utils.py; T5's evaluation/metrics.py.
Two quirks of the reference are kept: ties between choices are broken by a hash of the log-probabilities, and a stop string at the
very start of a text does not cut it. One is not: its ROUGE is the median of an unseeded bootstrap; ours is the mean, which that median
estimates.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from assay.harness.errors import AssayError
from assay.harness.metrics.pattern import max_search_length
from assay.harness.metrics.text import bleu, rouge
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Affine, Array, Codes, Combine, Metric, Pooled, Stats
from assay.harness.task.output import ChoiceScores, Completion

__all__ = ["CHOICE_METRICS", "Extract", "choice_metrics", "generative_metrics", "likelihood_metrics", "normalized"]

BINS = 15
CHOICE_METRICS = ("multiple_choice_grade", "weighted_log_probabilities", "weighted_probabilities", "macro_f1")


def scores_of(doc: Doc) -> Array:
    """Target scores [k]. Raises AssayError where they are missing."""
    if not doc.targets:
        raise AssayError("no target scores to score against", where=doc.id, do="give Doc(targets=...)")
    return np.array(doc.targets, dtype=np.float64)


def argmax(absolute: tuple[float, ...]) -> int:
    """Index of the largest log-probability; ties are broken by the SHA-256 of the normalised log-probabilities, as in the reference.

    The sum is scipy's logsumexp in plain floats: the last bits of numpy's exp differ between processors, and so would the winner.
    """
    values = np.array(absolute, dtype=np.float64)
    top = float(values.max())
    ties = np.flatnonzero(values == top)
    if len(ties) == 1:
        return int(ties[0])
    rest = math.fsum(math.exp(value - top) for value in absolute if value != top)
    total = math.log1p(rest / len(ties)) + math.log(len(ties)) + top
    digest = hashlib.sha256((values - total).tobytes()).hexdigest()
    return int(ties[int(digest, 16) % len(ties)])


def probabilities(output: ChoiceScores) -> Array:
    """Softmax over the choices [k]."""
    weights = np.exp(np.array(output.loglikelihoods) - max(output.loglikelihoods))
    return np.asarray(weights / weights.sum())


def shares(doc: Doc) -> Array:
    """Target scores as a distribution [k]; all zero where they sum to 0."""
    scores = scores_of(doc)
    return np.asarray(scores / scores.sum()) if scores.sum() else np.zeros_like(scores)


def grade(doc: Doc, output: ChoiceScores) -> Stats:
    """The target score of the choice with the highest log-likelihood; soft target scores are not rounded."""
    return (float(scores_of(doc)[argmax(output.loglikelihoods)]),)


def brier(doc: Doc, output: ChoiceScores) -> Stats:
    """(sum of Brier terms, number of choices): the reference averages over choices, not over items."""
    chance, target = probabilities(output), shares(doc)
    return (float((target * (chance - 1) ** 2 + (1 - target) * chance**2).sum()), float(len(chance)))


def confidence_gap(doc: Doc, output: ChoiceScores) -> Stats:
    """Correctness (0 or 1) minus confidence, in the column of the item's confidence bin; 0 in the others."""
    chance = probabilities(output)
    top = float(chance.max())
    column = next((index for index in range(BINS) if top < (index + 1) / BINS), BINS - 1)
    gap = float(int(shares(doc).argmax()) == int(chance.argmax())) - top
    return tuple(gap if index == column else 0.0 for index in range(BINS))


def ratio(means: Array) -> Array:
    return means[..., 0] / means[..., 1]


def gaps(means: Array) -> Array:
    return np.asarray(np.abs(means).sum(axis=-1))


def weighted_logs(doc: Doc, output: ChoiceScores) -> Stats:
    return (float(scores_of(doc) @ np.array(output.loglikelihoods)),)


def weighted(doc: Doc, output: ChoiceScores) -> Stats:
    return (float(scores_of(doc) @ np.exp(np.array(output.loglikelihoods))),)


def macro_f1(classes: tuple[str, ...]) -> Metric[ChoiceScores]:
    """Mean F1 over the classes that occur or are picked; `classes` are all choices of the task.

    Statistics per class: right, gold, picked. Raises AssayError where an item has no single right choice.
    """
    column = {name: index for index, name in enumerate(classes)}

    def measure(doc: Doc, output: ChoiceScores) -> Stats:
        if sorted(doc.targets)[-1:] != [1.0] or sum(doc.targets) != 1:
            raise AssayError(
                "macro_f1 needs exactly one right choice, with score 1", where=doc.id, do="give one choice the score 1, the others 0"
            )
        cells = np.zeros((3, len(classes)))
        gold, pick = column[doc.choices[doc.targets.index(1)]], column[doc.choices[argmax(output.loglikelihoods)]]
        cells[0, gold] = gold == pick
        cells[1, gold] = 1
        cells[2, pick] = 1
        return tuple(cells.ravel().tolist())

    def finish(means: Array) -> Array:
        right, gold, picked = np.moveaxis(means.reshape(*means.shape[:-1], 3, len(classes)), -2, 0)
        either = gold + picked
        score = np.where(either > 1e-12, 2 * right / np.maximum(either, 1e-12), 0.0)
        return np.asarray(score.sum(axis=-1) / np.maximum((either > 1e-12).sum(axis=-1), 1))

    return Metric("macro_f1", measure, Pooled(finish), reads=ChoiceScores, signature=f"classes:{len(classes)}")


def choice_metrics(names: tuple[str, ...], classes: tuple[str, ...] = ()) -> dict[str, Metric[Any]]:
    """The multiple-choice metrics with these names; multiple_choice_grade includes Brier score and calibration error."""
    made: dict[str, Metric[Any]] = {
        "multiple_choice_grade": Metric("multiple_choice_grade", grade, reads=ChoiceScores, signature="soft|ties:hash"),
        "calibration_multiple_choice_brier_score": Metric(
            "calibration_multiple_choice_brier_score", brier, Pooled(ratio), better="lower", reads=ChoiceScores, signature="per-option"
        ),
        "expected_calibration_error": Metric(
            "expected_calibration_error",
            confidence_gap,
            Pooled(gaps),
            better="lower",
            reads=ChoiceScores,
            signature=f"bins:{BINS}|equal-width",
        ),
        "weighted_log_probabilities": Metric("weighted_log_probabilities", weighted_logs, low=None, high=0.0, reads=ChoiceScores),
        "weighted_probabilities": Metric("weighted_probabilities", weighted, low=-1.0, reads=ChoiceScores),
        "macro_f1": macro_f1(classes),
    }
    wanted = set(names)
    if "multiple_choice_grade" in wanted:
        wanted |= {"calibration_multiple_choice_brier_score", "expected_calibration_error"}
    return {name: metric for name, metric in made.items() if name in wanted}


@dataclass(frozen=True, slots=True)
class Extract:
    """Extracts the answer from a completion: the text up to and including the stop string, then the first match of the regex, else "".

    Only the first `pattern.max_search_length` characters are searched, which bounds the time.
    """

    stop: str = ""
    regex: str = ""

    def __call__(self, text: str) -> str:
        if self.stop:
            at = text.find(self.stop)
            if at > 0:  # at 0 the reference does not cut the text
                text = text[: at + len(self.stop)]
        if self.regex:
            found = re.findall(self.regex, text[: max_search_length(self.regex)])
            if found and isinstance(found[0], tuple):
                raise AssayError(f"output_regex {self.regex!r} has several groups", do="make all but one non-capturing: (?:...)")
            text = found[0] if found else ""
        return text

    @property
    def signature(self) -> str:
        return f"stop:{self.stop!r}|regex:{self.regex!r}"

    def apply(self, metric: Metric[Any]) -> Metric[Completion]:
        """The metric over the extracted answer; an empty answer counts as unparsed."""

        def measure(doc: Doc, output: Completion) -> Stats:
            return metric.measure(doc, replace(output, text=self(output.text)))

        def parses(doc: Doc, output: Completion) -> bool:
            return bool(self(output.text))

        signature = "|".join(part for part in (metric.signature, self.signature) if part)
        return replace(metric, measure=measure, parses=parses if self.regex else None, signature=signature)


def exact(doc: Doc, output: Completion) -> Stats:
    return (float(output.text in doc.references),)


def exact_caseless(doc: Doc, output: Completion) -> Stats:
    return (float(output.text.strip().lower() in [gold.strip().lower() for gold in doc.references]),)


def near(doc: Doc, output: Completion) -> Stats:
    """1 within 10 % of the only target. As in the reference, the error is divided by the signed target, so that any number above a
    negative target counts as right."""
    if len(doc.references) != 1:
        raise AssayError(f"{len(doc.references)} targets", where=doc.id, do="give exactly one reference for numeric_match")
    try:
        wanted, given = float(doc.references[0]), float(output.text)
    except ValueError:
        return (0.0,)
    return (float(abs(given - wanted) / (wanted if wanted != 0 else 1) <= 0.1),)


def sequence(doc: Doc, output: Completion) -> Stats:
    """Percent of space-separated labels that agree, the answer padded with "O" or cut to the target's length."""
    wanted = doc.references[0].split(" ")
    given = [*output.text.split(" "), *["O"] * len(wanted)][: len(wanted)]
    return (100.0 * sum(a == b for a, b in zip(wanted, given, strict=True)) / len(wanted),)


def lines(text: str) -> str:
    """The text with one sentence per line, as T5 prepares it for ROUGE-Lsum."""
    return text.replace(" . ", " .\n")


GENERATIVE: Mapping[str, tuple[Metric[Any], ...]] = {
    "exact_str_match": (Metric("exact_str_match", exact, reads=Completion),),
    "case_insensitive_str_match": (Metric("case_insensitive_str_match", exact_caseless, reads=Completion),),
    "numeric_match_with_0_1_relative_error": (Metric("numeric_match_with_0_1_relative_error", near, reads=Completion),),
    "sequence_f1": (Metric("sequence_f1", sequence, high=100.0, reads=Completion),),
    "bleu": (bleu("intl"),),
    "rouge": tuple(rouge(kind, stemmer=False, prepare=lines, scale=100.0) for kind in ("rouge1", "rouge2", "rougeLsum")),
}


def generative_metrics(names: tuple[str, ...], extract: Extract) -> dict[str, Metric[Any]]:
    """The generated-text metrics with these names ("rouge" gives three), each over the extracted answer."""
    return {metric.name: extract.apply(metric) for name in names for metric in GENERATIVE.get(name, ())}


def log_of_sum(doc: Doc, output: ChoiceScores) -> Stats:
    """Log of the summed probability of all references. The choices are the references, with one repeated if there is only one."""
    values = np.array(output.loglikelihoods[: len(doc.references)])
    return (float(values.max() + np.log(np.exp(values - values.max()).sum())),)


def per_char(doc: Doc, output: ChoiceScores) -> Stats:
    return (output.loglikelihoods[0] / len(doc.references[0]),)


def per_word(doc: Doc, output: ChoiceScores) -> Stats:
    return (output.loglikelihoods[0] / len(doc.references[0].split()),)


def likelihood_metrics(several: bool) -> dict[str, Metric[Any]]:
    """log_likelihood, and log_likelihood per word and per character unless `several` references are right for some item."""
    found = [Metric("log_likelihood", log_of_sum, low=None, high=0.0, reads=ChoiceScores)]
    if not several:
        found += [
            Metric("log_likelihood_per_word", per_word, low=None, high=0.0, reads=ChoiceScores),
            Metric("log_likelihood_per_char", per_char, low=None, high=0.0, reads=ChoiceScores),
        ]
    return {metric.name: metric for metric in found}


@dataclass(frozen=True, slots=True)
class Rescaled:
    """Rescales the score x of `combine` to 100 (x - low) / (high - low)."""

    combine: Combine
    low: float
    high: float

    def __call__(self, stats: Array, groups: Codes) -> float:
        return 100 * (self.combine(stats, groups) - self.low) / (self.high - self.low)


def normalized(metric: Metric[Any], low: float, high: float) -> Metric[Any]:
    """A metric on BIG-bench's common scale: 0 at `low` (chance, for multiple choice), 100 at `high`; scores below `low` are negative.

    Raises AssayError where `high` is not above `low`.
    """
    if not (math.isfinite(low) and high > low):
        raise AssayError(
            f"the best score {high:g} is not above the low score {low:g}",
            where=metric.name,
            do="check the target scores and preferred_score",
        )
    inner = metric.combine
    combine: Combine = Rescaled(inner, low, high)
    if isinstance(inner, Pooled):
        combine = Pooled(Affine(inner.finish, 100 / (high - low), -100 * low / (high - low)), inner.fold)
    bottom = None if metric.low is None else min(0.0, 100 * (metric.low - low) / (high - low))
    signature = "|".join(part for part in (f"of:{metric.name}", f"low:{low:.6g}", f"high:{high:g}", metric.signature) if part)
    return replace(metric, name="normalized", combine=combine, low=bottom, high=100.0, signature=signature)
