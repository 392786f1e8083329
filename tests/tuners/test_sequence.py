"""Sequential training: the published measures from a matrix of scores, distinct orders, replay of earlier tasks, stored rows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay import Access, AssayError, ModelRef
from assay.tuners import toy
from assay.tuners.study.prepare import prepare_study
from assay.tuners.study.presets import SEQUENCES, find_preset
from assay.tuners.study.rows import read_rows
from assay.tuners.study.scoring import Score
from assay.tuners.study.sequence import TaskSequence, as_study, measures, orders, plan_stages, run_sequence, trials
from assay.tuners.study.workers import TrialEvent

ACCESS = Access(None, False, True)
PLAN = TaskSequence(
    name="turns",
    tasks=("assay.tuners.toy:MAX", "assay.tuners.toy:TOPIC", "assay.tuners.toy:SECOND"),
    retain=("assay.tuners.toy:FIRST",),
    methods=("lora", "full"),
    loss_tokens=24,
    orders=2,
    examples=64,
    mitigations=("none", "replay=0.5"),
    options={"lora": {"rank": 2}},
)


class Forgetful:
    """A model that scores 0.9 on the task it was trained on last, 0.5 on the one before, and 0.2 on others."""

    def __init__(self) -> None:
        self.stage, self.calls = 0, 0

    def __call__(self, model: Path, adapter: Path | None, tasks: tuple[str, ...], **rest: Any) -> dict[str, Score]:
        self.calls += 1
        found = {}
        sequential = len(tasks) == 3
        untuned = model.name.startswith("toy") and adapter is None
        for place, name in enumerate(tasks):
            value = 0.9 if not sequential else 0.2 if untuned else {0: 0.9, 1: 0.5}.get(self.stage - place, 0.2)
            task = "toy/" + name.rpartition(":")[2].lower()
            items = {str(n): float(n < 10 * value) for n in range(10)}
            found[task] = Score(task, "accuracy", value, 0.1, items, {n: n for n in items})
        if sequential and not untuned:
            self.stage = (self.stage + 1) % 3
        return found


def test_a_sequence_has_the_published_measures_and_its_rows_are_stored(base: ModelRef, tmp_path: Path) -> None:
    plan = replace(PLAN, methods=("lora",), orders=1)
    scorer = Forgetful()
    rows = run_sequence(plan, base, ACCESS, scorer, tmp_path)
    assert [row["mitigation"] for row in rows] == ["none", "replay=0.5"] and {row["status"] for row in rows} == {"done"}
    for row in rows:
        assert row["matrix"] == [[0.9, 0.2, 0.2], [0.5, 0.9, 0.2], [0.2, 0.5, 0.9]] and row["loss_tokens"] == 3 * 24
        assert row["backward_transfer"] == pytest.approx((0.2 - 0.9 + 0.5 - 0.9) / 2)
        assert row["forgetting_measure"] == pytest.approx((0.9 - 0.2 + 0.9 - 0.5) / 2)
        assert row["forward_transfer"] == 0 and row["learning_accuracy"] == pytest.approx(0.9)
        assert row["average_accuracy"] == pytest.approx(1.6 / 3) and row["average_drop"] == 0
    calls = scorer.calls
    assert run_sequence(plan, base, ACCESS, scorer, tmp_path) == rows and scorer.calls == calls
    there = tmp_path / "there"
    there.mkdir()
    for name in ("study.json", "base.json", "trials.parquet"):
        (there / name).write_bytes((tmp_path / name).read_bytes())
    again = run_sequence(plan, base, ACCESS, scorer, there)
    assert scorer.calls == calls and [row["matrix"] for row in again] == [row["matrix"] for row in rows]
    assert json.loads((tmp_path / "study.json").read_text())["tasks"] == list(PLAN.tasks)
    assert read_rows(there / "trials.parquet") == read_rows(tmp_path / "trials.parquet")
    with pytest.raises(AssayError, match="another study: loss_tokens differ"):
        run_sequence(replace(plan, loss_tokens=48), base, ACCESS, scorer, tmp_path)


def test_later_tasks_replay_the_earlier_ones_and_the_first_replays_nothing(base: ModelRef, tmp_path: Path) -> None:
    setup = prepare_study(as_study(PLAN), base, ACCESS, Forgetful(), tmp_path)
    trial = next(trial for trial in trials(PLAN) if trial.mitigation == "replay=0.5")
    stages = plan_stages(setup, trial, list(PLAN.tasks), 0.5)
    words = [{toy.VOCABULARY[example.ids[1]] for step in steps for example in step.replay} for steps, _ in stages]
    assert words == [set(), {"max"}, {"max", "topic"}]
    assert [sum(len(step.replay) for step in steps) for steps, _ in stages] == [0, 12, 12]
    assert [sum(example.loss_tokens for step in steps for example in step.target) for steps, _ in stages] == [24, 24, 24]


def test_orders_differ_and_every_method_gets_all() -> None:
    assert orders(PLAN)[0] == PLAN.tasks and len(set(orders(PLAN))) == 2
    assert len(orders(replace(PLAN, orders=99))) == 6, "there are no more"
    assert len(list(trials(PLAN))) == 2 * 2 * 2
    for plan in SEQUENCES.values():
        assert find_preset(plan.name) is plan and len(orders(plan)) == 3
    with pytest.raises(AssayError, match="at least two tasks"):
        replace(PLAN, tasks=PLAN.tasks[:1])


def test_a_method_that_cannot_train_in_sequence_is_a_refused_row(base: ModelRef, tmp_path: Path) -> None:
    (row,) = run_sequence(replace(PLAN, methods=("adalora",), orders=1, mitigations=("none",)), base, ACCESS, Forgetful(), tmp_path)
    assert row["status"] == "refused" and "allocates its ranks over a single run" in row["reason"]


def test_an_unsupported_mitigation_is_a_refused_row_and_ewc_skips_the_first_task(base: ModelRef, tmp_path: Path) -> None:
    plan = replace(PLAN, retain=(), methods=("lora", "prompt_tuning"), orders=1, mitigations=("ewc=1", "wise_ft=0.5"))
    rows = run_sequence(plan, base, ACCESS, Forgetful(), tmp_path)
    status = {(row["method"], row["mitigation"]): (row["status"], row.get("reason", "")) for row in rows}
    assert status["lora", "ewc=1"] == status["lora", "wise_ft=0.5"] == status["prompt_tuning", "ewc=1"] == ("done", "")
    assert status["prompt_tuning", "wise_ft=0.5"][0] == "refused" and "interpolated" in status["prompt_tuning", "wise_ft=0.5"][1]
    assert {row["overlap_dropped"] for row in rows if row["status"] == "done"} == {0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mitigations": ("multi_task=1",)}, "one after another"),
        ({"retain": PLAN.tasks[:1]}, "is both a target and a retention task"),
        ({"tasks": PLAN.tasks[:1] * 2}, "listed 2 times"),
        ({"rate": 0.0}, "rate cannot be 0"),
        ({"seeds": ()}, "no seed"),
    ],
)
def test_contradictory_or_empty_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError, match=says):
        replace(PLAN, **changes)


def test_workers_side_by_side_share_a_sequence(base: ModelRef, tmp_path: Path) -> None:
    """While one worker runs its first trial, another runs all others; the first then uses their rows."""
    plan = replace(PLAN, methods=("lora",), orders=1, seeds=(0, 1))
    begun: list[tuple[str, int]] = []

    class Waiting(Exception):
        pass

    def second(now: TrialEvent) -> None:
        if now.progress is None:
            begun.append(("second", now.number))
            if now.number == 4:
                raise Waiting

    def first(now: TrialEvent) -> None:
        if now.progress is None:
            begun.append(("first", now.number))
            if now.number == 1:
                with pytest.raises(Waiting):
                    run_sequence(plan, base, ACCESS, Forgetful(), tmp_path, second)

    rows = run_sequence(plan, base, ACCESS, Forgetful(), tmp_path, first)
    assert begun == [("first", 1), ("second", 2), ("second", 3), ("second", 4), ("first", 4)]
    assert [row["status"] for row in rows] == ["done"] * 4 and len(read_rows(tmp_path / "trials.parquet")) == 4


def test_nothing_forgotten_is_zero() -> None:
    found = measures([[0.5, 0.2], [0.5, 0.7]], [0.1, 0.2])
    assert found["backward_transfer"] == found["forgetting_measure"] == found["forward_transfer"] == 0
