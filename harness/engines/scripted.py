"""Engines that reply by rule and load no model: oracle, uniform, constant, replay, pseudo-random with a set accuracy, and faults.

`--engine scripted:KIND,option=value` opens one by name; tests build them with the functions below.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from assay.harness.engines import EngineStats, Limits, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.trie import logical_tokens
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef, checkpoint_of

Request = ScoreGroup | GenRequest
Reply = ScoreReply | GenReply | Failure
Answer = Callable[[Request], Reply]
Gold = Callable[[Request], int | str | None]
"""The correct response: the index of a continuation, or a text; None if the request has none."""

HIGH_LIMITS = Limits(positions=1 << 20, vocabulary=1 << 20)


@dataclass(slots=True)  # house: counts its calls
class Scripted:
    """An engine around one function. `calls` counts requests by key. Every key is appended to the file `log`, which also keeps the calls
    of a killed process. More than `most` requests at once raise MemoryError."""

    answer: Answer
    name: str = "scripted"
    limits: Limits = HIGH_LIMITS
    most: int | None = None
    log: Path | None = None
    stats: EngineStats = field(default_factory=EngineStats)
    calls: Counter[str] = field(default_factory=Counter)
    swapped: list[Path] = field(default_factory=list)

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        self.check_size(len(groups))
        for index, group in enumerate(groups):
            reply = self.reply_to(group, logical_tokens((group,)))
            assert not isinstance(reply, GenReply), "the script answered a scoring request with text"
            yield index, reply

    def generate(self, requests: Sequence[GenRequest]) -> Iterator[tuple[int, GenReply | Failure]]:
        self.check_size(len(requests))
        for index, request in enumerate(requests):
            reply = self.reply_to(request, len(request.prompt))
            assert not isinstance(reply, ScoreReply), "the script answered a prompt with scores"
            yield index, reply

    def check_size(self, size: int) -> None:
        if self.most is not None and size > self.most:
            raise MemoryError(f"{size} requests at once, the limit is {self.most}")

    def reply_to(self, request: Request, tokens: int) -> Reply:
        self.calls[request.key] += 1
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(request.key + "\n")
        reply = self.answer(request)
        self.stats.logical += tokens
        self.stats.computed += tokens
        self.stats.forwards += 1
        return reply

    def swap(self, weights: Path) -> None:
        self.swapped.append(weights)

    def close(self) -> None: ...

    def describe(self) -> dict[str, str]:
        return {"engine": self.name}


def make_reply(request: Request, each: Sequence[float], text: str) -> Reply:
    """A reply with one log-probability per token for each continuation; the likeliest continuation counts as greedy."""
    if isinstance(request, GenRequest):
        return GenReply(text, tuple(text.encode()[: request.max_tokens]), "stop", each[0] if each else -1.0)
    logprobs = tuple((value,) * len(ids) for ids, value in zip(request.continuations, each, strict=True))
    best = max(each)
    return ScoreReply(logprobs, tuple(value == best for value in each) if request.greedy else ())


def choice_count(request: Request) -> int:
    return len(request.continuations) if isinstance(request, ScoreGroup) else 1


def constant(logprob: float = -1.0, text: str = "") -> Answer:
    """The same log-probability for every token, the same text for every prompt."""
    return lambda request: make_reply(request, [logprob] * choice_count(request), text)


def uniform(vocabulary: int = 1 << 15) -> Answer:
    """All tokens equally likely: the replies of a model without knowledge."""
    return constant(-math.log(vocabulary))


def oracle(gold: Gold | Mapping[str, int | str]) -> Answer:
    """Always correct, under every normalisation. `gold` is a function, or a mapping by request key; without gold, uniform."""
    gold_of = (lambda request: gold.get(request.key)) if isinstance(gold, Mapping) else gold

    def answer(request: Request) -> Reply:
        right = gold_of(request)
        if isinstance(right, int) and isinstance(request, ScoreGroup):
            return make_reply(request, [-0.01 if index == right else -9.0 for index in range(choice_count(request))], "")
        return uniform()(request) if right is None else make_reply(request, [-0.01] * choice_count(request), str(right))

    return answer


def replay(replies: Mapping[str, Reply], otherwise: Answer | None = None) -> Answer:
    """Recorded replies by request key. Raises KeyError for an unknown request if there is no `otherwise`."""

    def answer(request: Request) -> Reply:
        if request.key not in replies and otherwise is not None:
            return otherwise(request)
        return replies[request.key]

    return answer


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends only on `parts`."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big") / 2**56


def hashed(seed: int = 0, skill: float = 0.0, gold: Gold | None = None) -> Answer:
    """Pseudo-random log-probabilities, a pure function of request, seed and skill.

    With `gold`, a fraction `skill` of the replies is correct; without, `skill` only changes the numbers.
    """

    def answer(request: Request) -> Reply:
        right = gold(request) if gold is not None else None
        if right is not None and draw("skill", seed, request.key) < skill:
            return oracle(lambda _: right)(request)
        if isinstance(request, GenRequest):
            return make_reply(request, [-draw(seed, skill, request.key)], f"word{int(1000 * draw('text', seed, skill, request.key))}")
        logprobs = tuple(
            tuple(-0.05 - 6 * draw(seed, skill, request.context, ids[: place + 1]) for place in range(len(ids)))
            for ids in request.continuations
        )
        best = max(map(sum, logprobs))
        return ScoreReply(logprobs, tuple(sum(part) == best for part in logprobs) if request.greedy else ())

    return answer


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at call number `at` (from 1), or at every request with this `key`.

    "raise": RuntimeError; "die": the process exits with code 137; "sleep": the reply is delayed by `seconds`; "oom": MemoryError;
    "nan": a reply of NaN, which is an error; "fail": a Failure.
    """

    kind: Literal["raise", "die", "sleep", "oom", "nan", "fail"]
    at: int = 0
    key: str = ""
    seconds: float = 0.0


