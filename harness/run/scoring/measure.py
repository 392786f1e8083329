"""Score one item: replies to an output, the output to statistics, both to the item's record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from assay.harness.engines.request import Failure, GenReply, ScoreReply
from assay.harness.errors import AssayError, redact
from assay.harness.prompt.render import groups_of
from assay.harness.run.prepare import PreparedItem
from assay.harness.store.record import Record, Status
from assay.harness.task.doc import Doc
from assay.harness.task.metric import Metric, Stats, mean
from assay.harness.task.output import ChoiceScores, Completion, ExpectedValue, Loglikelihoods, Output, TextLogprob
from assay.harness.task.task import Choose, Generate, Loglikelihood, Perplexity, Regress, Task

Reply = ScoreReply | GenReply | Failure
LONG_ANSWER = 16
"""From this `max_tokens` on, a completion that reaches the limit counts as truncated; a task that wants one letter always reaches it."""


def score_item(task: Task, prepared: PreparedItem, replies: Sequence[Reply]) -> Record:
    """The record of one item. A failed or non-finite reply makes an error record, never a score of 0."""
    item = prepared.item
    if "skipped" in item.doc:
        return Record(item.task, item.id, "skipped", error=f"needs {item.doc['skipped']} tokens, more than the model's context")
    failed = next((reply.reason for reply in replies if isinstance(reply, Failure)), "") or nonfinite(replies)
    if failed:
        return Record(item.task, item.id, "error", error=redact(failed), logical=prepared.logical)
    output = read_output(task, prepared.doc, replies, item.doc.get("joint", ""))
    stats = measure(task, prepared.doc, output)
    return Record(
        item.task,
        item.id,
        status_of(task, prepared.doc, output, replies),
        output=as_json(prepared.doc, output, replies),
        stats=stats,
        correct=correctness(task, prepared.doc, output, stats),
        logical=prepared.logical + sum(len(reply.tokens) for reply in replies if isinstance(reply, GenReply)),
    )


def nonfinite(replies: Sequence[Reply]) -> str:
    """The reason why these replies are unusable, or an empty text."""
    for reply in replies:
        if isinstance(reply, ScoreReply) and not all(math.isfinite(value) for values in reply.logprobs for value in values):
            return "non-finite log-probability"
    return ""


def read_output(task: Task, doc: Doc, replies: Sequence[Any], joint: str = "") -> Output:
    """The output in the form that the task's metrics read. `joint`: the text between prompt and reference, whose tokens are scored."""
    match task.ask:
        case Choose() as ask:
            sums = tuple(math.fsum(values) for values in replies[0].logprobs)
            priors = tuple(math.fsum(values) for values in replies[1].logprobs) if ask.calibrate is not None else ()
            tokens = tuple(map(len, replies[0].logprobs))
            return choice_scores(ask, doc, sums, tokens, priors)
        case Loglikelihood():
            rows, greedy = in_order(doc, replies)
            return Loglikelihoods(tuple(map(math.fsum, rows)), tuple(map(len, rows)), greedy)
        case Regress() as ask:
            sums = tuple(math.fsum(values) for values in replies[0].logprobs)
            return ExpectedValue(expected_value(ask, sums), sums)
        case Perplexity():
            total = math.fsum(value for reply in replies for value in reply.logprobs[0])
            return TextLogprob(total, sum(len(reply.logprobs[0]) for reply in replies), text_bytes(doc, joint))
        case Generate():
            texts = tuple(reply.text.lstrip(" ") if task.layout.trim else reply.text for reply in replies)
            first = replies[0]
            return Completion(texts[0], first.finish, len(first.tokens), first.logprob, texts if len(texts) > 1 else ())


