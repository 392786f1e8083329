"""Every task of `core` sends what lm-eval sends, text by text, and scores responses as lm-eval scores them; on real items and ours."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay import Access, Choose, Completion, Doc, Generate, Loglikelihoods, Missing, Task
from assay.harness.files.places import surroundings
from assay.harness.prompt.encoding import of_context
from assay.harness.prompt.render import groups_of, render
from assay.harness.run.prepare import load_task
from assay.harness.run.scoring.measure import choice_scores
from assay.harness.run.selection import select
from assay.harness.store.plan import Plan
from assay.tasks._lm_eval.documents import LmEvalRows, read_row
from assay.tasks._lm_eval.library import load
from tests.bench.core_tasks import PAIRS, Pair, first_examples, made_data

pytestmark = pytest.mark.lm_eval
ITEMS = 20
Sent = list[tuple[str, str]]
"""(context, continuation) of every request of an item; the continuation is empty where text is generated."""


def theirs(pair: Pair, access: Access) -> tuple[Task, list[Doc]]:
    with first_examples():
        (task,) = select([f"lm-eval:{pair.theirs}"], access).tasks
        assert isinstance(task.rows, LmEvalRows)
        rows = task.rows.under(pair.shots, 0, False, "", False)
        library = load(rows.reference).tasks[pair.theirs]
        found = rows.documents(library, limit=ITEMS)
        return task, [read_row(rows.row(library, number, instances)) for number, instances in found.items()]


def sent_by_lm_eval(doc: Doc) -> Sent:
    return list(zip(doc.contexts or (doc.prompt,) * len(doc.choices), doc.choices, strict=True)) or [(doc.prompt, "")]


def sent_by_us(task: Task, doc: Doc, examples: tuple[Doc, ...]) -> Sent:
    texts = [render(task, of_context(doc, *group), examples) for group in groups_of(doc)] if doc.choices else []
    return [(text.prompt, each) for text in texts for each in text.continuations] or [(render(task, doc, examples).prompt, "")]


def made_up(doc: Doc, draw: random.Random) -> str:
    """A response: the gold answer, a part of it, or letters and numbers."""
    pieces = [
        doc.answer,
        doc.answer[: draw.randrange(1, 80)],
        "So the answer is (B).",
        "answer is C",
        "$12,000$",
        "#### 7.",
        "It is $\\frac12$",
        "",
    ]
    return " ".join(draw.sample(pieces, draw.randrange(1, 4)))


def measured(task: Task, own: Task, doc: Doc, mine: Doc, draw: random.Random) -> tuple[list[float], list[float]]:
    """Values of one response by lm-eval and by us, for each of lm-eval's metrics in the order of ours."""
    if isinstance(own.ask, Generate):
        output: Any = Completion(made_up(mine, draw))
        return [metric.measure(doc, output)[0] for metric in task.metrics], [metric.measure(mine, output)[0] for metric in own.metrics]
    sums = tuple(-30 * draw.random() for _ in doc.choices)
    tokens, greedy = (2,) * len(sums), tuple(draw.random() < 0.5 for _ in sums)
    likely = Loglikelihoods(sums, tokens, greedy)
    output = choice_scores(own.ask, mine, sums, tokens, ()) if isinstance(own.ask, Choose) else likely
    return [abs(metric.measure(doc, likely)[0]) for metric in task.metrics], [
        abs(metric.measure(mine, output)[0]) for metric in own.metrics
    ]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.label)
def test_requests_and_scores_are_lm_evals(pair: Pair, tmp_path: Path) -> None:
    access = surroundings().access(allow_partial=True)
    if pair.made:
        made_data(tmp_path)
        access = replace(access, data=tmp_path)
    elif access.data is None:
        pytest.skip("needs $ASSAY_DATA")
    (own,) = select([pair.ours], access).tasks
    own = replace(own, shots=replace(own.shots, order="first"))
    try:
        prepared = load_task(own, Plan(model="", tasks=(pair.ours,), shots=pair.shots), access)
    except Missing as error:
        pytest.skip(str(error))
    task, docs = theirs(pair, access)
    assert len(docs) == min(ITEMS, len(prepared.docs))
    draw = random.Random(0)
    for number, doc in enumerate(docs):
        mine = prepared.docs[number]
        assert sent_by_us(own, mine, prepared.examples(number)) == sent_by_lm_eval(doc)
        for _ in range(3):
            values, ours = measured(task, own, doc, mine, draw)
            order = [next(n for n, each in enumerate(task.metrics) if each.name == name) for name in pair.metrics.values()]
            assert ours[: len(order)] == pytest.approx([values[n] for n in order], rel=1e-9)
    if isinstance(own.ask, Generate):
        assert isinstance(task.ask, Generate)
        assert (own.ask.max_tokens, set(own.ask.stop), own.ask.temperature) == (
            task.ask.max_tokens,
            set(task.ask.stop),
            task.ask.temperature,
        )
