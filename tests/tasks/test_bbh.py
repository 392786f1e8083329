"""BIG-bench Hard: few-shot examples, and the two answer extractors with the defects of the historic one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from assay import Access, AssayError, Completion, Doc, Generate, Task
from assay.harness.prompt.render import render
from assay.tasks import bbh

COT = """None, written for a test
-----
Add the numbers.

Q: What is 2 plus 2?
A: Let's think step by step.
Two and two make four. So the answer is 4.

Q: What is 1 plus 2?
A: Let's think step by step.
So the answer is 3.

Q: What is 3 plus 2?
A: Let's think step by step.
So the answer is 5."""


def find(name: str, access: Access) -> tuple[Task, ...]:
    found = bbh.find_family(name, access)
    return found.tasks if found is not None else ()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    home = tmp_path / "lukaemon__bbh"
    (home / "cot-prompts").mkdir(parents=True)
    (home / "navigate").mkdir()
    (home / "cot-prompts" / "navigate.txt").write_text(COT)
    (home / "cot-prompts" / "sports_understanding.txt").write_text(COT.replace("step.\n", "step. "))
    return tmp_path


def grade(protocol: str, text: str, gold: str) -> float:
    return bbh.PROTOCOLS[protocol][1].measure(Doc("q", references=(gold,)), Completion(text))[0]


def test_the_prompt_is_the_published_file_and_the_question(data: Path) -> None:
    (task,) = find("bbh/navigate", Access(data))
    shown = [task.doc(row) for row in task.rows.load(bbh.COT, Access(data)).rows]
    assert len(shown) == 3
    row = {"input": "What is 4 plus 4?", "target": "8"}
    prompt = render(task, task.doc(row), shown).prompt
    assert prompt == COT.split("-----\n")[1] + "\n\nQ: What is 4 plus 4?\nA: Let's think step by step.\n"
    assert prompt.count("Let's think step by step.") == 4, "once per question; some task files repeat it in the examples"
    (on_one_line,) = find("bbh/sports_understanding", Access(data))
    assert render(on_one_line, on_one_line.doc(row)).prompt.endswith("A: Let's think step by step.")
    for found in (task, on_one_line):
        assert [(found.doc(w.row).prompt, found.doc(w.row).answer) for w in found.worked] == [(w.prompt, w.answer) for w in found.worked]


@pytest.mark.parametrize("ending", ["8.", "8", "8. ", "8.\n", "8.\n\nThat is all.", "**8**.", " 8 ."])
def test_the_repaired_extractor_finds_answers_that_the_historic_one_misses(ending: str) -> None:
    assert grade("bbh", f"4 and 4 make 8. So the answer is {ending}", "8") == 1


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("So the answer is A.", "(A)", 1),
        ("So the answer is a)", "(A)", 1),
        ("The correct answer is option B: Gwen.", "(B)", 1),
        ("The answer is **(C)**.", "(C)", 1),
        ("The answer is A man.", "(A)", 0),
        ("The answer is B.", "(A)", 0),
        ("So the answer is no.", "No", 1),
        ("the answer is YES, they are.", "yes", 1),
        ("the answer is not known", "no", 0),
        ("The answer is $\\boxed{True}$.", "True", 1),
        ("Step one.\nStep two.\n\\boxed{\\text{False}}", "False", 1),
        ("The answer is \\boxed{A}.", "(A)", 1),
        ("the answer is 1,234.", "1234", 1),
        ("the answer is \u22125.", "-5", 1),
        ("the answer is \u22125.", "5", 0),
        ("the answer is apple, bear, cat.", "apple bear cat", 1),
        ("the answer is bear apple cat.", "apple bear cat", 0),
        ("the answer is ]])", "] ] )", 1),
        ("the answer is Invalid.", "invalid", 1),
        ("the answer is invalid.", "valid", 0),
    ],
)
def test_answers_are_read_however_they_are_spelled(text: str, gold: str, right: int) -> None:
    assert grade("bbh", text, gold) == right


@pytest.mark.parametrize(
    ("text", "gold", "tolerant", "paper", "historic"),
    [
        ("So the answer is A, not (B).", "(A)", 1, 0, 0),
        ("So the answer is A, not (B).", "(B)", 0, 1, 0),  # the paper's rule: the only option in parentheses
        ("So the answer is not (A) but (B).", "(B)", 1, 0, 0),
        ("So the answer is not (A) but (B).", "(A)", 0, 1, 0),
        ("So the answer is (B). Eliminated: (A).", "(B)", 1, 0, 0),
        ("So the answer is \\boxed{] }}.", "] }", 1, 0, 0),
        ("So the answer is $\\boxed{] }}$.", "]", 0, 0, 0),
        ("So the answer is $\\boxed{\\} )}$.", "} )", 1, 0, 0),
        ("So the answer is \\boxed{\\text{> } }}}.", "> } }", 1, 0, 0),
        ("So the answer is 3 out of 10.", "3", 1, 0, 0),
        ("So the answer is 3 out of 10.", "10", 0, 0, 0),
        ("So the answer is 3 out of 10, which is less than half.", "3", 1, 0, 0),
        ("So the answer is 5 + 3 = 8.", "8", 1, 0, 0),
        ("So the answer is 5 + 3, which is 8 (not 9).", "8", 1, 0, 0),
        ("So the answer is 8 (5 and 3).", "8", 1, 0, 0),
        ("So the answer is 8.", "8", 1, 1, 1),
    ],
)
def test_answers_with_more_than_one_option_bracket_or_number(text: str, gold: str, tolerant: int, paper: int, historic: int) -> None:
    assert [grade(protocol, text, gold) for protocol in ("bbh", "bbh-paper", "bbh-historic")] == [tolerant, paper, historic]


def test_the_papers_rule_under_its_own_name() -> None:
    assert grade("bbh-paper", "So the answer is (A).", "(A)") == grade("bbh-paper", "So the answer is no.", "no") == 1
    assert grade("bbh-paper", "So the answer is A.", "(A)") == grade("bbh-paper", "So the answer is no.", "No") == 0
    assert grade("bbh-paper", "The answer is \\boxed{True}.", "True") == 0
    assert grade("bbh-paper", "The answer is (B) or (A).", "(A)") == 1, "the first of the alphabet, as in the notebooks"
    assert grade("bbh-paper", "8", "8") == 1, "a text without the words is the answer"


def test_historic_extractor_drops_the_last_character() -> None:
    assert grade("bbh-historic", "So the answer is 8.", "8") == 1
    assert grade("bbh-historic", "So the answer is 18", "18") == 0, "no full stop: the pattern eats the last digit"
    assert grade("bbh-historic", "So the answer is 8. ", "8") == 0, "one space after the full stop turns right into wrong"
    assert grade("bbh", "So the answer is 18", "18") == grade("bbh", "So the answer is 8. ", "8") == 1


def test_historic_stop_ends_at_any_capital_q() -> None:
    assert "Q" in bbh.PROTOCOLS["bbh-historic"][0]
    text = "Queen Anne is the oldest. So the answer is (B)."
    stops = bbh.PROTOCOLS["bbh"][0]
    assert not any(stop in text for stop in stops), "the repaired protocol does not stop here"
    assert any(stop in f"{text}\n\nQ: Next?" for stop in stops)


def test_options_and_last_answer() -> None:
    assert grade("bbh", "The answer is (A) at first. No, the answer is (B) Gwen.", "(B)") == 1
    assert grade("bbh", "The answer is: (C)", "(C)") == 1
    assert grade("bbh", "the answer is ] ] ).", "] ] )") == 1
    assert grade("bbh", "the answer is (A)", "(B)") == 0
    metric = bbh.PROTOCOLS["bbh"][1]
    assert metric.parses is not None
    assert not metric.parses(Doc("q", references=("8",)), Completion("It is eight.\nI think."))
    assert grade("bbh", "(B)", "(B)") == 1, "a bare answer"
    assert grade("bbh", "", "8") == 0


def test_names(data: Path) -> None:
    assert find("bbh/nothing", Access(data)) == ()
    assert find("bbh/navigate@lm-eval", Access(data)) == ()
    (historic,) = find("bbh/navigate@bbh-historic", Access(data))
    assert historic.full_name == "bbh/navigate@bbh-historic"
    with pytest.raises(AssayError, match="few-shot examples"):
        find("bbh/snarks", Access(data))
    with pytest.raises(AssayError, match="few-shot examples"):
        find("bbh/snarks", Access())


@pytest.mark.data
def test_all_27_tasks() -> None:
    access = Access(Path(os.environ["ASSAY_DATA"]))
    family = bbh.find_family("bbh", access)
    assert family is not None
    assert len(family.tasks) == 27
    assert family.totals[0].by_size
    sizes = {}
    for task in family.tasks:
        rows = task.rows.load("test", access).rows
        sizes[task.name.removeprefix("bbh/")] = len(rows)
        shown = [task.doc(row) for row in task.rows.load(bbh.COT, access).rows]
        file = access.data / "lukaemon__bbh" / "cot-prompts" / f"{task.name.removeprefix('bbh/')}.txt"  # type: ignore[operator]
        assert render(task, task.doc(rows[0]), shown).prompt.startswith(file.read_text().partition("-----\n")[2].strip())
        for doc in shown:
            gold = doc.references[0].rpartition("the answer is ")[2].removesuffix(".")
            assert task.metrics[0].measure(Doc("q", references=(gold,)), Completion(doc.references[0])) == (1.0,)
        assert isinstance(task.ask, Generate)
        assert task.ask.max_tokens == 1024
    assert {name for name, size in sizes.items() if size != 250} == {"causal_judgement", "penguins_in_a_table", "snarks"}
