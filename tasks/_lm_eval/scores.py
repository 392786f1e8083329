"""From the responses to one document to its statistics: lm-eval's filters and `process_results`, then the statistics of the metric."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from assay import AssayError, Completion, Doc, Loglikelihoods, Metric, TextLogprob
from assay.harness.metrics.lm_eval import OPAQUE, SHARES, Scorer, metric_of, scorer_of, statistics, unpacked
from assay.tasks._lm_eval.documents import plain
from assay.tasks._lm_eval.library import Reference, load, quiet

AGGREGATIONS = (
    *("mean", "nanmean", "median", "perplexity", "weighted_perplexity", "bits_per_byte"),
    *("f1", "matthews_corrcoef", "bleu", "chrf", "chrf++", "ter", "brier_score"),
)
"""lm-eval's aggregations that assay computes from statistics of items; others are called as they are."""
Answers = tuple[tuple[Any, ...], ...]
"""For each instance of a document: its responses, one per repeat."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Asks an lm-eval task for the value of one document. The task's objects are loaded when they are first needed."""

    reference: Reference
    task: str
    repeats: int
    scorer: Scorer

    def __call__(self, doc: Doc, output: Any) -> tuple[float, ...]:
        """Statistics of one document; empty where the task gives it no value."""
        metric, _, chosen = self.scorer.name.partition(",")
        values = values_of(self.reference, self.task, int(doc.id), answers_of(output, self.repeats))
        value = values.get((metric, chosen or "none"))
        number = isinstance(value, int | float)
        if value is None or (number and self.scorer.aggregation != OPAQUE and math.isnan(value)):
            return ()
        if self.scorer.shares and not 0 <= value <= 1:
            what = f"{metric} is {value}, but its name says that it is a share"
            raise AssayError(what, where=f"lm-eval:{self.task}", do="run this task with lm-eval, and import its results")
        return statistics(self.scorer, value, f"lm-eval:{self.task} {doc.id}")


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A task's own aggregation function, over the values as `process_results` gave them."""

    reference: Reference
    task: str
    metric: str

    def __call__(self, stats: Any, groups: Any) -> float:
        task = load(self.reference).tasks[self.task]
        with quiet():
            return float(task.aggregation()[self.metric.partition(",")[0]]([tuples(unpacked(row)) for row in stats]))


def tuples(value: Any) -> Any:
    """A value as process_results gave it: JSON has no tuples, and lm-eval's functions unpack both."""
    return tuple(value) if isinstance(value, list) else value


def answers_of(output: Any, repeats: int) -> Answers:
    """An output as lm-eval's responses: (log-likelihood, greedy) per instance, a log-likelihood, or texts."""
    match output:
        case Loglikelihoods():
            greedy = output.greedy or (False,) * len(output.sums)
            return tuple(((value, each),) * repeats for value, each in zip(output.sums, greedy, strict=True))
        case TextLogprob():
            return ((output.logprob,) * repeats,)
        case Completion():
            return (output.samples or (output.text,) * repeats,)
    raise TypeError(f"lm-eval tasks have no output {type(output).__name__}")


@functools.lru_cache(maxsize=8)
def documents_of(reference: Reference, task: str) -> Mapping[int, Any]:
    """The documents of a task by number."""
    with quiet():
        return dict(load(reference).tasks[task].doc_iterator())


@functools.lru_cache(maxsize=16)
def values_of(reference: Reference, name: str, number: int, answers: Answers) -> Mapping[tuple[str, str], Any]:
    """What `process_results` gives for a document, by (metric, filter)."""
    documents = documents_of(reference, name)
    if number not in documents:
        raise AssayError(f"has no document {number} any more", where=f"lm-eval:{name}", do="score the model again with `assay run`")
    return process(load(reference).tasks[name], number, documents[number], answers)


