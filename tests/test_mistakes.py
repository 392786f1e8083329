"""Ten common mistakes of new users, each with the error message that names the fix. Run: pytest tests/test_mistakes.py"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from fakes import make_model, write_task

KNOWN = {"ASSAY_RESULTS", "ASSAY_CACHE", "ASSAY_DATA", "HF_HUB_OFFLINE", "PYTHONPATH"}
ASSAY = [sys.executable, "-m", "assay"]
RUN = "run --model model --tasks sums.py --engine scripted"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    write_task(tmp_path, 12)
    return tmp_path


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in KNOWN}
    return {**kept, "ASSAY_CACHE": str(home / "cache"), "HF_HUB_OFFLINE": "1", **more}


def invoke(home: Path, line: str, prepare: Callable[[], None] | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    command = [*ASSAY, *line.split()]
    return subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment(home, **more), preexec_fn=prepare)


def error_of(home: Path, line: str, **more: str) -> str:
    """The error message of a refused command: one line, no traceback."""
    found = invoke(home, line, **more)
    assert found.returncode == 2 and found.stdout == "", found.stderr
    return only_line(found.stderr)


def only_line(errors: str) -> str:
    (message,) = [text for text in errors.splitlines() if text.startswith("assay: ")]
    assert "Traceback" not in errors
    return message


def test_a_wrong_path(home: Path) -> None:
    message = error_of(home, "run --model chekpoint/ --tasks sums.py")
    assert re.search(r"chekpoint/: no such model folder. give a model folder, a hub id, or builtin:", message)
    assert re.search(r"qums\.py: no such task file", error_of(home, "run --model model --tasks qums.py"))


def test_a_wrong_task_name(home: Path) -> None:
    assert "did you mean glue/rte" in error_of(home, "run --model model --tasks glue/rtee")


@pytest.mark.parametrize(
    ("line", "missing", "remedy"),
    [
        ("run --model model --tasks sums.py --engine hf", "transformers", "assay[hf]"),
        ("board --results .", "streamlit", "assay[board]"),
        ("tune --model model --task glue/rte --method lora", "peft", "assay[tune]"),
        ("run --model model --tasks sums.py --engine vllm", "vllm", "assay[vllm]"),
    ],
)
def test_a_missing_extra(home: Path, line: str, missing: str, remedy: str) -> None:
    """The library is hidden from the import system, as if it were not installed."""
    (home / "without").mkdir()
    (home / "without" / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        f"sys.modules['{missing}'] = None\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, package=None: None if name.split('.')[0] == '{missing}' else find(name, package)\n"
    )
    assert re.search(rf"pip install ['\"]{re.escape(remedy)}", error_of(home, line, PYTHONPATH=str(home / "without")))


def test_no_data(home: Path) -> None:
    message = error_of(home, "run --model model --tasks glue/rte")
    assert "glue/rte" in message and "set ASSAY_DATA to a folder that mirrors the hub (assay fetch makes one), or go online" in message


def test_a_results_folder_of_another_version(home: Path) -> None:
    """A store of a newer assay is refused and not modified; a missing index is rebuilt."""
    import duckdb

    assert invoke(home, RUN).returncode == 0
    index = home / "results" / "assay.duckdb"
    with duckdb.connect(str(index)) as connection:
        connection.execute("UPDATE schema_migrations SET version = version + 1")
    assert re.search(r"assay\.duckdb.*has schema \d+, this assay knows \d+.*upgrade assay", error_of(home, "store index"))
    index.unlink()
    assert invoke(home, "store index").returncode == 0 and index.is_file()


def test_a_full_disk(home: Path) -> None:
    """No file can grow beyond 2 kB: the run stops, and can be resumed when there is space."""

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    found = invoke(home, RUN, prepare=small)
    assert found.returncode in (2, 13)
    assert re.search(r"File too large|No space left|cannot be written", only_line(found.stderr))


def test_no_gpu(home: Path) -> None:
    message = error_of(home, "run --model model --tasks sums.py --engine hf --device cuda", CUDA_VISIBLE_DEVICES="")
    assert "no CUDA device is available. use --device cpu" in message


def test_an_interrupted_run(home: Path) -> None:
    """Ctrl-C exits with 13 and prints the resume command."""
    line = "run --model model --tasks sums.py --engine scripted:hashed,fault=sleep,at=7,seconds=600"
    process = subprocess.Popen([*ASSAY, *line.split()], stderr=subprocess.PIPE, text=True, cwd=home, env=environment(home))
    while process.poll() is None and not list((home / "results").glob("runs/2*/journal*")):
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 13, errors
    (command,) = re.findall(r"continue with: (assay resume \S+)", errors)
    assert "Traceback" not in errors and command.split()[-1] in {path.name for path in (home / "results" / "runs").iterdir()}


def test_a_wrong_python() -> None:
    """pip refuses other versions because the package declares the supported ones."""
    assert metadata.metadata("assay")["Requires-Python"] == "<3.15,>=3.11"


def test_a_port_in_use(home: Path) -> None:
    """The leaderboard reports it and uses the next port."""
    (home / "results").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = subprocess.Popen(
            [*ASSAY, "board", "--port", str(port), "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home, env=environment(home),
        )  # fmt: skip
        try:
            assert process.stdout is not None and process.stderr is not None
            address = json.loads(process.stdout.readline())["address"]
            assert f"port {port} is in use: using {address.rpartition(':')[2]}" in process.stderr.readline()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()
