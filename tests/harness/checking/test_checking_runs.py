"""`assay check` on runs: answers that speak against their own score. Run: pytest tests/harness/test_checking_runs.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import echo, make_model, place, sums, write_task

from assay import Choose, Plan, Run, Task, read_run
from assay.harness.checking import Checked, Finding, check_run
from assay.harness.checking.repeatability import rescore_sample
from assay.harness.checking.responses import TaskRecords, response_findings
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Answer, Fault, Scripted, constant, faulty, hashed, uniform
from assay.harness.errors import AssayError, Incomplete
from assay.harness.model.find import ModelRef
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import OpenEngine, evaluate
from assay.harness.store.record import Item, Record

ECHO = '''"""Repeat a word."""
from assay import Doc, Generate, Task, exact_match, inline

ROWS = [{"word": f"w{n}"} for n in range(40)]
TASKS = (Task("echo", inline(test=ROWS), lambda row: Doc(f"Say {row['word']}:", references=(row["word"],)), Generate(20), (exact_match,)),)
'''


def engine(answer: Answer) -> OpenEngine:
    def opener(name: str, model: ModelRef, settings: Settings) -> Engine:
        return Scripted(answer)

    return opener


def finished(folder: Path, answer: Answer, task: str = "sums", **plan: object) -> Run:
    """A run of a task file, answered by a script."""
    make_model(folder / "model")
    write_task(folder, 60)
    (folder / "echo.py").write_text(ECHO)
    wanted = Plan(**{"model": str(folder / "model"), "tasks": (str(folder / f"{task}.py"),), "engine": "scripted", **plan})  # type: ignore[arg-type]
    return read_run(evaluate(wanted, place(folder), opener=engine(answer)))


def checks(checked: list[Checked]) -> dict[str, Finding]:
    return {finding.check: finding for each in checked for finding in each.findings}


def test_a_model_that_knows_nothing(tmp_path: Path) -> None:
    found = checks(check_run(finished(tmp_path, uniform()), place(tmp_path).access()))
    assert found["ties"].level == "W" and found["ties"].places[0].row == 0 and len(found["ties"].places) > 20


def test_a_model_without_skill_has_no_signal(tmp_path: Path) -> None:
    found = checks(check_run(finished(tmp_path, hashed(3)), place(tmp_path).access()))
    assert found["below-baseline"].level == "W"
    assert "nonfinite" not in found


def test_empty_answers(tmp_path: Path) -> None:
    found = checks(check_run(finished(tmp_path, constant(text=""), "echo"), place(tmp_path).access()))
    assert found["degenerate"].level == "E" and len(found["degenerate"].places) == 40


def test_an_unfinished_run_is_to_be_resumed(tmp_path: Path) -> None:
    run = finished(tmp_path, hashed(1))
    (run.path / "DONE").unlink()
    with pytest.raises(Incomplete, match="assay resume"):
        check_run(read_run(run.path), place(tmp_path).access())


def test_comparability_with_a_baseline(tmp_path: Path) -> None:
    run, same = finished(tmp_path, hashed(1)), finished(tmp_path, hashed(2))
    access = place(tmp_path).access()
    assert "comparability" not in checks(check_run(run, access, same))
    other = finished(tmp_path, hashed(2), limit=30)
    assert checks(check_run(run, access, other))["comparability"].level == "E"


def test_scoring_a_sample_again(tmp_path: Path) -> None:
    run = finished(tmp_path, hashed(1))
    (same,) = rescore_sample(run, 30, place(tmp_path), NoProgress(), engine(hashed(1)))
    assert same.level == "I" and same.places == () and same.what.startswith("0 of 30 predictions changed")
    (other,) = rescore_sample(run, 30, place(tmp_path), NoProgress(), engine(hashed(2)))
    assert other.level == "W" and len(other.places) > 3
    (again,) = rescore_sample(run, 30, place(tmp_path), NoProgress(), engine(hashed(2)))
    assert [place.item for place in again.places] == [place.item for place in other.places]
    make_model(tmp_path / "model", seed=5)
    with pytest.raises(AssayError, match="changed since this run"):
        rescore_sample(run, 30, place(tmp_path), NoProgress(), engine(hashed(1)))


def test_a_sample_is_scored_again_with_the_settings_of_the_run(tmp_path: Path) -> None:
    seen: list[Settings] = []

    def opener(name: str, model: ModelRef, settings: Settings) -> Engine:
        seen.append(settings)
        return Scripted(hashed(1))

    run = finished(tmp_path, hashed(1), engine="hf", device="cpu", engine_args=("attn_implementation=eager",), data_parallel=2)
    rescore_sample(run, 5, place(tmp_path), NoProgress(), opener)
    assert seen == [Settings(device="cpu", batch=3, arguments=("attn_implementation=eager",))]


def answered(task: Task, pairs: list[tuple[Item, Record]]) -> TaskRecords:
    items, records = zip(*pairs, strict=True)
    return TaskRecords(task, {}, items, records, ())


def text(number: int, response: str, gold: str = "blue", **fields: object) -> tuple[Item, Record]:
    item = Item("echo", str(number), str(number), str(number), f"Question {number}: what colour is it today?\nA:", gold=gold)
    record = Record("echo", str(number), "scored", {"text": response, "finish": "stop"}, {}, float(response.strip() == gold))
    return item, replace(record, **fields)  # type: ignore[arg-type]


def fired(pairs: list[tuple[Item, Record]]) -> dict[str, str]:
    return {finding.check: finding.level for finding in response_findings(answered(echo(), pairs))}


@pytest.mark.parametrize("response", ["", "  \n", "no no no no no", "((((((((", "Question 7: what colour is it today?"])
def test_degenerate_answers(response: str) -> None:
    repeats = response.strip()[:3] in ("no ", "(((")  # a weak model does this; an empty text or an echo is a broken pipeline
    assert fired([text(7, response) for _ in range(100)]) == {"degenerate": "W" if repeats else "E"}


@pytest.mark.parametrize(("response", "gold"), [("((((((((", "(((((((("), ("red", "blue"), ("1000000", "3"), ("no no", "yes")])
def test_answers_that_are_not_degenerate(response: str, gold: str) -> None:
    assert "degenerate" not in fired([text(n, response, gold) for n in range(100)])


def test_right_answers_that_are_scored_as_wrong() -> None:
    golds = ["amber", "blue", "coral", "denim", "ebony"]
    strict = [text(n, f"The answer is {golds[n % 5]}.", golds[n % 5]) for n in range(100)]
    assert fired(strict) == {"unparsed": "E"}
    listing = [text(n, "It could be amber, blue, coral, denim or ebony", golds[n % 5]) for n in range(100)]
    assert fired(listing) == {}


def test_a_nan_and_an_error_are_errors() -> None:
    good = [text(n, "blue") for n in range(99)]
    assert fired([*good, text(99, "", status="error", error="died")]) == {"nonfinite": "E"}
    assert fired([*good, text(99, "blue", output={"text": "blue", "logprob": float("nan")})]) == {"nonfinite": "E"}


def test_a_failed_reply_is_found_in_a_stored_run(tmp_path: Path) -> None:
    with pytest.raises(Incomplete):
        finished(tmp_path, faulty(hashed(1), Fault("fail", at=5)))


def choice(number: int, gold: int, pick: int, scores: tuple[float, ...]) -> tuple[Item, Record]:
    item = Item("sums", str(number), "", "", "Q", ("a", "b", "c"), "abc"[gold], {"gold": gold})
    return item, Record("sums", str(number), "scored", {"pick": pick, "logprobs": [[score] for score in scores]}, {}, float(pick == gold))


def test_what_only_a_better_model_could_mend_is_no_error(tmp_path: Path) -> None:
    """A weak base model names one letter, repeats itself and ignores the format: every number is right."""
    letters = [choice(n, n % 3, 0, (-1.0, -2.0, -3.0)) for n in range(90)]
    found = response_findings(answered(sums(), letters))
    assert {finding.level for finding in found} == {"W"} and "position-bias" in {finding.check for finding in found}
    protocol = replace(echo(), protocol="lm-eval")
    strict = [text(n, f"blue{n}", output={"text": f"It is blue{n}."}) for n in range(60)]
    echoes = [text(n, f"Question {n}: what colour is it today?") for n in range(60)]
    for answers in (
        echoes,
        [text(n, "no no no no no") for n in range(60)],
        [text(n, f"? {n}", status="unparsed") for n in range(60)],
        strict,
    ):
        assert {finding.level for finding in response_findings(answered(protocol, answers))} <= {"W", "I"}
    silent = response_findings(answered(protocol, [text(n, "") for n in range(60)]))
    assert [finding.level for finding in silent if finding.check == "degenerate"] == ["E"]


def test_position_bias_is_told_from_a_gold_that_is_uneven() -> None:
    def levels(pairs: list[tuple[Item, Record]]) -> dict[str, str]:
        return {finding.check: finding.level for finding in response_findings(answered(sums(), pairs))}

    even = [choice(n, n % 3, 0, (-1.0, -2.0, -3.0)) for n in range(90)]
    assert levels(even)["position-bias"] == "W"
    uneven = [choice(n, int(n % 20 == 0), int(n % 20 == 1), (-1.0, -2.0, -3.0)) for n in range(100)]
    assert "position-bias" not in levels(uneven)
    one_position = [choice(n, 0, n % 3, (-1.0, -2.0, -3.0)) for n in range(90)]
    assert "position-bias" not in levels(one_position)


def test_ties_are_those_of_the_tasks_own_scores() -> None:
    long = replace(sums(), ask=Choose(normalize="chars"))
    item, record = choice(0, 0, 0, (-2.0, -4.0, -9.0))
    pairs = [(replace(item, id=str(n), choices=("a", "bb", "c")), record) for n in range(50)]
    assert "ties" in {finding.check for finding in response_findings(answered(long, pairs))}
    assert "ties" not in {finding.check for finding in response_findings(answered(sums(), pairs))}
