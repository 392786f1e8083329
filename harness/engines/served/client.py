"""Sends requests with the official openai client: retries with backoff, rate limits, time-outs.

The key is read from $OPENAI_API_KEY only; it is never stored or shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from assay.harness.engines.request import Failure
from assay.harness.engines.served.replies import Message
from assay.harness.errors import AssayError, Incomplete, redact

KEY = "OPENAI_API_KEY"
ATTEMPTS = 10
"""Most times that one request is sent."""
TIME_OUTS = 3
"""Most times that one request may reach the time-out."""
LONGEST_PAUSE = 600.0
"""Seconds: a server that asks for a longer pause stops the run, which can be resumed later."""
RETRIED = (408, 409, 425, 429)
"""Statuses after which a request is sent again, beside those from 500 on."""
REFUSED = {
    401: f"the server refuses the key. export {KEY}=...",
    402: "the account behind the key has no credit",
    403: f"the server does not allow this key to use the model. export {KEY}=...",
    404: "the server does not know this model or this kind of request",
}


def import_openai() -> Any:
    """The openai library. Raises AssayError if it is not installed."""
    try:
        import openai
    except ImportError:
        raise AssayError("a served model needs the openai client", where="--model", do="pip install 'assay[served]'") from None
    return openai


def clean(text: object) -> str:
    """A message of the server or a library on one line, without the key and other secrets."""
    line, key = " ".join(str(text).split()), os.environ.get(KEY, "")
    return redact(line.replace(key, "***") if len(key) > 3 else line)[:300]


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: `timeout` of one request, first and longest pause before it is sent again."""

    timeout: float = 300.0
    first_pause: float = 0.5
    longest_pause: float = 60.0


