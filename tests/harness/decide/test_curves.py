"""Shots and protocols as measurements: points, what a prompt costs, paired differences. Run: pytest tests/harness/test_curves.py"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from fakes import make_model, place, sums, write_task

from assay import Plan, Run, read_run
from assay.harness.cli.running import print_runs
from assay.harness.decide.curves import contrasts, points, prompt_length
from assay.harness.engines import Engine, Settings
from assay.harness.engines.scripted import Scripted, hashed
from assay.harness.files.places import Access, Surroundings
from assay.harness.model.find import ModelRef
from assay.harness.prompt.shots import choose_examples
from assay.harness.run.sweep import plans_of, sweep


def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
    return Scripted(hashed(5))


TWO = """
from assay import Choose, Doc, Task, accuracy, inline
rows = inline(test=[{"a": n, "b": n % 5} for n in range(30)], train=[{"a": n + 50, "b": 1} for n in range(9)])
def short(row):
    return Doc(f"{row['a']} + {row['b']} =", choices=("1", str(row["a"] + row["b"])), gold=1)
def long(row):
    return Doc(f"Add {row['a']} and {row['b']}:", choices=("1", str(row["a"] + row["b"])), gold=1)
ONE = (Task("add", rows, short, Choose(), (accuracy,), protocol="short"),)
OTHER = (Task("add", rows, long, Choose(), (accuracy,), protocol="long"),)
"""


def runs_of(folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], shots: list[int | None]) -> list[Run]:
    (folder / "adding_tasks.py").write_text(TWO)
    monkeypatch.syspath_prepend(str(folder))
    model = str(make_model(folder / "model"))
    plans = [plan for name in names for plan in plans_of(Plan(model="", tasks=(name,), engine="scripted"), [model], shots, ())]
    return [read_run(bundle) for bundle in sweep(plans, place(folder), opener=opener)]


def test_each_shot_count_is_a_point_with_the_tokens_of_its_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(tmp_path, monkeypatch, ("adding_tasks:ONE",), [0, 2, 4])
    found = points(runs)
    assert [(point.task, point.shots, point.n, point.run) for point in found] == [
        ("add@short", shots, 30, run.id) for shots, run in zip((0, 2, 4), runs, strict=True)
    ]
    tokens = [point.tokens for point in found]
    prompts = [sum(len(item.prompt.encode()) for item in run.items()) / 30 for run in runs]
    assert tokens == pytest.approx(prompts)  # one token a byte
    assert tokens[0] is not None and tokens[1] is not None and tokens[2] is not None and tokens[0] < tokens[1] < tokens[2]


def test_protocols_are_paired_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = runs_of(tmp_path, monkeypatch, ("adding_tasks:ONE", "adding_tasks:OTHER"), [0])
    (found,) = contrasts(runs, Access())
    first, second = (run.summary()["results"][0]["value"] for run in runs)
    assert (found.first, found.second, found.shots) == ("add@short", "add@long", 0)
    assert found.difference.delta == pytest.approx(second - first)
    golds = [[record.correct for record in run.records()] for run in runs]
    assert found.difference.wins == sum(a < b for a, b in zip(*golds, strict=True))  # type: ignore[operator]


def test_the_command_prints_one_small_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = runs_of(tmp_path, monkeypatch, ("adding_tasks:ONE", "adding_tasks:OTHER"), [0])
    print_runs(runs, place(tmp_path), as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("add@short accuracy") == 1 and "tokens per prompt" in shown and "add@long − add@short" in shown
    print_runs(runs, place(tmp_path), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert len(printed["runs"]) == len(printed["points"]) == 2 and printed["contrasts"][0]["second"] == "add@long"


def test_runs_of_different_models_are_no_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(make_model(tmp_path / f"step-{seed}", seed=seed)) for seed in (1, 2)]
    here: Surroundings = place(tmp_path)
    plans = plans_of(Plan(model="", tasks=(str(write_task(tmp_path, 8)),), engine="scripted"), models, [None], ())
    print_runs([read_run(bundle) for bundle in sweep(plans, here, opener=opener)], here, as_json=True)
    assert set(json.loads(capsys.readouterr().out)) == {"runs"}


def test_more_few_shot_examples_start_with_the_fewer() -> None:
    task = sums()
    pool = [task.doc({"a": 100 + n, "b": 1}) for n in range(400)]
    chosen = [[doc.prompt for doc in choose_examples(task, count, pool, [], 0)(0)] for count in (1, 2, 4, 8)]
    assert all(more[: len(fewer)] == fewer for fewer, more in pairwise(chosen))


def test_lengths_that_are_not_known_are_none() -> None:
    assert prompt_length({"logprobs": [[-1.0, -1.0], [-1.0]]}, 23) == 10
    assert prompt_length({"logprobs": [[-1.0]], "priors": [-1.0]}, 9) is None
    assert prompt_length({"text": "a", "tokens": 3}, 13) == 10 and prompt_length({"text": "a", "tokens": 3, "samples": []}, 13) is None
    assert prompt_length({"logprob": -1.0}, 5) is None
