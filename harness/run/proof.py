"""Proves an engine on a task's own requests: a seeded few are scored the engine's fast way and by one plain forward each of the library's
own model (AutoModelForCausalLM, PeftModel), and the log-probabilities are compared.

Drawn are requests on both sides of every length at which the model computes otherwise (sliding window, rope factors), the longest, the
shortest, one of each shape, and some at random. A generated text is compared by the log-probability of its own tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from assay.harness.engines import Engine, Settings
from assay.harness.engines.hf.library import Library, can_hold, open_library
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.trie import count
from assay.harness.errors import AssayError, Invalid
from assay.harness.model.find import ModelRef, checkpoint_of
from assay.harness.prompt.tokens import Tokenizer
from assay.harness.run.prepare import PreparedItem, PreparedTask, Request
from assay.harness.store.provenance import clock
from assay.harness.task.task import Perplexity

FEW, MOST = 3, 8
"""Requests drawn per run of up to MANY requests, and per task of a larger run; both sides of a length come on top."""
MANY, SHARE, MOST_SHARE = 1000, 0.02, 0.03
"""In runs of more than MANY requests, plain forwards take at most SHARE of the run's tokens, but at least one forward a task; the longest
request of the run is among them unless they would take more than MOST_SHARE with it."""
EARLY = 0.01
"""Drawn requests are scored before the others as long as the prefixes computed twice are at most this share of the run's tokens."""
PROVABLE = ("hf", "vllm")
"""Engines that run a model's weights; others serve a model elsewhere, or none."""
LENGTHS = ("sliding_window", "original_max_position_embeddings", "attention_chunk_size", "window_size", "attention_window_size")
"""Fields of config.json that hold a length at which attention or rope changes."""
EXACT = 1e-3
"""float32: largest accepted difference of a token's log-probability, in nats."""
MEDIANS = {"bfloat16": (0.1, 0.25), "float16": (0.02, 0.05)}
"""Other types: largest accepted median difference over all tokens of text, and over the text of one request, in nats."""
GROSS = 1.0
"""Other types: largest accepted median over fewer than LEAST_TEXT tokens: rounding alone may change the choices of one item by half a nat,
and all alike."""
LEAST_TEXT, TEXT = 16, 256
"""Tokens of text that make a median, and the most of a prompt whose log-probabilities are compared, its last ones."""

NOTHING: Mapping[str, Any] = {"requests": 0, "largest": 0.0, "median": 0.0, "longest": 0}
Reply = ScoreReply | GenReply | Failure
Pair = tuple[PreparedItem, Request]


class Yardstick(Protocol):
    """What can score a group plainly: a model of the library, or an engine's own plain way."""

    def plain(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, ScoreReply | Failure]]: ...


def length(request: Request) -> int:
    """Tokens of the longest sequence that a request sends."""
    if isinstance(request, GenRequest):
        return len(request.prompt)
    return len(request.context) + max(map(len, request.continuations)) - 1


def shape(request: Request) -> tuple[Any, ...]:
    """What two requests have in common that an engine computes alike."""
    if isinstance(request, GenRequest):
        return "generate", bool(request.temperature), bool(request.stop)
    sizes = [len(ids) for ids in request.continuations]
    return "score", len(sizes) > 1, max(sizes).bit_length(), min(sizes) == 1


