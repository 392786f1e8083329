"""The engine of a served model: one request per continuation or completion, several at a time, replies as they arrive."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.child import read_timeouts
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, refusal
from assay.harness.engines.served.client import Connection, Patience, connect
from assay.harness.engines.served.replies import Row, Usage, echo_row, echo_text_row, generated, prompt_row, read, usage_of
from assay.harness.engines.served.text import text_of
from assay.harness.engines.trie import logical_tokens
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef
from assay.harness.model.served import UNVERIFIED, Server

CONCURRENT = 16
"""Requests in flight, unless --batch sets another number."""
PROBE = 8
"""Tokens (or characters) of the request that finds out what the server can do."""
PROBE_TEXT = 64
"""Characters of that request where log-probabilities of text are tried: more than one token, and the first has none on many servers."""
UNBOUNDED = 1 << 20
OWN_SAMPLING = ("vllm", "sglang")
"""Servers that apply the checkpoint's own sampling settings unless a request sets them, and know these fields."""
ROUTES = {"prompt_logprobs": {"prompt_logprobs": 0}, "echo": {"echo": True, "logprobs": 1}}
"""Ways to ask for log-probabilities of a prompt: vLLM's, and that of OpenAI's plain completions."""
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(slots=True)  # house: an open connection and its event loop
class ServedEngine:
    """assay.harness.engines.Engine over a server."""

    server: Server
    connection: Connection
    most: int
    """Requests in flight."""
    limits: Limits
    stats: EngineStats = field(default_factory=EngineStats)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    thread: threading.Thread | None = None
    route: str = ""
    """How prompts are scored: a key of ROUTES; empty until the first score."""
    usage: Usage = field(default_factory=Usage)
    name: str = "served"

    def start(self) -> None:
        """Run the event loop in its own thread, so that a notebook's running loop does not matter."""
        self.thread = threading.Thread(target=self.loop.run_forever, name="assay-served", daemon=True)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def replies(self, jobs: Iterable[Job], work: Callable[[Job], Coroutine[Any, Any, Result]]) -> Iterator[tuple[Job, Result]]:
        """Results as they arrive, at most `most` in flight. If one raises, those that have arrived are yielded first."""
        queue, running = iter(jobs), dict[Future[Result], Job]()
        try:
            while True:
                for job in itertools.islice(queue, self.most - len(running)):
                    running[asyncio.run_coroutine_threadsafe(work(job), self.loop)] = job
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: future.exception() is not None):
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        parts: dict[int, dict[int, Row | Failure]] = {}
        jobs: list[tuple[int, int]] = []
        for index, group in enumerate(groups):
            failure = self.refuse(group)
            if failure is not None:
                yield index, failure
            else:
                jobs += [(index, number) for number in range(len(group.continuations))]
        if jobs:
            self.find_route(groups[jobs[0][0]])
        for (index, number), (row, usage) in self.replies(jobs, lambda job: self.score_one(groups[job[0]], job[1])):
            group = groups[index]
            self.count(usage, len(group.context) + len(group.continuations[number]))
            found = parts.setdefault(index, {})
            found[number] = row
            if len(found) == len(group.continuations):
                self.stats.logical += logical_tokens((group,))
                yield index, merge([found[place] for place in range(len(found))], group.greedy)
                del parts[index]

    def refuse(self, group: ScoreGroup) -> Failure | None:
        ids = (*group.context, *itertools.chain(*group.continuations))
        # One more than the longest continuation needs: the server always generates a token.
        return refusal(ids, len(group.context) + max(map(len, group.continuations)) + 1, self.limits.positions, self.limits.vocabulary)

    async def score_one(self, group: ScoreGroup, number: int) -> tuple[Row | Failure, Usage]:
        ids = group.context + group.continuations[number]
        return await self.score_ids(self.route, ids, len(group.context))

    async def score_ids(self, route: str, ids: tuple[int, ...], start: int) -> tuple[Row | Failure, Usage]:
        """The log-probabilities of ids[start:] by one of ROUTES."""
        reply = await self.connection.post("completions", self.body(ids, {"max_tokens": 1, "temperature": 0, **ROUTES[route]}))
        if isinstance(reply, Failure):
            return reply, Usage()
        if self.server.prompts == "text":
            row = read(partial(echo_text_row, reply, text_of(ids[start:])))
        else:
            row = read(partial(prompt_row if route == "prompt_logprobs" else echo_row, reply, ids, start))
        return row, usage_of(reply) or Usage(prompt=len(ids), completion=1)

    def body(self, ids: tuple[int, ...], options: dict[str, Any]) -> dict[str, Any]:
        """A request for plain completions, with token ids or the text that they stand for."""
        return {"model": self.server.name, "prompt": text_of(ids) if self.server.prompts == "text" else list(ids), **options}

    def find_route(self, group: ScoreGroup) -> None:
        """Try with a few tokens how this server returns log-probabilities of a prompt. Raises AssayError if it does not."""
        if self.route:
            return
        if self.server.prompts == "chat":
            raise AssayError(
                "log-likelihoods cannot be read from a chat", where=self.server.address, do="leave out --chat, or add --tokenizer DIR"
            )
        ids = (group.context + group.continuations[0])[-(PROBE_TEXT if self.server.prompts == "text" else PROBE) :]
        ids = ids if len(ids) > 1 else ids * 2
        reasons = []
        for route in ("echo",) if self.server.prompts == "text" else ROUTES:
            row, _ = self.run(self.score_ids(route, ids, len(ids) - 1))
            if isinstance(row, Row):
                self.route = route
                self.note(f"log-likelihoods by {route}")
                return
            reasons.append(f"{route}: {row.reason}")
        raise AssayError(
            f"the server returns no log-probabilities of a prompt ({'; '.join(reasons)})"[:600],
            where=self.server.address,
            do="use a server that does (vllm serve), or tasks that generate",
        )

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        accepted = []
        for index, request in enumerate(requests):
            failure = refusal(request.prompt, len(request.prompt), self.limits.positions, self.limits.vocabulary)
            if failure is not None:
                yield index, failure
            else:
                accepted.append(index)
        for index, (reply, usage) in self.replies(accepted, lambda index: self.generate_one(requests[index])):
            self.count(usage, len(requests[index].prompt))
            self.stats.logical += usage.prompt + usage.completion
            yield index, reply

    async def generate_one(self, request: GenRequest) -> tuple[GenReply | Failure, Usage]:
        options = sampling(request, self.server)
        if self.server.prompts == "chat":
            body = {"model": self.server.name, **chat_of(text_of(request.prompt)), **options}
            reply = await self.connection.post("chat", body)
            if isinstance(reply, Failure) and "max_completion_tokens" in reply.reason:  # OpenAI's newer models
                body["max_completion_tokens"] = body.pop("max_tokens")
                reply = await self.connection.post("chat", body)
        else:
            reply = await self.connection.post("completions", self.body(request.prompt, options))
        if isinstance(reply, Failure):
            return reply, Usage()
        return read(partial(generated, reply, request)), usage_of(reply) or Usage(prompt=len(request.prompt))

    def check_generation(self, request: GenRequest) -> None:
        """Generate one token. Raises AssayError if the server cannot, and Incomplete if it does not work."""
        if request.thinking is not None and self.server.owner != "vllm":
            raise AssayError(
                "the server returns no token ids, which the thinking part of a response is found by",
                where=self.server.address,
                do="add --chat and leave out --tokenizer",
            )
        prompt = request.prompt
        if self.server.prompts != "chat":
            prompt = prompt[-PROBE:]
        elif "continue_final_message" in chat_of(text_of(prompt)) and self.server.owner not in OWN_SAMPLING:
            raise AssayError("this server cannot continue a message", where="--assistant-prefix", do="leave it out, or add --tokenizer DIR")
        reply, _ = self.run(self.generate_one(replace(request, prompt=prompt, max_tokens=1)))
        if isinstance(reply, Failure) and "allowed" not in reply.reason:
            do = "check the server's log" if self.server.prompts == "chat" else "try --chat, without --tokenizer"
            raise AssayError(f"the server cannot generate: {reply.reason}", where=self.server.address, do=do)

    def tokens_of(self, text: str) -> tuple[int, Sequence[int] | None]:
        """The number of tokens that the server makes of a text, 0 if it reports none, and their ids where it returns them."""
        extra = {"return_token_ids": True} if self.server.owner == "vllm" else {}
        reply = self.run(self.connection.post("completions", {"model": self.server.name, "prompt": text, "max_tokens": 1, **extra}))
        if isinstance(reply, Failure):
            return 0, None
        usage, ids = usage_of(reply), read(lambda: reply["choices"][0].get("prompt_token_ids"))
        return usage.prompt if usage else 0, ids if isinstance(ids, list) else None

    def count(self, usage: Usage, sent: int) -> None:
        """Add the tokens of one request; `sent` is the number of ids, for servers that count none."""
        prompt = usage.prompt or sent
        self.stats.forwards += 1
        self.stats.cached += min(usage.cached, prompt)
        self.stats.computed += max(0, prompt - usage.cached) + usage.completion
        before = self.usage
        self.usage = Usage(
            before.prompt + prompt,
            before.completion + usage.completion,
            before.cached + usage.cached,
            before.reasoning + usage.reasoning,
        )

    def note(self, text: str) -> None:
        self.stats.notes = tuple(dict.fromkeys((*self.stats.notes, text)))

    def swap(self, weights: Path) -> None:
        raise AssayError("the weights of a served model cannot be swapped", where=str(weights), do="open an engine for each model")

    def close(self) -> None:
        if self.thread is not None:
            self.run(self.connection.client.close())
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()
            self.thread = None

    def describe(self) -> dict[str, str]:
        sent = {"ids": "token ids of a local tokenizer", "text": "text; the server tokenises", "chat": "messages; the server's template"}
        return {
            "engine": self.name,
            "address": self.server.address,
            "served_name": self.server.name,
            "weights": UNVERIFIED,
            "server": self.server.owner,
            "prompts": sent[self.server.prompts],
            "route": self.route,
            "openai": str(self.connection.openai.__version__),
            "requests": str(self.connection.requests),
            "retries": str(self.connection.retries),
            "prompt_tokens": str(self.usage.prompt),
            "completion_tokens": str(self.usage.completion),
            "cached_tokens": str(self.usage.cached),
            "reasoning_tokens": str(self.usage.reasoning),
        }


