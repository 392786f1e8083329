"""BIG-bench's generated answers from the prompt to the score: the space before the answer does not count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, place

from assay import Completion, evaluate, read_run
from assay.harness.engines.request import GenRequest
from assay.harness.engines.scripted import Scripted, make_reply
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.store.plan import Plan
from assay.tasks import bigbench

FIELDS = {
    "exact": {"metrics": ["exact_str_match"], "preferred_score": "exact_str_match"},
    "sequence": {"metrics": ["sequence_f1"], "preferred_score": "sequence_f1"},
    "stop": {"metrics": ["exact_str_match"], "preferred_score": "exact_str_match", "stop_string": "\n", "output_regex": "^[a-z]+"},
    "arrow": {"metrics": ["exact_str_match"], "preferred_score": "exact_str_match", "example_output_prefix": " => "},
    "none": {"metrics": ["exact_str_match"], "preferred_score": "exact_str_match", "example_output_prefix": ""},
}


def write(folder: Path, **fields: Any) -> Path:
    examples = [
        {"input": f"Write apple {n} times less {n - 1}", "target": "apple" if n < 3 else ["apple", "an apple"]} for n in range(1, 5)
    ]
    path = folder / "mine" / "task.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"name": "mine", "description": "Copies.", "keywords": [], "examples": examples, **fields}))
    return path


def run(folder: Path, path: Path, text: str, shots: int = 2) -> tuple[dict[str, float], list[Any], list[str]]:
    """The scores, the stored items, and the texts that the engine got."""
    model, sent = make_model(folder / "model"), []
    tokenizer = open_tokenizer(model)

    def answer(request: Any) -> Any:
        if isinstance(request, GenRequest):
            sent.append(tokenizer.decode(request.prompt))
        return make_reply(request, [-1.0] * len(getattr(request, "continuations", (0,))), text)

    plan = Plan(model=str(model), tasks=(f"bigbench:{path}",), engine="scripted", shots=shots)
    opened: Callable[..., Any] = lambda *_: Scripted(answer)  # noqa: E731
    bundle = read_run(evaluate(plan, place(folder), opener=opened))
    return {each["metric"]: each["value"] for each in bundle.summary()["results"]}, list(bundle.items()), sent


@pytest.mark.parametrize("kind", sorted(FIELDS))
@pytest.mark.parametrize("text", [" apple", "apple", "  apple\nQ: Write pear"])
def test_a_right_answer_after_a_space_scores_full(tmp_path: Path, kind: str, text: str) -> None:
    if kind == "sequence" and "\n" in text:
        text = " apple"
    scores, items, sent = run(tmp_path, write(tmp_path, **FIELDS[kind]), text)
    assert scores[FIELDS[kind]["preferred_score"]] in (1.0, 100.0) and scores["normalized"] == 100.0
    assert sorted(sent) == sorted(item.prompt for item in items), "what is stored is what was sent"
    assert not any(item.prompt.endswith(" ") for item in items)
    assert kind != "exact" or all("\nA: apple\n" in item.prompt or "\nA: an apple\n" in item.prompt for item in items), "examples keep it"


def test_a_wrong_answer_after_a_space_scores_0(tmp_path: Path) -> None:
    scores, _, _ = run(tmp_path, write(tmp_path, **FIELDS["exact"]), " pear")
    assert scores["exact_str_match"] == scores["normalized"] == 0.0


def test_the_stored_answer_has_no_space_and_given_texts_score_as_in_the_reference(tmp_path: Path) -> None:
    path = write(tmp_path, **FIELDS["exact"])
    (task,) = bigbench.from_path(path)
    doc = task.doc(task.rows.load("test", place(tmp_path).access(False)).rows[0])
    assert task.metrics[0].measure(doc, Completion(" apple")) == (0.0,), "the reference's scorer itself compares raw texts"
    assert task.metrics[0].measure(doc, Completion("apple")) == (1.0,)


def test_choices_keep_the_prompt_of_the_reference(tmp_path: Path) -> None:
    path = write(tmp_path, **FIELDS["exact"])
    data = json.loads(path.read_text())
    data |= {"metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade"}
    data["examples"] = [{"input": f"q{n}", "target_scores": {"a": 1, "b": 0}} for n in range(3)]
    path.write_text(json.dumps(data))
    _, items, _ = run(tmp_path, path, "", shots=0)
    assert all(item.prompt.endswith("\nA: ") for item in items)
