"""A small OpenAI-compatible server on the loopback interface, with faults by request number. It stops by itself after a minute.

Its "model" splits text into words with the white space before them; a token's log-probability depends only on the token.
"""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

LIFETIME = 60.0
MOST = 2000
"""Requests that it answers before it stops."""


def logprob(token: int | str) -> float:
    return -(zlib.crc32(repr(token).encode()) % 997 + 1) / 100


def split(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


@dataclass(slots=True)
class State:
    """What the server offers, what was asked of it, and what goes wrong."""

    ways: tuple[str, ...] = ("prompt_logprobs", "echo", "generate", "chat")
    owner: str = "vllm"
    names: Sequence[str] | None = ("tiny",)
    faults: dict[int, str] = field(default_factory=dict)
    """Fault by the number of the request, from 0; /models is not counted. -1: every request."""
    answer: Callable[[str], str] = lambda prompt: " yes"
    delay: float = 0.0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    active: int = 0
    peak: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    address: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, *_: Any) -> None: ...

    def send(self, status: int, body: object, headers: dict[str, str] | None = None, short: bool = False) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data) + 100 * short), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if short else data)
        self.close_connection = self.close_connection or short

    def do_GET(self) -> None:
        state = self.state
        if state.names is None:
            self.send(404, {"detail": "Not Found"})
            return
        cards = [{"id": name, "owned_by": state.owner, "created": int(time.time()), "max_model_len": 512} for name in state.names]
        self.send(200, {"object": "list", "data": cards})

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            number = len(state.bodies)
            state.bodies.append(body)
            state.keys.append(self.headers.get("Authorization", ""))
            state.active += 1
            state.peak = max(state.peak, state.active)
        try:
            time.sleep(state.delay)
            fault = state.faults.get(number, state.faults.get(-1, ""))
            if number >= MOST:
                fault = "500"
            if not self.failed(fault):
                self.reply(body, fault)
        finally:
            with state.lock:
                state.active -= 1

    def failed(self, fault: str) -> bool:
        """Send the reply of a fault, if it replaces the whole reply."""
        if fault == "slow":
            time.sleep(1.5)
            return False
        if fault.isdigit():
            headers = {"Retry-After": "0.2"} if fault == "429" else {}
            self.send(int(fault), {"error": {"message": f"made up; key {self.headers.get('Authorization')}", "code": None}}, headers)
        elif fault == "wait":
            self.send(429, {"error": {"message": "slow down"}}, {"Retry-After": "7200"})
        elif fault == "quota":
            self.send(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
        elif fault == "garbage":
            self.send(200, b"<html>busy</html>")
        elif fault == "cut":
            self.send(200, {"choices": []}, short=True)
        elif fault == "drop":
            self.close_connection = True
        else:
            return False
        return True

    def reply(self, body: dict[str, Any], fault: str) -> None:
        way = "chat" if self.path.endswith("/chat/completions") else next((w for w in ("prompt_logprobs", "echo") if w in body), "generate")
        if way not in self.state.ways:
            if way == "prompt_logprobs":  # servers that do not know the field ignore it
                way = "generate"
            else:
                self.send(404 if way in ("chat", "generate") else 400, {"error": {"message": f"{way} is not supported"}})
                return
        choice, prompt = choice_of(way, body, self.state.answer)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 1}
        spoil(choice, usage, fault)
        self.send(200, {"object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage})


def choice_of(way: str, body: dict[str, Any], answer: Callable[[str], str]) -> tuple[dict[str, Any], list[Any]]:
    if way == "chat":
        text = answer(body["messages"][-1]["content"])
        return {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}, body["messages"]
    prompt = body["prompt"] if isinstance(body["prompt"], list) else split(body["prompt"])
    if way == "generate":
        return {"text": answer(body["prompt"] if isinstance(body["prompt"], str) else ""), "finish_reason": "stop"}, prompt
    values = [None, *map(logprob, prompt[1:])]
    if way == "prompt_logprobs":
        rows = [None if value is None else {str(token): {"logprob": value, "rank": 1}} for token, value in zip(prompt, values, strict=True)]
        return {"text": "", "finish_reason": "length", "prompt_logprobs": rows}, prompt
    tokens = [*map(str, prompt), " next"]
    best = [None if value is None else {"the best": value + 0.5} for value in values]
    found = {"tokens": tokens, "token_logprobs": [*values, -0.1], "top_logprobs": [*best, {" next": -0.1}]}
    return {"text": "".join(tokens), "finish_reason": "length", "logprobs": found}, prompt


def spoil(choice: dict[str, Any], usage: dict[str, Any], fault: str) -> None:
    """Faults inside a reply that is JSON of the right form."""
    if fault == "fewer":
        for rows in (choice.get("prompt_logprobs"), (choice.get("logprobs") or {}).get("token_logprobs")):
            if rows:
                rows.pop(0)
    elif fault == "positive":
        for row in choice.get("prompt_logprobs") or ():
            for entry in (row or {}).values():
                entry["logprob"] = 2.0
    elif fault == "long":
        usage["completion_tokens"] = 9999
    elif fault == "unfinished":
        choice["finish_reason"] = "content_filter"
    elif fault == "form":
        for name in ("text", "prompt_logprobs", "logprobs"):
            choice[name] = 5


@contextmanager
def serving(**options: Any) -> Iterator[State]:
    """A server in a thread of this process."""
    state = State(**options)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    timer = threading.Timer(LIFETIME, server.shutdown)
    timer.daemon = True
    timer.start()
    try:
        yield state
    finally:
        timer.cancel()
        server.shutdown()
        server.server_close()
        thread.join(5)
