"""BIG-bench tasks compared with the reference scorer's recorded results, and each of its rules."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import bigbench_oracle as oracle
import numpy as np
import pytest

from assay import Access, AssayError, ChoiceScores, Completion, Doc, Generate, Task
from assay.harness.metrics.bigbench import Extract, argmax, choice_metrics, generative_metrics, normalized
from assay.harness.prompt.item_shots import draws, item_examples
from assay.harness.prompt.render import render
from assay.tasks import bigbench

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "bigbench.json").read_text())
MADE = oracle.made_tasks()


def find(name: str, access: Access) -> tuple[Task, ...]:
    found = bigbench.find_family(name, access)
    return found.tasks if found is not None else ()


def output(task: Task, doc: Doc, prompt: str, continuations: tuple[str, ...]) -> Any:
    if isinstance(task.ask, Generate):
        return Completion(oracle.text(prompt, doc.references[0]))
    values = tuple(oracle.logprob(prompt, text) for text in continuations)
    return ChoiceScores(values, (1,) * len(values), values.index(max(values)))


def run(task: Task, shots: int, data: Path | None = None) -> tuple[list[str], dict[str, float]]:
    """Prompts and scores of a task with the fake model."""
    docs = [task.doc(row) for row in task.rows.load("test", Access(data)).rows]
    examples = item_examples(docs, shots) if shots else lambda index: ()
    prompts, stats = [], {metric.name: [] for metric in task.metrics}  # type: ignore[var-annotated]
    for index, doc in enumerate(docs):
        rendered = render(task, doc, examples(index))
        prompts.append(rendered.prompt)
        prediction = output(task, doc, rendered.prompt, rendered.continuations)
        for metric in task.metrics:
            stats[metric.name].append(metric.measure(doc, prediction))
    groups = np.arange(len(docs))
    return prompts, {metric.name: metric.combine(np.array(stats[metric.name]), groups) for metric in task.metrics}


TIED = {("bbq_lite_json/religion_ambig", "0"): -1, ("logic_grid_puzzle", "0"): 1}
"""Number of additional correct answers, from one tied item each. The reference breaks ties by the last bits of numpy's exp, which depend on
the processor; ours do not."""


def recorded(name: str, shots: str) -> dict[str, float]:
    expected = RECORDED[name][shots]
    share = TIED.get((name, shots), 0) / expected["n"]
    wanted = dict(expected["scores"])
    if share:
        wanted["multiple_choice_grade"] += share
        wanted["normalized_aggregate_score"] += 100 * share / (1 - expected["low"])
    return wanted


def check(tasks: tuple[Task, ...], name: str) -> None:
    """Every value of the reference, for every recorded number of shots."""
    for shots, expected in RECORDED[name].items():
        found: dict[str, float] = {}
        for task in tasks:
            prompts, scores = run(task, int(shots))
            if int(shots):
                prompts = [prompts[index] for index, _ in draws([1] * len(prompts), 1)]
            assert hashlib.sha256("\x00".join(prompts).encode()).hexdigest()[:16] == expected["prompts"], (name, shots, prompts[1])
            assert len(prompts) == expected["n"]
            found |= scores
        wanted = recorded(name, shots)
        assert found.pop("normalized") == pytest.approx(wanted.pop("normalized_aggregate_score"), rel=1e-11, abs=1e-10), (name, shots)
        assert found == pytest.approx(wanted, rel=1e-11, abs=1e-11), (name, shots)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bigbench")
    for name, content in MADE.items():
        (folder / name).mkdir()
        (folder / name / "task.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", sorted(MADE))
def test_made_tasks_score_as_the_reference(made: Path, name: str) -> None:
    check(bigbench.from_path(made / name), name)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(set(RECORDED) - set(MADE)))
def test_public_tasks_score_as_the_reference(name: str) -> None:
    folder = Path(os.environ["ASSAY_DATA"]) / bigbench.FOLDER / name
    tasks = bigbench.from_path(folder / "task.json")
    check(tuple(task for task in tasks if name != "strategyqa" or not isinstance(task.ask, Generate)), name)


def test_there_are_enough_recorded_tasks() -> None:
    assert len(MADE) >= 20
    assert len(set(RECORDED) - set(MADE)) >= 20
    assert set(MADE) <= set(RECORDED)


def test_some_recorded_choices_tie() -> None:
    """Ties are needed to test the hash that breaks them."""
    values = [oracle.logprob(str(index), choice) for index in range(200) for choice in "abcd"]
    ties = sum(sorted(values[index : index + 4])[-2:].count(max(values[index : index + 4])) > 1 for index in range(0, 800, 4))
    assert ties > 5
    assert argmax((-1.0, -0.5, -2.0)) == 1
    assert {argmax((-1.0, -1.0, -value)) for value in range(2, 12)} == {0, 1}


def test_every_example_starts_a_new_permutation(made: Path) -> None:
    task = bigbench.from_path(made / "made_06")[0]
    rows = task.rows.load("test", Access()).rows
    orders = set()
    for row in rows[:5]:
        listed = [line.removeprefix("  choice: ") for line in task.doc(row).prompt.splitlines() if line.startswith("  choice")]
        orders.add(tuple(sorted(row["target_scores"]).index(choice) for choice in listed))
    assert len(orders) == 1, "equal counts of choices get the same permutation"
    assert orders != {(0, 1, 2, 3)}


def test_the_string_false_appends_choices(made: Path) -> None:
    """logic_grid_puzzle has the string "false" in append_choices_to_input, which is true in Python, so the reference appends."""
    shown, hidden = bigbench.from_path(made / "made_08")[0], bigbench.from_path(made / "made_07")[0]
    assert "choice:" in shown.doc(shown.rows.load("test", Access()).rows[0]).prompt
    assert "choice:" not in hidden.doc(hidden.rows.load("test", Access()).rows[0]).prompt


def test_soft_scores_are_used_unchanged() -> None:
    metric = choice_metrics(("multiple_choice_grade",))["multiple_choice_grade"]
    doc = Doc("q", choices=("a", "b"), targets=(0.3, 0.7))
    assert metric.measure(doc, ChoiceScores((-1.0, -2.0), (1, 1), 0)) == (0.3,)


def test_extraction() -> None:
    operators = Extract("\n", r"([-+]?\d+)[.]{0,1}$")
    assert operators("12") == "12"
    assert operators("so 12.\n13") == "12"
    assert operators("12 or so") == ""
    assert operators("\n12\nx 7") == "7", "a stop string at the very start does not cut"
    assert Extract("", r"[^\.\?\!\;\n]+")("\nParis. Or Rome") == "Paris"
    with pytest.raises(AssayError, match="several groups"):
        Extract("", r"(\d)(\d)")("12")
    metric = generative_metrics(("exact_str_match",), operators)["exact_str_match"]
    assert metric.parses is not None
    assert not metric.parses(Doc("q", references=("12",)), Completion("twelve"))


def test_normalised_score_may_be_negative() -> None:
    grade = choice_metrics(("multiple_choice_grade",))["multiple_choice_grade"]
    metric = normalized(grade, 0.25, 1.0)
    assert metric.combine(np.array([[0.0], [0.0]]), np.arange(2)) == pytest.approx(-100 / 3)
    assert metric.combine(np.array([[1.0], [1.0]]), np.arange(2)) == pytest.approx(100.0)
    assert metric.low == pytest.approx(-100 / 3)
    with pytest.raises(AssayError, match="not above"):
        normalized(grade, 1.0, 1.0)


def test_few_shot_examples_are_other_items_with_one_of_their_answers() -> None:
    answers = [1, 2, 3, 1, 2, 1, 4]
    whole = dict(draws(answers, 3))
    assert sorted(whole) == list(range(7))
    assert all(index not in {other for other, _ in drawn} and len(set(drawn)) == 3 for index, drawn in whole.items())
    assert all(0 <= number < answers[other] for drawn in whole.values() for other, number in drawn)
    docs = [Doc(f"q{index}", references=tuple("abcd"[:count])) for index, count in enumerate(answers)]
    backwards = item_examples(docs, 3)
    assert [backwards(index) for index in reversed(range(7))] == [item_examples(docs, 3)(index) for index in reversed(range(7))]
    with pytest.raises(AssayError, match="only 7 items"):
        item_examples(docs, 7)


def test_an_invalid_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AssayError, match="no such file"):
        bigbench.from_path(tmp_path / "task.json")
    with pytest.raises(AssayError, match="not a regular file"):
        bigbench.from_path(Path("/dev/zero"))
    file = tmp_path / "task.json"
    base = MADE["made_00"]
    for change, words in [
        ({"metrics": ["accuracy"]}, "not one of BIG-bench's"),
        ({"preferred_score": "rouge"}, "not one of BIG-bench's"),
        ({"metrics": ["bleurt"], "preferred_score": "bleurt"}, "BLEURT"),
        ({"metrics": ["multiple_choice_grade"], "preferred_score": "multiple_choice_grade"}, "target_scores"),
        ({"examples": []}, "non-empty"),
        ({"examples": [{"input": "x"}]}, "`target` or `target_scores`"),
    ]:
        file.write_text(json.dumps({**base, **change}))
        with pytest.raises(AssayError, match=words):
            bigbench.from_path(file)
    file.write_text("{")
    with pytest.raises(AssayError, match="JSON"):
        bigbench.from_path(tmp_path)


def test_a_folder_with_subtasks(made: Path, tmp_path: Path) -> None:
    home = tmp_path / bigbench.FOLDER / "trees"
    home.mkdir(parents=True)
    (home / "task.json").write_text(json.dumps({"name": "trees", "description": "", "keywords": []}))
    for sub in ("made_06", "made_11"):
        (home / sub).mkdir()
        (home / sub / "task.json").write_text(json.dumps(MADE[sub]))
    family = bigbench.find_family("bigbench/trees", Access(tmp_path))
    assert family is not None
    assert [task.full_name for task in family.tasks] == ["bigbench/trees/made_06@bigbench", "bigbench/trees/made_11@bigbench"]
    (total,) = family.totals
    assert [(term.metric, term.weight) for term in total.terms] == [("normalized", 0.5)] * 2
    assert [task.name for task in find("bigbench/trees/made_06", Access(tmp_path))] == ["bigbench/trees/made_06"]
    assert find("bigbench/trees/nothing", Access(tmp_path)) == ()
    assert find("glue/rte", Access(tmp_path)) == ()
    with pytest.raises(AssayError, match="ASSAY_DATA"):
        find("bigbench/trees", Access())


@pytest.mark.data
def test_lite_is_24_tasks_with_one_total() -> None:
    family = bigbench.find_family("bigbench-lite", Access(Path(os.environ["ASSAY_DATA"])))
    assert family is not None
    tasks = {task.name.split("/")[1] for task in family.tasks}
    assert tasks == set(bigbench.LITE)
    assert len(bigbench.LITE) == 24
    total = next(total for total in family.totals if total.name == "bigbench-lite")
    weights: dict[str, float] = {}
    for term in total.terms:
        name = term.task.split("@")[0].split("/")[1]
        weights[name] = weights.get(name, 0.0) + term.weight
    assert weights == pytest.approx(dict.fromkeys(bigbench.LITE, 1 / 24))
    examples = sum(len(task.rows.load("test", Access()).rows) for task in family.tasks)
    assert 110_000 < examples <= 110_551
    assert "conceptual_combinations/surprising_uncommon_combinations" in {task.name.removeprefix("bigbench/") for task in family.tasks}


@pytest.mark.data
def test_every_public_task_reads_and_its_worked_examples_hold() -> None:
    family = bigbench.find_family("bigbench", Access(Path(os.environ["ASSAY_DATA"])))
    assert family is not None
    assert {task.name.split("/")[1] for task in family.tasks} == {*bigbench.LITE, *bigbench.OTHERS}
    for task in family.tasks:
        doc = task.doc(task.rows.load("test", Access()).rows[0])
        assert doc.labelled
        for example in task.worked:
            assert (task.doc(example.row).prompt, task.doc(example.row).answer) == (example.prompt, example.answer), task.name
    lite = [task for task in family.tasks if task.name.split("/")[1] in bigbench.LITE]
    assert [task.name for task in lite if not task.worked] == []


def test_correct_choices_of_the_smoke_task_are_spread_over_all_positions() -> None:
    """A small model prefers the first choice; with no answer there it scored 0 of 8."""
    (task,) = bigbench.from_path(Path(bigbench.__file__).parent / "smoke" / "bigbench_emoji.json")
    docs = [task.doc(row) for row in task.rows.load("test", Access()).rows]
    places = [[line.removeprefix("  choice: ") for line in doc.prompt.splitlines() if "choice: " in line].index(doc.answer) for doc in docs]
    assert [places.count(place) for place in range(4)] == [2, 2, 2, 2]
