"""Log-probabilities of texts are asked for where something reads them. Run: pytest tests/harness/run/test_text_logprobs.py"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, echo, make_model

from assay import Doc, Plan, exact_match
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup
from assay.harness.engines.scripted import Scripted
from assay.harness.metrics.calibration import confident_text
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.dispatch import send_requests
from assay.harness.run.prepare import PreparedTask, prepare_task
from assay.harness.task.metric import Metric, mentions


def likely(doc: Doc, output: Any) -> tuple[float, ...]:
    return (output.logprob,)


def helped(doc: Doc, output: Any) -> tuple[float, ...]:
    return likely(doc, output)


def named(doc: Doc, output: Any, field: str = "text") -> tuple[float, ...]:
    return (float(getattr(output, field) == doc.answer),)


def nested(doc: Doc, output: Any) -> tuple[float, ...]:
    return tuple(each.logprob for each in (output,))


def enclosing(measure: Callable[..., Any]) -> Callable[[Doc, Any], tuple[float, ...]]:
    return lambda doc, output: tuple(measure(doc, output))


class Measured:
    def __call__(self, doc: Doc, output: Any) -> tuple[float, ...]:
        return (output.logprob,)


READING = [likely, helped, named, nested, enclosing(likely), functools.partial(likely), Measured(), operator.attrgetter("text")]


@pytest.mark.parametrize("measure", [*READING, confident_text])
def test_what_may_read_the_log_probability_is_recognised(measure: Any) -> None:
    assert mentions(measure, "logprob")


@pytest.mark.parametrize("measure", [exact_match.measure, enclosing(exact_match.measure), functools.partial(exact_match.measure)])
def test_what_reads_only_the_text_does_not_ask_for_more(measure: Any) -> None:
    assert not mentions(measure, "logprob")


def prepared(folder: Path, task: Any, **settings: Any) -> PreparedTask:
    model = make_model(folder / "model")
    return prepare_task(task, Plan(model=str(model), tasks=("x",), **settings), NOWHERE, open_tokenizer(model), 512)


def asked(task: PreparedTask) -> set[bool]:
    return {request.logprob for each in task.items for request in each.requests if isinstance(request, GenRequest)}


def test_a_run_asks_for_them_for_a_metric_or_to_measure_noise(tmp_path: Path) -> None:
    assert asked(prepared(tmp_path, replace(echo(3), metrics=(exact_match,)))) == {False}
    assert asked(prepared(tmp_path, replace(echo(3), metrics=(exact_match, Metric("likely", likely))))) == {True}
    assert asked(prepared(tmp_path, replace(echo(3), metrics=(exact_match,)), repeat_check=True)) == {True}


def test_a_request_that_proves_its_task_has_them(tmp_path: Path) -> None:
    seen: dict[str, bool] = {}

    def answer(request: ScoreGroup | GenRequest) -> GenReply | Failure:
        assert isinstance(request, GenRequest)
        seen[request.key] = request.logprob
        return GenReply("", (), "stop")

    items = prepared(tmp_path, replace(echo(3), metrics=(exact_match,))).items
    first = items[0].requests[0].key
    send_requests(items, Scripted(answer), lambda each, replies: None, {}, frozenset({first}))
    assert [key for key, read in seen.items() if read] == [first] and len(seen) == 3
