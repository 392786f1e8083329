"""Send the requests of prepared items to an engine, store each finished item, and report progress."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from assay.harness.engines import Engine
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.thinking import generate_stages
from assay.harness.errors import Incomplete
from assay.harness.run.prepare import PreparedItem, PreparedTask, Request
from assay.harness.run.proof import Proof, early
from assay.harness.run.scoring.measure import Reply, score_item
from assay.harness.store import Writer
from assay.harness.store.journal import without_nonfinite
from assay.harness.store.provenance import clock
from assay.harness.store.record import Record

MAX_FAILED = 10
"""Failed items of a task before the run stops; in large tasks 0.1 % of the items."""


class RunProgress(Protocol):
    """Receives the progress of a run: a progress bar, plain lines, or `NoProgress`."""

    def stage(self, text: str) -> None:
        """A stage begins."""

    def begin(self, task: str, items: int, done: int) -> None:
        """A task begins; `done` of its `items` were scored earlier."""

    def advance(self, items: int, tokens: int, task: str = "", correct: float | None = None) -> None:
        """`items` more are finished; they took `tokens` computed tokens. `correct`: the score of the item of `task`, if it has one."""


class NoProgress:
    """Shows nothing."""

    def stage(self, text: str) -> None: ...

    def begin(self, task: str, items: int, done: int) -> None: ...

    def advance(self, items: int, tokens: int, task: str = "", correct: float | None = None) -> None: ...


def send_requests(
    items: Sequence[PreparedItem],
    engine: Engine,
    finished: Callable[[PreparedItem, Sequence[Reply]], None],
    cache: dict[str, Reply],
    shared: frozenset[str],
) -> None:
    """Send every distinct request once; call `finished` with an item as soon as all its replies have arrived.

    Replies to the keys in `shared` are added to `cache`; requests with a reply in `cache` are not sent. Raises Incomplete where
    the engine leaves a request without a reply.
    """
    replies: dict[str, Reply] = {}
    waiting: dict[str, list[int]] = defaultdict(list)
    missing: list[int] = []
    unique: dict[str, Request] = {}
    keys = [[request.key for request in each.requests] for each in items]
    for number, each in enumerate(items):
        wanted = dict(zip(keys[number], each.requests, strict=True))
        open_keys = [key for key in wanted if key not in cache]
        missing.append(len(open_keys))
        for key in open_keys:
            unique[key] = wanted[key]
            waiting[key].append(number)
        if not open_keys:
            finished(each, [cache[key] for key in keys[number]])

    def arrived(key: str, reply: Reply) -> None:
        replies[key] = reply
        if key in shared:
            cache[key] = reply
        for number in waiting.pop(key):
            missing[number] -= 1
            if missing[number] == 0:
                finished(items[number], [replies[key] if key in replies else cache[key] for key in keys[number]])

    score = [(key, request) for key, request in unique.items() if isinstance(request, ScoreGroup)]
    for position, scored in engine.score([request for _, request in score]) if score else ():
        arrived(score[position][0], scored)
    generate = [(key, request) for key, request in unique.items() if isinstance(request, GenRequest)]
    for position, generated in generate_stages(engine, [request for _, request in generate]) if generate else ():
        arrived(generate[position][0], generated)
    if waiting:
        raise Incomplete(f"the engine did not reply to {len(waiting)} requests", do="resume the run")


class Recorder:
    """Scores finished items of one task and stores them, with the tokens and seconds since the previous item.

    All but the newest item are stored at once, so that a kill costs one finished item at most. The newest is kept back, because an
    engine may add to its token counts until it returns.
    """

    def __init__(
        self, task: PreparedTask, writer: Writer | Collector, progress: RunProgress, engine: Engine, allow_failed: bool = False
    ) -> None:
        self.task, self.writer, self.progress, self.engine, self.allow_failed = task, writer, progress, engine, allow_failed
        self.newest: Record | None = None
        self.failed, self.stored = 0, clock()
        self.computed, self.cached = engine.stats.computed, engine.stats.cached

    def add(self, prepared: PreparedItem, replies: Sequence[Reply]) -> None:
        record = score_item(self.task.task, prepared, replies)
        self.flush()
        self.newest = record

    def flush(self) -> None:
        """Store the newest item. Raises Incomplete where too many items of the task failed (see MAX_FAILED)."""
        record, self.newest = self.newest, None
        if record is None:
            return
        now, stats = clock(), self.engine.stats
        computed, cached = stats.computed - self.computed, stats.cached - self.cached
        self.writer.append([replace(record, computed=computed, cached=cached, seconds=now - self.stored)])
        self.progress.advance(1, computed, record.task, record.correct)
        self.stored, self.computed, self.cached = now, stats.computed, stats.cached
        self.failed += record.status == "error"
        if record.status == "error" and not self.allow_failed and self.failed > max(MAX_FAILED, len(self.task.items) // 1000):
            raise Incomplete(
                f"stopped early: {self.failed} items of {record.task} failed, the last ({record.item}): {record.error}", do="fix the cause"
            )


class Collector:
    """Takes the records of a task that is scored again, to store them in one write."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def append(self, records: Sequence[Record]) -> None:
        self.records += map(without_nonfinite, records)