def faulty(inner: Answer, fault: Fault) -> Answer:
    """`inner` with one fault."""
    count = 0

    def answer(request: Request) -> Reply:
        nonlocal count
        count += 1
        if count != fault.at and request.key != fault.key:
            return inner(request)
        if fault.kind == "raise":
            raise RuntimeError("scripted fault")
        if fault.kind == "oom":
            raise MemoryError("scripted fault")
        if fault.kind == "die":
            os._exit(137)
        if fault.kind == "nan":
            return make_reply(request, [math.nan] * choice_count(request), "")
        if fault.kind == "fail":
            return Failure("scripted fault")
        time.sleep(fault.seconds)
        return inner(request)

    return answer


def slow(inner: Answer, seconds: float) -> Answer:
    """`inner` with a pause before every reply."""

    def answer(request: Request) -> Reply:
        time.sleep(seconds)
        return inner(request)

    return answer


@dataclass(frozen=True, slots=True)
class Script:
    """The options of `scripted:KIND,option=value,...`."""

    kind: str = "hashed"
    seed: int = 0
    skill: float = 0.0
    delay: float = 0.0
    log: str = ""
    fault: str = ""
    at: int = 0
    key: str = ""
    seconds: float = 0.0
    text: str = ""


def read_script(text: str) -> Script:
    """Parse `KIND,option=value,...`. Raises AssayError for anything unknown."""
    kind, *parts = (text or "hashed").split(",")
    known = {name: value for name, value in dataclasses.asdict(Script()).items() if name != "kind"}
    options: dict[str, object] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in known:
            raise AssayError(f"unknown option {name!r} of the scripted engine", do=f"use one of {', '.join(sorted(known))}")
        try:
            options[name] = type(known[name])(value)
        except ValueError:
            raise AssayError(f"option {name} of the scripted engine is {value!r}", do=f"use a value such as {known[name]!r}") from None
    return dataclasses.replace(Script(kind), **options)  # type: ignore[arg-type]


def limits_of(model: ModelRef) -> Limits:
    """The limits of the model that a scripted engine replaces; high ones if its folder cannot be read."""
    try:
        config = checkpoint_of(model).config
    except (OSError, AssayError):
        return HIGH_LIMITS
    return Limits(model.positions or HIGH_LIMITS.positions, int(config.get("vocab_size") or HIGH_LIMITS.vocabulary))


def open_engine(model: ModelRef, settings: Settings, script: str = "hashed") -> Scripted:
    """A scripted engine by name: hashed, uniform or constant. Raises AssayError for another kind, since the others need gold."""
    options = read_script(script)
    answers: dict[str, Answer] = {
        "hashed": hashed(options.seed or settings.seed, options.skill),
        "uniform": uniform(),
        "constant": constant(text=options.text),
    }
    if options.kind not in answers:
        raise AssayError(f"unknown scripted engine {options.kind!r}", do=f"use one of {', '.join(sorted(answers))}")
    answer = answers[options.kind]
    if options.delay:
        answer = slow(answer, options.delay)
    if options.fault:
        kinds = ("raise", "die", "sleep", "oom", "nan", "fail")
        if options.fault not in kinds:
            raise AssayError(f"unknown fault {options.fault!r}", do=f"use one of {', '.join(kinds)}")
        answer = faulty(answer, Fault(options.fault, options.at, options.key, options.seconds))  # type: ignore[arg-type]
    return Scripted(answer, name=f"scripted:{options.kind}", limits=limits_of(model), log=Path(options.log) if options.log else None)
