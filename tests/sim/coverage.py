"""Simulated coverage of 95 % intervals: python -m tests.sim.coverage [trials] writes results/gate/coverage.md.

Every scenario draws items from a population whose true score is known (exactly, or from two million items).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.metrics.calibration import ece
from assay.harness.metrics.choice import f1 as choice_f1
from assay.harness.metrics.choice import macro_f1
from assay.harness.metrics.choice import mcc as choice_mcc
from assay.harness.metrics.likelihood import bits_per_byte
from assay.harness.metrics.regression import spearman
from assay.harness.stats.interval import Interval, Part, score_interval, total_interval
from assay.harness.task.metric import Array, Codes, Metric, Pooled, first
from assay.harness.task.task import Term, Total

Draw = Callable[[np.random.Generator, int], Part]


def metric(name: str, combine: Pooled, low: float = 0.0, high: float = 1.0) -> Metric[Any]:
    return Metric(name, measure=lambda doc, out: (0.0,), combine=combine, low=low, high=high)


def mcc(m: Array) -> Array:
    gold, picked, both = m[..., 0], m[..., 1], m[..., 2]
    spread = np.sqrt(gold * (1 - gold) * picked * (1 - picked))
    return np.where(spread > 0, (both - gold * picked) / np.where(spread > 0, spread, 1), 0.0)


def f1(m: Array) -> Array:
    return 2 * m[..., 2] / np.maximum(m[..., 0] + m[..., 1], 1e-300)


def pearson(m: Array) -> Array:
    x, y, xx, yy, xy = (m[..., i] for i in range(5))
    return (xy - x * y) / np.sqrt(np.maximum((xx - x * x) * (yy - y * y), 1e-300))


def bleu(m: Array) -> Array:
    """Four matches, four totals, length, reference length (all per item) to BLEU on 0..100."""
    precision = np.log(np.maximum(m[..., :4], 1e-12)) - np.log(m[..., 4:8])
    brevity = np.minimum(0.0, 1 - m[..., 9] / m[..., 8])
    return 100 * np.exp(precision.mean(axis=-1) + brevity)


def all_right(stats: Array, groups: Codes) -> Array:
    return np.stack([np.bincount(groups, weights=1 - stats[:, 0]) == 0], axis=1).astype(np.float64)


MEAN, EM = metric("acc", Pooled(first)), metric("em", Pooled(first, all_right))
MCC, F1 = metric("mcc", Pooled(mcc), -1.0), metric("f1", Pooled(f1))
ECE = Metric("ece", lambda doc, out: (0.0,), lambda stats, groups: ece(stats[:, 0], stats[:, 1], 10), better="lower")
BITS = Metric("bits", lambda doc, out: (0.0,), better="lower", high=None)
PEARSON, BLEU = metric("pearson", Pooled(pearson), -1.0), metric("bleu", Pooled(bleu), 0.0, 100.0)


def alone(metric: Metric[Any], stats: Array) -> Part:
    codes = np.arange(len(stats))
    return Part(metric, stats, codes, codes)


def binary(p: float) -> Draw:
    return lambda rng, n: alone(MEAN, (rng.random((n, 1)) < p).astype(float))


def graded(a: float, b: float) -> Draw:
    return lambda rng, n: alone(MEAN, rng.beta(a, b, (n, 1)))


def clustered(size: int, p: float, rho: float) -> Draw:
    """Binary items, `size` to a passage, correlated through a beta-distributed passage difficulty."""

    def draw(rng: np.random.Generator, n: int) -> Part:
        count = max(2, n // size)
        shared = (1 - rho) / rho
        level = rng.beta(p * shared, (1 - p) * shared, count)
        stats = (rng.random((count, size)) < level[:, None]).astype(float).reshape(-1, 1)
        return Part(MEAN, stats, np.arange(len(stats)), np.repeat(np.arange(count), size))

    return draw


def table(metric: Metric[Any], gold: float, hit: float, alarm: float) -> Draw:
    """Gold and picked labels, from the prevalence of gold, P(picked | gold) and P(picked | not gold)."""

    def draw(rng: np.random.Generator, n: int) -> Part:
        truth = rng.random(n) < gold
        picked = rng.random(n) < np.where(truth, hit, alarm)
        return alone(metric, np.stack([truth, picked, truth & picked], axis=1).astype(float))

    return draw


def cells(metric: Metric[Any], prevalence: tuple[float, ...], hits: tuple[float, ...]) -> Draw:
    """One-hot cells of a gold x pick table; a class is picked where it is gold with its probability in `hits`, else any other."""
    k = len(prevalence)
    table = np.array(
        [
            [share * (hit if gold == pick else (1 - hit) / (k - 1)) for pick in range(k)]
            for gold, (share, hit) in enumerate(zip(prevalence, hits, strict=True))
        ]
    )
    return lambda rng, n: alone(metric, rng.multinomial(1, table.ravel(), size=n).astype(float))


def calibrated(rng: np.random.Generator, n: int) -> Part:
    """Confidence and correctness of a calibrated model, whose true error is 0."""
    confidence = rng.random(n)
    return alone(ECE, np.stack([confidence, rng.random(n) < confidence], axis=1).astype(float))


def heavy(rng: np.random.Generator, n: int) -> Part:
    """Log-normal item scores without bounds."""
    return alone(BITS, rng.lognormal(0.0, 1.0, (n, 1)))


def normal(rho: float) -> Draw:
    def draw(rng: np.random.Generator, n: int) -> Part:
        x = rng.normal(size=n)
        y = rho * x + np.sqrt(1 - rho * rho) * rng.normal(size=n)
        return alone(PEARSON, np.stack([x, y, x * x, y * y, x * y], axis=1))

    return draw


def ranked(rho: float) -> Draw:
    """Estimates and gold values, whose ranks are correlated."""
    return lambda rng, n: alone(spearman, normal(rho)(rng, n).stats[:, :2])


def texts(rng: np.random.Generator, n: int) -> Part:
    """Bits and bytes of texts of very uneven length; long texts are easier."""
    size = np.ceil(rng.lognormal(5.0, 1.0, n))
    rate = rng.gamma(8.0, 1 / 8.0, n) * (size / 150.0) ** -0.1
    return alone(bits_per_byte, np.stack([rate * size, size], axis=1))


def translated(rng: np.random.Generator, n: int) -> Part:
    """Sentences of uneven length and quality: n-gram matches shrink with the order."""
    words = 5 + rng.poisson(rng.gamma(3, 6, n))
    quality = rng.beta(4, 3, n)
    totals = np.stack([words - order for order in range(4)], axis=1)
    matches = np.stack([rng.binomial(totals[:, order], quality ** (1 + 0.7 * order)) for order in range(4)], axis=1)
    reference = words + rng.integers(-2, 4, n)
    return alone(BLEU, np.column_stack([matches, totals, words, reference]).astype(float))


def questions(rng: np.random.Generator, n: int) -> Part:
    """MultiRC's shape: passages of 2 to 6 questions of 2 to 8 answers, all of which must be right."""
    questions = rng.integers(2, 7, max(2, n // 4))
    passage = np.repeat(np.arange(len(questions)), questions)
    answers = rng.integers(2, 9, len(passage))
    level = np.clip(rng.beta(8, 2, len(questions))[passage] + rng.normal(0, 0.05, len(passage)), 0.02, 0.99)
    groups = np.repeat(np.arange(len(passage)), answers)
    right = rng.random(len(groups)) < level[groups]
    return Part(EM, right[:, None].astype(float), groups, passage[groups])


SCORES: dict[str, Draw] = {
    "accuracy .65": binary(0.65),
    "accuracy .93": binary(0.93),
    "graded score": graded(2, 1),
    "accuracy, 5 per passage": clustered(5, 0.7, 0.3),
    "EM by question": questions,
    "MCC (CoLA)": table(MCC, 0.69, 0.9, 0.35),
    "MCC (weak)": table(MCC, 0.3, 0.4, 0.3),
    "F1 (MRPC)": table(F1, 0.68, 0.9, 0.5),
    "F1 (QQP)": table(F1, 0.37, 0.7, 0.1),
    "Pearson .6": normal(0.6),
    "Pearson .9": normal(0.9),
    "Spearman .6": ranked(0.6),
    "BLEU": translated,
    "bits per byte": texts,
}

EDGES: dict[str, Draw] = {
    **{f"accuracy {p:g}": binary(p) for p in (0.02, 0.98)},
    "graded score, rare": graded(0.05, 1.0),
    **{f"MCC, class of {p:g}": cells(choice_mcc(), (1 - p, p), (0.97, 0.6)) for p in (0.02, 0.1, 0.5)},
    **{f"F1, class of {p:g}": cells(choice_f1, (1 - p, p), (0.97, 0.6)) for p in (0.02, 0.1, 0.5)},
    "macro F1 (CB)": cells(macro_f1(3), (0.41, 0.5, 0.09), (0.85, 0.85, 0.5)),
    "ECE, calibrated": calibrated,
    "log-normal, no bounds": heavy,
}
"""Scores near the ends of their scale, rare classes, biased and heavy-tailed scores."""

GLUE: tuple[tuple[str, str, float, str], ...] = (
    ("cola", "mcc", 1.0, "MCC (CoLA)"),
    ("sst2", "acc", 1.0, "accuracy .93"),
    ("mrpc", "f1", 0.5, "F1 (MRPC)"),
    ("stsb", "pearson", 1.0, "Pearson .9"),
    ("qqp", "f1", 0.5, "F1 (QQP)"),
    ("mrpc", "acc", 0.5, "F1 (MRPC)"),
    ("qqp", "acc", 0.5, "F1 (QQP)"),
    ("mnli", "acc", 1.0, "accuracy .65"),
    ("rte", "acc", 1.0, "accuracy .65"),
)
SIZES = (20, 56, 100, 300, 1000)
"""Numbers of items; 56 is SuperGLUE's CB."""
OUT = Path("results/gate/coverage.md")
TOTAL = Total("glue", tuple(Term(task, name, weight / 7) for task, name, weight, _ in GLUE), scale=100.0)


def agreement(part: Part) -> Part:
    """Accuracy of the same items as an F1 part."""
    gold, picked = part.stats[:, 0], part.stats[:, 1]
    return Part(MEAN, (gold == picked)[:, None].astype(float), part.groups, part.clusters)


def glue(rng: np.random.Generator, n: int) -> dict[Term, Part]:
    drawn = {task: SCORES[source](rng, n) for task, _, _, source in GLUE}
    pairs = zip(TOTAL.terms, GLUE, strict=True)
    return {term: agreement(drawn[task]) if name == "acc" and "F1" in source else drawn[task] for term, (task, name, _, source) in pairs}


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often the intervals of one scenario contain the true score, of the `trials` that define one, and their mean width."""

    scenario: str
    n: int
    trials: int
    covered: float
    width: float


def cover(scenario: str, interval: Callable[[np.random.Generator], Interval], truth: float, n: int, trials: int, seed: int) -> Coverage:
    rng = np.random.default_rng(seed)
    found = [interval(rng) for _ in range(trials)]
    limits = [i.wide or (i.low, i.high) for i in found]
    ends = [(low, high) for low, high in limits if low is not None and high is not None]
    inside = [low <= truth <= high for low, high in ends]
    defined = sum(i.value is not None for i in found)
    return Coverage(scenario, n, defined, sum(inside) / max(defined, 1), float(np.mean([high - low for low, high in ends])))


def truth_of(draw: Draw, big: int = 1_000_000) -> float:
    part = draw(np.random.default_rng(987), big)
    return float(part.metric.combine(part.stats, part.groups))


def simulate(trials: int, draws: dict[str, Draw], seed: int = 7) -> Iterator[Coverage]:
    """Every scenario at every size."""
    for name, draw in draws.items():
        truth = 0.0 if draw is calibrated else truth_of(draw)
        for n in SIZES:
            yield cover(name, lambda rng, draw=draw, n=n: score_interval(*draw(rng, n)), truth, n, trials, seed)  # type: ignore[misc]


def simulate_total(trials: int, seed: int = 7) -> Iterator[Coverage]:
    """A total like GLUE's, of tasks with `n` items each."""
    big = glue(np.random.default_rng(987), 1_000_000)
    truth = 100 * sum(term.weight * float(part.metric.combine(part.stats, part.groups)) for term, part in big.items())
    for n in SIZES:
        yield cover("GLUE-like total", lambda rng, n=n: total_interval(TOTAL, glue(rng, n)), truth, n, trials, seed)  # type: ignore[misc]


def shown(rows: Iterable[Coverage]) -> Iterator[Coverage]:
    """The rows, each printed when it is measured."""
    for row in rows:
        print(row, flush=True)
        yield row


def main(trials: int = 2000) -> None:
    usual = [*shown(simulate(trials, SCORES)), *shown(simulate_total(trials))]
    edges = list(shown(simulate(trials, EDGES)))
    least = 0.95 - 3 * float(np.sqrt(0.95 * 0.05 / trials))
    low = [f"{row.scenario} at n = {row.n} ({row.covered:.3f})" for row in (*usual, *edges) if row.covered < least]
    text = HEAD.format(
        trials=trials, least=least, low=len(low), cells=len(usual) + len(edges), names="\n".join(f"- {each}" for each in low)
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text + table_of(usual) + EDGE_HEAD + table_of(edges))


def table_of(rows: Sequence[Coverage]) -> str:
    lines = ["| scenario | n | trials | covered | mean width |", "|---|---|---|---|---|"]
    lines += [f"| {row.scenario} | {row.n} | {row.trials} | {row.covered:.4f} | {row.width:.4f} |" for row in rows]
    return "\n".join(lines) + "\n"


HEAD = """# Coverage of 95 % intervals

`python -m tests.sim.coverage {trials}`: the share of {trials:,} simulated samples whose interval contains the true score. Only samples in
which the items define the score count; `trials` gives their number. A true .95 shows at least {least:.3f} in {trials:,} trials; {low} of
{cells} cells are lower:

{names}

"""
EDGE_HEAD = """
## Near the ends of the scale, rare classes, biased and heavy-tailed scores

"""

if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
