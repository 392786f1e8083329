"""`assay check` of several subjects, its notes, and its numbers with their nouns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from assay.harness.checking.report import number_of
from assay.harness.cli import main

GOOD = "prompt,choices,answer\nThe sky is,blue|red,A\nSnow is,black|white,B\n"
BAD = '{"prompt": "Q: 1+1\\nA:", "reference": 2.0}\n{"prompt": "Q: 2+2\\nA:", "reference": "4"}\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.csv").write_text(GOOD)
    (tmp_path / "bad.jsonl").write_text(BAD)
    return tmp_path


def check(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["assay", "check", *arguments])
    with pytest.raises(SystemExit) as found:
        main()
    return int(found.value.code or 0)


def test_several_subjects_are_checked_in_one_go(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(monkeypatch, "good.csv", "bad.jsonl", "good.csv") == 14
    said = capsys.readouterr()
    assert "good: 2 items" in said.out and "  answer: read as letters of choices\n" in said.out
    assert "2 tasks: 1 error, 0 warnings, 0 notes." in said.out
    assert "bad.jsonl: 1 error and 0 warnings. fix the findings listed above" in " ".join(said.err.split())


def test_json_is_one_object_for_one_and_a_list_for_several(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(monkeypatch, "good.csv", "--json") == 0
    one = json.loads(capsys.readouterr().out)
    assert one["subject"] == "good.csv" and one["tasks"][0]["facts"]["notes"] == ["answer: read as letters of choices"]
    assert check(monkeypatch, "good.csv", "bad.jsonl", "--json") == 14
    several = json.loads(capsys.readouterr().out)
    assert several["subjects"][0] == one and several["subjects"][1]["counts"]["E"] == 1


def test_an_unknown_subject_ends_it_before_any_check(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(monkeypatch, "bad.jsonl", "nothing.csv") == 2
    assert not capsys.readouterr().out
    assert check(monkeypatch, "good.csv", "bad.jsonl", "--rerun", "3") == 2


def test_numbers_with_their_nouns() -> None:
    assert [number_of(count, "error") for count in (0, 1, 2)] == ["0 errors", "1 error", "2 errors"]
