"""Scripted engines: pure functions of the request, with counted calls and faults on request."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from assay.harness.engines import Engine, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.scripted import Answer, Fault, Scripted, constant, faulty, hashed, open_engine, oracle, replay, uniform
from assay.harness.errors import AssayError
from assay.harness.model.checkpoint import Checkpoint
from assay.harness.model.find import ModelRef

GROUPS = [ScoreGroup((1, 2, number), ((3,), (4, 5), (6, 7, 8)), greedy=True) for number in range(40)]
PROMPT = GenRequest((1, 2), 4)


def scored(answer: Answer, groups: list[ScoreGroup] = GROUPS) -> list[ScoreReply]:
    replies = [reply for _, reply in Scripted(answer).score(groups)]
    assert all(isinstance(reply, ScoreReply) for reply in replies)
    return [reply for reply in replies if isinstance(reply, ScoreReply)]


def picks(replies: list[ScoreReply]) -> list[int]:
    sums = [[sum(part) for part in reply.logprobs] for reply in replies]
    return [row.index(max(row)) for row in sums]


def generated(answer: Answer) -> GenReply:
    reply = dict(Scripted(answer).generate([PROMPT]))[0]
    assert isinstance(reply, GenReply)
    return reply


def test_every_request_is_answered_with_one_number_per_token_and_counted() -> None:
    engine: Engine = Scripted(hashed())
    assert [index for index, _ in engine.score(GROUPS)] == list(range(len(GROUPS)))
    for reply in scored(hashed()):
        assert [len(part) for part in reply.logprobs] == [1, 2, 3]
        assert all(value < 0 for part in reply.logprobs for value in part)
    assert engine.stats.logical == len(GROUPS) * (3 * 3 + 6)


def test_uniform_gives_every_token_the_same_and_the_shortest_wins() -> None:
    replies = scored(uniform(100))
    assert {value for reply in replies for part in reply.logprobs for value in part} == {-math.log(100)}
    assert set(picks(replies)) == {0}


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_oracle_is_right_in_sum_and_per_token(right: int) -> None:
    replies = scored(oracle({group.key: right for group in GROUPS}))
    assert set(picks(replies)) == {right}
    assert all(max(range(3), key=lambda place: reply.logprobs[place][0]) == right for reply in replies)
    assert generated(oracle(lambda _: "Paris")).text == "Paris"
    assert scored(oracle({})) == scored(uniform())


def test_hashed_is_a_pure_function_of_request_seed_and_skill() -> None:
    assert scored(hashed(1)) == scored(hashed(1), GROUPS[::-1])[::-1]
    assert scored(hashed(1)) != scored(hashed(2))
    assert generated(hashed(1)) == generated(hashed(1))


def test_skill_is_the_share_of_right_answers_beyond_chance() -> None:
    groups = [ScoreGroup((1, number), ((3,), (4,), (5,), (6,))) for number in range(2000)]
    for skill in (0.0, 0.5, 1.0):
        right = sum(pick == 2 for pick in picks(scored(hashed(3, skill, lambda _: 2), groups))) / len(groups)
        assert abs(right - (skill + (1 - skill) / 4)) < 0.04


def test_replay_knows_only_what_was_recorded() -> None:
    recorded = ScoreReply(((-1.0,), (-2.0, -2.0), (-3.0,) * 3))
    assert scored(replay({GROUPS[0].key: recorded}), GROUPS[:1]) == [recorded]
    with pytest.raises(KeyError):
        scored(replay({}), GROUPS[:1])
    assert generated(replay({}, otherwise=constant(text="yes"))).text == "yes"


def test_faults_occur_only_at_their_call_or_key() -> None:
    assert scored(faulty(hashed(), Fault("raise", at=41))) == scored(hashed())
    with pytest.raises(RuntimeError):
        scored(faulty(hashed(), Fault("raise", at=40)))
    with pytest.raises(MemoryError):
        scored(faulty(hashed(), Fault("oom", key=GROUPS[5].key)))
    failed = dict(Scripted(faulty(hashed(), Fault("fail", key=GROUPS[5].key))).score(GROUPS))
    assert [index for index, reply in failed.items() if isinstance(reply, Failure)] == [5]
    spoilt = scored(faulty(hashed(), Fault("nan", at=2)))
    assert [math.isnan(reply.logprobs[0][0]) for reply in spoilt[:3]] == [False, True, False]


def test_too_many_requests_at_once_run_out_of_memory() -> None:
    assert len(list(Scripted(hashed(), most=40).score(GROUPS))) == 40
    with pytest.raises(MemoryError):
        list(Scripted(hashed(), most=39).score(GROUPS))


def test_a_killed_process_leaves_its_calls_in_the_log(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from assay.harness.engines import Settings
from assay.harness.engines.scripted import open_engine
from assay.harness.model.find import ModelRef
from assay.harness.engines.request import ScoreGroup
engine = open_engine(ModelRef("m", Path("."), "d"), Settings(), "hashed,fault=die,at=3,log={tmp_path / "calls"}")
list(engine.score([ScoreGroup((number,), ((1,),)) for number in range(9)]))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 137
    assert (tmp_path / "calls").read_text().split() == [ScoreGroup((number,), ((1,),)).key for number in range(3)]


def test_engines_open_by_name_with_the_limits_of_the_model(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, {"vocab_size": 99}, generation_config={}, tensors={}, last_token=None, files={})
    engine = open_engine(ModelRef("m", tmp_path, "d", positions=64, checkpoint=checkpoint), Settings(), "constant,text=no")
    assert (engine.limits.positions, engine.limits.vocabulary) == (64, 99)
    assert dict(engine.generate([PROMPT]))[0] == generated(constant(text="no"))
    for wrong in ("wise", "hashed,iq=9", "hashed,seed=x", "hashed,fault=rust"):
        with pytest.raises(AssayError):
            open_engine(ModelRef("m", tmp_path, "d"), Settings(), wrong)
