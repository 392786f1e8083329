"""Progress lines: the running score of a task, and a time left that the first items of a batch do not distort."""

from __future__ import annotations

import pytest

from assay.harness.cli import console


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(console, "clock", lambda: now[0])
    return now


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.strip().splitlines()


def test_a_time_left_counts_whole_batches(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Batches of 32 items take 20 s each; 8 of 10 batches are left after two, 7 when the third arrives."""
    lines = console.Lines()
    lines.begin("glue/rte@lm-eval", 320, 0)
    for _ in range(3):
        clock[0] += 20
        for _ in range(32):
            lines.advance(1, 100, "glue/rte@lm-eval", 1.0)
    first, second, third = lines_of(capsys)[1:]
    assert "1/320" in first and "left" not in first  # one item of a batch says nothing of its speed
    assert "33/320" in second and "1.6 items/s, 3 min left" in second
    assert "65/320" in third and "1.6 items/s, 3 min left" in third


def test_the_score_is_that_of_the_task_scored_last(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    lines = console.Lines()
    lines.begin("a@own and b@own", 100, 0)
    for number in range(20):
        lines.advance(1, 1, "a@own", float(number % 2))
    for _ in range(4):
        lines.advance(1, 1, "b@own", 0.0)
    clock[0] += 20
    lines.advance(1, 1, "b@own", 1.0)
    clock[0] += 20
    lines.advance(1, 1, "a@own", None)  # an item without a score
    one, two = lines_of(capsys)[1:]
    assert "b 0.200 (0.036 – 0.624), " in one
    assert "a 0.500 (0.299 – 0.701), " in two
