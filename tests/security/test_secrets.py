"""Tokens in the environment, in arguments and in exceptions reach no manifest, journal, log or error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import make_model, write_task

from harness import chat
from harness.errors import AssayError, redact

ROOT = Path(__file__).parent.parent.parent
TOKEN = "hf_" + "Zq7" * 12
SECRETS = {
    "HF_TOKEN": TOKEN,
    "HUGGING_FACE_HUB_TOKEN": TOKEN,
    "OPENAI_API_KEY": "sk-proj-" + "Yv3" * 10,
    "AWS_ACCESS_KEY_ID": "AKIA" + "X9" * 8,
    "MY_PASSWORD": "correct horse battery staple",
}
LEAKY = """import os
from harness import Choose, Doc, Task, accuracy, inline

def doc(row):
    raise RuntimeError("GET https://user:pw123456@hub/x failed, Authorization: Bearer abc.def.ghi, token " + os.environ["HF_TOKEN"])

TASKS = (Task("leaky", inline(test=[{}]), doc, Choose(), (accuracy,)),)
"""


def assay(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **SECRETS, "ASSAY_RESULTS": str(folder / "results"), "ASSAY_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-m", "harness.cli", *arguments], capture_output=True, text=True, cwd=folder, env=env)


def assert_clean(folder: Path, *texts: str) -> None:
    for secret in (*SECRETS.values(), "pw123456", "abc.def.ghi"):
        assert not any(secret in text for text in texts), secret
        for path in folder.rglob("*"):
            if path.is_file():
                assert secret.encode() not in path.read_bytes(), f"{secret} in {path}"


def test_a_run_stores_no_secret(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    write_task(tmp_path, 4)
    done = assay(tmp_path, "run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted")
    assert done.returncode == 0, done.stderr
    broken = assay(tmp_path, "run", "--model", "model", "--tasks", "sums.py", "--engine", "scripted:hashed,fault=raise,at=2", "--json")
    assert broken.returncode == 13
    assert len(list((tmp_path / "results" / "runs").iterdir())) == 2
    assert_clean(tmp_path / "results", done.stdout, done.stderr, broken.stdout, broken.stderr)


def test_a_secret_in_an_exception_is_hidden(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    (tmp_path / "leaky.py").write_text(LEAKY)
    failed = assay(tmp_path, "run", "--model", "model", "--tasks", "leaky.py", "--engine", "scripted")
    assert failed.returncode == 2 and "RuntimeError" in failed.stderr and "***" in failed.stderr
    named = assay(tmp_path, "run", "--model", f"https://user:pw123456@hub/{TOKEN}", "--tasks", "leaky.py")
    assert named.returncode == 2
    (tmp_path / "leaky.py").unlink()
    assert_clean(tmp_path, failed.stdout, failed.stderr, named.stdout, named.stderr)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"token {TOKEN} refused", "token *** refused"),
        ("https://me:pw@host/path", "https://***@host/path"),
        ("authorization: Bearer abc.def", "authorization: Bearer ***"),
        ("key sk-proj-abcdefghijklmnop.", "key ***."),
        ("ghp_abcdefghijklmnopqrst", "***"),
        ("GET /x?token=abc&y=1", "GET /x?token=***&y=1"),
        ("mail@host and https://host/path@v1", "mail@host and https://host/path@v1"),
        ("hf_models/disk-task-12345678901234", "hf_models/disk-task-12345678901234"),
    ],
)
def test_what_counts_as_a_secret(text: str, shown: str) -> None:
    assert redact(text) == shown
    error = AssayError(text, where=text)
    assert error.what == error.where == shown and str(error) == f"{shown}: {shown}"


def test_the_template_process_has_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text("import json, os, sys\nsys.stdin.read()\nprint(json.dumps({'text': ' '.join(os.environ)}))\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(chat, "CHILD", spy)
    (names,) = chat.render_chats("{{ 1 }}", {}, [[{"role": "user", "content": "hi"}]], "model")
    assert set(names.split()) <= {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
