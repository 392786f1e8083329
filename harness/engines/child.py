"""An engine in a process of its own, which may die or freeze: it is started again, and only what it had not answered is asked again.

A request that kills every process it meets is found by halving and becomes a Failure, never a zero. `child:hf` is any engine this way.
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
from collections.abc import Iterator, Sequence
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
"""vLLM's own batch, halved when memory runs out and none was asked for."""


class Died(Exception):
    """The process is gone or was killed for standing still. `memory`: it ran out of memory. The reason is stored: it holds no secret."""

    def __init__(self, reason: str, memory: bool = False) -> None:
        super().__init__(redact(reason))
        self.memory = memory


@dataclass(frozen=True, slots=True)
class Patience:
    """`still`: seconds without a reply or a forward pass (or ten times the longest pause so far) after which an engine is frozen;
    `opening`: seconds to open. `deaths`: most of them in one call, and `barren` in a row without a reply between; twice as many
    bits as there are requests come on top, for halving. `pause`: seconds before a restart, doubled each time up to ten."""

    still: float = 300.0
    opening: float = 3600.0
    deaths: int = 100
    barren: int = 4
    pause: float = 0.2


def patience() -> Patience:
    """$ASSAY_PATIENCE sets the seconds that an engine may stand still."""
    asked = os.environ.get("ASSAY_PATIENCE", "")
    try:
        return Patience(still=float(asked)) if asked else Patience()
    except ValueError:
        raise AssayError(f"ASSAY_PATIENCE={asked!r} is no number of seconds", do="give seconds, such as 300") from None


