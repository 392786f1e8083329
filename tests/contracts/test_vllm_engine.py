"""vLLM compared with one plain forward of transformers per choice, on the built-in model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.harness.engines import Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, TokenIds
from assay.harness.engines.trie import of_groups
from assay.harness.engines.vllm_offline import engine as vllm
from assay.harness.engines.vllm_offline import self_check as self_check_module
from assay.harness.engines.vllm_offline.score_requests import probes
from assay.harness.model.find import ModelRef, find_model
from tests.contracts.plain_forward import TOLERANCE, check, forward, ids, worst

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def ref(builtin_model: Path) -> ModelRef:
    return find_model(str(builtin_model), cache=Path("unused"))


@pytest.fixture(scope="module")
def engine(ref: ModelRef) -> Iterator[vllm.VllmEngine]:
    engine = vllm.open_engine(ref, Settings())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model(ref: ModelRef) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ref.path).eval()


@pytest.fixture(scope="module")
def encode(ref: ModelRef) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ref.path)
    return lambda text: tuple(tokenizer(text).input_ids)


def test_it_opened_with_a_checked_prefix_cache(engine: vllm.VllmEngine, ref: ModelRef) -> None:
    assert engine.use_cache and engine.rows
    assert engine.limits.positions == ref.positions == 8192 and engine.limits.vocabulary == 49152
    assert engine.describe()["route"] == "root and leaf, prefix cache"
    assert engine.describe()["dtype"] == "float32"


def test_questions_after_shared_shots(engine: vllm.VllmEngine, model: Any, encode: Any) -> None:
    shots = "".join(f"Question: What is {a} plus {b}?\nAnswer: {a + b}\n\n" for a, b in ((2, 3), (4, 1), (7, 2), (5, 5), (6, 3)))
    answers = tuple(encode(text) for text in (" four", " about seventeen or so", " 12", " nobody really knows", " zero point five"))
    groups = [ScoreGroup(encode(f"{shots}Question: What is {n} plus {n + 2}?\nAnswer:"), answers, n % 2 == 0) for n in range(6)]
    before = engine.stats.logical, engine.stats.computed, engine.stats.cached
    check(engine, model, groups)
    logical, computed, cached = engine.stats.logical - before[0], engine.stats.computed - before[1], engine.stats.cached - before[2]
    requests = sum(len(probes(vllm.tree_of(group.continuations), True)) for group in groups)
    assert logical == sum(len(group.context) + len(answer) for group in groups for answer in answers)
    assert computed <= len(of_groups(groups)) + requests * engine.block, "only whole blocks are shared"
    assert computed < logical / 5 and cached > logical / 2


@pytest.mark.parametrize("length", [31, 32, 33, 64])
def test_contexts_around_whole_blocks_cold_and_warm(engine: vllm.VllmEngine, model: Any, length: int) -> None:
    dice = random.Random(length)
    context = ids(dice, length, 49152)
    common = ids(dice, 3, 49152)
    continuations = (ids(dice, 1, 49152), ids(dice, 2, 49152), common + ids(dice, 4, 49152), common + ids(dice, 2, 49152))
    group = ScoreGroup(context, continuations, greedy=True)
    check(engine, model, [group])
    check(engine, model, [group])


def test_rows_that_the_cache_answered_are_never_read(engine: vllm.VllmEngine, model: Any) -> None:
    """The second time, nearly all of the prompt is cached, and its rows are uninitialised memory."""
    dice = random.Random(5)
    group = ScoreGroup(ids(dice, 40, 49152), (ids(dice, 70, 49152),))
    check(engine, model, [group])
    before = engine.stats.fallbacks
    check(engine, model, [group])
    assert engine.stats.fallbacks > before


def test_answers_that_share_forty_tokens(engine: vllm.VllmEngine, model: Any) -> None:
    dice = random.Random(6)
    stem = ids(dice, 40, 49152)
    group = ScoreGroup(ids(dice, 20, 49152), tuple(stem + ids(dice, count, 49152) for count in (1, 3, 5)), greedy=True)
    check(engine, model, [group])


def test_more_first_tokens_than_vllm_returns_at_once(engine: vllm.VllmEngine, model: Any) -> None:
    group = ScoreGroup((504, 3575, 282), tuple((token,) for token in range(100, 400)))
    ((_, reply),) = engine.score([group])
    assert isinstance(reply, ScoreReply)
    some = ScoreGroup(group.context, group.continuations[::37])
    assert worst(ScoreReply(reply.logprobs[::37]), forward(model, some)) < TOLERANCE


def test_greedy_flags(engine: vllm.VllmEngine, model: Any, encode: Any) -> None:
    context = encode("The capital of France is")
    best = tuple(greedy(model, context, 5))
    group = ScoreGroup(context, (best[:1], best, (*best[:4], 5), (5, *best[1:])), greedy=True)
    ((_, reply),) = engine.score([group])
    assert isinstance(reply, ScoreReply) and reply.greedy == (True, True, False, False)


def greedy(model: Any, prompt: TokenIds, count: int) -> list[int]:
    import torch

    found = model.generate(torch.tensor([prompt]), max_new_tokens=count, do_sample=False)[0].tolist()
    return list(found[len(prompt) :])


def test_the_order_of_groups_does_not_matter(engine: vllm.VllmEngine, encode: Any) -> None:
    groups = [
        ScoreGroup(encode(f"Item {n}: the colour of grass is"), (encode(" green"), encode(" deep purple with dots"))) for n in range(8)
    ]
    first = dict(engine.score(groups))
    second = dict(engine.score(groups[::-1]))
    for index in range(8):
        other = second[7 - index]
        assert isinstance(other, ScoreReply) and worst(first[index], other) < 1e-4


def test_bad_requests_fail_alone(engine: vllm.VllmEngine) -> None:
    good = ScoreGroup((504, 3575), ((282,),))
    groups = [ScoreGroup((1,) * 8192, ((2,),)), good, ScoreGroup((49152,), ((1,),)), ScoreGroup((1,), ((2, -1),))]
    replies = dict(engine.score(groups))
    assert isinstance(replies[1], ScoreReply)
    assert all(isinstance(replies[index], Failure) for index in (0, 2, 3))
    requests = [GenRequest((), 2), GenRequest((1,) * 8193, 2), GenRequest((504,), 2), GenRequest((504,), 0)]
    replies = dict(engine.generate(requests))
    assert isinstance(replies[0], Failure) and isinstance(replies[1], Failure)
    assert isinstance(replies[2], GenReply) and replies[3] == GenReply("", (), "length", 0.0)


def test_generation(engine: vllm.VllmEngine, model: Any, encode: Any) -> None:
    prompt = encode("The capital of France is")
    requests = [
        GenRequest(prompt, 10),
        GenRequest(prompt, 10, ("The", "answer")),
        GenRequest(prompt, 8, (), 1.0, 1),
        GenRequest(prompt, 8, (), 1.0, 2),
    ]
    replies = dict(engine.generate(requests))
    plain, stopped, one, other = (replies[index] for index in range(4))
    assert isinstance(plain, GenReply) and isinstance(stopped, GenReply) and isinstance(one, GenReply) and isinstance(other, GenReply)
    assert list(plain.tokens) == greedy(model, prompt, 10) and plain.finish == "length"
    expected = forward(model, ScoreGroup(prompt, (plain.tokens,)))
    assert plain.logprob == pytest.approx(sum(expected.logprobs[0]), abs=TOLERANCE)
    assert stopped.finish == "stop" and stopped.text == plain.text[: plain.text.index("The")]
    assert one.tokens != other.tokens
    assert dict(engine.generate(requests[2:])) == {0: one, 1: other}


def test_a_response_ends_at_the_ids_of_its_request_and_has_the_text_of_the_other_engine(engine: vllm.VllmEngine, encode: Any) -> None:
    prompt = encode("The capital of France is")
    ((_, free),) = engine.generate([GenRequest(prompt, 12, ends=(0,))])
    assert isinstance(free, GenReply)
    at = next(n for n in range(3, 12) if free.tokens[n] not in free.tokens[:n])
    requests = [GenRequest(prompt, 12, ends=(0, free.tokens[at])), GenRequest(prompt, 12, (" of", " Paris"), ends=(0,))]
    replies = dict(engine.generate(requests))
    assert isinstance(replies[0], GenReply) and isinstance(replies[1], GenReply)
    assert replies[0].tokens == free.tokens[: at + 1] and replies[0].finish == replies[1].finish == "stop"
    for index, reply in replies.items():
        assert isinstance(reply, GenReply) and reply.text == engine.decoder().response(requests[index], reply.tokens)
    assert free.text.startswith(replies[0].text) and " Paris" not in replies[1].text


def test_end_of_text_stops(engine: vllm.VllmEngine, encode: Any) -> None:
    prompt = encode("<|im_start|>user\nSay only: yes<|im_end|>\n<|im_start|>assistant\n")
    ((_, reply),) = engine.generate([GenRequest(prompt, 60)])
    assert isinstance(reply, GenReply) and reply.finish == "stop" and "<|im_end|>" not in reply.text and reply.tokens[-1] == 2


def test_a_failed_self_check_turns_the_prefix_cache_off(engine: vllm.VllmEngine, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = engine.stats.notes
    with monkeypatch.context() as patch:
        patch.setattr(self_check_module, "agree", lambda *_: False)
        vllm.self_check(engine)
    assert not engine.use_cache and "the prefix cache is off" in engine.stats.notes[-1]
    dice = random.Random(8)
    check(engine, model, [ScoreGroup(ids(dice, 33, 49152), (ids(dice, 4, 49152), ids(dice, 1, 49152)))] * 2)
    assert engine.stats.cached == 0
    engine.stats.notes = notes
    vllm.self_check(engine)
    engine.use_cache = True