@dataclass(slots=True)  # house: open connections and counters
class Connection:
    """An open client. Everything runs in one event loop; the counters are read from outside."""

    openai: Any
    client: Any
    patience: Patience
    requests: int = 0
    retries: int = 0
    replies: int = 0
    paused_until: float = 0.0
    """Time of the event loop before which nothing is sent: the server's rate limit."""
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    async def post(self, kind: str, body: Mapping[str, Any]) -> Message | Failure:
        """The server's reply to a request of a kind ("completions" or "chat"), sent again where that may help.

        A Failure if the server refuses this request or fails at it while others succeed. Raises Incomplete if the server does not work
        at all: unreachable, wrong key, no credit, unknown model.
        """
        problem, pause, time_outs, replies_before = "", 0.0, 0, self.replies
        for attempt in range(ATTEMPTS):
            if attempt:
                self.retries += 1
                await asyncio.sleep(pause)
            await self.wait_for_turn()
            self.requests += 1
            pause = min(self.patience.longest_pause, self.patience.first_pause * 2**attempt) * (0.5 + self.dice.random() / 2)
            try:
                reply = await self.send(kind, body)
                self.replies += 1
                return reply
            except self.openai.APITimeoutError:
                time_outs += 1
                problem = f"no reply within {self.patience.timeout:g} s"
                if time_outs == TIME_OUTS:
                    break
            except self.openai.APIConnectionError as error:
                problem = f"the connection failed: {clean(error.__cause__ or error)}"
            except self.openai.APIStatusError as error:
                problem = f"status {error.status_code}: {clean(reason_of(error))}"
                if error.status_code not in RETRIED and error.status_code < 500:
                    return refusal_of(error.status_code, problem)
                if "insufficient_quota" in problem:
                    raise Incomplete(problem, do="add credit, then resume the run") from None
                pause = self.rate_limit(error) or pause
            except ValueError as error:
                problem = f"not a JSON object: {clean(error)}"
        # A server that is down or overloaded fails at every request, an error inside of it may be due to this one.
        enough = 1 if problem.startswith(("status 500", "not a JSON")) else replies_before + 1
        if self.replies >= enough and not problem.startswith("status 429"):
            return Failure(f"the server failed at this request {attempt + 1} times, the last: {problem}")
        raise Incomplete(
            f"the server does not work ({attempt + 1} attempts): {problem}", do="check the server (its log), then resume the run"
        )

    async def send(self, kind: str, body: Mapping[str, Any]) -> Message:
        """One request. Raises the client's errors, and ValueError for a reply that is not a JSON object."""
        extra = {name: value for name, value in body.items() if name not in ("model", "prompt", "messages")}
        if kind == "chat":
            create = self.client.chat.completions.with_raw_response.create
            raw = await create(model=body["model"], messages=body["messages"], extra_body=extra)
        else:
            raw = await self.client.completions.with_raw_response.create(model=body["model"], prompt=body["prompt"], extra_body=extra)
        reply = json.loads(raw.content)
        if not isinstance(reply, dict):
            raise ValueError(f"{reply!r:.80}")
        return reply

    async def wait_for_turn(self) -> None:
        while (left := self.paused_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    def rate_limit(self, error: Any) -> float:
        """Seconds of the header Retry-After, for which nothing is sent; 0 without one. Raises Incomplete if they are too many."""
        seconds = retry_after(error.response.headers.get("retry-after", ""))
        if seconds > LONGEST_PAUSE:
            raise Incomplete(f"the server's rate limit is reached: it asks to wait {seconds / 60:.0f} minutes", do="resume the run then")
        if error.status_code == 429:
            self.paused_until = max(self.paused_until, asyncio.get_running_loop().time() + seconds)
        return seconds


def refusal_of(status: int, problem: str) -> Failure:
    """The Failure of a refused request. Raises Incomplete where every request would be refused."""
    if status in REFUSED:
        raise Incomplete(f"{REFUSED[status]} ({problem})", do="then resume the run")
    return Failure(f"the server refused the request: {problem}")


def reason_of(error: Any) -> str:
    """The message in the body of an error, else its text."""
    body = error.body
    if isinstance(body, dict):
        error_part = body.get("error")
        inner = error_part if isinstance(error_part, dict) else body
        code, message = inner.get("code"), inner.get("message") or inner.get("detail")
        if message:
            return f"{message} ({code})" if isinstance(code, str) else str(message)
    return str(error)


def retry_after(text: str) -> float:
    """Seconds of a Retry-After header: a number, or a date; 0 if it is neither."""
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def connect(address: str, patience: Patience) -> Connection:
    """An open client of a server. Raises AssayError if the library is missing."""
    openai = import_openai()
    # The client needs some key; servers without keys ignore it.
    client = openai.AsyncOpenAI(api_key=os.environ.get(KEY) or "none", base_url=address, max_retries=0, timeout=patience.timeout)
    return Connection(openai, client, patience)


def list_models(address: str, timeout: float = 30.0) -> list[dict[str, Any]]:
    """The entries of /v1/models; empty where the server has no such list. Raises AssayError if it cannot be reached or refuses the key."""
    openai = import_openai()
    try:
        with openai.OpenAI(api_key=os.environ.get(KEY) or "none", base_url=address, max_retries=2, timeout=timeout) as client:
            found = json.loads(client.models.with_raw_response.list().content)
    except openai.APIStatusError as error:
        if error.status_code == 404:
            return []
        problem = REFUSED.get(
            error.status_code, f"the server does not list its models: status {error.status_code}, {clean(reason_of(error))}"
        )
        raise AssayError(problem, where=address, do="check the address; it usually ends in /v1") from None
    except openai.APIConnectionError as error:
        problem = f"no server answers: {clean(error.__cause__ or error)}"
        raise AssayError(problem, where=address, do="start one, for example: vllm serve MODEL --port 8000") from None
    except ValueError:
        raise AssayError("/models is not JSON", where=address, do="check the address; it usually ends in /v1") from None
    entries = found.get("data") if isinstance(found, dict) else None
    return [entry for entry in entries or () if isinstance(entry, dict) and isinstance(entry.get("id"), str)]
