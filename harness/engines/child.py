"""Runs an engine in a child process. A process that dies or freezes is replaced, and only requests without a reply are sent again.

A request that kills every process is found by halving the batch and becomes a Failure, never a zero. `child:hf` runs engine hf this way.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from assay.harness.engines import Engine, EngineStats, Limits, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.vllm_offline.engine import open_engine as open_vllm_here
from assay.harness.engines.wire import COUNTS, Message, line, pack_model, pack_request, read_error, read_reply
from assay.harness.errors import AssayError, Incomplete, redact
from assay.harness.model.find import ModelRef

HALVED_FROM = 256
"""vLLM's default batch: what is halved when memory runs out and the user set no batch."""


class ProcessDied(Exception):
    """The process ended, or was killed because it made no progress. `memory`: it ran out of memory. The reason contains no secrets."""

    def __init__(self, reason: str, memory: bool = False) -> None:
        super().__init__(redact(reason))
        self.memory = memory


@dataclass(frozen=True, slots=True)
class Timeouts:
    """When to give up on a process, in seconds, and on an engine, in deaths.

    `no_progress`: an engine without a reply or forward pass for this long (or for ten times the longest pause so far) is frozen.
    `opening`: time to load. `deaths`: limit for one call. `without_reply`: limit in a row without a reply between; for halving, twice the
    bit length of the number of requests is added. `pause`: wait before a restart, doubled each time up to 10 s.
    """

    no_progress: float = 300.0
    opening: float = 3600.0
    deaths: int = 100
    without_reply: int = 4
    pause: float = 0.2


def read_timeouts() -> Timeouts:
    """The limits, with $ASSAY_PATIENCE as the seconds that an engine may make no progress. Raises AssayError if it is not a number."""
    seconds = os.environ.get("ASSAY_PATIENCE", "")
    try:
        return Timeouts(no_progress=float(seconds)) if seconds else Timeouts()
    except ValueError:
        raise AssayError(f"ASSAY_PATIENCE={seconds!r} is not a number of seconds", do="export ASSAY_PATIENCE=300") from None


