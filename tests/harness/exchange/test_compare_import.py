"""`assay compare --why` between a run of lm-eval and our own run of the same items: what differs, and on which items."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import made_lm_eval as made
import pytest
import typer
from typer.testing import CliRunner

from assay import Plan, evaluate
from assay.harness.cli.compare import compare_command
from assay.harness.decide.items.imports import Stored, common, difference, texts, with_joint
from assay.harness.engines.request import ScoreGroup, ScoreReply
from assay.harness.engines.scripted import Scripted, constant, replay
from assay.harness.errors import NotComparable
from assay.harness.exchange.lm_eval import import_lm_eval
from assay.harness.files.places import Surroundings
from assay.harness.store import read_run
from assay.harness.store.record import Item, Record
from assay.harness.task.task import Layout
from tests.fakes import make_model

app = typer.Typer(pretty_exceptions_enable=False)
app.command("compare")(compare_command)
TASK = """
import json
from pathlib import Path
from assay import Choose, Doc, Task, accuracy, inline

ROWS = json.loads(Path({rows!r}).read_text())
doc = lambda row: Doc(row["prompt"], choices=tuple(choice.strip() for choice in row["choices"]), gold=row["gold"])
TASKS = (Task("own/places", inline(test=ROWS), doc, Choose(), (accuracy,)),)
"""


def our_run(home: Path, imported: list[Item], sums: dict[str, list[float]], **changed: dict[str, Any]) -> str:
    """Our own run of imported items: `sums` are the log-likelihoods by item, `changed` other fields of single items."""
    rows = [
        {"prompt": item.prompt, "choices": item.choices, "gold": item.doc["gold"], **changed.get(f"item{item.id}", {})} for item in imported
    ]
    (home / "rows.json").write_text(json.dumps(rows))
    (home / "own.py").write_text(TASK.format(rows=str(home / "rows.json")))
    plan = Plan(model=str(make_model(home / "model")), tasks=(str(home / "own.py"),), engine="scripted")
    place = Surroundings(home / "store", home / "cache", None, True)
    seen: list[ScoreGroup] = []

    def note(request: Any) -> Any:
        seen.append(request)
        return constant(-float(len(seen)))(request)  # the number by which the record tells its request

    first = read_run(evaluate(plan, place, opener=lambda *_: Scripted(note)))
    replies = {}
    for item, own in zip(imported, first.records(), strict=True):
        request = seen[round(-own.output["logprobs"][0][0]) - 1]
        each = zip(sums[item.id], request.continuations, strict=True)
        replies[request.key] = ScoreReply(tuple((total / len(ids),) * len(ids) for total, ids in each), ())
    return evaluate(replace(plan, seed=1), place, opener=lambda *_: Scripted(replay(replies))).name


def test_the_command_says_which_items_differ_and_why(tmp_path: Path) -> None:
    made.write(tmp_path / "out", "acme/wren", 0.6)
    place = Surroundings(tmp_path / "store", tmp_path / "cache", None, True)
    ((bundle, _),) = import_lm_eval(tmp_path / "out", place)
    imported = [item for item in read_run(bundle).items() if item.task == "lm_eval/places@imported"]
    sums = {record.item: list(record.output["loglikelihoods"]) for record in read_run(bundle).records() if "places" in record.task}
    sums["3"] = [total - 1 for total in sums["3"]][::-1]
    own = our_run(tmp_path, imported, sums, item5={"prompt": imported[5].prompt.replace("Answer", "The answer")})
    options = ["--why", "--results", str(place.results)]
    shown = CliRunner().invoke(app, [bundle.name, own, *options])
    assert isinstance(shown.exception, NotComparable)
    assert "24 in common, 23 of them with the same prompt" in shown.stdout
    assert "1 item (0 with another score): other text; item 5 and" in shown.stdout and "The answer" in shown.stdout
    found = json.loads(CliRunner().invoke(app, [bundle.name, own, *options, "--json"]).stdout)
    (pair,) = found["tasks"]
    assert not found["comparable"] and pair["tasks"] == ["lm_eval/places@imported", "own/places"] and pair["metrics"] == ["acc", "accuracy"]
    causes = {each["items"][0]: each["cause"] for each in pair["found"] if each["cause"]}
    assert causes == {"3": "numbers", "5": "prompt"}
    assert [each["field"] for each in found["mismatches"]] == ["prompt", "numbers"]


ITEM = Item("lm_eval/a@imported", "0", "0", "0", "Where?", (" here", " there"), " here")
TEXT = replace(ITEM, choices=(), gold="5")


@pytest.mark.parametrize(
    ("items", "outputs", "scores", "cause"),
    [
        ((ITEM, ITEM), ([-1.0, -2.0], [-1.01, -2.02]), (1.0, 1.0), ""),
        ((ITEM, replace(ITEM, prompt="Where ?")), ([-1.0, -2.0], [-1.0, -2.0]), (1.0, 1.0), "prompt"),
        ((ITEM, replace(ITEM, prompt="Where? ", choices=("here", "there"))), ([-1.0, -2.0], [-1.0, -2.0]), (1.0, 1.0), "boundary"),
        ((ITEM, replace(ITEM, gold=" there")), ([-1.0, -2.0], [-1.0, -2.0]), (1.0, 0.0), "gold"),
        ((ITEM, ITEM), ([-1.0, -2.0], [-1.5, -1.2]), (1.0, 0.0), "numbers"),
        ((ITEM, ITEM), ([-1.0, -1.01], [-1.01, -1.0]), (1.0, 0.0), "tie"),
        ((ITEM, ITEM), ([-1.0, -1.0], [-1.0, -1.0]), (1.0, 0.5), "tie"),
        ((ITEM, ITEM), ([-1.0, -2.0], [-1.0, -2.0]), (1.0, 0.0), "scoring"),
        ((TEXT, TEXT), ("It is 5.", "It is 5. "), (1.0, 0.0), "scoring"),
        ((TEXT, TEXT), ("It is 5.", "It is 6."), (1.0, 0.0), "response"),
    ],
)
def test_the_first_thing_that_differs_is_told(
    items: tuple[Item, Item], outputs: tuple[Any, Any], scores: tuple[float, float], cause: str
) -> None:
    one, two = (
        Stored(item, Record(item.task, item.id, "scored", {"text": each} if isinstance(each, str) else {name: value}))
        for item, each, name, value in zip(
            items, outputs, ("loglikelihoods", "logprobs"), (outputs[0], [[each] for each in outputs[1]]), strict=True
        )
    )
    found = difference(one, two, scores)
    assert found.cause == cause and found.changed == (scores[0] != scores[1])


def test_items_with_another_prompt_are_paired_in_order_if_there_are_equally_many() -> None:
    items = [Stored(replace(ITEM, id=str(number), prompt=f"{number}?"), Record(ITEM.task, str(number), "scored")) for number in range(3)]
    moved = [items[2], Stored(replace(items[0].item, prompt="zero?"), items[0].record), items[1]]
    pairs = [(one.item.prompt, two.item.prompt) for one, two in common(items, moved)]
    assert pairs == [("1?", "1?"), ("2?", "2?"), ("0?", "zero?")]
    assert len(common(items, moved[:2])) == 1


def stored(number: int, question: str) -> Stored:
    item = replace(ITEM, id=str(number), prompt=question)
    return Stored(item, Record(item.task, item.id, "scored"))


def test_choices_begin_with_the_text_that_joined_them_to_the_prompt() -> None:
    own = replace(ITEM, choices=("here", "there"))
    assert with_joint(own, Layout()) == ITEM and with_joint(own, None) == own
    assert texts(Stored(with_joint(replace(own, prompt="Where?\n"), Layout()), Record("a", "0", "scored"))) == (
        "Where?\nhere",
        "Where?\nthere",
    )
    contexts = replace(ITEM, choices=("Where? here", "Where? there"))
    assert with_joint(contexts, Layout()) == contexts


def test_other_items_are_not_paired_and_white_space_does_not_matter() -> None:
    questions = ("Who sings tonight?", "What is red?", "When did it rain?", "Why do cats purr?", "How far is Rome?", "Which day is it?")
    one = [stored(number, text) for number, text in enumerate(questions)]
    two = [stored(number, f"Question: {text}") for number, text in enumerate(questions)]
    assert [(a.item.id, b.item.id) for a, b in common(one, two)] == [(each.item.id,) * 2 for each in one]
    assert common(one[:3], two[3:]) == []  # equally many, but other items
    wide = [stored(number, text.replace(" ", "  ")) for number, text in enumerate(questions)]
    assert [(a.item.id, b.item.id) for a, b in common(one[:4], wide[2:])] == [("2", "2"), ("3", "3")]