def thresholds(config: Any) -> tuple[int, ...]:
    """Lengths in tokens at which a model of this config.json computes otherwise, in ascending order."""
    found: set[int] = set()
    if isinstance(config, Mapping):
        found |= {value for key in LENGTHS if isinstance(value := config.get(key), int) and value > 1}
        original, factor = config.get("original_max_position_embeddings"), config.get("factor")
        if isinstance(original, int) and isinstance(factor, int | float) and factor > 1:
            found.add(int(original * factor))
        for inner in config.values():
            found |= set(thresholds(inner)) if isinstance(inner, Mapping) else set()
    return tuple(sorted(found))


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many requests may be drawn from a task, and how many tokens their plain forwards may take."""

    requests: int
    tokens: float


def allowances(tasks: Sequence[PreparedTask]) -> list[Allowance]:
    """The allowance of each task of a run (see FEW, MANY, SHARE)."""
    if sum(len(each.requests) for task in tasks for each in task.items) <= MANY:
        return [Allowance(max(1, FEW // len(tasks)), math.inf)] * len(tasks)
    sizes = [distinct_tokens(task.items) for task in tasks]
    lengths = [[length(request) for each in task.items for request in each.requests] or [0] for task in tasks]
    top = max(range(len(tasks)), key=lambda number: max(lengths[number]))
    least = [float(min(each)) for each in lengths]
    least[top] = max(least[top], min(max(lengths[top]), MOST_SHARE * sum(sizes) - sum(least) + least[top]))
    spare = max(0.0, SHARE * sum(sizes) - sum(least))
    return [Allowance(MOST, low + spare * size / sum(sizes)) for low, size in zip(least, sizes, strict=True)]


def distinct_tokens(items: Iterable[PreparedItem]) -> int:
    """Tokens that an engine computes for these items if it computes every distinct prefix once."""
    requests = [request for each in items for request in each.requests]
    groups = [request for request in requests if isinstance(request, ScoreGroup)]
    return count(groups, [request for request in requests if isinstance(request, GenRequest)]).ideal


def draw(items: Sequence[PreparedItem], lengths: Sequence[int], allowance: Allowance, seed: int) -> list[Pair]:
    """The requests that prove a task: both sides of each length first, then longest, shortest, one of each shape, and some at random."""
    pairs = [(each, request) for each in items for request in each.requests]
    pairs.sort(key=lambda pair: hashlib.sha256(f"{seed}|{pair[0].item.id}".encode()).digest())
    by_length = sorted(pairs, key=lambda pair: length(pair[1]))
    sides: list[Pair] = []
    for limit in lengths:
        below, above = ([pair for pair in by_length if (length(pair[1]) > limit) == longer] for longer in (False, True))
        sides += [below[-1], above[0]] if below and above else []
    shapes = {shape(request): (each, request) for each, request in reversed(pairs)}
    chosen: dict[str, Pair] = {request.key: (each, request) for each, request in sides}
    spent, most = sum(length(request) for _, request in chosen.values()), allowance.requests + len(chosen)
    for each, request in (by_length[-1], by_length[0], *shapes.values(), *pairs) if pairs else ():
        if len(chosen) >= most:
            break
        if spent + length(request) <= allowance.tokens and request.key not in chosen:
            chosen[request.key] = each, request
            spent += length(request)
    return list(chosen.values()) or by_length[:1]


def text_of(pair: Pair) -> list[Pair]:
    """The request's own text as a request to score, on the same path as its longest sequence; nothing for a short one.

    Its item is no item of the task.
    """
    each, request = pair
    longest = () if isinstance(request, GenRequest) else max(request.continuations, key=len)
    ids = (request.prompt if isinstance(request, GenRequest) else request.context) + longest
    start = max(1, len(ids) - TEXT)
    if len(ids) - start < LEAST_TEXT:
        return []
    group = ScoreGroup(ids[:start], (ids[start:],))
    return [(replace(each, item=replace(each.item, id=f"{each.item.id}\0text"), requests=(group,)), group)]


def compared(request: Request, reply: Reply) -> tuple[ScoreGroup, list[tuple[float, ...]]] | None:
    """The group whose plain scores are compared, and the fast way's numbers for it; None where there is nothing to compare.

    Continuations of one token each are all compared, since one forward serves them; else the longest is. Of a generated text, the mean
    over its tokens is compared.
    """
    if isinstance(request, ScoreGroup) and isinstance(reply, ScoreReply):
        longest = max(range(len(request.continuations)), key=lambda each: len(request.continuations[each]))
        few = slice(None) if len(request.continuations[longest]) == 1 else slice(longest, longest + 1)
        return ScoreGroup(request.context, request.continuations[few]), list(reply.logprobs[few])
    if isinstance(request, GenRequest) and isinstance(reply, GenReply) and reply.tokens and math.isfinite(reply.logprob):
        return ScoreGroup(request.prompt, (reply.tokens,)), [(reply.logprob / len(reply.tokens),)]
    return None


def changes(request: Request, fast: Sequence[tuple[float, ...]], plain: ScoreReply | Failure) -> list[float]:
    """Absolute differences in nats per token; infinite where a side gives no number."""
    if isinstance(plain, Failure):
        return [math.inf]
    logprobs = plain.logprobs
    if isinstance(request, GenRequest):
        logprobs = ((math.fsum(logprobs[0]) / len(logprobs[0]),),)
    found = (abs(one - other) for left, right in zip(fast, logprobs, strict=True) for one, other in zip(left, right, strict=True))
    return [math.inf if math.isnan(value) else value for value in found]  # NaN has no order


def excess(found: Sequence[Sequence[float]], dtype: str) -> float:
    """The difference that is larger than the dtype allows, in nats; 0 if there is none."""
    if not found:
        return 0.0
    if dtype not in MEDIANS:
        largest = max(max(each) for each in found)
        return largest if largest > EXACT else 0.0
    over_all, of_one = MEDIANS[dtype]
    texts = [each for each in found if len(each) >= LEAST_TEXT]
    gross = max(float(np.median(each)) for each in found)
    median = float(np.median([value for each in texts for value in each])) if texts else 0.0
    worst = max((float(np.median(each)) for each in texts), default=0.0)
    return gross if gross > GROSS else worst if worst > of_one else median if median > over_all else 0.0


@dataclass(slots=True)  # house: collects what the proofs of a run found
class Proof:
    """The proofs of one run. `reason`: why the plain way was taken; empty on the fast way."""

    model: ModelRef
    settings: Settings
    seed: int
    allowed: Mapping[str, Allowance]
    lengths: tuple[int, ...]
    reason: str = ""
    beside: Library | None = None
    yardstick: str = ""
    proven: dict[str, dict[str, Any]] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0

    def pairs(self, task: PreparedTask, engine: Engine) -> list[Pair]:
        """The requests that prove this task; none if it is proven, or if the engine is not one of PROVABLE.

        Where rounding needs a median, the text of each of them is scored too.
        """
        if task.task.full_name in self.proven or not task.items or engine.name not in PROVABLE:
            return []
        allowed, medians = self.allowed[task.task.full_name], dtype_of(engine) in MEDIANS
        pairs = draw(task.items, self.lengths, replace(allowed, tokens=allowed.tokens / 2) if medians else allowed, self.seed)
        return [*pairs, *(text for pair in pairs for text in text_of(pair))] if medians else pairs

    def check(self, task: PreparedTask, pairs: Sequence[Pair], engine: Engine, replies: Mapping[str, Reply]) -> str:
        """Compare the engine's replies, by key, with plain forwards. Returns what differs, or an empty text."""
        started, name = clock(), task.task.full_name
        asked = [(request, *both) for _, request in pairs if (both := compared(request, replies[request.key])) is not None]
        yardstick = self.yardstick_for(engine)
        if yardstick is None or not asked:
            self.proven[name] = {**NOTHING, "unproven": "no yardstick" if yardstick is None else "no reply with a log-probability"}
            return ""
        try:
            plain = dict(yardstick.plain([group for _, group, _ in asked]))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:  # the library fails on a model that the engine runs
            self.proven[name] = {**NOTHING, "unproven": f"{self.yardstick} failed: {type(error).__name__}: {error}"[:200]}
            return ""
        found = [
            (length(group), changes(request, fast, reply))
            for number, (request, group, fast) in enumerate(asked)
            if not (isinstance(reply := plain[number], Failure) and reply.reason == "out of memory")
        ]
        self.tokens += sum(length(group) for _, group, _ in asked)
        self.seconds += clock() - started
        values = [value for _, each in found for value in each] or [0.0]
        off = excess([each for _, each in found], dtype_of(engine))
        facts = {"requests": len(found), "median": finite(float(np.median(values))), "largest": finite(max(values))}
        self.proven[name] = {**facts, "longest": max((size for size, _ in found), default=0)}
        if not off:
            return ""
        del self.proven[name]
        worst = max(found, key=lambda pair: max(pair[1]))[0]
        return f"log-probabilities of {name} differ by {off:.2g} nats per token from {self.yardstick} (a request of {worst:,} tokens)"

    def fall_back(self, problem: str) -> None:
        """Note why the plain way is taken. Raises Invalid where this is already the plain way."""
        if self.reason:
            raise Invalid(
                f"even the plain way gives other scores than the library: {problem}",
                where=self.model.name,
                do="use --engine hf, or report this model: no score of it can be trusted",
            )
        self.reason = problem

    def yardstick_for(self, engine: Engine) -> Yardstick | None:
        """The engine's own model where the library loaded it in this process, else the library's model beside it, else the engine's own
        plain way; None where there is no way to score plainly."""
        if self.beside is not None:
            return self.beside
        own: Any = engine if hasattr(engine, "plain") else None
        if engine.name == "hf" and own is not None:
            self.yardstick = "transformers"
            return own  # type: ignore[no-any-return]
        dtype = dtype_of(engine)
        try:
            plain = "quantization_config" not in checkpoint_of(self.model).config and not self.settings.arguments
            if plain and can_hold(self.model, dtype, self.settings.device):
                self.beside = open_library(self.model, dtype, self.settings.device)
                self.yardstick = "transformers, loaded beside the engine"
                return self.beside
        except (AssayError, ImportError):
            pass  # the library cannot load this model: the engine's own plain way is left
        self.yardstick = f"{engine.name}, one request at a time without a prefix cache" if own is not None else ""
        return own  # type: ignore[no-any-return]

    def close(self) -> None:
        if self.beside is not None:
            self.beside.close()
            self.beside = None

    def facts(self) -> dict[str, Any]:
        """What a run stores of its proofs: differences in nats per token, tokens and seconds of the plain forwards."""
        if not self.proven:
            return {}
        way = {"way": "plain" if self.reason else "fast", "reason": self.reason, "yardstick": self.yardstick}
        cost = {"tokens": self.tokens, "seconds": round(self.seconds, 3)}
        return {**way, **cost, "requests": sum(each["requests"] for each in self.proven.values()), "tasks": dict(self.proven)}


