"""The engine of served models against a small faulty server. Run: pytest tests/harness/engines/test_served_engine.py"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assay import AssayError
from assay.harness.engines import Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.served.client import Patience, list_models, retry_after
from assay.harness.engines.served.engine import ServedEngine, open_engine
from assay.harness.engines.served.replies import generated
from assay.harness.engines.served.text import ids_of
from assay.harness.errors import Incomplete
from assay.harness.model.find import ModelRef
from assay.harness.model.served import Server, clean_address, is_served
from tests.faulty_server import State, logprob, serving

pytest.importorskip("openai")
KEY = "a-key-of-no-known-form"
GROUPS = [ScoreGroup((5, 6, number), ((7, 8), (9,)), True) for number in range(20, 26)]


@contextmanager
def opened(state: State, prompts: str = "ids", owner: str = "vllm", most: int = 4) -> Iterator[ServedEngine]:
    server = Server(state.address, "tiny", prompts, {"id": "tiny", "owned_by": owner, "max_model_len": 512})  # type: ignore[arg-type]
    engine = open_engine(ModelRef("tiny", Path(), server.digest, positions=512, server=server), Settings(batch=most))
    engine.connection.patience = Patience(timeout=engine.connection.patience.timeout, first_pause=0.01, longest_pause=0.05)
    try:
        yield engine
    finally:
        engine.close()


def score(engine: ServedEngine, groups: Any = GROUPS) -> list[Any]:
    found = dict(engine.score(groups))
    assert sorted(found) == list(range(len(groups)))
    return [found[index] for index in sorted(found)]


EXPECTED = ScoreReply(((logprob(7), logprob(8)), (logprob(9),)), (True, True))


def test_token_ids_are_scored_by_prompt_logprobs() -> None:
    with serving(delay=0.1) as state, opened(state) as engine:
        assert score(engine) == [EXPECTED] * len(GROUPS)
        sent = [body["prompt"] for body in state.bodies]
        assert [5, 6, 20, 7, 8] in sent and [5, 6, 20, 9] in sent and len(sent) == 1 + 2 * len(GROUPS)  # and one probe
        assert engine.route == "prompt_logprobs" and engine.stats.computed > 0 and engine.describe()["weights"].endswith("not verified")
        assert 1 < state.peak <= 4, "as many requests at once as --batch says"


def test_token_ids_are_scored_by_echo_where_prompt_logprobs_are_unknown() -> None:
    with serving(ways=("echo", "generate"), owner="other") as state, opened(state, owner="other") as engine:
        assert [reply.logprobs for reply in score(engine)] == [EXPECTED.logprobs] * len(GROUPS)
        assert engine.route == "echo" and score(engine)[0].greedy == (False, False), "another token is likelier"


def test_text_is_scored_by_the_tokens_that_spell_the_continuation() -> None:
    group = ScoreGroup(ids_of("The capital of France is"), (ids_of(" Paris now"), ids_of(" Rome"), ids_of("land")))
    with serving() as state, opened(state, "text") as engine:
        (reply,) = score(engine, [group])
        paris = (logprob(" Paris"), logprob(" now"))
        assert reply.logprobs == (paris, (logprob(" Rome"),), (logprob(" island"),)), "a token across the boundary counts"
        assert all(isinstance(body["prompt"], str) for body in state.bodies)


def test_a_server_is_accepted_whose_first_choice_is_one_long_token() -> None:
    """The first token of a prompt has no log-probability: the request that tries the server must hold more than the choice."""
    group = ScoreGroup(ids_of("Is it good or bad?\nAnswer:"), (ids_of(" negative"), ids_of(" positive")))
    with serving() as state, opened(state, "text") as engine:
        engine.find_route(group)
        assert engine.route == "echo" and score(engine, [group])[0].logprobs == ((logprob(" negative"),), (logprob(" positive"),))


def test_a_server_without_prompt_logprobs_is_refused_by_name() -> None:
    with serving(ways=("generate", "chat")) as state:
        with opened(state) as engine, pytest.raises(AssayError, match=r"returns no log-probabilities of a prompt .*prompt_logprobs.*echo"):
            score(engine)
        with opened(state, "chat") as engine, pytest.raises(AssayError, match="cannot be read from a chat"):
            score(engine)


@pytest.mark.parametrize("fault", ["429", "500", "503", "408", "cut", "drop", "garbage"])
def test_a_passing_fault_is_retried(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(faults={0: fault, 3: fault, 4: fault}) as state, opened(state) as engine:
        started = time.monotonic()
        assert score(engine) == [EXPECTED] * len(GROUPS)
        assert engine.connection.retries == 3 and len(state.bodies) == 1 + 2 * len(GROUPS) + 3
        assert set(state.keys) == {f"Bearer {KEY}"}
        if fault == "429":
            assert time.monotonic() - started >= 0.4, "the seconds of Retry-After are waited for"


def test_a_slow_reply_reaches_the_time_out_and_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASSAY_PATIENCE", "0.5")
    with serving(faults={2: "slow"}) as state, opened(state) as engine:
        assert score(engine) == [EXPECTED] * len(GROUPS) and engine.connection.retries == 1
    with serving(faults={-1: "slow"}) as state, opened(state) as engine, pytest.raises(Incomplete, match=r"3 attempts\): no reply within"):
        score(engine, GROUPS[:1])


@pytest.mark.parametrize("fault", ["fewer", "positive", "form"])
def test_a_wrong_reply_is_a_failure_and_never_a_score(fault: str) -> None:
    with serving(faults={2: fault}) as state, opened(state, most=1) as engine:
        replies = score(engine)
        assert [isinstance(reply, Failure) for reply in replies] == [True, *[False] * 5] and replies[1:] == [EXPECTED] * 5


def test_a_request_that_the_server_refuses_fails_alone() -> None:
    with serving(faults={1: "400", 4: "422"}) as state, opened(state, most=1) as engine:
        failed = [reply for reply in score(engine) if isinstance(reply, Failure)]
        assert len(failed) == 2 and "status 400: made up" in failed[0].reason and len(state.bodies) == 13, "refusals are not retried"


def test_a_request_that_fails_each_time_fails_alone() -> None:
    poison = GROUPS[2].context

    class Poisoned(dict[int, str]):
        def get(self, number: int, default: Any = None) -> Any:
            return "500" if tuple(state.bodies[number]["prompt"][:3]) == poison else ""

    with serving() as state, opened(state, most=2) as engine:
        engine.find_route(GROUPS[0])
        state.faults = Poisoned()
        replies = score(engine)
        assert [isinstance(reply, Failure) for reply in replies] == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("401", "refuses the key"),
        ("402", "no credit"),
        ("403", "does not allow"),
        ("404", "does not know"),
        ("wait", "asks to wait 120 minutes"),
        ("quota", "exceeded your quota"),
        ("500", r"does not work \(10 attempts\)"),
        ("drop", r"does not work \(10 attempts\)"),
    ],
)
def test_a_server_that_does_not_work_stops_the_run_which_can_be_resumed(
    fault: str, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(faults={-1: fault}) as state, opened(state) as engine:
        engine.route = "echo"
        with pytest.raises(Incomplete, match=what) as error:
            score(engine, GROUPS[:1])
        shown = f"{error.value} {engine.describe()} {engine.stats.notes} {caplog.text}"
        assert KEY not in shown and (fault != "401" or "OPENAI_API_KEY" in shown)


def test_the_rate_limit_of_one_request_holds_all_back() -> None:
    with serving(faults={3: "429"}) as state, opened(state, most=2) as engine:
        score(engine)
        assert engine.connection.retries == 1 and len(state.bodies) == 14


def test_completions() -> None:
    requests = [GenRequest((5, number), 8, ("\n",), 0.0) for number in range(6)] + [GenRequest((5, 6), 8, (), 0.7, seed=3)]
    with serving(answer=lambda _: " yes\nno", faults={2: "unfinished", 3: "long"}) as state, opened(state, most=1) as engine:
        found = dict(engine.generate(requests))
        assert isinstance(found[0], GenReply) and found[0].text == " yes" and found[0].finish == "stop" and math.isnan(found[0].logprob)
        assert "content_filter" in str(found[2]) and "9999 tokens, 8 were allowed" in str(found[3])
        assert state.bodies[0]["temperature"] == 0 and state.bodies[0]["stop"] == ["\n"] and state.bodies[0]["repetition_penalty"] == 1
        assert state.bodies[6]["seed"] == 3 and "stop" not in state.bodies[6]


def test_a_chat_is_sent_as_messages() -> None:
    prompt = json.dumps({"messages": [{"role": "user", "content": "Is it?"}], "arguments": {"enable_thinking": False}})
    with serving(owner="other") as state, opened(state, "chat", owner="other") as engine:
        assert dict(engine.generate([GenRequest(ids_of(prompt), 8, ("\n",))]))[0].text == " yes"
        assert "stop" not in state.bodies[0], "it would end the thinking part"
        (body,) = state.bodies
        assert body["messages"] == [{"role": "user", "content": "Is it?"}] and body["chat_template_kwargs"] == {"enable_thinking": False}
        assert "top_k" not in body, "fields that OpenAI's own servers refuse are sent to vLLM and SGLang only"


def test_a_text_that_begins_the_response_is_sent_as_a_message_to_be_continued() -> None:
    request = GenRequest(ids_of(json.dumps({"messages": [{"role": "user", "content": "Is it?"}]}) + "Answer:"), 8)
    with serving() as state:
        with opened(state, "chat") as engine:
            engine.check_generation(request)
            (body,) = state.bodies
            assert body["messages"][-1] == {"role": "assistant", "content": "Answer:"} and body["continue_final_message"] is True
        with opened(state, "chat", owner="other") as engine, pytest.raises(AssayError, match="cannot continue a message"):
            engine.check_generation(request)


def test_a_stop_string_cuts_the_answer_of_a_chat_and_not_its_thinking_part() -> None:
    prompt = json.dumps({"messages": [{"role": "user", "content": "Two and two?"}]})
    with serving(answer=lambda _: "<think>\nHm.\n\nSo.\n</think>\n\nFour\n\nFive") as state, opened(state, "chat") as engine:
        reply = dict(engine.generate([GenRequest(ids_of(prompt), 8, ("\n\n",))]))[0]
        assert isinstance(reply, GenReply) and (reply.thought, reply.text, reply.finish) == ("Hm.\n\nSo.", "Four", "stop")
    parsed = {"message": {"content": "\n\nFour\n\nFive", "reasoning": "Hm."}, "finish_reason": "length"}
    again = generated({"choices": [parsed]}, GenRequest((1,), 8, ("\n\n",)))
    assert isinstance(again, GenReply) and (again.text, again.finish) == ("Four", "stop")


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("<think>\nHm.\n</think>\n\nFour", "Hm.", "Four"),
        ("Hm.</think>Four", "Hm.", "Four"),
        ("<think>Hm", "Hm", ""),
        ("Four", "", "Four"),
    ],
)
def test_the_thinking_part_of_a_chat_is_kept_apart(text: str, thought: str, answer: str) -> None:
    choice = {"message": {"content": text}, "finish_reason": "length" if thought == "Hm" else "stop"}
    reply = generated({"choices": [choice]}, GenRequest((1,), 8))
    assert isinstance(reply, GenReply) and (reply.thought, reply.text) == (thought, answer)
    assert reply.thought_cut == (thought == "Hm")
    parsed = {"message": {"content": answer or None, "reasoning": thought}, "finish_reason": choice["finish_reason"]}
    again = generated({"choices": [parsed]}, GenRequest((1,), 8))
    assert isinstance(again, GenReply) and (again.thought, again.text, again.thought_cut) == (thought, answer, thought == "Hm")


def test_leaving_early_cancels_what_is_in_flight() -> None:
    with serving(delay=0.05) as state, opened(state, most=2) as engine:
        stream = engine.score([ScoreGroup((5, number), ((7,),)) for number in range(50)])
        next(stream)
        stream.close()
        time.sleep(0.3)
        assert len(state.bodies) <= 6 and score(engine, GROUPS[:1]) == [EXPECTED], "the engine can be used again"


def test_an_overlong_sequence_is_not_sent() -> None:
    with serving() as state, opened(state) as engine:
        assert "512 positions" in str(score(engine, [ScoreGroup((5,) * 600, ((7,),))])[0]) and not state.bodies


def test_the_list_of_models() -> None:
    with serving(names=("a", "b")) as state:
        assert [entry["id"] for entry in list_models(state.address)] == ["a", "b"]
    with serving(names=None) as state:
        assert list_models(state.address) == []
    with pytest.raises(AssayError, match="no server answers"):
        list_models("http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    "address", ["http://me:secret@host/v1", "https://host/v1?key=secret", "http://host/v1#secret", "http:///v1", "http://host:port/v1"]
)
def test_an_address_with_secrets_is_refused(address: str) -> None:
    with pytest.raises(AssayError) as error:
        clean_address(address)
    assert "secret" not in str(error.value)


def test_the_identity_is_marked_as_unverified() -> None:
    card = {"id": "m", "created": 1, "permission": [{"id": "x"}], "root": "/models/m"}
    one = Server(clean_address("HTTP://Host:8000/v1/"), "m", "ids", card)
    assert one.address == "http://host:8000/v1" and is_served(one.digest) and not is_served("0" * 64)
    assert one.digest == Server(one.address, "m", "text", {**card, "created": 2, "permission": []}).digest
    others = [Server(one.address, "n", "ids", card), Server("http://host:1/v1", "m", "ids", card)]
    assert one.digest not in {other.digest for other in [*others, Server(one.address, "m", "ids", {**card, "root": "/models/n"})]}


def test_retry_after() -> None:
    assert retry_after("2.5") == 2.5 and retry_after("soon") == 0 == retry_after("") and retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert retry_after("Wed, 21 Oct 2235 07:28:00 GMT") > 1e6