def refuse_errors(again: Sequence[Record], stored: Sequence[Record]) -> None:
    """Raises Incomplete where an item that has a score failed when it was scored again: its wrong score would stay."""
    scored = {(record.task, record.item) for record in stored if record.status != "error"}
    for record in again:
        if record.status == "error" and (record.task, record.item) in scored:
            what = f"{record.task} {record.item} failed when it was scored again by plain forwards: {record.error}"
            raise Incomplete(what, do="fix the cause, then resume the run")


@dataclass(slots=True)  # house: holds the engine, which a failed proof replaces
class TaskScorer:
    """Scores tasks with one engine, and proves each on a few of its own requests before its records count.

    Where a proof fails, `open_plain` opens the engine on its plain way, which scores the task again, whole, and the tasks after it.
    """

    engine: Engine
    open_plain: Callable[[], Engine]
    proof: Proof
    writer: Writer
    progress: RunProgress
    shared: frozenset[str] = frozenset()
    allow_failed: bool = False
    cache: dict[str, Reply] = field(default_factory=dict)

    def score(self, task: PreparedTask, items: Sequence[PreparedItem], again: Sequence[PreparedItem] | None = None) -> None:
        """Score and store these items of a task. `again`: the items to score where the proof fails; all of the task by default.

        Raises Invalid where even the plain way disagrees with the library, and Incomplete.
        """
        if not items:
            return
        recorder = Recorder(task, self.writer, self.progress, self.engine, self.allow_failed)
        problem = self.send(task, items, recorder)
        if not problem:
            recorder.flush()
            return
        # The newest record is not stored yet: a run killed from here on still has an item to score, and so proves the task again.
        last = recorder.newest
        self.proof.fall_back(problem)
        self.progress.stage(f"WARNING: {problem}. Scoring {self.proof.model.name} by plain forwards, which is slower.")
        self.engine, collector, wanted = self.open_plain(), Collector(), task.items if again is None else again
        self.cache.clear()
        recorder = Recorder(task, collector, self.progress, self.engine, self.allow_failed)
        self.progress.begin(task.task.full_name, len(wanted), 0)
        if problem := self.send(task, wanted, recorder):
            self.proof.fall_back(problem)
        recorder.flush()
        refuse_errors(collector.records, self.writer.records())
        self.writer.append(sorted(collector.records, key=lambda record: last is not None and record.item == last.item))

    def close(self) -> None:
        self.proof.close()
        self.engine.close()

    def send(self, task: PreparedTask, items: Sequence[PreparedItem], recorder: Recorder) -> str:
        """Send the requests of these items and of those that prove the task; returns what the proof found."""
        pairs = self.proof.pairs(task, self.engine)
        drawn = {each.item.id: each for each, _ in pairs}
        keys = {request.key for _, request in pairs}
        wanted = {each.item.id for each in items}

        def finished(each: PreparedItem, replies: Sequence[Reply]) -> None:
            if each.item.id in wanted:
                recorder.add(each, replies)

        def send(portion: Sequence[PreparedItem], proven: bool) -> None:
            try:
                send_requests(portion, self.engine, finished, self.cache, self.shared | keys)
            except BaseException:  # items finished before a failure are kept, but one, so that a resumed run proves the task
                if proven:
                    recorder.flush()
                recorder.newest = None
                raise

        if not pairs:
            send(items, proven=True)
            return ""
        rest = [each for each in items if each.item.id not in drawn]
        first = early(task, list(drawn.values())) or bool(self.proof.reason)
        send([*drawn.values()] if first else [*drawn.values(), *rest], proven=False)
        problem = self.proof.check(task, pairs, self.engine, self.cache)
        if not problem:
            self.writer.keep_proof(self.proof.facts())
        if first and not problem:
            send(rest, proven=True)
        return problem