def in_order(doc: Doc, replies: Sequence[ScoreReply]) -> tuple[list[tuple[float, ...]], tuple[bool, ...]]:
    """The tokens' log-probabilities of every choice, and whether it is greedy, from one reply per context (`groups_of`)."""
    places = [place for _, places in groups_of(doc) for place in places]
    rows = dict(zip(places, (values for reply in replies for values in reply.logprobs), strict=True))
    greedy = dict(zip(places, (each for reply in replies for each in reply.greedy), strict=False))
    return [rows[place] for place in sorted(rows)], tuple(greedy[place] for place in sorted(greedy))


def text_bytes(doc: Doc, joint: str) -> int:
    """UTF-8 bytes of the text whose likelihood is scored."""
    return len((joint + doc.references[0]).encode())


def expected_value(ask: Regress, sums: Sequence[float]) -> float:
    """The mean of `ask.values` under the softmax of their log-likelihoods."""
    weights = np.exp(np.array(sums) - max(sums))
    return float(weights @ np.array(ask.values) / weights.sum())


TIE = 1e-9
"""Normalised log-likelihoods that differ by less than this share are equal: their difference is rounding."""


def choice_scores(ask: Choose, doc: Doc, sums: Sequence[float], tokens: Sequence[int], priors: Sequence[float]) -> ChoiceScores:
    """The choices' scores with the best one after normalisation; the first of equal ones, as with numpy's argmax in lm-eval."""
    values = np.array(sums) - np.array(priors) if priors else np.array(sums)
    match ask.normalize:
        case "chars":
            values = values / np.array([max(len(choice), 1) for choice in doc.choices])
        case "bytes":
            values = values / np.array([max(len(choice.encode()), 1) for choice in doc.choices])
        case "tokens":
            values = values / np.array(tokens)
    best = np.flatnonzero(values >= values.max() - TIE * max(1.0, abs(float(values.max()))))
    tied = tuple(best.tolist()) if len(best) > 1 else ()
    pick = tied[0] if tied and ask.ties == "share" else int(values.argmax())
    return ChoiceScores(tuple(sums), tuple(tokens), pick, tuple(priors), tied, ask.ties == "first")


def measure(task: Task, doc: Doc, output: Output) -> dict[str, tuple[float, ...]]:
    """Statistics by metric name; empty where the label is hidden. Raises AssayError where a metric fails or is not finite."""
    if not doc.labelled:
        return {}
    stats = {}
    for metric in task.metrics:
        try:
            values = tuple(float(value) for value in measured(metric, doc, output))
        except (Exception, SystemExit) as error:  # the author's code may raise anything
            where = f"{task.full_name}: metric {metric.name}, item {doc.id}"
            raise AssayError(f"{type(error).__name__}: {error}", where=where, do="check the metric's measure function") from error
        if not values and metric.partial:
            continue
        if not values or not all(map(math.isfinite, values)):
            raise AssayError(
                f"gave {values}", where=f"{task.full_name}: metric {metric.name}, item {doc.id}", do="measure must give finite numbers"
            )
        stats[metric.name] = values
    return stats


class RecordingCompletion(Completion):
    """A Completion that records whether a metric reads its samples."""

    __slots__ = ("samples_read",)
    samples_read: bool

    def __getattribute__(self, name: str) -> Any:
        if name == "samples":
            object.__setattr__(self, "samples_read", True)
        return object.__getattribute__(self, name)


def measured(metric: Metric[Any], doc: Doc, output: Output) -> Stats:
    """One item's statistics. Where choices are tied, the mean over them; where there are several samples and the metric reads only one
    text, the mean over the samples."""
    if isinstance(output, ChoiceScores) and output.tied and not output.first_wins:
        return average([tuple(metric.measure(doc, replace(output, pick=pick))) for pick in output.tied])
    if not isinstance(output, Completion) or not output.samples:
        return tuple(metric.measure(doc, output))
    recorded = RecordingCompletion(**{field.name: getattr(output, field.name) for field in fields(Completion)})
    object.__setattr__(recorded, "samples_read", False)
    whole = tuple(metric.measure(doc, recorded))
    if recorded.samples_read:
        return whole
    each = [whole, *(tuple(metric.measure(doc, replace(output, text=text, samples=()))) for text in output.samples[1:])]
    return average(each)


