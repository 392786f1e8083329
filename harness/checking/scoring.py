"""Scores gold, empty and constant answers without a model: gold must get the maximum, empty nothing, a constant not the maximum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from assay.harness.checking.finding import Finding, Level, Place, at_least, short
from assay.harness.checking.items import SOME
from assay.harness.checking.task_data import TaskData
from assay.harness.errors import AssayError
from assay.harness.run.scoring.measure import choice_scores, measure
from assay.harness.run.scoring.results import codes
from assay.harness.task.doc import Doc
from assay.harness.task.matching import normal
from assay.harness.task.metric import Metric, mean
from assay.harness.task.output import ChoiceScores, Completion, ExpectedValue, Loglikelihoods, Output, TextLogprob
from assay.harness.task.task import Choose, Generate, Loglikelihood, Perplexity, Regress, Task

TEXTS = 300
"""Maximum number of items, evenly spaced, on which generated answers are scored: text metrics are slow."""
MUCH = 0.2
"""Gap of gold answers to the maximum, as a share of the metric's range, above which the finding is an error."""
NEVER = -1000.0
"""Log-likelihood that the oracle gives to wrong choices."""
Answer = Callable[[Task, Doc], Output]


def oracle(task: Task, doc: Doc) -> Output:
    """The output of a model that always gives the gold answer."""
    match task.ask:
        case Choose():
            best = max(doc.targets, default=0.0)
            right = [doc.targets[k] == best if doc.targets else k == doc.gold for k in range(len(doc.choices))]
            return made_scores(task.ask, doc, tuple(0.0 if each else NEVER for each in right))
        case Loglikelihood():
            right = [doc.gold in (None, k) for k in range(len(doc.choices))]
            sums = tuple(0.0 if each else NEVER for each in right)
            return Loglikelihoods(sums, tuple(max(1, len(choice.split())) for choice in doc.choices), tuple(right))
        case Regress():
            return ExpectedValue(doc.value if doc.value is not None else math.nan, tuple(0.0 for _ in task.ask.answers))
        case Perplexity():
            return TextLogprob(0.0, max(1, len(doc.answer.split())), len(doc.answer.encode()))
        case Generate():
            return completion(task.ask, doc.answer)


def made_scores(ask: Choose, doc: Doc, scores: tuple[float, ...]) -> ChoiceScores:
    tokens = tuple(max(1, len(choice.split())) for choice in doc.choices)
    priors = (0.0,) * len(scores) if ask.calibrate is not None else ()
    return choice_scores(ask, doc, scores, tokens, priors)


def completion(ask: Generate, text: str) -> Completion:
    """The text as a generated completion: cut at the first stop string and after max_tokens words."""
    for stop in ask.stop:
        text = text.split(stop)[0]
    words = len(text.split())
    if words > ask.max_tokens:
        text = " ".join(text.split()[: ask.max_tokens])
    samples = (text,) * ask.samples if ask.samples > 1 else ()
    return Completion(text, "length" if words > ask.max_tokens else "stop", min(words, ask.max_tokens), 0.0, samples)


def constant_choice(index: int) -> Answer:
    """Always picks the choice at this position (the last if there are fewer)."""

    def answer(task: Task, doc: Doc) -> Output:
        assert isinstance(task.ask, Choose)
        place = min(index, len(doc.choices) - 1)
        return made_scores(task.ask, doc, tuple(0.0 if k == place else NEVER for k in range(len(doc.choices))))

    return answer


def constant_text(text: str) -> Answer:
    def answer(task: Task, doc: Doc) -> Output:
        assert isinstance(task.ask, Generate)
        return completion(task.ask, text)

    return answer


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of every metric for one kind of answer, and the main metric's first statistic per item."""

    values: dict[str, float]
    firsts: tuple[float, ...]


