"""What a run says about its data: how a file was read, whose few-shot examples were replaced, and what a metric cannot measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, place

from assay import evaluate, read_run
from assay.harness.engines.scripted import Scripted, constant
from assay.harness.reports.results import notes
from assay.harness.store.plan import Plan

LEAK = """
from assay import Choose, Doc, Generate, Regress, Shots, Task, accuracy, exact_match, inline
from assay.harness.metrics.regression import pearson
from assay.harness.metrics.text import rouge

ROWS = [{"n": n, "q": f"Code word number {n}?"} for n in range(8)]

def choice(row):
    return Doc(row["q"], choices=("amber", "birch", "cedar"), gold=row["n"] % 3)

def text(row):
    return Doc(row["q"], references=(f"слово {row['n']}",))

def value(row):
    return Doc(row["q"], value=float(row["n"]))

KINDS = {
    "choose": (choice, Choose(), accuracy),
    "generate": (text, Generate(8, ("\\n",)), rouge("rougeL")),
    "regress": (value, Regress(("1", "2"), (1.0, 2.0)), pearson),
}
TASKS = tuple(
    Task(f"{kind}_{order}", inline(test=ROWS), doc, ask, (metric,), split="test", shots=Shots(2, split="test", order=order))
    for kind, (doc, ask, metric) in KINDS.items()
    for order in ("first", "per_item")
)
"""


def run(folder: Path, name: str) -> Any:
    plan = Plan(model=str(make_model(folder / "model")), tasks=(str(folder / name),), engine="scripted")
    return read_run(evaluate(plan, place(folder), opener=lambda *_: Scripted(constant())))


def test_no_item_of_any_family_is_shown_its_own_question(tmp_path: Path) -> None:
    (tmp_path / "leak.py").write_text(LEAK)
    found = run(tmp_path, "leak.py")
    for item in found.items():
        question = item.prompt.rpartition("Code word")[2]
        assert item.prompt.count(f"Code word{question}") == 1, item.prompt
        assert item.id not in item.shots and len(item.shots) == 2
    facts = {task["name"]: task for task in found.manifest["tasks"]}
    assert {facts[f"{kind}_first"]["shots_replaced"] for kind in ("choose", "generate", "regress")} == {2}
    assert {facts[f"{kind}_per_item"]["shots_replaced"] for kind in ("choose", "generate", "regress")} == {0}
    said = notes(found.manifest, found.summary()["results"])
    assert "choose_first: 2 items have other few-shot examples than the protocol's, which show the item's own question." in said
    assert any(line.startswith("generate_first: rougeL cannot measure 8 of 8 items: its tokenizer keeps a to z") for line in said)


@pytest.mark.parametrize(("answer", "word"), [("2", "indices from 0"), ("B", "letters of choices"), ("four", "texts of choices")])
def test_the_facts_say_how_answers_are_read(tmp_path: Path, answer: str, word: str) -> None:
    (tmp_path / "items.csv").write_text(f"prompt,choices,answer\nTwo and two,three|four|five,{answer}\n")
    found = run(tmp_path, "items.csv")
    assert found.manifest["tasks"][0]["notes"] == [f"answer: read as {word}"]
    assert json.loads((found.path / "manifest.json").read_text())["tasks"][0]["notes"]
    assert f"items: answer: read as {word}." in notes(found.manifest, found.summary()["results"])
