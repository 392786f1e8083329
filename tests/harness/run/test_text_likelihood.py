"""The likelihood of an answer counts the bytes of every token that it counts; an empty text is refused with its task and row."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fakes import NOWHERE, make_model, place

from assay import AssayError, Doc, Perplexity, Plan, Task, evaluate, inline, read_run
from assay.harness.engines.scripted import Scripted, constant
from assay.harness.metrics.likelihood import bits_per_byte
from assay.harness.run.prepare import load_task
from assay.harness.run.scoring.verify import recompute
from assay.harness.store import check

TASK = """
from assay import Doc, Perplexity, Task, inline
from assay.harness.metrics.likelihood import bits_per_byte, perplexity
TASKS = (Task("t", inline(test=[{"p": "PROMPT", "a": TEXT} for _ in range(3)]), lambda row: Doc(row["p"], references=(row["a"],)),
              Perplexity(), (bits_per_byte, perplexity)),)
"""


@pytest.mark.parametrize(
    ("prompt", "text", "joint", "value"),
    [
        ("Q:", "a", " ", 15.0),  # two tokens of 15 bits for the two bytes of " a"; by the byte of "a" alone it was 30.0
        ("", "a", "", 15.0),
        ("Q: ", "ab", " ", 15.0),
        ("Q:", "é", " ", 15.0),
    ],
)
def test_the_joint_counts_above_and_below(tmp_path: Path, prompt: str, text: str, joint: str, value: float) -> None:
    """A byte-level tokenizer without merges: one token per byte."""
    (tmp_path / "t.py").write_text(TASK.replace("PROMPT", prompt).replace("TEXT", repr(text)))
    plan = Plan(str(make_model(tmp_path / "m")), (str(tmp_path / "t.py"),), engine="scripted")
    run = read_run(evaluate(plan, place(tmp_path), opener=lambda *_: Scripted(constant(-15 * math.log(2)))))
    found = {result["metric"]: result["value"] for result in run.summary()["results"]}
    assert found["bits_per_byte"] == pytest.approx(value) and found["perplexity"] == pytest.approx(2**15)
    assert run.records()[0].output["bytes"] == len((joint + text).encode()) == run.records()[0].output["tokens"]
    assert all(item.doc.get("joint", "") == joint for item in run.items())
    scorer = "bits_per_byte" + " joint:counted" * bool(joint)  # earlier versions left its bytes out
    assert run.manifest["tasks"][0]["metrics"] == [scorer, "perplexity"]
    assert not check(tmp_path / "results", lambda run: recompute(run, NOWHERE))


def test_an_empty_text_is_refused_with_its_row() -> None:
    rows = [{"a": "x"}, {"a": ""}, {"a": "y"}, {"a": ""}]
    task = Task("texts", inline(test=rows), lambda row: Doc("", references=(row["a"],)), Perplexity(), (bits_per_byte,))

    with pytest.raises(AssayError, match=r"texts: row 1 of 'test': the text is empty \(2 of 4 texts are\)"):
        load_task(task, Plan("m", ("t",)), NOWHERE)