def process(task: Any, number: int, doc: Any, answers: Answers) -> Mapping[tuple[str, str], Any]:
    """lm-eval's own steps after the responses (evaluator.py): filters, then `process_results` once per filter."""
    from lm_eval.api.instance import Instance

    kind = task.OUTPUT_TYPE or "loglikelihood"
    instances = [
        Instance(request_type=kind, doc=doc, arguments=(), idx=place, metadata=(task.task_name, number, len(each)), resps=list(each))
        for place, each in enumerate(answers)
    ]
    found: dict[tuple[str, str], Any] = {}
    with quiet():
        for ensemble in task._filters:
            ensemble.apply(instances)
        for chosen in instances[0].filtered_resps:
            results = task.process_results(doc, [instance.filtered_resps[chosen] for instance in instances])
            found |= {(metric, chosen): plain(value) for metric, value in results.items()}
    return found


def scorers_of(name: str, task: Any, number: int, instances: Sequence[Any]) -> tuple[Scorer, ...]:
    """How each metric's values are combined, found by scoring one document with made-up responses.

    Raises AssayError where the task cannot score them.
    """
    doc, errors, values = instances[0].doc, [], None
    for answers in made_up(instances, task, doc):
        try:
            values = process(task, number, doc, answers)
            break
        except (Exception, SystemExit) as error:  # the code of a task may raise anything
            errors.append(error)
    if values is None:
        what = f"lm-eval cannot score a response: {type(errors[0]).__name__}: {errors[0]!s:.160}"
        raise AssayError(what, where=f"lm-eval:{name}", do="check that its packages and data are there: pip install 'lm-eval[all]'")
    listed = list(task.aggregation())
    ordered = sorted(values, key=lambda key: listed.index(key[0]) if key[0] in listed else len(listed))
    built_in = not callable(getattr(task.config, "process_results", None))
    classes = classes_of(task) if any(aggregation_of(task, metric) in ("f1", "matthews_corrcoef") for metric, _ in ordered) else 0
    return tuple(scorer_for(task, key, values[key], classes, built_in) for key in ordered)


def made_up(instances: Sequence[Any], task: Any, doc: Any) -> list[Answers]:
    """Responses that any task can score: equal log-likelihoods, or a short text, and the target in its place."""
    repeats = instances[0].repeats or 1
    match instances[0].request_type:
        case "loglikelihood":
            return [tuple(((-1.0 - place, False),) * repeats for place in range(len(instances)))]
        case "loglikelihood_rolling":
            return [((-1.0,) * repeats,)]
    return [(("A",) * repeats,), (("",) * repeats,)]


def aggregation_of(task: Any, metric: str) -> str:
    """The name of lm-eval's aggregation of a metric; its default is the mean. A function of the task's own is opaque."""
    from lm_eval.api.registry import get_aggregation

    function = task.aggregation().get(metric)
    if function is None:
        return "mean"
    return next((name for name in AGGREGATIONS if get_aggregation(name) is function), OPAQUE)


def scorer_for(task: Any, key: tuple[str, str], value: Any, classes: int, built_in: bool) -> Scorer:
    metric, chosen = key
    name = metric if chosen == "none" else f"{metric},{chosen}"
    better = "higher" if task.higher_is_better().get(metric, True) is not False else "lower"
    aggregation = aggregation_of(task, metric)
    values = [0.0 if isinstance(value, float) and math.isnan(value) else value]
    scorer = scorer_of(name, aggregation, better, values, classes)
    if scorer is None:
        return Scorer(name, OPAQUE, better)
    certain = metric.startswith(("acc", "exact_match")) or (built_in and task.OUTPUT_TYPE != "generate_until" and metric.startswith(SHARES))
    shares = scorer.shares and certain
    return Scorer(name, scorer.aggregation, better, scorer.classes, shares)


def classes_of(task: Any) -> int:
    """The largest number of choices of a document."""
    try:
        return max(len(task.doc_to_choice(doc)) for _, doc in task.doc_iterator())
    except Exception:  # a metric of the task's own, without choices
        return 2


def metrics_of(reference: Reference, task: str, repeats: int, scorers: Sequence[Scorer]) -> tuple[Metric[Any], ...]:
    """The metrics of a task: measured by lm-eval, combined by assay's statistics."""
    return tuple(
        metric_of(scorer, Scores(reference, task, repeats, scorer), Aggregation(reference, task, scorer.name)) for scorer in scorers
    )
