"""An `Engine` over a Ray cluster: one actor with its own engine per GPU (or per node's CPUs); requests are split along the token trie.

A run is planned, stored, resumed and scored as on one machine. A shard is a range of neighbouring branches of the trie, answered
completely or not at all: the shard of a lost node is sent to another one.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from assay.harness.engines import Engine, EngineStats, Limits, Settings
from assay.harness.engines.opening import open_engine
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.shards import SHARDS, Request, shards
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

NODE_TIMEOUT = 300.0
"""Seconds to wait for the first actor before the run stops; it can be resumed."""
Reply = ScoreReply | GenReply | Failure


class Worker:
    """The Ray actor. Arguments and results are JSON. AssayErrors are returned as values; any other exception means a lost actor."""

    def __init__(self) -> None:
        self.engine: Engine | None = None

    def open(self, name: str, model: str, settings: str) -> str:
        """Load the model from this node's disk if its digest is the same. Returns the engine's limits and facts."""
        ref = read_model(json.loads(model))
        try:
            found = find_model(str(ref.path), adapter=ref.adapter, cache=Path(), offline=True)
            if found.digest != ref.digest:
                raise AssayError(
                    "the model's files on this node differ",
                    where=f"{os.uname().nodename}: {ref.path}",
                    do="put the model into a folder that all nodes share",
                )
            self.engine = open_engine(name, replace(ref, checkpoint=found.checkpoint), Settings(**json.loads(settings)))
        except AssayError as error:
            return json.dumps({"error": pack_error(error)})
        return json.dumps({"limits": asdict(self.engine.limits), "facts": self.engine.describe(), "notes": list(self.engine.stats.notes)})

    def answer(self, kind: str, packed: str) -> str:
        """Replies to one shard, and the tokens that it took."""
        engine = self.engine
        assert engine is not None
        before = counts(engine.stats)
        try:
            if kind == "score":
                replies = [(index, pack_reply(reply)) for index, reply in engine.score([read_group(each) for each in json.loads(packed)])]
            else:
                requests = [read_generation(each) for each in json.loads(packed)]
                replies = [(index, pack_reply(response)) for index, response in engine.generate(requests)]
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
    resources: dict[str, float]
    size: int
    stats: EngineStats = field(default_factory=EngineStats)
    ready: list[Any] = field(default_factory=list)
    """Actors with an open engine."""
    starting: dict[Any, Any] = field(default_factory=dict)
    """Actors that are loading their engine, by the Ray reference of the result."""
    facts: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default=Limits(0, 0))
    lost: int = 0
    name: str = "cluster"

    def start(self) -> None:
        """Start one more actor; Ray queues it while the cluster has no room."""
        actor = self.ray.remote(Worker).options(**self.resources).remote()
        self.starting[actor.open.remote(*self.opening)] = actor

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        for index, reply in self.distribute("score", groups):
            assert not isinstance(reply, GenReply)
            yield index, reply

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, reply in self.distribute("generate", requests):
            assert not isinstance(reply, ScoreReply)
            yield index, reply

    def distribute(self, kind: str, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Send shards to free actors and collect replies as they finish; the shard of a lost actor goes to the next free one."""
        waiting = deque(shards(requests, SHARDS * self.size))
        running: dict[Any, tuple[Any, list[int]]] = {}
        idle = deque(self.ready)
        while waiting or running:
            while waiting and idle:
                actor, members = idle.popleft(), waiting.popleft()
                packed = json.dumps([pack_request(requests[index]) for index in members])
                running[actor.answer.remote(kind, packed)] = actor, members
            reference = self.next_done([*running, *(self.starting if waiting else ())])
            if reference in self.starting:
                idle.extend(self.opened(reference))
                continue
            actor, members = running.pop(reference)
            result = self.result_of(reference)
            if result is None:
                self.drop(actor)
                waiting.appendleft(members)
                continue
            self.count(result)
            idle.append(actor)
            for place, reply in result["replies"]:
                yield members[place], read_reply(reply)

    def next_done(self, references: list[Any]) -> Any:
        """The first reference that is done. Raises Incomplete if no actor works and none could start."""
        working = any(reference not in self.starting for reference in references)
        done, _ = self.ray.wait(references, num_returns=1, timeout=None if working else NODE_TIMEOUT)
        if not done:
            raise Incomplete(
                f"no node of the cluster had room for an engine for {NODE_TIMEOUT / 60:.0f} minutes", do="free a GPU, then resume the run"
            )
        return done[0]

    def result_of(self, reference: Any) -> dict[str, Any] | None:
        """The result of an actor; None if the actor is lost. Raises the actor's AssayError, and Incomplete for any other error."""
        try:
            result: dict[str, Any] = json.loads(self.ray.get(reference))
        except (self.ray.exceptions.RayActorError, self.ray.exceptions.ObjectLostError):
            return None
        except self.ray.exceptions.RayTaskError as error:
            raise Incomplete(
                f"an engine of the cluster failed: {redact(str(error.cause))[:300]}",
                do="find the cause with `ray logs`, then resume the run",
            ) from None
        if "error" in result:
            raise read_error(result["error"])
        return result

    def opened(self, reference: Any) -> list[Any]:
        """The actor whose engine has opened, as a list; empty if it was lost, and then another one is started."""
        actor = self.starting.pop(reference)
        result = self.result_of(reference)
        if result is None:
            self.drop(actor)
            return []
        self.limits = Limits(**result["limits"])
        self.facts = result["facts"]
        self.note(result["notes"])
        self.ready.append(actor)
        return [actor]

    def drop(self, actor: Any) -> None:
        self.ready = [each for each in self.ready if each is not actor]
        self.lost += 1
        self.note([f"{self.lost} of the cluster's engines lost; their shards were sent again"])
        if self.lost > 10 * self.size:
            raise Incomplete(f"{self.lost} engines of the cluster were lost", do="check the nodes with `ray status`, then resume the run")
        self.start()

    def note(self, notes: Sequence[str]) -> None:
        kept = [note for note in self.stats.notes if "engines lost" not in note or not any("engines lost" in new for new in notes)]
        self.stats.notes = tuple(dict.fromkeys((*kept, *notes)))

    def count(self, result: dict[str, Any]) -> None:
        for name, more in zip(COUNTS, result["spent"], strict=True):
            setattr(self.stats, name, getattr(self.stats, name) + more)
        self.note(result["notes"])

    def swap(self, weights: Path) -> None:
        """Load other weights into every engine; an engine that is lost meanwhile is replaced by one that opens them."""
        name, _, settings = self.opening
        ref = find_model(str(weights), cache=Path(), offline=True)
        self.opening = name, json.dumps(pack_model(ref)), settings
        for reference, actor in list(self.starting.items()):
            del self.starting[reference]
            self.ray.kill(actor)
            self.start()
        for reference, actor in [(actor.swap.remote(str(weights)), actor) for actor in self.ready]:
            if self.result_of(reference) is None:
                self.drop(actor)

    def close(self) -> None:
        for actor in (*self.ready, *self.starting.values()):
            self.ray.kill(actor)
        self.ready, self.starting = [], {}

    def describe(self) -> dict[str, str]:
        return {**self.facts, "cluster": f"ray {self.ray.__version__}, {self.size} engines", "lost": str(self.lost)}