@dataclass(slots=True)  # house: a process and its pipes
class Process:
    """One process with one engine. Every method raises Died when it is gone."""

    inner: subprocess.Popen[bytes]
    errors: IO[bytes]
    patience: Patience
    rest: bytearray = field(default_factory=bytearray)
    longest: float = 0.0

    def say(self, *messages: Message) -> None:
        """Writes no more at a time than a pipe takes at once, so that a stopped process holds nobody up."""
        assert self.inner.stdin is not None
        data, pipe, began = memoryview(b"".join(map(line, messages))), self.inner.stdin.fileno(), time.monotonic()
        while data:
            if select.select([], [pipe], [], 0.5)[1]:
                try:
                    data, began = data[os.write(pipe, data[: select.PIPE_BUF]) :], time.monotonic()
                except OSError:
                    raise self.dead() from None
            elif time.monotonic() - began > self.patience.still:
                self.kill()
                raise Died("frozen: takes no requests")

    def hear(self, limit: float = 0.0) -> Message:
        """The next message. `limit`: seconds to wait (default: until it counts as frozen)."""
        assert self.inner.stdout is not None
        began = time.monotonic()
        limit = limit or max(self.patience.still, 10 * self.longest)
        while (end := self.rest.find(b"\n")) < 0:
            if select.select([self.inner.stdout], [], [], 0.5)[0]:
                more = os.read(self.inner.stdout.fileno(), 1 << 20)
                self.rest += more
                if not more:
                    raise self.dead()
            elif self.inner.poll() is not None:  # its own children may hold the pipe open
                raise self.dead()
            elif time.monotonic() - began > limit:
                self.kill()
                raise Died(f"frozen: no progress for {limit:.0f} s")
        said = bytes(self.rest[:end])
        del self.rest[: end + 1]
        self.longest = max(self.longest, time.monotonic() - began)
        return heard(said)

    def dead(self) -> Died:
        """Why it is gone: its exit, and the last line it wrote."""
        with suppress(subprocess.TimeoutExpired):
            self.inner.wait(5)
        code = self.inner.poll()
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        else:
            how = f"exit code {code}"
        words = last_line(self.errors)
        self.kill()
        return Died(f"the engine's process ended: {how}" + (f"; it said: {words}" if words else ""))

    def kill(self) -> None:
        """The process and all that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.inner.pid, signal.SIGKILL)
        self.inner.wait()
        for pipe in (self.inner.stdin, self.inner.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self.errors.close()


def last_line(errors: IO[bytes]) -> str:
    """The last line that was written, without secrets: they are looked for before anything is cut, for half a token looks like none."""
    start = max(0, errors.seek(0, os.SEEK_END) - (1 << 16))
    errors.seek(start)
    said = errors.read().decode(errors="replace")
    lines = (said.partition(" ")[2] if start else said).strip().splitlines()
    return redact(lines[-1])[:300] if lines else ""


def heard(said: bytes) -> Message:
    message = json.loads(said)
    if message["is"] == "died":
        raise Died(message["reason"], message["memory"])
    return dict(message)


def spawn(limits: Patience) -> Process:
    root = str(Path(__file__).parents[3])  # the folder that holds the package `assay`
    environment = dict(os.environ)
    if "site-packages" not in root:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
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
    """assay.harness.engines.Engine over an engine in another process."""

    inside: str
    """The engine's name as its process opens it."""
    model: ModelRef
    settings: Settings
    patience: Patience
    name: str = ""
    limits: Limits = field(default_factory=lambda: Limits(0, 0))
    stats: EngineStats = field(default_factory=EngineStats)
    facts: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    restarts: int = 0
    before: tuple[int, ...] = (0,) * len(COUNTS)
    """What the processes that are gone had counted."""
    trouble: tuple[str, ...] = ()

    def start(self) -> Process:
        """The living process, opened anew if there is none. Raises AssayError as the engine's own opening does."""
        if self.process is None:
            process = spawn(self.patience)
            try:
                process.say({"engine": self.inside, "model": pack_model(self.model), "settings": asdict(self.settings)})
                said = process.hear(self.patience.opening)
                process.longest = 0.0
            except BaseException:
                process.kill()
                raise
            if said["is"] == "error":
                process.kill()
                error = read_error(said)
                raise Died(str(error)) if self.restarts else error  # it opened before
            self.process, self.name, self.limits = process, said["name"], Limits(*said["limits"])
            self.before = tuple(getattr(self.stats, name) for name in COUNTS)
            self.learn(said)
        return self.process

    def learn(self, said: Message) -> None:
        """Takes over counters, notes and facts of a message."""
        for name, earlier, now in zip(COUNTS, self.before, said.get("stats", ()), strict=False):
            setattr(self.stats, name, earlier + now)
        if "notes" in said:
            self.stats.notes = (*said["notes"], *self.trouble)
        self.facts = said.get("facts", self.facts)

    def drop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        for index, reply in self.ask("score", groups):
            assert not isinstance(reply, GenReply)
            yield index, reply

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, reply in self.ask("generate", requests):
            assert not isinstance(reply, ScoreReply)
            yield index, reply

    def ask(self, what: str, requests: Sequence[Any]) -> Iterator[tuple[int, ScoreReply | GenReply | Failure]]:
        """Every request once, over as many processes as it takes. Raises Incomplete where they die again and again."""
        waiting = [tuple(range(len(requests)))]
        deaths = barren = 0
        while waiting:
            batch = waiting.pop()
            left = dict.fromkeys(batch)
            try:
                for place, reply in self.attempt(what, [requests[index] for index in batch]):
                    del left[batch[place]]
                    barren = 0
                    yield batch[place], reply
                continue
            except Died as death:
                deaths, barren = deaths + 1, barren + 1
                reason = str(death)
                self.mourn(death, barren)
            if deaths > self.patience.deaths or barren > self.patience.barren + 2 * len(requests).bit_length():
                raise Incomplete(f"the engine died {deaths} times, at last: {reason}", do="mend the cause, then resume")
            rest = tuple(left)
            if len(batch) == 1 and rest and barren > 1:
                yield batch[0], Failure(f"the engine died of this request each time: {reason}")
            elif barren > 1:
                waiting += [part for part in (rest[len(rest) // 2 :], rest[: len(rest) // 2]) if part]
            elif rest:
                waiting.append(rest)

    def attempt(self, what: str, requests: Sequence[Any]) -> Iterator[tuple[int, ScoreReply | GenReply | Failure]]:
        """Replies of one process. Raises Died; whoever stops listening half way ends the process, which is busy for nobody."""
        whole = False
        try:
            process = self.start()
            process.say({"do": what, "count": len(requests)}, *({"ask": pack_request(each)} for each in requests))
            while (said := process.hear())["is"] != "done":
                if said["is"] == "error":
                    raise read_error(said)
                self.learn(said)
                if said["is"] == "reply":
                    yield said["index"], read_reply(said["reply"])
            self.learn(said)
            whole = True
        finally:
            if not whole:
                self.drop()

    def mourn(self, death: Died, barren: int) -> None:
        """Notes a death, asks for less where memory ran out, and waits a little before the next start."""
        self.drop()
        self.restarts += 1
        note = f"engine restarted: {death}"
        batch = self.settings.batch or HALVED_FROM
        if death.memory and batch > 1:
            self.settings = replace(self.settings, batch=batch // 2)
            note += f"; batch {batch} halved"
        if note not in self.trouble:
            self.trouble += (note,)
        self.stats.notes = tuple(dict.fromkeys((*self.stats.notes, note)))
        time.sleep(min(10.0, self.patience.pause * 2 ** (barren - 1)))

    def swap(self, weights: Path) -> None:
        try:
            process = self.start()
            process.say({"do": "swap", "weights": str(weights)})
            while (said := process.hear(self.patience.opening))["is"] == "beat":
                pass
            if said["is"] == "error":
                raise read_error(said)
            self.learn(said)
        except Died as death:  # the next process opens the new weights at once
            self.mourn(death, 1)
        self.model = replace(self.model, path=weights, checkpoint=None)

    def close(self) -> None:
        """Lets the process end by itself, but not for long."""
        if self.process is not None:
            with suppress(Died, subprocess.TimeoutExpired):
                self.process.say({"do": "close"})
                self.process.inner.wait(20)
        self.drop()

    def describe(self) -> dict[str, str]:
        return {**self.facts, "process": "child", "restarts": str(self.restarts)}


def open_engine(model: ModelRef, settings: Settings, script: str = "hf") -> ChildEngine:
    """The engine named `script` in a process of its own. Raises AssayError as that engine does; Incomplete where its process dies."""
    engine = ChildEngine(script, model, settings, patience())
    try:
        engine.start()
    except Died as death:
        raise Incomplete(f"the engine could not be opened: {death}", do="mend the cause, then resume") from None
    return engine


def open_vllm(model: ModelRef, settings: Settings, script: str = "") -> Engine:
    """vLLM in a process of its own; `vllm:here` opens it in this one."""
    if script not in ("", "here"):
        raise AssayError(f"unknown option {script!r} of vLLM", where="--engine", do="use vllm or vllm:here")
    return open_vllm_here(model, settings) if script else open_engine(model, settings, "vllm:here")
