"""Reasoning models: find, count and limit the thinking part of a response, with any engine.

A response is generated in stages: the thought up to its closing marker, without the task's stop strings, then the answer. A response that
does not begin with the opening marker is an answer from the start and takes one stage. The engine's time since the previous reply is
counted to each reply, so the seconds of all thoughts are the time that the engine spent on them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from assay.harness.engines import Engine
from assay.harness.engines.request import Failure, GenReply, GenRequest, TokenIds

Reply = TypeVar("Reply")
MOST_BLANK = 4
"""Stop strings that are passed over between the closing marker and the first word of the answer, such as line breaks."""


@dataclass(slots=True)  # house: a response while it is generated
class Draft:
    """One response: the ids of its thought and of its answer so far."""

    request: GenRequest
    stage: Literal["first", "thought", "answer"]
    thought: TokenIds = ()
    answer: TokenIds = ()
    forced: TokenIds = ()
    """Ids that close the thought without the model."""
    cut: bool = False
    logprob: float = 0.0
    seconds: float = 0.0
    """The engine's time for the thought."""
    blanks: int = 0
    parts: list[str] = field(default_factory=list)
    """Texts of the answer."""

    @property
    def room(self) -> int:
        """Tokens that the stage may still take."""
        whole, thinking = self.request.max_tokens, self.request.thinking
        assert thinking is not None
        if self.stage == "first":
            return whole
        if self.stage == "thought":
            return (whole if thinking.budget is None else thinking.budget) - len(self.thought)
        return whole - len(self.answer) - (len(self.thought) if thinking.budget is None else 0)

    def next_request(self) -> GenRequest:
        thinking = self.request.thinking
        assert thinking is not None
        request = replace(
            self.request, max_tokens=self.room, thinking=None, prompt=self.request.prompt + self.thought + self.forced + self.answer
        )
        if self.stage == "answer":
            return request
        stop = (thinking.closing,) if self.stage == "thought" else (*request.stop, thinking.closing)
        return replace(request, stop=stop, ends=(*request.ends, *thinking.ends))

    def add(self, reply: GenReply, seconds: float) -> GenReply | None:
        """Add a stage's reply, which took `seconds`; the whole reply if it is the last one."""
        fits = reply.finish != "length" or len(reply.tokens) >= self.room  # else the model's context is full
        self.logprob += reply.logprob
        ended = bool(reply.tokens) and reply.tokens[-1] in self.request.ends
        if self.stage == "answer":
            self.answer += reply.tokens
            self.parts.append(reply.text)
            self.blanks += 1
            blank = not "".join(self.parts).strip() and reply.finish == "stop" and not ended
            return None if blank and self.blanks < MOST_BLANK and self.room > 0 else self.whole(reply.finish)
        thinking = self.request.thinking
        assert thinking is not None
        if self.stage == "first" and not thinking.decode(reply.tokens).lstrip().startswith(thinking.opening):
            return reply
        self.stage = "thought"
        self.thought += reply.tokens
        self.seconds += seconds
        if over := self.room < 0:  # the first stage took more than the budget
            self.thought, self.logprob = self.thought[: self.room], math.nan
        if thinking.closing in thinking.decode(self.thought):
            self.stage = "answer"
            return None if self.room > 0 else self.whole("length")
        if ended and not over:
            self.cut = True
            return self.whole("stop")
        return None if self.room > 0 and fits else self.close()

    def close(self) -> GenReply | None:
        """End a thought that ran into its limit: by its closing marker where there is a budget, else with the response."""
        thinking = self.request.thinking
        assert thinking is not None
        self.cut = True
        if thinking.budget is None:
            return self.whole("length")
        self.stage, self.forced = "answer", thinking.close
        self.logprob = math.nan  # the ids are no longer one continuation of the prompt
        return None

    def whole(self, finish: str) -> GenReply:
        thinking = self.request.thinking
        assert thinking is not None
        text = thinking.decode(self.thought).strip().removeprefix(thinking.opening).partition(thinking.closing)[0].strip()
        answer = "".join(self.parts).lstrip()
        return GenReply(answer, self.thought + self.answer, finish, self.logprob, text, len(self.thought), self.cut, self.seconds)


def timed(replies: Iterable[Reply]) -> Iterator[tuple[float, Reply]]:
    """Each reply with the seconds that it took to arrive after the previous one, without those of its consumer."""
    left = iter(replies)
    while True:
        started = time.monotonic()
        try:
            reply = next(left)
        except StopIteration:
            return
        yield time.monotonic() - started, reply


def generate_stages(engine: Engine, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
    """Replies of an engine to requests with and without a thinking part, in any order."""
    plain = [index for index, request in enumerate(requests) if request.thinking is None]
    if plain:
        for place, reply in engine.generate([requests[index] for index in plain]):
            yield plain[place], reply
    drafts = {
        index: Draft(request, "thought" if request.thinking.begun else "first")
        for index, request in enumerate(requests)
        if request.thinking is not None
    }
    for index, draft in list(drafts.items()):
        if draft.stage == "thought" and draft.room <= 0 and (whole := draft.close()) is not None:
            yield index, whole
            del drafts[index]
    while drafts:
        places = list(drafts)
        for seconds, (place, reply) in timed(engine.generate([drafts[index].next_request() for index in places])):
            index = places[place]
            done = reply if isinstance(reply, Failure) else drafts[index].add(reply, seconds)
            if done is not None:
                yield index, done
                del drafts[index]