def chat_of(prompt: str) -> dict[str, Any]:
    """The fields of a chat request: messages, keywords of the template, and a text after them that begins the response."""
    chat, end = json.JSONDecoder().raw_decode(prompt)
    fields: dict[str, Any] = {"messages": chat["messages"]}
    if "arguments" in chat:
        fields["chat_template_kwargs"] = chat["arguments"]
    if prefix := prompt[end:]:
        fields["messages"] = [*chat["messages"], {"role": "assistant", "content": prefix}]
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    return fields


def merge(rows: Sequence[Row | Failure], greedy: bool) -> ScoreReply | Failure:
    """The reply of a group from the rows of its continuations; the first Failure if there is one."""
    good = [row for row in rows if isinstance(row, Row)]
    if len(good) < len(rows):
        return next(row for row in rows if isinstance(row, Failure))
    return ScoreReply(tuple(row.logprobs for row in good), tuple(row.greedy for row in good) if greedy else ())


def sampling(request: GenRequest, server: Server) -> dict[str, Any]:
    """The fields of a generation request. The checkpoint's own sampling settings must not be used in a benchmark."""
    options: dict[str, Any] = {"max_tokens": request.max_tokens, "temperature": request.temperature}
    if request.stop and server.prompts != "chat":  # in a chat they would end the thinking part; `generated` cuts the answer
        options["stop"] = list(request.stop)
    if request.temperature:
        options |= {"seed": request.seed, "top_p": request.top_p}
    if request.ends and server.owner in OWN_SAMPLING:
        options["stop_token_ids"] = list(request.ends)
    if server.owner in OWN_SAMPLING:
        options |= {"top_p": request.top_p, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    if server.owner == "vllm":
        options |= {"return_token_ids": True} | ({} if server.prompts == "chat" or not request.logprob else {"logprobs": 0})
    return options


def open_engine(model: ModelRef, settings: Settings) -> ServedEngine:
    """An engine over the server of `model`; nothing is sent yet. Raises AssayError for a model that is not served."""
    if model.server is None:
        raise AssayError("engine served needs the address of a server", where="--engine", do="give --model http://localhost:8000/v1")
    patience = Patience(timeout=read_timeouts().no_progress)
    positions = model.positions if model.server.prompts == "ids" and model.positions else UNBOUNDED
    # Code points stand for text, and a tokenizer's ids are checked by the server.
    engine = ServedEngine(model.server, connect(model.server.address, patience), settings.batch or CONCURRENT, Limits(positions, 1 << 31))
    engine.start()
    if model.server.address.startswith("http://") and not is_local(model.server.address):
        engine.note("the address is not encrypted (http): the key, if one is set, and all prompts travel in plain text")
    return engine


def is_local(address: str) -> bool:
    return urlsplit(address).hostname in ("localhost", "127.0.0.1", "::1")
