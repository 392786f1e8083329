"""Tokens in the environment, in arguments and in exceptions reach no manifest, journal, log or error."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import make_model, write_task

from assay.harness.engines.child import last_line
from assay.harness.engines.hf import load as hf_model
from assay.harness.engines.vllm_offline import process as vllm_process
from assay.harness.errors import AssayError, redact
from assay.harness.prompt import chat
from assay.harness.prompt.tokens import encode_pairs, open_tokenizer

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
from assay import Choose, Doc, Task, accuracy, inline

def doc(row):
    raise RuntimeError("GET https://user:pw123456@hub/x failed, Authorization: Bearer abc.def.ghi, token " + os.environ["HF_TOKEN"])

TASKS = (Task("leaky", inline(test=[{}]), doc, Choose(), (accuracy,)),)
"""


LAST_WORDS = """import os, sys
if "assay.harness.engines.serve" in sys.orig_argv:
    sys.stderr.write("GET https://user:pw123456@hub failed, " + "x" * FILLER + " token " + os.environ["HF_TOKEN"] + "\\n")
"""


def assay(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **SECRETS, "ASSAY_RESULTS": str(folder / "results"), "ASSAY_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    env["PYTHONPATH"] = os.pathsep.join((str(folder / "path"), str(ROOT), env.get("PYTHONPATH", "")))
    return subprocess.run([sys.executable, "-m", "assay", *arguments], capture_output=True, text=True, cwd=folder, env=env)


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


@pytest.mark.parametrize("filler", [0, 240])  # the second is cut in the middle of a secret
def test_what_an_engines_process_said_last_holds_no_secret(tmp_path: Path, filler: int) -> None:
    make_model(tmp_path / "model")
    write_task(tmp_path, 4)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(LAST_WORDS.replace("FILLER", str(filler)))
    engine = ("--model", "model", "--tasks", "sums.py", "--engine")
    died = assay(tmp_path, "run", *engine, "child:scripted:hashed,fault=die,at=2", "--json")
    assert died.returncode == 0, died.stderr
    (summary,) = (tmp_path / "results").rglob("summary.json")
    (note,) = json.loads(summary.read_text())["engine"]["notes"]
    assert "engine restarted" in note and "https://***@hub" in note
    assert_clean(tmp_path / "results", died.stdout, died.stderr)
    assert b"hf_Zq7" not in summary.read_bytes()


def test_a_last_line_without_end_loses_its_torn_beginning() -> None:
    said = last_line(io.BytesIO(f"token {TOKEN}{'y' * 65_500} refused".encode()))
    assert said == "refused"
    assert last_line(io.BytesIO(b"one\ntwo\n")) == "two" and last_line(io.BytesIO()) == ""


@pytest.mark.parametrize("shorten", [hf_model.first_line, vllm_process.cause])
def test_a_shortened_error_holds_no_beginning_of_a_secret(shorten: Callable[[Exception], str]) -> None:
    assert TOKEN[:8] not in shorten(ValueError(f"{'x' * 280} {TOKEN}"))


def test_a_shortened_prompt_holds_no_end_of_a_secret(tmp_path: Path) -> None:
    make_model(tmp_path)
    with pytest.raises(AssayError, match="has no token") as failed:
        encode_pairs(open_tokenizer(tmp_path), [(f"{TOKEN}{' x' * 20}", ("",))])
    assert TOKEN[-8:] not in str(failed.value)


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
        ("https://h/x?api_key=abc&y=1", "https://h/x?api_key=***&y=1"),
        ("https://h/x?access_token=abc", "https://h/x?access_token=***"),
        ("https://h/x?a=1&X-Amz-Signature=ab12&X-Amz-Security-Token=cd", "https://h/x?a=1&X-Amz-Signature=***&X-Amz-Security-Token=***"),
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': '***', 'n': 1}"),
        ("HF_TOKEN=hf_short", "HF_TOKEN=***"),
        ("https://u:p@ss@host/x", "https://***@host/x"),
        ("postgres://u:p/w@host/x", "postgres://***@host/x"),
        ("https://host:8080/path@v1", "https://host:8080/path@v1"),
        ("Authorization: Bearer  abc.def", "Authorization: Bearer  ***"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz", "***"),
        ("glpat-abcdefghijklmnopqrst", "***"),
        ("xoxb-123456789012-abcdefghijkl", "***"),
        ("AIzaSyA1234567890abcdefghijklmnopqrstuvw", "***"),
        ("sk_live_abcdefghijklmnop", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_-9 refused", "*** refused"),
        ("max_tokens=5, pad_token='<pad>'", "max_tokens=5, pad_token='<pad>'"),
        ("mail@host and https://host/path@v1", "mail@host and https://host/path@v1"),
        ("hf_models/disk-task-12345678901234", "hf_models/disk-task-12345678901234"),
    ],
)
def test_what_counts_as_a_secret(text: str, shown: str) -> None:
    assert redact(text) == shown
    error = AssayError(text, where=text, do=text)
    assert error.what == error.where == error.do == shown and str(error) == f"{shown}: {shown}. {shown}"
    assert redact(shown) == shown


def test_the_template_process_has_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spy = tmp_path / "spy.py"
    spy.write_text("import json, os, sys\nsys.stdin.read()\nprint(json.dumps({'text': ' '.join(os.environ)}))\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(chat, "CHILD", spy)
    (names,) = chat.render_chats("{{ 1 }}", {}, [[{"role": "user", "content": "hi"}]], "model")
    assert set(names.split()) <= {"LC_CTYPE", "__CF_USER_TEXT_ENCODING"}
