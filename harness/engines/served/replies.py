"""Reads a server's replies. Every function returns a Failure for a reply that is not what was requested."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from assay.harness.engines.request import Failure, GenReply, GenRequest, TokenIds
from assay.harness.engines.text import cut

Message = Mapping[str, Any]
Found = TypeVar("Found")
LOWEST = -9000.0
"""vLLM sends -9999 for a log-probability of minus infinity, which JSON cannot hold."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the server counts them."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Log-probabilities of one continuation's tokens, and whether greedy decoding would generate it."""

    logprobs: tuple[float, ...]
    greedy: bool


def read(parse: Callable[[], Found | Failure]) -> Found | Failure:
    """The parsed reply; a Failure if a field is missing or has another type."""
    try:
        return parse()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Failure(f"the server's reply has another form than OpenAI's: {type(error).__name__}: {error}"[:300])


def usage_of(reply: Message) -> Usage | None:
    """The usage that the server reports; None if it reports none."""
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return None

    def count(where: Any, name: str) -> int:
        value = where.get(name) if isinstance(where, dict) else None
        return value if isinstance(value, int) and value >= 0 else 0

    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Usage(
        count(usage, "prompt_tokens"),
        count(usage, "completion_tokens"),
        count(prompt, "cached_tokens"),
        count(completion, "reasoning_tokens"),
    )


def checked_row(logprobs: Sequence[Any], greedy: bool) -> Row | Failure:
    values = tuple(float(value) for value in logprobs)
    if not all(math.isfinite(value) and LOWEST < value <= 1e-3 for value in values):
        return Failure("the server returned a log-probability that is not a finite number below 0")
    return Row(values, greedy)


def prompt_row(reply: Message, ids: TokenIds, start: int) -> Row | Failure:
    """Log-probabilities of ids[start:] from vLLM's `prompt_logprobs`: per token a mapping of id to logprob and rank; the first is null."""
    found = reply["choices"][0]["prompt_logprobs"]
    if len(found) != len(ids):
        return Failure(f"the server returned {len(found)} prompt log-probabilities for {len(ids)} tokens")
    entries = [each[str(token)] for each, token in zip(found[start:], ids[start:], strict=True)]
    return checked_row([entry["logprob"] for entry in entries], all(entry["rank"] == 1 for entry in entries))


def echo_row(reply: Message, ids: TokenIds, start: int) -> Row | Failure:
    """Log-probabilities of ids[start:] from an echoed prompt of token ids and one generated token."""
    found = reply["choices"][0]["logprobs"]
    values, usage = found["token_logprobs"], usage_of(reply)
    if usage is not None and usage.prompt != len(ids):
        return Failure(f"the server counts {usage.prompt} prompt tokens, {len(ids)} were sent")
    if len(values) not in (len(ids), len(ids) + 1):
        return Failure(f"the server returned {len(values)} log-probabilities for {len(ids)} tokens")
    return checked_row(values[start : len(ids)], echo_is_greedy(found, start, len(ids)))


def echo_is_greedy(found: Message, start: int, stop: int) -> bool:
    """Whether every echoed token in a range is the likeliest; False where the server does not return the likeliest tokens."""
    best = (found.get("top_logprobs") or [None] * stop)[start:stop]
    values = found["token_logprobs"][start:stop]
    return all(top and value >= max(top.values()) - 1e-6 for top, value in zip(best, values, strict=True))


def echo_text_row(reply: Message, continuation: str) -> Row | Failure:
    """Log-probabilities of the tokens that spell the continuation at the end of an echoed prompt, which is followed by one generated token.

    A token that holds the end of the context and the beginning of the continuation counts to the continuation, as in lm-eval's rule.
    """
    found, usage = reply["choices"][0]["logprobs"], usage_of(reply)
    tokens, values = found["tokens"], found["token_logprobs"]
    if len(tokens) != len(values):
        return Failure(f"the server returned {len(values)} log-probabilities for {len(tokens)} tokens")
    stop = len(tokens) - 1 if usage is None else usage.prompt
    if not 0 < stop <= len(tokens):
        return Failure(f"the server counts {stop} prompt tokens and returned {len(tokens)}")
    text, start = "", stop
    while start and len(text) < len(continuation):
        start -= 1
        text = tokens[start] + text
    if not text.endswith(continuation):
        return Failure(f"the server's tokens do not spell the continuation: {text[-60:]!r} for {continuation[-60:]!r}")
    if values[start] is None:
        return Failure("the server has no log-probability of the first token: the prompt before the continuation is empty")
    return checked_row(values[start:stop], echo_is_greedy(found, start, stop))


def generated(reply: Message, request: GenRequest) -> GenReply | Failure:
    """A generated text, without stop strings that the server left in it."""
    choice, usage = reply["choices"][0], usage_of(reply)
    message = choice.get("message")
    text = choice["text"] if message is None else message.get("content") or ""
    thought = "" if message is None else message.get("reasoning") or message.get("reasoning_content") or ""
    finish = choice["finish_reason"]
    if finish not in ("stop", "length"):
        return Failure(f"the server ended the response: {finish}")
    if not isinstance(text, str) or not isinstance(thought, str):
        return Failure("the server's reply holds no text")
    ids = choice.get("token_ids")
    tokens = tuple(map(int, ids)) if ids is not None else (UNKNOWN,) * (usage.completion if usage else 0)
    if len(tokens) > request.max_tokens:
        return Failure(f"the server generated {len(tokens)} tokens, {request.max_tokens} were allowed")
    if message is not None and not thought:  # without a reasoning parser the server leaves the thinking part in the text
        thought, text = split_thought(text)
    before = cut(text.lstrip() if thought else text, request.stop)
    if before is not None:
        text, finish = before, "stop"
    thinking = (thought, usage.reasoning if usage else 0, not text.strip()) if thought else ()
    return GenReply(text, tokens, finish, sum_of(choice.get("logprobs")), *thinking)


def split_thought(text: str) -> tuple[str, str]:
    """The thinking part of a chat's response, between the markers that most reasoning models use, and the answer."""
    opening, closing = "<think>", "</think>"
    if closing not in text and not text.lstrip().startswith(opening):
        return "", text
    thought, _, answer = text.partition(closing)
    return thought.strip().removeprefix(opening).strip(), answer.lstrip()


UNKNOWN = -1
"""Stands for the id of each generated token where the server returns none."""


def sum_of(logprobs: Any) -> float:
    """Sum of the generated tokens' log-probabilities; NaN where the server returns none."""
    values = logprobs.get("token_logprobs") if isinstance(logprobs, dict) else None
    return math.fsum(values) if values and all(isinstance(value, int | float) for value in values) else math.nan