def connect(address: str = "") -> Any:
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
                f"no Ray cluster: {redact(reason)[:200]}", where="--ray", do="run `ray start --head`, then the same command"
            ) from None
    return ray


def capacity(ray: Any, settings: Settings) -> tuple[int, dict[str, float]]:
    """Number of engines that fit into the cluster, and the resources of each: GPUs if there are any, else all CPUs of a node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = float(settings.tensor_parallel * settings.pipeline_parallel)
    if settings.device != "cpu" and any(node.get("GPU", 0) >= gpus for node in nodes):
        return int(sum(node.get("GPU", 0) // gpus for node in nodes)), {"num_gpus": gpus, "num_cpus": 1}
    cpus = min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=0)
    if not cpus:
        raise AssayError("the cluster has neither a free GPU nor a CPU", where="--ray", do="check `ray status`")
    return int(sum(node.get("CPU", 0) // cpus for node in nodes)), {"num_cpus": cpus}


def open_cluster(name: str, model: ModelRef, settings: Settings) -> Cluster:
    """An engine on every node. Returns when the first is open; the others are used as they open. Raises AssayError, Incomplete."""
    if settings.data_parallel > 1:
        raise AssayError("--ray uses every GPU of the cluster", where="--data-parallel", do="leave out one of the two")
    if model.server is not None:
        raise AssayError("a served model needs no cluster", where="--ray", do="leave out --ray")
    ray = connect()
    size, resources = capacity(ray, settings)
    found = Cluster(ray, (name, json.dumps(pack_model(model)), json.dumps(asdict(settings))), resources, size, name=name)
    for _ in range(size):
        found.start()
    deadline = time.monotonic() + 10 * NODE_TIMEOUT
    while not found.ready:
        if time.monotonic() > deadline:
            raise Incomplete("no engine of the cluster opened", do="check the nodes with `ray status`, then resume the run")
        found.opened(found.next_done(list(found.starting)))
    return found
