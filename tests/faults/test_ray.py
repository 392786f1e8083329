"""Three nodes of a local Ray cluster, one of them killed in the middle of a run. Run: pytest -m ray tests/faults/test_ray.py"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import make_model, place, write_task

from assay import AssayError, Plan, Run, read_run
from assay.harness.engines import Settings
from assay.harness.engines.cluster import Cluster, open_cluster, shards
from assay.harness.engines.request import GenRequest, ScoreGroup
from assay.harness.engines.trie import of_groups
from assay.harness.model.find import ModelRef
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import evaluate

ITEMS = 60


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster whose head has no CPU, and three nodes of one each."""
    import ray
    from ray.cluster_utils import Cluster as Local

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UINT64_METRICS", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        local = Local(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        ray.init(address=local.address, log_to_driver=False, logging_level="error")
        yield local
        ray.shutdown()
        local.shutdown()


def everyone(name: str, model: ModelRef, settings: Settings) -> Cluster:
    """The cluster's engine when all its actors are there."""
    found = open_cluster(name, model, settings)
    while found.starting:
        found.opened(found.next_done(list(found.starting)))
    return found


class Murder(NoProgress):
    """Takes a node away at the first sign of progress."""

    def __init__(self, nodes: Any, victim: Any) -> None:
        self.nodes, self.victim = nodes, victim

    def advance(self, items: int, tokens: int, task: str = "", correct: float | None = None) -> None:
        if self.victim is not None:
            self.nodes.remove_node(self.victim, allow_graceful=False)
            self.victim = None


def scores(run: Run) -> list[dict[str, Any]]:
    """Results without the signature, which names the engine with its options."""
    return [{name: value for name, value in result.items() if name != "signature"} for result in run.summary()["results"]]


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_node_killed_in_the_middle_changes_nothing(nodes: Any, tmp_path: Path) -> None:
    added = [nodes.add_node(num_cpus=1) for _ in range(3)]
    nodes.wait_for_nodes()
    model, task, log = make_model(tmp_path / "m"), write_task(tmp_path, ITEMS), tmp_path / "asked"
    plan = Plan(model=str(model), tasks=(str(task),), engine="scripted:hashed,seed=7")
    alone = read_run(evaluate(plan, place(tmp_path / "alone")))
    watch = Murder(nodes, added[1])
    slow = replace(plan, engine=f"scripted:hashed,seed=7,delay=0.15,log={log}")
    here = place(tmp_path / "ray")
    bundle = evaluate(slow, here, watch, opener=everyone)
    run = read_run(bundle)
    assert watch.victim is None, "nobody was killed"
    facts = run.summary()["engine"]
    assert int(facts["lost"]) >= 1 and any("sent again" in note for note in facts["notes"])
    assert facts["cluster"].endswith("3 engines")
    assert Counter(record.item for record in run.records()) == Counter(item.id for item in run.items())
    assert [(r.item, r.output, r.correct) for r in run.records()] == [(r.item, r.output, r.correct) for r in alone.records()]
    assert scores(run) == scores(alone)
    asked = Counter(log.read_text().split())
    assert len(asked) == ITEMS and max(asked.values()) <= 2, "a lost shard is asked again, nothing else"
    assert run.summary()["tokens"]["computed"] == alone.summary()["tokens"]["computed"], "what was lost is not counted"


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_an_engine_that_cannot_open_is_one_line(nodes: Any, tmp_path: Path) -> None:
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    plan = Plan(model=str(make_model(tmp_path / "m")), tasks=(str(write_task(tmp_path, 3)),), engine="scripted:hashed,delay=x")
    with pytest.raises(AssayError, match="option delay of the scripted engine"):
        evaluate(plan, place(tmp_path), opener=open_cluster)


def test_shards_are_subtrees_of_equal_weight() -> None:
    """Every request once; cutting costs at most one path of shared tokens per cut; no shard is much heavier than its share."""
    stems = [tuple(range(start, start + 50)) for start in (0, 100, 200)]
    groups = [ScoreGroup((*stem, 300 + n, 400 + n % 7), ((5, 6), (7,))) for n in range(40) for stem in stems]
    found = shards(groups, 4)
    assert sorted(index for members in found for index in members) == list(range(len(groups)))
    whole, parts = len(of_groups(groups)), [len(of_groups([groups[index] for index in members])) for members in found]
    assert len(parts) == 4 and sum(parts) <= whole + 3 * 52
    assert max(parts) <= 2 * whole / 4
    assert shards([], 4) == [] and shards(groups[:1], 4) == [[0]]
    prompts = [GenRequest((1, 2, number), 5) for number in range(9)]
    assert sorted(len(members) for members in shards(prompts, 3)) == [2, 3, 4]


@pytest.mark.skipif(bool(os.environ.get("RAY_ADDRESS")), reason="a cluster is named")
def test_without_a_cluster_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    plan = Plan(model=str(make_model(tmp_path / "m")), tasks=(str(write_task(tmp_path, 3)),), engine="scripted")
    with pytest.raises(AssayError, match=r"ray is not installed.*pip install 'assay\[ray\]'"):
        evaluate(plan, place(tmp_path), opener=open_cluster)
