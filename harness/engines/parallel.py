"""An `Engine` over several processes on this machine, one per GPU: each loads the model and answers shards of the requests.

On a CPU the processes share the cores. A process that dies is restarted by its ChildEngine, and only its open requests are sent again.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.child import ChildEngine, ProcessDied, read_timeouts
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.shards import SHARDS, Request, shards
from assay.harness.engines.threads import cores
from assay.harness.engines.wire import COUNTS
from assay.harness.errors import AssayError, Incomplete
from assay.harness.model.find import ModelRef

Reply = ScoreReply | GenReply | Failure
Send = Callable[[ChildEngine, Any], Iterator[tuple[int, Any]]]
Arrived = tuple[int, Reply] | BaseException | None
"""A reply with the index of its request; the error of a process; None: a process has no more shards."""


@dataclass(slots=True)  # house: owns processes
class ParallelEngine:
    """assay.harness.engines.Engine over `engines`, each in a process of its own."""

    engines: list[ChildEngine]
    name: str
    limits: Limits
    stats: EngineStats = field(default_factory=EngineStats)

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        for index, reply in self.distribute(groups, lambda engine, part: engine.score(part)):
            assert not isinstance(reply, GenReply)
            yield index, reply

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, reply in self.distribute(requests, lambda engine, part: engine.generate(part)):
            assert not isinstance(reply, ScoreReply)
            yield index, reply

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Score by the engine's own plain way, for a proof, in the first process. Raises AssayError where it has none."""
        yield from self.engines[0].plain(groups)

    def distribute(self, requests: Sequence[Any], send: Send) -> Iterator[tuple[int, Any]]:
        """Every process takes the next shard when it is done with one. If the caller stops early, the processes are ended."""
        waiting: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
        for members in shards(requests, SHARDS * len(self.engines)):
            waiting.put(members)
        arrived: queue.SimpleQueue[Arrived] = queue.SimpleQueue()
        stop = threading.Event()
        threads = [threading.Thread(target=work, args=(engine, requests, waiting, arrived, stop, send)) for engine in self.engines]
        for thread in threads:
            thread.start()
        left = len(threads)
        try:
            while left:
                found = arrived.get()
                if isinstance(found, BaseException):
                    raise found
                self.count()
                if found is None:
                    left -= 1
                else:
                    yield found
        finally:
            stop.set()
            for thread, engine in zip(threads, self.engines, strict=True):
                if left and thread.is_alive():
                    interrupt(engine, thread)
                thread.join()  # with none left, a thread may still be alive after its last reply: its process must not be ended
            self.count()

    def count(self) -> None:
        """Add up the counters of all processes."""
        for name in COUNTS:
            setattr(self.stats, name, sum(getattr(engine.stats, name) for engine in self.engines))
        self.stats.notes = tuple(dict.fromkeys(note for engine in self.engines for note in engine.stats.notes))

    def swap(self, weights: Path) -> None:
        self.each(lambda engine: engine.swap(weights))

    def each(self, do: Callable[[ChildEngine], object]) -> None:
        """Do something with every engine at the same time. Raises the first error."""
        with ThreadPoolExecutor(len(self.engines)) as pool:
            for _ in pool.map(do, self.engines):
                pass

    def close(self) -> None:
        self.each(ChildEngine.close)

    def describe(self) -> dict[str, str]:
        restarts = sum(engine.restarts for engine in self.engines)
        return {**self.engines[0].describe(), "data_parallel": str(len(self.engines)), "restarts": str(restarts)}


def work(
    engine: ChildEngine,
    requests: Sequence[Request],
    waiting: queue.SimpleQueue[list[int]],
    arrived: queue.SimpleQueue[Arrived],
    stop: threading.Event,
    send: Send,
) -> None:
    """Answer shards with one engine until none is left or `stop` is set."""
    try:
        while not stop.is_set():
            try:
                members = waiting.get_nowait()
            except queue.Empty:
                break
            for place, reply in send(engine, [requests[index] for index in members]):
                arrived.put((members[place], reply))
                if stop.is_set():
                    return  # the engine ends its process
        arrived.put(None)
    except BaseException as error:
        arrived.put(error)


def interrupt(engine: ChildEngine, thread: threading.Thread) -> None:
    """End the process that a thread waits for, and the thread; the engine's next request starts a new process."""
    kept = engine.timeouts, engine.restarts, engine.restart_notes, engine.stats.notes
    engine.timeouts = replace(engine.timeouts, deaths=-1, pause=0.0)
    if engine.process is not None:
        with suppress(ProcessLookupError):
            os.kill(engine.process.inner.pid, signal.SIGKILL)
    thread.join()
    engine.drop()
    engine.timeouts, engine.restarts, engine.restart_notes, engine.stats.notes = kept


def environments(settings: Settings) -> list[Mapping[str, str]]:
    """The environment variables of each process: its GPUs, or its share of the cores. Raises AssayError for more processes than GPUs."""
    count, each = settings.data_parallel, settings.tensor_parallel * settings.pipeline_parallel
    devices = gpus() if settings.device != "cpu" else []
    if devices:
        if count * each > len(devices):
            what = f"{count} processes with {each} GPU each need {count * each} GPUs, this machine has {len(devices)}"
            raise AssayError(what, where="--data-parallel", do=f"use --data-parallel {max(1, len(devices) // each)}")
        return [{"CUDA_VISIBLE_DEVICES": ",".join(devices[n * each : (n + 1) * each])} for n in range(count)]
    return [{"OMP_NUM_THREADS": str(max(1, cores() // count))}] * count


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none without a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    found = sorted(Path("/dev").glob("nvidia[0-9]*"))
    return [str(number) for number in range(len(found))]


def open_parallel(name: str, model: ModelRef, settings: Settings) -> ParallelEngine:
    """`settings.data_parallel` processes with the engine `name`, opened at the same time. Raises AssayError as that engine does."""
    inner = {"vllm": "vllm:here"}.get(name, name.removeprefix("child:"))
    alone = replace(settings, data_parallel=1)
    engines = [ChildEngine(inner, model, alone, read_timeouts(), environment=variables) for variables in environments(settings)]
    found = ParallelEngine(engines, name, Limits(0, 0))
    try:
        found.each(ChildEngine.start)
    except BaseException as error:
        for engine in engines:
            engine.drop()
        if isinstance(error, ProcessDied):
            raise Incomplete(f"the engine could not be opened: {error}", do="fix the cause, then resume the run") from None
        raise
    limits = [engine.limits for engine in engines]
    found.limits = Limits(min(each.positions for each in limits), min(each.vocabulary for each in limits))
    found.name = engines[0].name
    found.count()
    return found
