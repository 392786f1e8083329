"""The command line: JSON output, exit codes, one-line errors. Run: pytest tests/harness/cli"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import make_model, write_task

from assay import __version__
from assay.harness.cli import PANELS

ROOT = Path(__file__).parent.parent.parent


def assay(*arguments: str, home: Path, code: int = 0, data: str = "") -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "ASSAY_RESULTS": str(home / "results"),
        "ASSAY_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "1",
        "ASSAY_DATA": data,
    }
    found = subprocess.run([sys.executable, "-m", "assay", *arguments], capture_output=True, text=True, cwd=home, env=env)
    assert found.returncode == code, found.stderr[-2000:]
    assert "Traceback" not in found.stderr
    return found


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    write_task(tmp_path, 12)
    return tmp_path


def test_run_prints_one_json_object_of_the_contract(home: Path) -> None:
    found = json.loads(assay("run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted", "--json", home=home).stdout)
    assert set(found) >= {"run", "model", "engine", "results", "tokens", "seconds"}
    assert found["model"]["name"] == "model" and len(found["model"]["digest"]) == 64
    assert set(found["results"][0]) >= {"task", "metric", "value", "low", "high", "n", "shots", "signature"}
    assert set(found["tokens"]) >= {"logical", "computed", "cached"}
    again = json.loads(assay("resume", found["run"][:12], "--json", home=home).stdout)
    assert again["results"] == found["results"]
    listed = json.loads(assay("store", "ls", "--json", home=home).stdout)
    assert [run["id"] for run in listed["runs"]] == [found["run"]]
    assert json.loads(assay("store", "check", "--json", home=home).stdout) == {"problems": []}
    assert json.loads(assay("store", "index", "--json", home=home).stdout)["trouble"] == {}


def test_run_prints_a_table(home: Path) -> None:
    found = assay("run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted", "--limit", "5", home=home)
    assert re.search(r"sums ◔\s+accuracy\s+[\d.]+\s+(?:[\d.]+ – [\d.]+|too few items)\s+0\.333\s+5\s+0", found.stdout)
    assert "not the standard benchmark" in found.stdout and "sums: 5 items" in found.stderr


def test_show_prints_prompts_as_they_are_sent(home: Path) -> None:
    (item,) = json.loads(assay("show", "sums.py", "-n", "1", "--json", home=home).stdout)["items"]
    assert item["prompt"] == "0 + 0 =" and item["continuations"] == [" -1", " 0", " 2"] and item["gold"] == "0"


def test_a_stored_run_finds_its_task_file_from_any_folder(home: Path) -> None:
    assay("run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted", "--json", home=home)
    (home / "elsewhere").mkdir()
    found = subprocess.run(
        [sys.executable, "-m", "assay", "store", "check", "--results", str(home / "results"), "--json"],
        capture_output=True,
        text=True,
        cwd=home / "elsewhere",
        env={**os.environ, "ASSAY_CACHE": str(home / "cache")},
    )
    assert json.loads(found.stdout) == {"problems": []}


def test_a_data_file_is_a_task(home: Path) -> None:
    (home / "items.csv").write_text('prompt,choices,answer\n"2+2=","3|4",4\n"1+1=","2|3",2\n')
    (home / "words.jsonl").write_text('{"prompt": "Say hi:", "reference": ["hi", "Hi"]}\n')
    found = json.loads(
        assay("run", "--model", "model", "--tasks", "items.csv,words.jsonl", "--engine", "scripted", "--json", home=home).stdout
    )
    assert [(result["task"], result["metric"], result["n"]) for result in found["results"]] == [
        ("items", "accuracy", 2),
        ("words", "exact_match", 1),
    ]


BAD_TASK = """from assay import Choose, Doc, Task, exact_match, inline
TASKS = (Task('t', inline(test=[{}]), lambda row: Doc('q'), Choose(), (exact_match,)),)
"""


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("run --model model --tasks superglue/cop --engine scripted", r"unknown task 'superglue/cop'\. did you mean superglue/copa"),
        ("run --model modle --tasks sums.py", r"modle: .*did you mean .*model"),
        ("run --model empty --tasks sums.py", r"empty: .*config\.json"),
        ("run --model cut --tasks sums.py", r"cut/model\.safetensors: .*(cut|truncated|short|bytes)"),
        ("run --model pickled --tasks sums.py", r"pickled.*pickle"),
        ("run --model remote --tasks sums.py", r"remote.*code"),
        ("run --model wordy --tasks sums.py", r"tokenizer"),
        ("run --model short --tasks sums.py", r"longer than the model's context"),
        ("run --model model --tasks broken.py", r"broken\.py:1: .*never closed"),
        ("run --model model --tasks field.py", r"field\.py:2: TypeError: .*'nam'"),
        (
            "run --model model --tasks metric.py",
            r"metric\.py: t: metric 'exact_match' measures Completion, but Choose returns ChoiceScores",
        ),
        ("run --model model --tasks gold.py", r"sums: row 0 of 'test': gold 9 is out of range for 3 choices"),
        ("run --model model --tasks none.py", r"none\.py: no such task file"),
        ("run --model model --tasks sums.py --shots 2", r"2 few-shot examples need the split 'train'"),
        ("run --model model --tasks sums.py --limit 0", r"--limit 0 leaves nothing to score"),
        ("run --model model --tasks sums.py --engine scriptd", r"unknown engine 'scriptd'\. did you mean scripted\?"),
        ("run --model model --tasks sums.py --engine scripted --results file/results", r"file/results.*cannot be (written|made)"),
        ("run --model model", r"Missing option '--tasks'\. Try `assay run --help`"),
        ("rnu", r"No such command 'rnu'.*`assay --help`"),
        ("resume 2099", r"(2099|no run)"),
        ("show glue/rt", r"did you mean glue/rte"),
        ("run --model model --tasks sums.py --budget nan", r"--budget nan is not an amount of memory"),
        ("run --model model --tasks sums.py --budget inf", r"--budget inf is not an amount of memory"),
        ("gate new --baseline old --junit empty", r"--junit: empty is a folder"),
        ("run --model model --tasks LONG", r"unknown task 'aaa"),
        ("run --model model --tasks LONG.csv", r"no such task file"),
        ("check LONG", r"unknown task 'aaa"),
        ("compare LONG new", r"there is no run or model 'aaa"),
        ("store import LONG", r"no such file or folder"),
    ],
)
def test_a_usage_error_is_one_line(home: Path, arguments: str, line: str) -> None:
    make_faulty_inputs(home)
    found = assay(*arguments.replace("LONG", "a" * 4000).split(), home=home, code=2)
    errors = [text for text in found.stderr.splitlines() if text.startswith("assay: ")]
    assert len(errors) == 1 and re.search(line, errors[0]), found.stderr
    assert found.stdout == ""
    assert not (home / "results").exists(), "a refused command writes nothing"


def make_faulty_inputs(home: Path) -> None:
    """Models and task files with one fault each."""
    (home / "empty").mkdir()
    (home / "file").write_text("not a folder")
    for name in ("cut", "pickled", "remote", "wordy"):
        make_model(home / name)
    weights = home / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-500])
    (home / "pickled" / "model.safetensors").rename(home / "pickled" / "pytorch_model.bin")
    config = json.loads((home / "remote" / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (home / "remote" / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((home / "wordy" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["1"] = 9999
    (home / "wordy" / "tokenizer.json").write_text(json.dumps(tokenizer))
    make_model(home / "short", positions=4)
    (home / "broken.py").write_text("TASKS = (\n")
    (home / "field.py").write_text("from assay import Task\nTASKS = (Task(nam='x'),)\n")
    (home / "metric.py").write_text(BAD_TASK)
    (home / "gold.py").write_text((home / "sums.py").read_text().replace("gold=1", "gold=9"))


def test_an_incomplete_run_prints_the_resume_command(home: Path) -> None:
    found = assay("run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted:hashed,fault=raise,at=7", home=home, code=13)
    (command,) = re.findall(r"assay resume \S+(?: --results \S+)?", found.stderr)
    manifest = next((home / "results" / "runs").glob("*/manifest.json"))
    assert manifest.parent.name in command


def test_the_exit_code_is_the_verdict(home: Path) -> None:
    runs = [
        json.loads(assay("run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted", "--json", home=home).stdout)["run"]
        for _ in range(2)
    ]
    found = assay("gate", runs[0], "--baseline", runs[1], home=home, code=11)  # 12 items cannot decide
    assert "INCONCLUSIVE" in found.stdout
    (home / "sums.py").write_text((home / "sums.py").read_text().replace("+ 2", "+ 3"))
    other = json.loads(assay("run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted", "--json", home=home).stdout)["run"]
    assay("gate", other, "--baseline", runs[1], home=home, code=12)


def test_errors_are_json_with_json(home: Path) -> None:
    found = json.loads(assay("run", "--model", "nowhere", "--tasks", "sums.py", "--json", home=home, code=2).stdout)
    assert found["exit_code"] == 2 and "nowhere" in found["error"]


def test_the_help_of_commands_has_an_example(home: Path) -> None:
    for command in ("run", "resume", "tasks", "show", "doctor", "demo"):
        assert "assay " in assay(command, "--help", home=home).stdout.split("Options")[0].split("Usage")[1]


def test_every_command_is_in_a_panel(home: Path) -> None:
    text = assay("--help", home=home).stdout
    assert " Commands " not in text, "a command is in no panel"
    for panel, verbs in PANELS.items():
        assert panel in text
        assert [verb for verb in verbs if f" {verb} " not in text] == []
    assert assay("--version", home=home).stdout == f"assay {__version__}\n"