def average(each: Sequence[Stats]) -> Stats:
    """The mean of each statistic; equal ones stay exactly as they are."""
    return tuple(values[0] if len(set(values)) == 1 else math.fsum(values) / len(values) for values in zip(*each, strict=True))


def status_of(task: Task, doc: Doc, output: Output, replies: Sequence[Reply]) -> Status:
    if any(isinstance(reply, GenReply) and reply.thought_cut for reply in replies):
        return "truncated"
    if isinstance(output, Completion) and isinstance(task.ask, Generate):
        parses = task.metrics[0].parses
        if parses is not None and not parses(doc, output):
            return "unparsed"
        if output.finish == "length" and task.ask.max_tokens >= LONG_ANSWER:
            return "truncated"
    return "scored"


def correctness(task: Task, doc: Doc, output: Output, stats: dict[str, tuple[float, ...]]) -> float | None:
    """The item's score in [0, 1]; None where the task's main metric has no score per item."""
    if isinstance(output, ChoiceScores) and doc.labelled:
        picks = (output.pick,) if output.first_wins or not output.tied else output.tied
        return math.fsum(doc.targets[pick] if doc.targets else pick == doc.gold for pick in picks) / len(picks)
    main = task.metrics[0]
    if main.name in stats and main.combine is mean and (main.low, main.high) == (0.0, 1.0):
        return stats[main.name][0]
    return None


def thinking_of(records: Sequence[Record]) -> dict[str, float]:
    """Over all responses with a thinking part: their number, the tokens and seconds of these parts, and how many ran into their limit."""
    thoughts = [thought for record in records for thought in record.output.get("thoughts", ()) if thought["tokens"] or thought["cut"]]
    if not thoughts:
        return {}
    cut = sum(thought["cut"] for thought in thoughts)
    seconds = math.fsum(thought.get("seconds", 0.0) for thought in thoughts)  # earlier versions did not store them
    return {
        "responses": len(thoughts),
        "tokens": sum(thought["tokens"] for thought in thoughts),
        "seconds": round(seconds, 3),
        "cut": cut,
    }


def thought_json(reply: GenReply) -> dict[str, Any]:
    seconds = round(reply.thought_seconds, 4)
    return {"text": reply.thought, "tokens": reply.thought_tokens, "seconds": seconds, "cut": reply.thought_cut}


def as_json(doc: Doc, output: Output, replies: Sequence[Any]) -> dict[str, Any]:
    """The output for the journal, with per-token log-probabilities."""
    match output:
        case ChoiceScores():
            found: dict[str, Any] = {"pick": output.pick, "logprobs": [list(values) for values in replies[0].logprobs]}
            if output.priors:
                found["priors"] = list(output.priors)
            if output.tied:
                found["tied"] = list(output.tied)
            return found
        case Loglikelihoods():
            found = {"logprobs": [list(values) for values in in_order(doc, replies)[0]]}
            found |= {"pick": int(np.argmax(output.sums))} if len(output.sums) > 1 else {"logprob": output.sums[0]}
            return found | ({"greedy": list(output.greedy)} if output.greedy else {})
        case ExpectedValue():
            return {"value": output.value, "logprobs": [list(values) for values in replies[0].logprobs]}
        case TextLogprob():
            return {"logprob": output.logprob, "tokens": output.tokens, "bytes": output.bytes}
        case Completion():
            logprob = output.logprob if math.isfinite(output.logprob) else None
            found = {"text": output.text, "finish": output.finish, "tokens": output.tokens, "logprob": logprob}
            if output.samples:
                found["samples"] = list(output.samples)
            if any(reply.thought_tokens or reply.thought_cut for reply in replies):
                found["thoughts"] = [thought_json(reply) for reply in replies]
            return found
