"""`assay board`: safe settings, clear errors."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from assay.harness.errors import AssayError
from assay.leaderboard import commands, serve

ROOT = Path(__file__).parents[2]


def served(monkeypatch: pytest.MonkeyPatch, root: Path, **options: object) -> tuple[list[str], dict[str, str]]:
    found: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda path, line, env: found.append((line, env)))
    commands.board(results=root, **options)  # type: ignore[arg-type]
    return found[0]


def test_safe_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STREAMLIT_SERVER_ADDRESS", "0.0.0.0")
    line, env = served(monkeypatch, tmp_path)
    for flag in (
        "--server.address=127.0.0.1",
        "--server.allowedHosts=localhost",
        "--browser.gatherUsageStats=false",
        "--client.showErrorDetails=none",
        "--server.enableStaticServing=false",
        "--server.enableXsrfProtection=true",
    ):
        assert flag in line
    assert env["ASSAY_RESULTS"] == str(tmp_path)
    assert env.get("PYTHONPATH") == os.environ.get("PYTHONPATH")
    assert "STREAMLIT_SERVER_ADDRESS" not in env
    assert env["STREAMLIT_THEME_DARK_BACKGROUND_COLOR"]
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_what_the_server_imports_ahead_is_there() -> None:
    serve.import_needed()
    assert set(serve.NEEDED) <= sys.modules.keys()


def test_other_machines_need_expose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(AssayError, match="--expose"):
            commands.board(results=tmp_path, host=host)
    line, _ = served(monkeypatch, tmp_path, host="0.0.0.0", expose=True)
    assert "--server.address=0.0.0.0" in line


def test_item_texts_are_hidden_from_other_machines_without_show_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commands.ITEMS, "hidden")  # the user's own environment does not count
    assert served(monkeypatch, tmp_path)[1][commands.ITEMS] == "shown"
    assert served(monkeypatch, tmp_path, expose=True)[1][commands.ITEMS] == "hidden"
    assert served(monkeypatch, tmp_path, expose=True, show_items=True)[1][commands.ITEMS] == "shown"


def test_errors_name_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssayError, match="assay demo"):
        commands.board(results=tmp_path / "none")
    with pytest.raises(AssayError, match="--host"):
        commands.board(results=tmp_path, host="203.0.113.7", expose=True)  # not an address of this machine
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    with pytest.raises(AssayError, match=r"assay\[board\]"):
        commands.board(results=tmp_path)


def test_a_port_in_use_is_skipped() -> None:
    with socket.socket() as used:
        used.bind(("127.0.0.1", 0))
        used.listen()
        port = used.getsockname()[1]
        assert commands.free_port("127.0.0.1", port) > port
    for invalid in (0, -1, 70_000):
        with pytest.raises(AssayError, match=f"invalid port {invalid}"):
            commands.free_port("127.0.0.1", invalid)


def test_the_command_loads_without_streamlit() -> None:
    code = "import assay.leaderboard.commands, sys; print(sorted({'streamlit', 'altair', 'pandas', 'duckdb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout == "[]\n"
