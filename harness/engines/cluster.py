"""One engine over a Ray cluster: an actor with an engine of its own per GPU (or per node's CPUs), and the work cut along the token trie.

It is an `Engine` like any other, so that a run is planned, stored, resumed and scored as on one machine. A shard is a run of
neighbouring branches of the trie, answered whole or not at all: what a lost node had not handed in is asked again elsewhere.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from assay.harness.engines import Engine, EngineStats, Limits, Settings
from assay.harness.engines.opening import open_engine
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.trie import shared_length, sortable
from assay.harness.engines.wire import (
    COUNTS,
    counts,
    pack_error,
    pack_model,
    pack_reply,
    pack_request,
    read_error,
    read_generation,
    read_group,
    read_model,
    read_reply,
)
from assay.harness.errors import AssayError, Incomplete, redact
from assay.harness.model.find import ModelRef, find_model

SHARDS = 4
"""Shards per actor: a slow node then holds up the others by a quarter of its share at most."""
PATIENCE = 300.0
"""Seconds without any actor after which a run gives up (it can be resumed)."""
Request = ScoreGroup | GenRequest
Reply = ScoreReply | GenReply | Failure


def shards(requests: Sequence[Request], most: int) -> list[list[int]]:
    """At most `most` runs of neighbours in depth-first order of the trie, with nearly equally many tokens of their own, largest first."""
    keys = [sortable(request.context if isinstance(request, ScoreGroup) else request.prompt) for request in requests]
    order = sorted(range(len(requests)), key=keys.__getitem__)
    paths = [np.frombuffer(keys[index], ">u4") for index in order]
    shared = [0, *(shared_length(left, right) for left, right in pairwise(paths))] if paths else []
    own = [len(path) - share + answers(requests[index]) for path, share, index in zip(paths, shared, order, strict=True)]
    ends = np.cumsum(own)
    cuts = [0, *(int(np.searchsorted(ends, ends[-1] * part / most)) for part in range(1, most)), len(order)] if paths else [0]
    found = [(int(sum(own[begin:stop])), order[begin:stop]) for begin, stop in pairwise(cuts) if stop > begin]
    return [members for _, members in sorted(found, key=lambda pair: -pair[0])]


def answers(request: Request) -> int:
    """Tokens that a request adds after its prompt."""
    return request.max_tokens if isinstance(request, GenRequest) else sum(map(len, request.continuations))


class Worker:
    """What an actor does. Everything goes in and out as JSON; AssayErrors come back as values, for others mean a lost actor."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def open(self, name: str, model: str, settings: str) -> str:
        """Load the model from this node's disk, if it is the same there. Gives the engine's limits and facts."""
        ref = read_model(json.loads(model))
        try:
            here = find_model(str(ref.path), adapter=ref.adapter, cache=Path(), offline=True)
            if here.digest != ref.digest:
                raise AssayError(
                    "this node has other files of the model", where=f"{os.uname().nodename}: {ref.path}", do="share one folder"
                )
            self.engine = open_engine(name, replace(ref, checkpoint=here.checkpoint), Settings(**json.loads(settings)))
        except AssayError as error:
            return json.dumps({"error": pack_error(error)})
        return json.dumps({"limits": asdict(self.engine.limits), "facts": self.engine.describe(), "notes": list(self.engine.stats.notes)})

    def answer(self, kind: str, asked: str) -> str:
        """Replies to one shard, with what it cost."""
        engine = self.engine
        assert engine is not None
        before = counts(engine.stats)
        try:
            if kind == "score":
                replies = [(index, pack_reply(reply)) for index, reply in engine.score([read_group(each) for each in json.loads(asked)])]
            else:
                requests = [read_generation(each) for each in json.loads(asked)]
                replies = [(index, pack_reply(said)) for index, said in engine.generate(requests)]
        except AssayError as error:
            return json.dumps({"error": pack_error(error)})
        spent = [now - then for now, then in zip(counts(engine.stats), before, strict=True)]
        return json.dumps({"replies": replies, "spent": spent, "notes": list(engine.stats.notes)})

    def swap(self, weights: str) -> str:
        assert self.engine is not None
        try:
            self.engine.swap(Path(weights))
        except AssayError as error:
            return json.dumps({"error": pack_error(error)})
        return "{}"


