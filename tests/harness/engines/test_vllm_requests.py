"""Requests to vLLM and how their outputs are read: exact for any group, also when cache hits leave rows uncomputed."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from assay.harness.engines.request import Failure, ScoreGroup, ScoreReply, refusal
from assay.harness.engines.vllm_offline.checks import on_output_layer
from assay.harness.engines.vllm_offline.process import weights_only_folder
from assay.harness.engines.vllm_offline.score_requests import (
    NodeScores,
    Probe,
    ProbeOutput,
    copy_output,
    probes,
    reply_of,
    retry_probes,
    tree_of,
)
from assay.harness.model.adapter import Adapter
from assay.harness.model.checkpoint import Checkpoint
from assay.harness.model.weights import Tensor

VOCABULARY = 5
BLOCK = 4


def logprobs_after(prompt: tuple[int, ...]) -> list[float]:
    """A stand-in for a language model: a fixed function of the whole prompt."""
    scores = [
        math.sin(1 + sum((place + 1) * (3 + token) for place, token in enumerate(prompt)) * (7 + token)) for token in range(VOCABULARY)
    ]
    total = math.log(sum(map(math.exp, scores)))
    return [score - total for score in scores]


def plain(group: ScoreGroup) -> ScoreReply:
    logprobs, greedy = [], []
    for ids in group.continuations:
        rows = [logprobs_after(group.context + ids[:place]) for place in range(len(ids))]
        logprobs.append(tuple(row[token] for row, token in zip(rows, ids, strict=True)))
        greedy.append(all(row.index(max(row)) == token for row, token in zip(rows, ids, strict=True)))
    return ScoreReply(tuple(logprobs), tuple(greedy) if group.greedy else ())


class FakeServer:
    """Replies to probes as vLLM does: whole blocks are cached, and their rows hold random memory."""

    def __init__(self, leaves_out: bool = False) -> None:
        self.blocks: set[tuple[int, ...]] = set()
        self.leaves_out = leaves_out

    def output_of(self, prompt: list[int], after: list[int], rows: bool, fresh: bool) -> ProbeOutput:
        cached = 0
        while not fresh and cached + BLOCK < len(prompt) and tuple(prompt[: cached + BLOCK]) in self.blocks:
            cached += BLOCK
        self.blocks |= {tuple(prompt[:stop]) for stop in range(BLOCK, len(prompt) + 1, BLOCK)}
        covered: dict[int, tuple[int, float, int]] = {}
        for place in range(1, len(prompt)) if rows else ():
            row = logprobs_after(tuple(prompt[:place]))
            if place > cached:
                covered[place] = prompt[place], row[prompt[place]], row.index(max(row))
            elif not self.leaves_out:
                covered[place] = prompt[place], -17.0, 3
        last = logprobs_after(tuple(prompt))
        return ProbeOutput({token: last[token] for token in after}, last.index(max(last)), cached, covered)


def score(group: ScoreGroup, server: FakeServer, rows: bool = True) -> ScoreReply | Failure:
    tree = tree_of(group.continuations)
    known: NodeScores = {}
    queue: deque[Probe] = deque(probes(tree, rows))
    while queue:
        probe = queue.popleft()
        prompt = tree.prompt(group.context, probe.node)
        answer = server.output_of(prompt, [tree.tokens[node] for node in probe.after], bool(probe.rows), probe.fresh)
        invalid = copy_output(tree, len(group.context), probe, answer, known)
        assert not (invalid and probe.fresh)
        queue.extend(retry_probes(tree, len(group.context), probe, invalid, BLOCK) if invalid else ())
    return reply_of(tree, group, known)


IDS = st.integers(0, VOCABULARY - 1)
GROUPS = st.builds(
    ScoreGroup,
    st.lists(IDS, min_size=1, max_size=10).map(tuple),
    st.lists(st.lists(IDS, min_size=1, max_size=14).map(tuple), min_size=1, max_size=5).map(tuple),
    st.booleans(),
)


@given(st.lists(GROUPS, min_size=1, max_size=4), st.booleans(), st.booleans())
def test_scores_are_exact_whatever_the_cache_answers(groups: list[ScoreGroup], rows: bool, leaves_out: bool) -> None:
    server = FakeServer(leaves_out)
    for group in groups + groups[::-1]:
        assert score(group, server, rows) == plain(group)


def test_the_fake_server_would_fool_an_engine_that_does_not_check() -> None:
    server = FakeServer()
    prompt = [1] * 9
    server.output_of(prompt, [0], True, False)
    answer = server.output_of(prompt, [0], True, False)
    assert answer.cached == 8 and answer.rows[5][1] == -17.0 != logprobs_after((1,) * 5)[1]


def test_single_tokens_cost_one_request_and_long_answers_two() -> None:
    tree = tree_of([(0,), (1,), (2,)])
    assert probes(tree, rows=True) == [Probe(0, (1, 2, 3))]
    tree = tree_of([(0, 1, 2, 3)])
    assert [probe.rows for probe in probes(tree, rows=True)] == [(), (2, 3)]
    assert len(probes(tree, rows=False)) == 4


def test_rows_shared_by_two_answers_are_read_once() -> None:
    stem = tuple(range(40))
    found = probes(tree_of([(*stem, 50, 51, 52), (*stem, 60, 61, 62)]), rows=True)
    rows = [node for probe in found for node in probe.rows]
    assert len(found) == 3 and len(rows) == len(set(rows)) == 39 + 2 * 2


def test_more_than_128_first_tokens_are_split() -> None:
    found = probes(tree_of([(token,) for token in range(300)]), rows=True)
    assert [len(probe.after) for probe in found] == [128, 128, 44]


def test_many_invalid_rows_are_requested_at_once_without_the_cache() -> None:
    tree = tree_of([tuple(range(30))])
    probe = probes(tree, rows=True)[-1]
    assert retry_probes(tree, 8, probe, probe.rows, block=32) == [Probe(probe.node, probe.after, probe.rows, fresh=True)]
    assert [again.node for again in retry_probes(tree, 800, probe, probe.rows[:3], block=32)] == [1, 2, 3]


def test_a_number_that_is_not_a_logprob_is_a_failure() -> None:
    group = ScoreGroup((1,), ((2, 3),))
    tree = tree_of(group.continuations)
    for wrong in (math.nan, -math.inf, 10.0):
        assert isinstance(reply_of(tree, group, {1: (-1.0, False), 2: (wrong, False)}), Failure)
    assert isinstance(reply_of(tree, group, {1: (-1.0, False)}), Failure)
    assert reply_of(tree, group, {1: (-1.0, False), 2: (-2.0, True)}) == ScoreReply(((-1.0, -2.0),))


def test_sequences_that_do_not_fit_are_refused() -> None:
    assert refusal((1, 2), 2, positions=2, vocabulary=3) is None
    for ids, length in (((), 0), ((1, 3), 2), ((-1,), 1), ((1, 2), 3)):
        assert isinstance(refusal(ids, length, positions=2, vocabulary=3), Failure)


def test_stray_safetensors_are_kept_from_vllm(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json"):
        (tmp_path / name).write_bytes(b"{}")
    tensors = {"weight": Tensor("F32", (1,), "model.safetensors")}
    checkpoint = Checkpoint(tmp_path, {}, generation_config={}, tensors=tensors, last_token=None, files={})
    assert weights_only_folder(checkpoint) is None
    (tmp_path / "optimizer.safetensors").write_bytes(b"")
    folder = weights_only_folder(checkpoint)
    assert folder is not None and {path.name for path in Path(folder.name).iterdir()} == {"model.safetensors", "config.json"}
    folder.cleanup()


def test_an_adapter_of_the_output_layer_is_known_by_its_tensors() -> None:
    """vLLM leaves it out of the prompt's log-probabilities on a GPU, so such adapters are scored without them."""

    def adapter(module: str) -> Adapter:
        tensors = {f"base_model.model.{module}.lora_A.weight": Tensor("F32", (4, 8), "adapter_model.safetensors")}
        return Adapter(Path("adapter"), {"peft_type": "LORA"}, tensors)

    assert on_output_layer(adapter("lm_head")) and on_output_layer(adapter("embed_out"))
    assert not on_output_layer(adapter("model.layers.0.self_attn.q_proj"))