@dataclass(slots=True)  # house: a process and its pipes
class Process:
    """One child process with one engine. `send` and `receive` raise ProcessDied when it has ended."""

    inner: subprocess.Popen[bytes]
    errors: IO[bytes]
    timeouts: Timeouts
    remaining: bytearray = field(default_factory=bytearray)
    longest_pause: float = 0.0

    def send(self, *messages: Message) -> None:
        """Write messages in pieces that fit into the pipe, so that a stopped process cannot block this one."""
        assert self.inner.stdin is not None
        data, pipe, started = memoryview(b"".join(map(line, messages))), self.inner.stdin.fileno(), time.monotonic()
        while data:
            if select.select([], [pipe], [], 0.5)[1]:
                try:
                    data, started = data[os.write(pipe, data[: select.PIPE_BUF]) :], time.monotonic()
                except OSError:
                    raise self.death_reason() from None
            elif time.monotonic() - started > self.timeouts.no_progress:
                self.kill()
                raise ProcessDied("frozen: it reads no requests")

    def receive(self, limit: float = 0.0) -> Message:
        """The next message. `limit`: seconds to wait; 0: until the process counts as frozen."""
        assert self.inner.stdout is not None
        started = time.monotonic()
        limit = limit or max(self.timeouts.no_progress, 10 * self.longest_pause)
        while (end := self.remaining.find(b"\n")) < 0:
            if select.select([self.inner.stdout], [], [], 0.5)[0]:
                data_read = os.read(self.inner.stdout.fileno(), 1 << 20)
                self.remaining += data_read
                if not data_read:
                    raise self.death_reason()
            elif self.inner.poll() is not None:  # its children may keep the pipe open
                raise self.death_reason()
            elif time.monotonic() - started > limit:
                self.kill()
                raise ProcessDied(f"frozen: no progress for {limit:.0f} s")
        received = bytes(self.remaining[:end])
        del self.remaining[: end + 1]
        self.longest_pause = max(self.longest_pause, time.monotonic() - started)
        return parse_message(received)

    def death_reason(self) -> ProcessDied:
        """The reason why the process ended: its exit status and the last line of its stderr."""
        with suppress(subprocess.TimeoutExpired):
            self.inner.wait(5)
        code = self.inner.poll()
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        else:
            how = f"exit code {code}"
        last = last_line(self.errors)
        self.kill()
        return ProcessDied(f"the engine's process ended: {how}" + (f"; its last line: {last}" if last else ""))

    def kill(self) -> None:
        """Kill the process and every process that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.inner.pid, signal.SIGKILL)
        self.inner.wait()
        for pipe in (self.inner.stdin, self.inner.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self.errors.close()


def last_line(errors: IO[bytes]) -> str:
    """The last line of a log, without secrets. They are removed before the line is cut, since half a token is not recognised."""
    start = max(0, errors.seek(0, os.SEEK_END) - (1 << 16))
    errors.seek(start)
    text = errors.read().decode(errors="replace")
    lines = (text.partition(" ")[2] if start else text).strip().splitlines()
    return redact(lines[-1])[:300] if lines else ""


def parse_message(received: bytes) -> Message:
    message = json.loads(received)
    if message["is"] == "died":
        raise ProcessDied(message["reason"], message["memory"])
    return dict(message)


def start_process(limits: Timeouts, variables: Mapping[str, str]) -> Process:
    """Start a process whose environment is this one's and `variables`."""
    root = str(Path(__file__).parents[3])  # the folder that holds the package `assay`
    environment = {**os.environ, **variables}
    if "site-packages" not in root:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
    inner = subprocess.Popen(
        [sys.executable, "-P", "-X", "faulthandler", "-m", "assay.harness.engines.serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        bufsize=0,
        start_new_session=True,
        env=environment,
    )
    return Process(inner, errors, limits)


@dataclass(slots=True)  # house: owns a process and replaces it
class ChildEngine:
    """assay.harness.engines.Engine whose engine runs in a child process."""

    engine_name: str
    """Name of the engine that the child process opens."""
    model: ModelRef
    settings: Settings
    timeouts: Timeouts
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the process, beside those of this one."""
    name: str = ""
    limits: Limits = field(default_factory=lambda: Limits(0, 0))
    stats: EngineStats = field(default_factory=EngineStats)
    facts: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    restarts: int = 0
    earlier_counts: tuple[int, ...] = (0,) * len(COUNTS)
    """Sums of the counters of earlier processes."""
    restart_notes: tuple[str, ...] = ()

    def start(self) -> Process:
        """The running process; a new one is opened if there is none. Raises the AssayError of the engine's own `open_engine`."""
        if self.process is None:
            process = start_process(self.timeouts, self.environment)
            try:
                process.send({"engine": self.engine_name, "model": pack_model(self.model), "settings": asdict(self.settings)})
                message = process.receive(self.timeouts.opening)
                process.longest_pause = 0.0
            except BaseException:
                process.kill()
                raise
            if message["is"] == "error":
                process.kill()
                error = read_error(message)
                # After a restart, an error counts as a death: the engine could be opened before.
                raise ProcessDied(str(error)) if self.restarts else error
            self.process, self.name, self.limits = process, message["name"], Limits(*message["limits"])
            self.earlier_counts = tuple(getattr(self.stats, name) for name in COUNTS)
            self.update(message)
        return self.process

    def update(self, message: Message) -> None:
        """Copy counters, notes and facts from a message."""
        for name, earlier, now in zip(COUNTS, self.earlier_counts, message.get("stats", ()), strict=False):
            setattr(self.stats, name, earlier + now)
        if "notes" in message:
            self.stats.notes = (*message["notes"], *self.restart_notes)
        self.facts = message.get("facts", self.facts)

    def drop(self) -> None:
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        for index, reply in self.reply_to_all("score", groups):
            assert not isinstance(reply, GenReply)
            yield index, reply

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Score by the engine's own plain way, for a proof. Raises AssayError where it has none."""
        for index, reply in self.reply_to_all("plain", groups):
            assert not isinstance(reply, GenReply)
            yield index, reply

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, reply in self.reply_to_all("generate", requests):
            assert not isinstance(reply, ScoreReply)
            yield index, reply

    def reply_to_all(self, what: str, requests: Sequence[Any]) -> Iterator[tuple[int, ScoreReply | GenReply | Failure]]:
        """A reply to every request, restarting the process where needed. Raises Incomplete if it dies too often."""
        waiting = [tuple(range(len(requests)))]
        deaths = without_reply = 0
        while waiting:
            batch = waiting.pop()
            left = dict.fromkeys(batch)
            try:
                for place, reply in self.replies_of_process(what, [requests[index] for index in batch]):
                    del left[batch[place]]
                    without_reply = 0
                    yield batch[place], reply
                continue
            except ProcessDied as death:
                deaths, without_reply = deaths + 1, without_reply + 1
                reason = str(death)
                self.record_death(death, without_reply)
            if deaths > self.timeouts.deaths or without_reply > self.timeouts.without_reply + 2 * len(requests).bit_length():
                raise Incomplete(f"the engine died {deaths} times, last reason: {reason}", do="fix the cause, then resume the run")
            remaining = tuple(left)
            if len(batch) == 1 and remaining and without_reply > 1:
                yield batch[0], Failure(f"this request made the engine die each time: {reason}")
            elif without_reply > 1:
                waiting += [part for part in (remaining[len(remaining) // 2 :], remaining[: len(remaining) // 2]) if part]
            elif remaining:
                waiting.append(remaining)

    def replies_of_process(self, what: str, requests: Sequence[Any]) -> Iterator[tuple[int, ScoreReply | GenReply | Failure]]:
        """Replies of one process. Raises ProcessDied. If the caller stops before the last reply, the process is ended."""
        finished = False
        try:
            process = self.start()
            process.send({"do": what, "count": len(requests)}, *({"ask": pack_request(each)} for each in requests))
            while (message := process.receive())["is"] != "done":
                if message["is"] == "error":
                    raise read_error(message)
                self.update(message)
                if message["is"] == "reply":
                    yield message["index"], read_reply(message["reply"])
            self.update(message)
            finished = True
        finally:
            if not finished:
                self.drop()

    def record_death(self, death: ProcessDied, without_reply: int) -> None:
        """Record a death, halve the batch if memory ran out, and pause before the next start."""
        self.drop()
        self.restarts += 1
        note = f"engine restarted: {death}"
        batch = self.settings.batch or HALVED_FROM
        if death.memory and batch > 1:
            self.settings = replace(self.settings, batch=batch // 2)
            note += f"; batch {batch} halved"
        if note not in self.restart_notes:
            self.restart_notes += (note,)
        self.stats.notes = tuple(dict.fromkeys((*self.stats.notes, note)))
        time.sleep(min(10.0, self.timeouts.pause * 2 ** (without_reply - 1)))

    def swap(self, weights: Path) -> None:
        try:
            process = self.start()
            process.send({"do": "swap", "weights": str(weights)})
            while (message := process.receive(self.timeouts.opening))["is"] == "beat":
                pass
            if message["is"] == "error":
                raise read_error(message)
            self.update(message)
        except ProcessDied as death:  # the next process loads the new weights when it starts
            self.record_death(death, 1)
        self.model = replace(self.model, path=weights, checkpoint=None)

    def close(self) -> None:
        """Send the process a message to end, and kill it after 20 s."""
        if self.process is not None:
            with suppress(ProcessDied, subprocess.TimeoutExpired):
                self.process.send({"do": "close"})
                self.process.inner.wait(20)
        self.drop()

    def describe(self) -> dict[str, str]:
        return {**self.facts, "process": "child", "restarts": str(self.restarts)}


def open_engine(model: ModelRef, settings: Settings, script: str = "hf") -> ChildEngine:
    """The engine named `script` in a child process. Raises AssayError as that engine does, and Incomplete if its process dies."""
    engine = ChildEngine(script, model, settings, read_timeouts())
    try:
        engine.start()
    except ProcessDied as death:
        raise Incomplete(f"the engine could not be opened: {death}", do="fix the cause, then resume the run") from None
    return engine


def open_vllm(model: ModelRef, settings: Settings, script: str = "") -> Engine:
    """vLLM in a child process; `vllm:here` opens it in this process."""
    if script not in ("", "here"):
        raise AssayError(f"unknown option {script!r} of vLLM", where="--engine", do="use --engine vllm or --engine vllm:here")
    return open_vllm_here(model, settings) if script else open_engine(model, settings, "vllm:here")
