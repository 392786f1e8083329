"""Steps and results reach an experiment tracker: one run per trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from assay import AssayError, ModelRef
from assay.tuners.commands import trackers
from assay.tuners.commands.output import result_line
from assay.tuners.commands.trackers import TrackedTrials, check_tracker
from assay.tuners.study.study import run_study
from tests.tuners.test_study import ACCESS, Counter, small


class Recorded:
    """A tracker with accelerate's interface."""

    requires_logging_directory = True
    runs: list[Recorded]

    def __init__(self, run_name: str, logging_dir: str) -> None:
        self.name, self.folder, self.logged, self.open = run_name, logging_dir, list[tuple[int | None, dict[str, Any]]](), True
        Recorded.runs.append(self)

    def start(self) -> None: ...

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        assert all(isinstance(value, str | int | float | bool) for value in values.values())
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None) -> None:
        assert self.open
        self.logged.append((step, values))

    def finish(self) -> None:
        self.open = False


def test_every_trial_is_a_run_with_its_steps_and_its_result(base: ModelRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import tracking

    Recorded.runs, events = [], list[Any]()
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Recorded)
    monkeypatch.setattr(trackers, "find_spec", lambda name: name)
    study = small(methods=("lora",), rates=(1.0,), seeds=(0, 1), mitigations=(), controls=False)
    report = TrackedTrials("tensorboard", study.name, tmp_path / "logs", events.append)
    rows = [row for row in run_study(study, base, ACCESS, Counter(), tmp_path / "study", report) if row["lr"]]
    assert [run.name for run in Recorded.runs] == [row["trial"] for row in rows] and not any(run.open for run in Recorded.runs)
    for run, row in zip(Recorded.runs, rows, strict=True):
        steps = [values for _, values in run.logged[:-1]]
        assert len(steps) == row["steps"] and all({"loss", "learning_rate", "tokens_per_second"} == set(values) for values in steps)
        assert run.logged[-1][0] == row["steps"] and run.logged[-1][1]["gain"] == row["gain"]
        assert run.settings["seed"] == row["seed"] and run.folder == str(tmp_path / "logs")
    ends = [event for event in events if event.row is not None]
    assert len(ends) == 2 and result_line(ends[0].row).startswith("done: gain +30.0 points, average drop +20.0 points")


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssayError, match=r"no tracker .tb.. use tensorboard"):
        check_tracker("tb")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(AssayError, match="pip install trackio"):
        check_tracker("trackio")