def together(proofs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The proofs of several shards of a run as one. The way is the plain one where one of them took it."""
    found = sorted(filter(None, proofs), key=lambda proof: proof["way"] != "plain")
    tasks: dict[str, Mapping[str, Any]] = {}
    for name, facts in (pair for proof in found for pair in proof["tasks"].items()):
        tasks[name] = worst(tasks[name], facts) if name in tasks else facts
    sums = {name: sum(proof[name] for proof in found) for name in ("tokens", "seconds", "requests")}
    return {**found[0], **sums, "tasks": tasks} if found else {}


def worst(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two proofs of a task as one, with the larger of two differences (None: not finite)."""
    pairs = {name: (one[name], other[name]) for name in ("median", "largest", "longest")}
    largest = {name: None if None in pair else max(pair) for name, pair in pairs.items()}
    return {**one, **other, **largest, "requests": one["requests"] + other["requests"]}


def dtype_of(engine: Engine) -> str:
    return engine.describe().get("dtype", "float32")


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def proof_of(tasks: Sequence[PreparedTask], model: ModelRef, settings: Settings, seed: int) -> Proof:
    """The proof of a run of these tasks, with nothing compared yet."""
    allowed = {task.task.full_name: each for task, each in zip(tasks, allowances(tasks), strict=True)}
    try:
        config = checkpoint_of(model).config
    except (AssayError, OSError):
        config = {}
    return Proof(model, settings, seed, allowed, thresholds(config))


def early(drawn: Mapping[str, Sequence[PreparedItem]], items: Sequence[PreparedItem]) -> list[str]:
    """The tasks, in order, whose drawn items can be scored before all others at little cost: prefixes are then computed twice."""
    if not drawn:
        return []
    most, chosen, spent = EARLY * distinct_tokens(items), list[str](), 0
    for name, own in drawn.items():
        spent += distinct_tokens(own)
        if spent > most:
            break
        chosen.append(name)
    return chosen


def check_ids(task: PreparedTask, tokenizer: Tokenizer, chat: bool, seed: int) -> None:
    """Compare the ids of a seeded few prompts with those of the tokenizer's own call. Raises Invalid where they differ.

    With a chat template, the rendered text has its special tokens and the call adds none, as in `apply_chat_template`.
    """
    if isinstance(task.task.ask, Perplexity):
        return
    for each, request in draw(task.items, (), Allowance(MOST, math.inf), seed):
        if request is not each.requests[0] or "cut" in each.item.doc:  # a neutral context of Choose(calibrate=...); text from ids
            continue
        ours = request.prompt if isinstance(request, GenRequest) else request.context
        # Before choices, white space at the end of a plain prompt belongs to the continuation.
        text = each.item.prompt if chat or isinstance(request, GenRequest) else each.item.prompt.rstrip()
        theirs = tuple(tokenizer.inner(text, add_special_tokens=not chat)["input_ids"]) if text else ours
        if theirs[: len(ours)] != ours:
            raise Invalid(
                f"the prompt's token ids are not those of the tokenizer's own call: {list(ours[:3])}..., not {list(theirs[:3])}...",
                where=f"{task.task.full_name}, item {each.item.id}",
                do="report this tokenizer: no score of it can be trusted",
            )


def sentence(proof: Mapping[str, Any]) -> str:
    """The proof of a run as a sentence."""
    if proof["way"] == "plain":
        return f"The fast way was wrong for this model ({proof['reason']}): scored by plain forwards."
    if not proof["requests"]:
        reasons = {each.get("unproven", "") for each in proof["tasks"].values()}
        return f"Not proven against plain forwards: {', '.join(sorted(reasons))}."
    largest = max((each["largest"] or 0.0 for each in proof["tasks"].values()), default=0.0)
    return (
        f"proof: {proof['requests']} requests also scored by plain forwards ({proof['yardstick']}), "
        f"largest difference {largest:.1e} nats per token, {proof['tokens']:,} tokens"
    )