def score(task: Task, docs: Sequence[Doc], answer: Answer) -> Scores:
    """Scores `answer` on all docs. Raises AssayError if a metric fails."""
    stats = [measure(task, doc, answer(task, doc)) for doc in docs]
    groups = [doc.group for doc in docs]
    values = {}
    for metric in task.metrics:
        with np.errstate(all="ignore"):
            rows = [place for place, each in enumerate(stats) if metric.name in each]  # a partial metric leaves items out
            table = np.array([stats[place][metric.name] for place in rows], dtype=np.float64)
            values[metric.name] = float(metric.combine(table, codes([groups[place] for place in rows]))) if rows else math.nan
    return Scores(values, tuple(each.get(task.metrics[0].name, (math.nan,))[0] for each in stats))


def scoring_findings(data: TaskData) -> tuple[list[Finding], dict[str, Any]]:
    """Findings, and the main metric's scores of the oracle, chance, majority, best constant and empty answers."""
    task, name = data.task, data.task.full_name
    indices = [index for index, doc in enumerate(data.docs) if doc.labelled]
    if not indices:
        return [Finding("labels", "I", name, "no public labels: predictions are stored without scores")], {}
    if isinstance(task.ask, Generate):
        indices = some_of(indices, [doc.group for doc in data.docs])
    docs = [data.docs[index] for index in indices]
    try:
        best = score(task, docs, oracle)
        trivial = {label: score(task, docs, answer) for label, answer in trivial_answers(task, docs).items()}
    except AssayError as error:
        return [Finding("metric", "E", name, f"{error.where}: {error.what}", error.do or "fix the metric or the gold it reads")], {}
    facts: dict[str, Any] = {"oracle": best.values[task.metrics[0].name], **baselines(docs)}
    constant = {label: found.values[task.metrics[0].name] for label, found in trivial.items() if label != "empty"}
    if constant:
        top = max(constant, key=lambda label: higher_is_better(task.metrics[0], constant[label]))
        facts |= {"constant": constant[top], "constant_answer": top}
    if "empty" in trivial:
        facts["empty"] = trivial["empty"].values[task.metrics[0].name]
    findings = [*oracle_findings(data, indices, best, trivial.values()), *empty_findings(data, indices, trivial.get("empty"))]
    if not ignores_gold(task.metrics[0], best, trivial.values()):
        findings += constant_findings(data, facts)
    return findings + position_findings(data), facts