@dataclass(slots=True)  # house: actors come and go
class Cluster:
    """assay.harness.engines.Engine over the actors of a Ray cluster."""

    ray: Any
    opening: tuple[str, str, str]
    need: dict[str, float]
    wanted: int
    stats: EngineStats = field(default_factory=EngineStats)
    ready: list[Any] = field(default_factory=list)
    """Actors with an open engine."""
    coming: dict[Any, Any] = field(default_factory=dict)
    """Actors that still open theirs, by the promise of it."""
    facts: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default=Limits(0, 0))
    lost: int = 0
    name: str = "cluster"

    def start(self) -> None:
        """Ask for one more actor; where the cluster has no room it waits for some."""
        actor = self.ray.remote(Worker).options(**self.need).remote()
        self.coming[actor.open.remote(*self.opening)] = actor

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        for index, reply in self.spread("score", groups):
            assert not isinstance(reply, GenReply)
            yield index, reply

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, reply in self.spread("generate", requests):
            assert not isinstance(reply, ScoreReply)
            yield index, reply

    def spread(self, kind: str, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Hand out shards and take in replies, whichever comes first; the shard of a lost actor goes to the next free one."""
        waiting = deque(shards(requests, SHARDS * self.wanted))
        busy: dict[Any, tuple[Any, list[int]]] = {}
        idle = deque(self.ready)
        while waiting or busy:
            while waiting and idle:
                actor, members = idle.popleft(), waiting.popleft()
                asked = json.dumps([pack_request(requests[index]) for index in members])
                busy[actor.answer.remote(kind, asked)] = actor, members
            promise = self.first([*busy, *(self.coming if waiting else ())])
            if promise in self.coming:
                idle.extend(self.arrived(promise))
                continue
            actor, members = busy.pop(promise)
            said = self.hear(promise)
            if said is None:
                self.drop(actor)
                waiting.appendleft(members)
                continue
            self.count(said)
            idle.append(actor)
            for place, reply in said["replies"]:
                yield members[place], read_reply(reply)

    def first(self, promises: list[Any]) -> Any:
        """The next promise that is kept or broken. Raises Incomplete where nobody works and nobody comes."""
        working = any(promise not in self.coming for promise in promises)
        done, _ = self.ray.wait(promises, num_returns=1, timeout=None if working else PATIENCE)
        if not done:
            raise Incomplete(
                f"no node of the cluster has had room for an engine for {PATIENCE:.0f} s", do="free a GPU, then resume the run"
            )
        return done[0]

    def hear(self, promise: Any) -> dict[str, Any] | None:
        """What an actor says; None where it is lost. Raises the AssayError that it met, Incomplete for any other of its errors."""
        try:
            said: dict[str, Any] = json.loads(self.ray.get(promise))
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError):
            return None
        except self.ray.exceptions.RayTaskError as error:
            raise Incomplete(
                f"an engine of the cluster failed: {redact(str(error.cause))[:300]}", do="resume the run; `ray logs` has the cause"
            ) from None
        if "error" in said:
            raise read_error(said["error"])
        return said

    def arrived(self, promise: Any) -> list[Any]:
        """The actor whose engine is open, if it lives; another is asked for where not."""
        actor = self.coming.pop(promise)
        said = self.hear(promise)
        if said is None:
            self.drop(actor)
            return []
        self.limits = Limits(**said["limits"])
        self.facts = said["facts"]
        self.note(said["notes"])
        self.ready.append(actor)
        return [actor]

    def drop(self, actor: Any) -> None:
        self.ready = [each for each in self.ready if each is not actor]
        self.lost += 1
        self.note([f"{self.lost} of the cluster's engines lost; their shards were asked again"])
        if self.lost > 10 * self.wanted:
            raise Incomplete(f"{self.lost} engines of the cluster were lost", do="look at the nodes, then resume the run")
        self.start()

    def note(self, notes: Sequence[str]) -> None:
        kept = [note for note in self.stats.notes if "engines lost" not in note or not any("engines lost" in new for new in notes)]
        self.stats.notes = tuple(dict.fromkeys((*kept, *notes)))

    def count(self, said: dict[str, Any]) -> None:
        for name, more in zip(COUNTS, said["spent"], strict=True):
            setattr(self.stats, name, getattr(self.stats, name) + more)
        self.note(said["notes"])

    def swap(self, weights: Path) -> None:
        """Every engine takes the new weights; one that is lost meanwhile is replaced by one that opens them."""
        name, _, settings = self.opening
        ref = find_model(str(weights), cache=Path(), offline=True)
        self.opening = name, json.dumps(pack_model(ref)), settings
        for promise, actor in list(self.coming.items()):
            del self.coming[promise]
            self.ray.kill(actor)
            self.start()
        for promise, actor in [(actor.swap.remote(str(weights)), actor) for actor in self.ready]:
            if self.hear(promise) is None:
                self.drop(actor)

    def close(self) -> None:
        for actor in (*self.ready, *self.coming.values()):
            self.ray.kill(actor)
        self.ready, self.coming = [], {}

    def describe(self) -> dict[str, str]:
        return {**self.facts, "cluster": f"ray {self.ray.__version__}, {self.wanted} engines", "lost": str(self.lost)}


def join(address: str = "") -> Any:
    """ray, connected to a running cluster. Raises AssayError where ray or the cluster is missing."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise AssayError("ray is not installed", where="--ray", do="pip install 'assay[ray]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=address or os.environ.get("RAY_ADDRESS") or "auto", log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise AssayError(
                f"no Ray cluster: {redact(reason)[:200]}", where="--ray", do="ray start --head, then the same command"
            ) from None
    return ray


def room(ray: Any, settings: Settings) -> tuple[int, dict[str, float]]:
    """How many engines fit the cluster, and what each takes: GPUs where there are any, else all CPUs of a node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = float(settings.tensor_parallel * settings.pipeline_parallel)
    if settings.device != "cpu" and any(node.get("GPU", 0) >= gpus for node in nodes):
        return int(sum(node.get("GPU", 0) // gpus for node in nodes)), {"num_gpus": gpus, "num_cpus": 1}
    cpus = min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=0)
    if not cpus:
        raise AssayError("the cluster has neither a free GPU nor a CPU", where="--ray", do="look at `ray status`")
    return int(sum(node.get("CPU", 0) // cpus for node in nodes)), {"num_cpus": cpus}


def open_cluster(name: str, model: ModelRef, settings: Settings) -> Cluster:
    """An engine on every node. Returns when the first is open; the others join as they come. Raises AssayError, Incomplete."""
    ray = join()
    wanted, need = room(ray, settings)
    found = Cluster(ray, (name, json.dumps(pack_model(model)), json.dumps(asdict(settings))), need, wanted, name=name)
    for _ in range(wanted):
        found.start()
    deadline = time.monotonic() + 10 * PATIENCE
    while not found.ready:
        if time.monotonic() > deadline:
            raise Incomplete("no engine of the cluster opened", do="look at the nodes, then resume the run")
        found.arrived(found.first(list(found.coming)))
    return found
