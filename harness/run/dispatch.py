"""Send the requests of prepared items to an engine, store each finished item, and report progress."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from assay.harness.engines import Engine
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.thinking import generate_stages
from assay.harness.errors import Incomplete
from assay.harness.run.prepare import PreparedItem, PreparedTask, Request
from assay.harness.run.proof import Pair, Proof, early
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
        """The items of a task, or of several, begin; `done` of them were scored earlier."""

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
    kept: frozenset[str],
) -> None:
    """Send every distinct request once, in one call each for scores and for texts; call `finished` with an item as soon as all its
    replies have arrived.

    Replies to the keys in `kept` are added to `cache`; requests with a reply in `cache` are not sent. Raises Incomplete where
    the engine leaves a request without a reply.
    """
    replies: dict[str, Reply] = {}
    waiting: dict[str, list[int]] = defaultdict(list)
    missing: list[int] = []
    unique: dict[str, Request] = {}
    keys = [[request.key for request in each.requests] for each in items]
    uses = Counter(key for own in keys for key in own)
    for number, each in enumerate(items):
        wanted = dict(zip(keys[number], each.requests, strict=True))
        open_keys = [key for key in wanted if key not in cache]
        missing.append(len(open_keys))
        for key in open_keys:
            unique[key] = fuller(wanted[key], unique.get(key), key in kept)
            waiting[key].append(number)
        if not open_keys:
            finished(each, [cache[key] for key in keys[number]])

    def arrived(key: str, reply: Reply) -> None:
        replies[key] = reply
        if key in kept:
            cache[key] = reply
        for number in waiting.pop(key):
            missing[number] -= 1
            if missing[number] == 0:
                finished(items[number], [replies[each] if each in replies else cache[each] for each in keys[number]])
                release(keys[number])

    def release(done: Iterable[str]) -> None:
        for each in done:
            uses[each] -= 1
            if not uses[each]:
                replies.pop(each, None)

    score = [(key, request) for key, request in unique.items() if isinstance(request, ScoreGroup)]
    for position, scored in engine.score([request for _, request in score]) if score else ():
        arrived(score[position][0], scored)
    generate = [(key, request) for key, request in unique.items() if isinstance(request, GenRequest)]
    for position, generated in generate_stages(engine, [request for _, request in generate]) if generate else ():
        arrived(generate[position][0], generated)
    if waiting:
        raise Incomplete(f"the engine did not reply to {len(waiting)} requests", do="resume the run")


def fuller(request: Request, other: Request | None, proves: bool) -> Request:
    """The request, for text with its log-probability where it proves a task or an equal one needs that."""
    if isinstance(request, ScoreGroup) or request.logprob:
        return request
    return replace(request, logprob=proves or (isinstance(other, GenRequest) and other.logprob))


@dataclass(slots=True)  # house: remembers what it has measured
class Meter:
    """The tokens and seconds of an engine since they were last taken, whichever task took them: engines work on all tasks at once."""

    engine: Engine
    computed: int = 0
    cached: int = 0
    taken: float = 0.0

    @classmethod
    def of(cls, engine: Engine) -> Meter:
        return cls(engine, engine.stats.computed, engine.stats.cached, clock())

    def take(self) -> dict[str, Any]:
        """Computed and cached tokens, and seconds, as the fields of a record."""
        now, stats = clock(), self.engine.stats
        found = {"computed": stats.computed - self.computed, "cached": stats.cached - self.cached, "seconds": now - self.taken}
        self.computed, self.cached, self.taken = stats.computed, stats.cached, now
        return found


class Recorder:
    """Scores finished items of one task and stores them, with the tokens and seconds since the previous item of any task.

    All but the newest item are stored at once, so that a kill costs one finished item of each task at most. The newest is kept back,
    because an engine may add to its token counts until it returns, and because a task with an item to score is proven when it is resumed.
    """

    def __init__(
        self, task: PreparedTask, writer: Writer | Collector, progress: RunProgress, meter: Meter, allow_failed: bool = False
    ) -> None:
        self.task, self.writer, self.progress, self.meter, self.allow_failed = task, writer, progress, meter, allow_failed
        self.newest: Record | None = None
        self.failed = 0

    def add(self, prepared: PreparedItem, replies: Sequence[Reply]) -> None:
        record = score_item(self.task.task, prepared, replies)
        self.flush()
        self.newest = record

    def flush(self) -> None:
        """Store the newest item. Raises Incomplete where too many items of the task failed (see MAX_FAILED)."""
        record, self.newest = self.newest, None
        if record is None:
            return
        spent = self.meter.take()
        self.writer.append([replace(record, **spent)])
        self.progress.advance(1, spent["computed"], record.task, record.correct)
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


@dataclass(frozen=True, slots=True)
class Part:
    """The items of one task that are to be scored. `again`: those that are scored where its proof fails."""

    task: PreparedTask
    items: Sequence[PreparedItem]
    again: Sequence[PreparedItem]

    @property
    def name(self) -> str:
        return self.task.task.full_name


def key_of(each: PreparedItem) -> tuple[str, str]:
    return each.item.task, each.item.id


@dataclass(slots=True)  # house: holds the engine, which a failed proof replaces
class Scorer:
    """Scores the items of all tasks with one engine, in one call, and proves each task on a few of its own requests before its records
    count.

    The requests that prove tasks are sent first where that costs little, so that a wrong engine is found early. Where a proof fails,
    `open_plain` opens the engine on its plain way, which scores that task again, whole, and all that was not scored before.
    """

    engine: Engine
    open_plain: Callable[[], Engine]
    proof: Proof
    writer: Writer
    progress: RunProgress
    allow_failed: bool = False
    cache: dict[str, Reply] = field(default_factory=dict)

    def score(self, parts: Sequence[Part]) -> None:
        """Score and store these items. Raises Invalid where even the plain way disagrees with the library, and Incomplete."""
        parts = [part for part in parts if part.items]
        recorders, scored = self.recorders(parts, frozenset()), set[tuple[str, str]]()
        problems = self.send(parts, recorders, scored) if parts else {}
        if not problems:
            return
        # The newest record of these tasks is not stored yet: a run killed from here on still has an item of each, and proves it again.
        problem, last = next(iter(problems.values())), {name: recorders[name].newest for name in problems}
        self.proof.fall_back(problem)
        self.progress.stage(f"WARNING: {problem}. Scoring {self.proof.model.name} by plain forwards, which is slower.")
        self.engine = self.open_plain()
        self.cache.clear()
        parts = [replace(part, items=part.again if part.name in problems else left(part, scored)) for part in parts]
        parts = [part for part in parts if part.items]
        self.progress.begin(title(parts), sum(len(part.items) for part in parts), 0)
        recorders = self.recorders(parts, frozenset(problems))
        for problem in self.send(parts, recorders, set()).values():
            self.proof.fall_back(problem)
        for name, newest in last.items():
            collector = recorders[name].writer
            assert isinstance(collector, Collector)
            refuse_errors(collector.records, self.writer.records())
            self.writer.append(sorted(collector.records, key=lambda record: newest is not None and record.item == newest.item))

    def close(self) -> None:
        self.proof.close()
        self.engine.close()

    def recorders(self, parts: Sequence[Part], again: frozenset[str]) -> dict[str, Recorder]:
        """A recorder for each task; records of the tasks scored `again` are collected, to be stored in one write."""
        meter = Meter.of(self.engine)

        def writer(name: str) -> Writer | Collector:
            return Collector() if name in again else self.writer

        return {part.name: Recorder(part.task, writer(part.name), self.progress, meter, self.allow_failed) for part in parts}

    def send(self, parts: Sequence[Part], recorders: Mapping[str, Recorder], scored: set[tuple[str, str]]) -> dict[str, str]:
        """Send the requests of these items and of those that prove their tasks; returns what the proofs found, by task.

        The items that were recorded are added to `scored`: all, unless one of the proofs that come first has failed.
        """
        pairs = {part.name: found for part in parts if (found := self.proof.pairs(part.task, self.engine))}
        first = self.sent_first(parts, pairs)
        keys = frozenset(request.key for found in pairs.values() for _, request in found)
        wanted, unproven = {key_of(each) for part in parts for each in part.items}, set(pairs)

        def finished(each: PreparedItem, replies: Sequence[Reply]) -> None:
            if key_of(each) in wanted:
                recorders[each.item.task].add(each, replies)
                scored.add(key_of(each))

        def ask(items: Iterable[PreparedItem]) -> None:
            try:
                send_requests([*{key_of(each): each for each in items}.values()], self.engine, finished, self.cache, keys)
            except BaseException:  # items finished before a failure are kept, but one of each task that is to be proven
                for name, recorder in recorders.items():
                    if name not in unproven:
                        recorder.flush()
                raise

        def prove(names: Iterable[str]) -> dict[str, str]:
            problems = {}
            for part in parts:
                if part.name not in names:
                    continue
                if problem := self.proof.check(part.task, pairs[part.name], self.engine, self.cache):
                    problems[part.name] = problem
                    continue
                unproven.discard(part.name)
                self.writer.keep_proof(self.proof.facts())
            return problems

        problems: dict[str, str] = {}
        if first:
            ask(each for name in first for each, _ in pairs[name])
            problems = prove(first)
        if not problems:
            late = [name for name in pairs if name not in first]
            rest = (each for part in parts for each in part.items if key_of(each) not in scored)
            ask([*(each for name in late for each, _ in pairs[name]), *rest])
            problems = prove(late)
        for name, recorder in recorders.items():
            if name not in problems:
                recorder.flush()
        return problems

    def sent_first(self, parts: Sequence[Part], pairs: Mapping[str, Sequence[Pair]]) -> list[str]:
        """The tasks whose proofs come before the other items: all on the plain way, else as many as cost little."""
        drawn = {name: [each for each, _ in found] for name, found in pairs.items()}
        return list(drawn) if self.proof.reason else early(drawn, [each for part in parts for each in part.items])


def left(part: Part, scored: set[tuple[str, str]]) -> list[PreparedItem]:
    """The items of a part that are not scored yet."""
    return [each for each in part.items if key_of(each) not in scored]


def title(parts: Sequence[Part]) -> str:
    """The tasks of these parts, for a progress bar."""
    return parts[0].name if len(parts) == 1 else f"{len(parts)} tasks"