def some_of(indices: list[int], groups: Sequence[str]) -> list[int]:
    """At most about TEXTS of the indices, evenly spaced, in whole groups."""
    if len(indices) <= TEXTS:
        return indices
    names = list(dict.fromkeys(groups[index] for index in indices))
    wanted = max(1, TEXTS * len(names) // len(indices))
    kept = {names[at * len(names) // wanted] for at in range(wanted)}
    return [index for index in indices if groups[index] in kept]


def trivial_answers(task: Task, docs: Sequence[Doc]) -> dict[str, Answer]:
    """Constant answers by label: every choice position, or the empty and the most frequent gold text."""
    if isinstance(task.ask, Choose):
        widest = max(len(doc.choices) for doc in docs)
        fixed = docs[0].choices if len({doc.choices for doc in docs}) == 1 else ()
        return {short(fixed[k], 30) if fixed else f"choice {k + 1}": constant_choice(k) for k in range(min(widest, 10))}
    if isinstance(task.ask, Generate):
        common = Counter(doc.answer for doc in docs).most_common(1)[0][0]
        return {"empty": constant_text(""), short(common, 30): constant_text(common)}
    return {}


def baselines(docs: Sequence[Doc]) -> dict[str, float]:
    """Scores of chance (a uniform guess) and majority (the most frequent answer, if all items have the same choices)."""
    if not docs[0].choices:
        return {}
    scores = [doc.targets or tuple(float(k == doc.gold) for k in range(len(doc.choices))) for doc in docs]
    found = {"chance": math.fsum(math.fsum(each) / len(each) for each in scores) / len(scores)}
    if len({doc.choices for doc in docs}) == 1:
        found["majority"] = float(np.array(scores).mean(axis=0).max())
    return found


def higher_is_better(metric: Metric[Any], value: float) -> float:
    """The value with its sign changed if lower is better."""
    return -value if metric.better == "lower" else value


def worst_and_best(metric: Metric[Any]) -> tuple[float | None, float | None]:
    """The worst and the best value of a metric."""
    return (metric.high, metric.low) if metric.better == "lower" else (metric.low, metric.high)


def ignores_gold(metric: Metric[Any], best: Scores, trivial: Iterable[Scores]) -> bool:
    """Whether a lower-is-better metric (such as a bias) does not depend on the gold: trivial answers score as well as gold ones."""
    return metric.better == "lower" and any(each.values[metric.name] <= best.values[metric.name] for each in trivial)


def oracle_findings(data: TaskData, indices: Sequence[int], best: Scores, trivial: Collection[Scores]) -> list[Finding]:
    """Findings for metrics on which gold answers do not get the maximum: the main one with its rows, the others in one line."""
    task = data.task
    hard = all(sorted(doc.targets)[-1:] == [1.0] and sum(doc.targets) == 1 for doc in data.docs if doc.targets)
    short_in = [
        each for each in task.metrics if hard and not ignores_gold(each, best, trivial) and falls_short(each, best.values[each.name])
    ]
    found = [oracle_finding(data, indices, best)] if task.metrics[0] in short_in else []
    others = [
        f"{each.name} {best.values[each.name]:.4g} of {worst_and_best(each)[1]:g}"
        for each in short_in
        if each is not task.metrics[0] and math.isfinite(best.values[each.name])  # calibration of a model that is always right is undefined
    ]
    if others:
        what = f"gold answers score {', '.join(others)}"
        found.append(Finding("oracle", "W", task.full_name, what, "the maximum score of a model is this one"))
    return found


def falls_short(metric: Metric[Any], value: float) -> bool:
    """Whether the score of gold answers is not the metric's best."""
    top = worst_and_best(metric)[1]
    return not math.isfinite(value) or (top is not None and abs(value - top) > 1e-6 * max(1.0, abs(top)))


def oracle_finding(data: TaskData, indices: Sequence[int], best: Scores) -> Finding:
    """The finding for gold answers without the main metric's maximum, with the rows that lose if the metric is a mean."""
    task, name, metric = data.task, data.task.full_name, data.task.metrics[0]
    value, (worst, top) = best.values[metric.name], worst_and_best(metric)
    docs = [data.docs[index] for index in indices]
    absent = isinstance(task.ask, Choose) and len({doc.answer for doc in docs}) < max(len(doc.choices) for doc in docs)
    if not math.isfinite(value) or top is None or (absent and not is_mean(metric)):
        what = f"gold answers score {metric.name} {value:.4g}: some classes never occur, or the gold does not vary"
        return Finding("oracle", "W", name, what, "add items with other answers, or use another metric")
    pairs = zip(indices, best.firsts, strict=True) if is_mean(metric) else ()
    less = [(index, first) for index, first in pairs if abs(first - top) > 1e-9 * max(1.0, abs(top))]
    share = abs(value - top) / (abs(top - worst) if worst is not None else 1.0)
    grave = share > MUCH or at_least(sum(first == worst for _, first in less), len(indices)) > SOME
    places = tuple(data.place(index, gold_failure(task, data.docs[index])) for index, _ in less)
    what, do = (
        f"gold answers score {metric.name} {value:.4g}, not {top:g}",
        "fix the gold, the metric, the stop strings or max_tokens",
    )
    return Finding("oracle", "E" if grave else "W", name, what, do, places)


def is_mean(metric: Metric[Any]) -> bool:
    return metric.combine is mean


def gold_failure(task: Task, doc: Doc) -> str:
    """Why the gold answer is not scored as correct: a stop string, max_tokens, or unknown."""
    if isinstance(task.ask, Generate):
        text = completion(task.ask, doc.answer).text
        stop = next((stop for stop in task.ask.stop if stop in doc.answer), None)
        if stop is not None:
            return f"the answer {short(doc.answer, 40)} contains the stop string {stop!r}"
        if text != doc.answer:
            return f"the answer has {len(doc.answer.split())} words, max_tokens is {task.ask.max_tokens}"
    return f"answer {short(doc.answer, 40)}"


def empty_findings(data: TaskData, indices: Sequence[int], empty: Scores | None) -> list[Finding]:
    """A finding if the main metric scores an empty answer above its minimum."""
    task = data.task
    metric = task.metrics[0]
    worst, top = worst_and_best(metric)
    if empty is None or worst is None or top is None or metric.better == "lower":
        return []
    share = (empty.values[metric.name] - worst) / (top - worst)
    if not share > 1e-9:
        return []
    places: tuple[Place, ...] = ()
    if is_mean(metric):
        pairs = zip(indices, empty.firsts, strict=True)
        places = tuple(data.place(index, f"answer {short(data.docs[index].answer, 40)}") for index, first in pairs if first > worst + 1e-9)
    what = f"an empty answer scores {metric.name} {empty.values[metric.name]:.4g}, not {worst:g}"
    return [Finding("empty", "E" if share > 0.1 else "W", task.full_name, what, "give empty answers the metric's minimum", places)]


def constant_findings(data: TaskData, facts: dict[str, Any]) -> list[Finding]:
    """A finding if one constant answer is almost always correct."""
    metric = data.task.metrics[0]
    worst, top = worst_and_best(metric)
    value = facts.get("constant")
    if value is None or worst is None or top is None or len(data.docs) < 2 or not math.isfinite(value):
        return []
    share = (value - worst) / (facts["oracle"] - worst) if facts["oracle"] != worst else 0.0
    if share < 0.9 or unlisted(data):
        return []
    what = f"always answering {facts['constant_answer']} scores {metric.name} {value:.4g} of {facts['oracle']:.4g}"
    level: Level = "E" if share > 0.999 else "W"
    return [Finding("constant", level, data.task.full_name, what, "balance the answers, or shuffle the choices")]


def unlisted(data: TaskData) -> bool:
    """Whether the model cannot see the position of a choice: items have different choices, and prompts do not list them in order."""
    docs = data.docs
    if not docs[0].choices or len({doc.choices for doc in docs}) == 1:
        return False
    return sum(map(listed, docs)) < 0.9 * len(docs)


def listed(doc: Doc) -> bool:
    """Whether the prompt lists all choices in order."""
    text = normal(doc.prompt)
    places = [text.rfind(normal(choice)) for choice in doc.choices]
    return min(places) >= 0 and places == sorted(places)


def position_findings(data: TaskData) -> list[Finding]:
    """A finding if gold positions are uneven: a model that prefers a position then scores above chance."""
    docs = [doc for doc in data.docs if doc.gold is not None]
    if len(docs) < 20 or len({doc.choices for doc in docs}) == 1 or len({len(doc.choices) for doc in docs}) > 1:
        return []
    counts = np.bincount([doc.gold for doc in docs if doc.gold is not None], minlength=len(docs[0].choices))
    even = len(docs) / len(counts)
    from scipy.special import chdtrc

    p = float(chdtrc(len(counts) - 1, float(((counts - even) ** 2 / even).sum())))
    if p > 1e-4:
        return []
    what = f"the correct choice is at positions 1 to {len(counts)} in {', '.join(map(str, counts))} items (p = {p:.1g})"
    if counts.max() == len(docs):
        what = f"the correct choice is always number {int(counts.argmax()) + 1}" + (
            ", which the model does not see" if unlisted(data) else ""
        )
    return [Finding("class-balance", "I", data.task.full_name, what, "shuffle the choices if you can change the task")]
