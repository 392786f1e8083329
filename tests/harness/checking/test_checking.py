"""`assay check` on tasks: what it must report and what it must not. Run: pytest tests/harness/checking/test_checking.py"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, echo, make_model, sums

from assay import (
    AssayError,
    ChoiceScores,
    Choose,
    Completion,
    Doc,
    Family,
    Generate,
    Layout,
    Metric,
    Perplexity,
    Regress,
    Shots,
    Task,
    Worked,
    accuracy,
    exact_match,
    inline,
    jsonl,
    made,
)
from assay.harness.checking import Checked, check_file, check_task, check_tasks
from assay.harness.checking.report import finding_lines, verdict
from assay.harness.cli import main
from assay.harness.metrics.choice import mcc
from assay.harness.metrics.likelihood import bits_per_byte
from assay.harness.metrics.regression import pearson
from assay.harness.task.scaffold import draft

CAPITALS = (("Norway", "Oslo"), ("Japan", "Tokyo"), ("Kenya", "Nairobi"), ("Peru", "Lima"), ("Canada", "Ottawa"), ("Portugal", "Lisbon"))
ROWS = tuple({"country": country, "capital": capital} for country, capital in CAPITALS)
SHORT = Generate(8, ("\n",))


def ask(row: dict[str, Any]) -> Doc:
    return Doc(f"Q: What is the capital of {row['country']}?\nA:", references=(row["capital"],))


def capitals(**fields: Any) -> Task:
    return Task(**{"name": "capitals", "rows": inline(test=ROWS), "doc": ask, "ask": SHORT, "metrics": (exact_match,), **fields})


def fired(checked: Checked) -> set[tuple[str, str]]:
    return {(finding.level, finding.check) for finding in checked.findings}


def found(task: Task, **options: Any) -> set[tuple[str, str]]:
    return fired(check_task(task, NOWHERE, **options))


def test_a_valid_task_passes_every_check() -> None:
    checked = check_task(capitals(), NOWHERE)
    assert checked.findings == ()
    assert checked.facts["oracle"] == 1.0 and checked.facts["empty"] == 0.0 and checked.facts["constant"] == pytest.approx(1 / 6)
    assert [example["row"] for example in checked.examples] == [0, 2, 5]
    assert verdict([checked]) == "1 task: every check passed."


def test_baselines_of_choices() -> None:
    def doc(row: int) -> Doc:
        return Doc(f"Is {row} odd?", choices=("no", "yes", "maybe"), gold=int(row % 4 == 1))

    facts = check_task(Task("odd", inline(test=range(8)), doc, Choose(), (accuracy,)), NOWHERE).facts  # type: ignore[arg-type]
    assert facts["chance"] == pytest.approx(1 / 3) and facts["majority"] == 0.75
    assert facts["constant"] == 0.75 and facts["constant_answer"] == "'no'"


def test_a_prompt_that_shows_the_answers_field_is_a_leak_even_in_every_row() -> None:
    leaky = capitals(doc=lambda row: replace(ask(row), prompt=f"Row: {row}\nCapital:"))
    assert ("E", "gold-leak") in found(leaky)


def test_a_task_of_copying_is_no_leak() -> None:
    assert {level for level, _ in found(echo())} <= {"I"}


def test_an_answer_read_out_of_a_passage_is_no_leak() -> None:
    rows = [
        {"text": f"The {a} met the {b} in town.", "who": b}
        for a, b in (("fox", "hare"), ("king", "queen"), ("cook", "guest"), ("boy", "dog"))
    ]
    reading = capitals(rows=inline(test=rows), doc=lambda row: Doc(f"{row['text']}\nQ: Whom?\nA:", references=(row["who"],)))
    assert {level for level, _ in found(reading)} <= {"I"}


def test_half_of_the_answers_may_be_unknown() -> None:
    rows = [{"text": f"{who} came home late.", "who": who if n % 2 else "I do not know"} for n, (_, who) in enumerate(CAPITALS * 3)]
    reading = capitals(rows=inline(test=rows), doc=lambda row: Doc(f"{row['text']}\nQ: Who?\nA:", references=(row["who"],)))
    assert ("E", "gold-leak") not in found(reading)


def test_faulty_rows_are_all_listed() -> None:
    rows = [{**row} for row in ROWS]
    del rows[1]["capital"]
    rows[4]["country"], rows[5]["capital"] = "Norway", "Oslo\nand more"
    checked = check_task(capitals(rows=inline(test=rows)), NOWHERE)
    by_check = {finding.check: [place.row for place in finding.places] for finding in checked.findings if finding.level != "I"}
    assert by_check == {"doc": [1], "dup-items": [4], "oracle": [5]}
    assert "the row has the fields country" in checked.findings[0].places[0].note or "KeyError" in str(checked.findings)
    assert any("stop string" in line for finding in checked.findings for line in finding_lines(finding))


@pytest.mark.parametrize(
    ("doc", "check"),
    [
        (lambda row: replace(ask(row), prompt=("Q: " + row["country"] + " {x}").format(x="?")), "hostile"),
        (lambda row: replace(ask(row), prompt="Q: " + row["country"].split("\n")[0] + "\nA:"), "hostile"),
        (lambda row: replace(ask(row), prompt="Q: " + row["country"][0] + row["country"][1:] + "\nA:"), "hostile"),
    ],
    ids=["braces as a template", "only the first line", "needs a first letter"],
)
def test_hostile_values(doc: Any, check: str) -> None:
    assert check in {name for _, name in found(capitals(doc=doc))}


def test_gold_that_does_not_reach_the_maximum() -> None:
    inverted = Metric("inverted", lambda doc, chosen: (float(chosen.pick != doc.gold),), reads=ChoiceScores)
    assert ("E", "oracle") in found(replace(sums(), metrics=(inverted,)))
    assert ("E", "oracle") in found(capitals(ask=Generate(1, ("o",))))


def test_gold_without_all_classes_is_told_from_gold_that_is_wrong() -> None:
    def label(row: int) -> Doc:
        return Doc(f"Is {row} odd?", choices=("no", "yes"), gold=row % 2)

    wrong = Metric("upside_down", mcc().measure, lambda stats, groups: -1.0, low=-1.0, reads=ChoiceScores)
    even = Task("even", inline(test=range(0, 16, 2)), label, Choose(), (mcc(),))  # type: ignore[arg-type]
    (finding,) = [each for each in check_task(even, NOWHERE).findings if each.check == "oracle"]
    assert finding.level == "W" and "some classes never occur" in finding.what
    assert ("E", "oracle") in found(replace(even, rows=inline(test=range(9)), metrics=(wrong,)))  # type: ignore[arg-type]


def test_credit_for_empty_and_constant_answers() -> None:
    lenient = Metric("lenient", lambda doc, output: (float(doc.references[0].startswith(output.text)),), reads=Completion)
    assert ("E", "empty") in found(capitals(metrics=(lenient,)))
    same = capitals(rows=inline(test=[{**row, "capital": "unknown"} for row in ROWS]))
    assert ("E", "constant") in found(same)


def test_a_metric_that_fails_is_named() -> None:
    broken = Metric("broken", lambda doc, output: (1 / len(output.text),), reads=Completion)
    (finding,) = [each for each in check_task(capitals(metrics=(broken,)), NOWHERE).findings if each.check == "metric"]
    assert "broken" in finding.what and "ZeroDivisionError" in finding.what


def test_worked_examples_must_hold() -> None:
    good = Worked(ROWS[0], "Q: What is the capital of Norway?\nA:", "Oslo")
    assert not found(capitals(worked=(good,)))
    assert ("E", "worked") in found(capitals(worked=(replace(good, answer="Bergen"),)))
    assert ("E", "worked") in found(capitals(worked=(replace(good, prompt="Norway:"),)))


def test_rows_must_be_the_same_every_time() -> None:
    restless = made(lambda split: [{"country": str(random.random()), "capital": "Oslo"}, *ROWS], "test")
    assert ("E", "rows") in found(capitals(rows=restless))


class Worded:
    """Every second row, and all rows of the training split, in other words."""

    def __init__(self, *templates: str) -> None:
        self.templates, self.seen = templates, 0

    def __call__(self, row: dict[str, str]) -> Doc:
        self.seen += 1
        return Doc(self.templates[self.seen > len(ROWS)].format(row["country"]), references=(row["capital"],))


def test_few_shot_examples_that_are_the_question() -> None:
    first = capitals(shots=Shots(2, split="test", order="first"))
    assert ("E", "shots") in found(first)
    two = inline(
        test=ROWS, train=[{"country": "NORWAY", "capital": "Oslo"}, *({"country": f"Land {n}", "capital": f"City {n}"} for n in range(3))]
    )
    checked = check_task(capitals(rows=two, shots=Shots(4)), NOWHERE)  # the item gets three other examples
    assert fired(checked) == {("W", "train-overlap")}
    assert [place.row for finding in checked.findings for place in finding.places] == [0]
    told = inline(test=ROWS, train=[{"country": "Norway", "capital": "Oslo"}, {"country": "Land", "capital": "City"}])
    again = Worded("Name one city only. What is the capital of {}? Answer:", "Q: What is the capital of {}?\nA:")
    assert ("E", "shot-is-test") in found(capitals(rows=told, shots=Shots(2), doc=again))
    assert found(capitals(rows=inline(test=ROWS, train=two.load("train", NOWHERE).rows[1:]), shots=Shots(3))) == set()


def test_spaces_around_the_answer() -> None:
    spaced = replace(sums(), doc=lambda row: replace(sums().doc(row), choices=tuple(f" {text}" for text in sums().doc(row).choices)))
    assert ("E", "joint") in found(spaced)
    assert ("W", "joint") in found(capitals(layout=Layout(joint="")))
    assert ("W", "joint") in found(capitals(layout=Layout(instructions="Answer.")))
    chinese = capitals(doc=lambda row: Doc("首都是", references=(row["capital"],)), layout=Layout(joint=""))
    assert "joint" not in {check for _, check in found(chinese)}


def test_every_kind_of_ask_is_checked() -> None:
    scale = Regress(("0", "1"), (0.0, 1.0))
    rows = inline(test=[{"n": n} for n in range(5)])
    graded = Task("graded", rows, lambda row: Doc(f"How many are {row['n']}?", value=row["n"] / 4), scale, (pearson,))
    texts = Task("texts", rows, lambda row: Doc("", references=(f"Text number {row['n']}.",)), Perplexity(), (bits_per_byte,))
    for task, best in ((graded, 1.0), (texts, 0.0)):
        checked = check_task(task, NOWHERE)
        assert checked.findings == () and checked.facts["oracle"] == pytest.approx(best)


def test_hidden_labels_are_no_fault() -> None:
    assert found(replace(sums(), doc=lambda row: replace(sums().doc(row), gold=None))) == {("I", "labels")}


def test_a_family_goes_on_without_the_data_of_one(tmp_path: Path) -> None:
    family = Family("two", (capitals(), capitals(name="gone", rows=jsonl(str(tmp_path / "no.{split}.jsonl")))))
    sound, gone = check_tasks(family.tasks, NOWHERE)
    assert sound.findings == () and fired(gone) == {("W", "data")}
    with pytest.raises(AssayError, match="no split to score"):
        check_tasks(family.tasks[1:], NOWHERE)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("ASSAY_DATA", "ASSAY_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["assay", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.mark.parametrize("kind", ["", "--choose"])
def test_a_new_task_is_clean_and_never_overwrites(
    desk: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "new-task", "towns", *filter(None, [kind])) == 0
    assert len((desk / "towns.py").read_text().splitlines()) <= 15
    assert command(monkeypatch, "check", "towns.py", "--strict") == 0
    assert check_file(desk / "towns.py") == ()
    spec = importlib.util.spec_from_file_location("test_towns", desk / "test_towns.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.test_towns_is_valid()
    (desk / "towns.py").write_text("mine")
    (desk / "test_towns.py").unlink()
    assert command(monkeypatch, "new-task", "towns") == 2
    assert (desk / "towns.py").read_text() == "mine" and not (desk / "test_towns.py").exists()
    assert command(monkeypatch, "new-task", "two words") == 2
    assert "lowercase letters" in capsys.readouterr().err


def test_a_draft_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    with pytest.raises(AssayError, match="cannot be written"):
        draft("towns", "generate", tmp_path).write()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_rows_without_code_and_exit_codes(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (desk / "good.csv").write_text("prompt,choices,answer\nThe sky is,blue|red,blue\nSnow is,black|white,white\n")
    rows = [{"prompt": "Q: 1+1\nA: 2", "reference": "2"}, {"prompt": "Q: 1+1\nA:", "reference": "3"}, {"prompt": "Q: 2+9\nA:"}]
    (desk / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert command(monkeypatch, "check", "good.csv", "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"E": 0, "W": 0, "I": 0}
    assert command(monkeypatch, "check", "bad.jsonl", "--json") == 14
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    places = {finding["check"]: [place["row"] for place in finding["places"]] for finding in printed["tasks"][0]["findings"]}
    assert places["doc"] == [2]
    assert command(monkeypatch, "check", "bad.jsonl") == 14
    assert "row 2" in capsys.readouterr().out
    assert command(monkeypatch, "check", "nothing-such") == 2
    assert command(monkeypatch, "check", "good.csv", "--rerun", "5") == 2


def test_a_bigbench_folder_never_seen_is_checked_and_run_by_its_path(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("otter", "maple", "granite", "comet", "violin")
    examples = [{"input": f"Which is {word}?", "target_scores": {word: 1, word[::-1]: 0, word.upper() + "s": 0}} for word in words]
    sheet = {"name": "unseen", "description": "Names.", "metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade"}
    (desk / "unseen_words").mkdir()
    (desk / "unseen_words" / "task.json").write_text(json.dumps({**sheet, "examples": examples}))
    make_model(desk / "model")
    assert command(monkeypatch, "check", "bigbench:unseen_words", "--json") in (0, 14)
    printed = json.loads(capsys.readouterr().out.splitlines()[0])
    assert printed["tasks"][0]["facts"]["items"] == 5 and printed["tasks"][0]["facts"]["oracle"] == 1.0
    arguments = ("run", "--model", "model", "--tasks", "bigbench:unseen_words", "--shots", "1", "--engine", "scripted", "--json")
    assert command(monkeypatch, *arguments) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert {(result["metric"], result["n"], result["shots"]) for result in results} >= {
        ("multiple_choice_grade", 5, 1),
        ("normalized", 5, 1),
    }


def test_prompts_that_end_in_a_space_are_reported() -> None:
    spaced = tuple({**row, "end": " " if number < 2 else ""} for number, row in enumerate(ROWS))

    def doc(row: dict[str, Any]) -> Doc:
        return Doc(f"Q: What is the capital of {row['country']}?\nA:{row['end']}", references=(row["capital"],))

    def says(task: Task) -> list[str]:
        return [
            finding.what
            for finding in check_task(task, NOWHERE).findings
            if "white space than most" in finding.what or "a space" in finding.what
        ]

    assert says(capitals(rows=inline(test=spaced), doc=doc)) == ["2 of 6 prompts end in other white space than most"]
    every = tuple({**row, "end": " "} for row in ROWS)
    assert says(capitals(rows=inline(test=every), doc=doc)) == ["6 of 6 prompts end in a space"]
    assert says(capitals()) == [] and says(capitals(rows=inline(test=[{**row, "end": "\n"} for row in ROWS]), doc=doc)) == []
    names = tuple(capital for _, capital in CAPITALS)

    def ranked(row: dict[str, Any]) -> Doc:
        return Doc(doc(row).prompt, choices=names, gold=names.index(row["capital"]))

    ranking = capitals(rows=inline(test=spaced), doc=ranked, ask=Choose(), metrics=(accuracy,))
    assert says(ranking) == [], "the space moves to the choices, which begin with one anyway"
