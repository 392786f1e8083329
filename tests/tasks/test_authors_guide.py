"""The task author's guide: its files are written and its commands are run. Run: pytest tests/tasks/test_authors_guide.py"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from fakes import make_model

import assay
from assay import Task
from assay.harness.cli import main
from assay.harness.task.scaffold import draft

ROOT = Path(__file__).parent.parent.parent
GUIDE = (ROOT / "tasks" / "AUTHORS.md").read_text()
BLOCK = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
BLOCKS = [match.groups() for match in BLOCK.finditer(GUIDE)]


def files() -> dict[str, str]:
    return {name: text for language, name, text in BLOCKS if language != "console"}


def commands() -> list[tuple[str, int, list[str]]]:
    """Each command with its exit code and expected output lines."""
    found: list[tuple[str, int, list[str]]] = []
    for language, note, text in BLOCKS:
        for line in text.splitlines() if language == "console" else ():
            if line.startswith("$ "):
                found.append((line[2:], int(note.removeprefix("exit=") or 0), []))
            else:
                found[-1][2].append(line)
    return found


@pytest.fixture(scope="module")
def guide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of the guide and a tiny model."""
    folder = tmp_path_factory.mktemp("guide_folder")
    for name, text in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    make_model(folder / "ckpt")
    return folder


@pytest.mark.parametrize(("command", "code", "lines"), commands(), ids=[command for command, _, _ in commands()])
def test_a_command_of_the_guide(
    guide_folder: Path, command: str, code: int, lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = shlex.split(command)
    assert program == "assay"
    if arguments[0] == "run":
        arguments += ["--engine", "scripted"]
    monkeypatch.chdir(guide_folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("ASSAY_CACHE", str(guide_folder / "cache"))
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    monkeypatch.delenv("ASSAY_RESULTS", raising=False)
    monkeypatch.setattr(sys, "argv", ["assay", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    printed = captured.out + captured.err
    assert end.value.code == code, printed[-2000:]
    for line in lines:
        assert line in printed


def test_the_guide_has_commands_and_files() -> None:
    assert len(commands()) >= 5 and len(files()) >= 7
    assert GUIDE.count("\n") < 225, "the guide is short, with every field of a task"
    assert all(f"`{name}`" in GUIDE for name in Task.__dataclass_fields__)


def test_a_new_task_is_the_file_of_the_guide() -> None:
    made = draft("capitals", "generate", Path()).files
    assert made[Path("capitals.py")] == files()["capitals.py"]
    assert files()["capitals.py"].count("\n") <= 15


def test_the_package_of_the_guide_is_the_example() -> None:
    whole = (ROOT / "tests" / "plugin_package" / "pyproject.toml").read_text()
    for part in files()["pyproject.toml"].split("\n\n"):
        assert part.strip() in whole


def test_every_name_in_the_table_is_there() -> None:
    from assay.harness.metrics import choice, likelihood, regression, text

    modules = {"choice": choice, "text": text, "regression": regression, "likelihood": likelihood}
    rows = [line for line in GUIDE.splitlines() if re.match(r"\| `\w+\(", line)]  # request types, not fields
    assert len(rows) == 5
    for row in rows:
        ask, _, metrics = row.strip("|").split(" | ")
        assert hasattr(assay, ask.strip(" `").split("(")[0])
        if metrics.startswith("a metric of your own"):
            continue
        module = modules[re.search(r"assay\.harness\.metrics\.(\w+)", metrics).group(1)]  # type: ignore[union-attr]
        for name in re.findall(r"`(\w+)`", metrics.split(":", 1)[1]):
            assert hasattr(module, name), name
