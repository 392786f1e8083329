"""The thinking part of a response: found, counted, limited. Run: pytest tests/harness/engines/test_thinking.py"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from assay.harness.engines import EngineStats, Limits
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, Thinking
from assay.harness.engines.text import cut
from assay.harness.engines.thinking import generate_stages

END = 0


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(ord, text))


def text_of(tokens: Sequence[int]) -> str:
    return "".join(chr(token) for token in tokens if token != END)


class Letters:
    """An engine that continues a prompt letter by letter by a script of (beginning, whole text); "$" ends the text."""

    name, limits = "letters", Limits(1 << 20, 1 << 20)

    def __init__(self, *texts: str) -> None:
        self.texts, self.stats, self.seen = texts, EngineStats(), list[GenRequest]()

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for index, request in reversed(list(enumerate(requests))):
            self.seen.append(request)
            assert request.thinking is None and request.max_tokens > 0
            yield index, self.reply(request)

    def reply(self, request: GenRequest) -> GenReply | Failure:
        prompt = text_of(request.prompt)
        whole = next((text for text in self.texts if text.startswith(prompt)), "")
        if not whole:
            return Failure(f"nothing follows {prompt!r}")
        found: tuple[int, ...] = ()
        for letter in whole[len(prompt) :]:
            found += (END if letter == "$" else ord(letter),)
            text = cut(text_of(found), request.stop)
            if text is not None or found[-1] in request.ends:
                return GenReply(text_of(found) if text is None else text, found, "stop", -1.0)
            if len(found) == request.max_tokens:
                break
        return GenReply(text_of(found), found, "length", -1.0)

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        yield from ()

    def swap(self, weights: Path) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, str]:
        return {}


def thinking(**changes: Any) -> Thinking:
    return replace(Thinking("<think>", "</think>", ids("\n</think>\n\n"), (), text_of), **changes)


def ask(engine: Letters, most: int = 40, stop: tuple[str, ...] = ("\n",), **changes: Any) -> GenReply:
    ((_, reply),) = generate_stages(engine, [GenRequest(ids("Q:"), most, stop, ends=(END,), thinking=thinking(**changes))])
    assert isinstance(reply, GenReply)
    return reply


def test_the_thought_is_apart_from_the_answer_and_stop_strings_end_only_the_answer() -> None:
    reply = ask(Letters("Q:<think>\none\ntwo\n</think>\n\nthree\nfour$"))
    assert (reply.text, reply.finish, reply.thought, reply.thought_cut) == ("three", "stop", "one\ntwo", False)
    assert reply.thought_tokens == len("<think>\none\ntwo\n</think>")
    assert text_of(reply.tokens) == "<think>\none\ntwo\n</think>\n\nthree\n" and reply.logprob < 0


def test_a_response_without_a_thought_takes_one_request() -> None:
    engine = Letters("Q: four\nfive$")
    assert ask(engine) == GenReply(" four", ids(" four\n"), "stop", -1.0) and len(engine.seen) == 1


def test_a_prompt_that_ends_in_the_opening_marker_is_inside_of_the_thought() -> None:
    reply = ask(Letters("Q:one\ntwo</think>three$"), begun=True)
    assert (reply.text, reply.thought, reply.thought_tokens) == ("three", "one\ntwo", len("one\ntwo</think>"))


def test_without_a_budget_a_long_thought_is_cut_and_has_no_answer() -> None:
    for text, changes in (("Q:<think>one two three four", {}), ("Q:one two three four", {"begun": True})):
        reply = ask(Letters(text), most=15, **changes)
        assert (reply.text, reply.finish, reply.thought_cut, reply.thought_tokens) == ("", "length", True, 15)


def test_with_a_budget_a_long_thought_is_closed_and_the_answer_has_its_own_limit() -> None:
    forced = "Q:<think>one\n</think>\n\nfour five$"
    reply = ask(Letters(forced, "Q:<think>one two three four"), most=9, budget=10)
    assert (reply.text, reply.finish, reply.thought, reply.thought_cut) == ("four five", "length", "one", True)
    assert reply.thought_tokens == 10 and len(reply.tokens) == 19
    reply = ask(Letters("Q:<think>one", "Q:\n</think>\n\nfour$"), budget=0)
    assert (reply.text, reply.thought, reply.thought_tokens, reply.thought_cut) == ("four", "", 0, True)
    reply = ask(Letters("Q:\n</think>\n\nfour$"), budget=0, begun=True)
    assert (reply.text, reply.thought_tokens) == ("four", 0)


def test_a_thought_that_ends_without_its_marker_has_no_answer_and_counts_as_cut() -> None:
    reply = ask(Letters("Q:<think>one$"), stop=())
    assert (reply.text, reply.finish, reply.thought, reply.thought_cut) == ("", "stop", "one", True)


def test_an_answer_that_fills_the_limit_is_cut_by_length() -> None:
    reply = ask(Letters("Q:<think>a</think>bcdefghij$"), most=20, stop=())
    assert (reply.text, reply.finish, reply.thought_cut, len(reply.tokens)) == ("bcde", "length", False, 20)


def test_failures_and_plain_requests_pass() -> None:
    engine = Letters("Q: x$", "R:<think>t</think>y$")
    requests = [
        GenRequest(ids(text), 30, ends=(END,), thinking=part) for text, part in (("Q:", None), ("R:", thinking()), ("S:", thinking()))
    ]
    replies = dict(generate_stages(engine, requests))
    assert isinstance(replies[2], Failure) and isinstance(replies[0], GenReply) and isinstance(replies[1], GenReply)
    assert (replies[0].text, replies[1].text, replies[1].thought) == (" x", "y", "t")


@pytest.mark.parametrize("most", range(1, 30))
def test_every_limit_ends(most: int) -> None:
    for budget in (None, 0, 3, 8, 100):
        text = "Q:<think>ab\ncd</think>\n\n\n\nyes no$"
        forced = [f"{text[: 2 + cut_at]}\n</think>\n\nyes no$" for cut_at in range(len(text))]
        reply = ask(Letters(text, *forced), most, ("\n",), budget=budget)
        assert len(reply.tokens) <= most + (budget or 0)


class Slow(Letters):
    """Takes two seconds of `clock` for every reply."""

    clock = 0.0

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        for found in super().generate(requests):
            self.clock += 2
            yield found


def test_the_seconds_of_a_thought_are_those_of_its_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, replies = Slow("Q:<think>tt</think>yes$", "R:no$", "S:<think>u</think>no$"), dict[int, float]()
    monkeypatch.setattr("assay.harness.engines.thinking.time.monotonic", lambda: engine.clock)
    requests = [GenRequest(ids(text), 40, ends=(END,), thinking=thinking()) for text in ("Q:", "R:", "S:")]
    for index, reply in generate_stages(engine, requests):
        assert isinstance(reply, GenReply)
        replies[index] = reply.thought_seconds
        engine.clock += 100  # what is done with a reply is not the engine's time
    assert replies == {0: 2.0, 1: 0.0, 2: 2.0}, "the answers are not counted"
