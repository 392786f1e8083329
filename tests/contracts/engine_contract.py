"""The contract of every engine, as functions of a Subject. A test module parametrises over CONTRACT for its engine."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assay.harness.engines import Engine, Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, TokenIds

SETTINGS = Settings(device=os.environ.get("ASSAY_TEST_DEVICE", "cpu"), dtype="float32")
"""Where the contract of the transformers engine is tested: `ASSAY_TEST_DEVICE=cuda pytest tests/contracts` does so on a GPU."""

Logprobs = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One plain forward of transformers per distinct sequence: fp32, eager attention, no cache, no padding, no batch."""

    model: Any
    known: dict[TokenIds, Any] = field(default_factory=dict)

    def rows(self, ids: TokenIds) -> Any:
        """Log-probabilities [tokens, vocabulary] of the next token after each."""
        import torch

        if ids in self.known:
            return self.known[ids]
        with torch.inference_mode():
            logits = self.model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), use_cache=False).logits
            return self.known.setdefault(ids, logits[0].float().log_softmax(-1))

    def logprobs(self, group: ScoreGroup) -> Logprobs:
        found = []
        for ids in group.continuations:
            rows = self.rows(group.context + ids[:-1])[len(group.context) - 1 :]
            found.append(tuple(float(rows[place, token]) for place, token in enumerate(ids)))
        return tuple(found)

    def greedy(self, group: ScoreGroup) -> tuple[bool, ...]:
        found = []
        for ids in group.continuations:
            best = self.rows(group.context + ids[:-1])[len(group.context) - 1 :].argmax(-1).tolist()
            found.append(tuple(best) == ids)
        return tuple(found)


def open_reference(path: Path) -> Reference:
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", local_files_only=True)
    return Reference(model.eval())


@dataclass(frozen=True, slots=True)
class Subject:
    """An open engine, the exact values of its model, and the largest difference per token.

    `other` is a directory with other weights of the same architecture, and its truth. `low` is the first ordinary token id.
    """

    engine: Engine
    truth: Reference
    vocabulary: int
    tolerance: float = 1e-4
    low: int = 3
    home: Path = Path()
    other: Path = Path()
    longest: int = 200
    stop: tuple[str, ...] = field(default=(".",))


def ids(draw: random.Random, subject: Subject, size: int) -> TokenIds:
    return tuple(draw.randrange(subject.low, subject.vocabulary) for _ in range(size))


def some_groups(subject: Subject, seed: int = 0, count: int = 10) -> list[ScoreGroup]:
    """Questions after a shared stem, with one to four continuations of one to four tokens."""
    draw = random.Random(seed)
    stem = ids(draw, subject, 17)
    groups = []
    for _ in range(count):
        context = stem + ids(draw, subject, draw.randrange(0, 12))
        continuations = tuple(ids(draw, subject, draw.randrange(1, 5)) for _ in range(draw.randrange(1, 5)))
        groups.append(ScoreGroup(context, continuations, greedy=True))
    return groups


def scores(engine: Engine, groups: Sequence[ScoreGroup]) -> list[ScoreReply]:
    """All replies in the order of the groups; each index exactly once, none a Failure."""
    replies = list(engine.score(groups))
    assert sorted(index for index, _ in replies) == list(range(len(groups)))
    found = dict(replies)
    ordered = []
    for index in range(len(groups)):
        reply = found[index]
        assert isinstance(reply, ScoreReply), reply
        ordered.append(reply)
    return ordered


def texts(engine: Engine, requests: Sequence[GenRequest]) -> list[GenReply]:
    replies = list(engine.generate(requests))
    assert sorted(index for index, _ in replies) == list(range(len(requests)))
    found = dict(replies)
    ordered = []
    for index in range(len(requests)):
        reply = found[index]
        assert isinstance(reply, GenReply), reply
        ordered.append(reply)
    return ordered


def assert_close(left: Logprobs, right: Logprobs, tolerance: float) -> None:
    assert [len(part) for part in left] == [len(part) for part in right]
    worst = max((abs(a - b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True)), default=0.0)
    assert worst <= tolerance, f"log-probabilities differ by {worst:.3g}, allowed {tolerance:.3g}"


def agrees(subject: Subject, groups: Sequence[ScoreGroup]) -> None:
    for group, reply in zip(groups, scores(subject.engine, groups), strict=True):
        assert_close(reply.logprobs, subject.truth.logprobs(group), subject.tolerance)


def agrees_with_one_plain_forward_per_continuation(subject: Subject) -> None:
    agrees(subject, some_groups(subject))


def single_token_continuations_agree(subject: Subject) -> None:
    draw = random.Random(1)
    stem = ids(draw, subject, 20)
    letters = tuple((subject.low + number,) for number in range(4))
    agrees(subject, [ScoreGroup(stem + ids(draw, subject, draw.randrange(9)), letters) for _ in range(6)])


def many_continuations_of_one_context_agree(subject: Subject) -> None:
    draw = random.Random(8)
    every = tuple((token,) for token in range(subject.low, min(subject.vocabulary, subject.low + 200)))
    context = ids(draw, subject, 9)
    agrees(subject, [ScoreGroup(context, every), ScoreGroup(context, every[::-1])])


def identical_contexts_agree(subject: Subject) -> None:
    draw = random.Random(2)
    context = ids(draw, subject, 11)
    agrees(subject, [ScoreGroup(context, (ids(draw, subject, size),)) for size in (1, 2, 3, 2)])


def nested_contexts_agree(subject: Subject) -> None:
    whole = ids(random.Random(3), subject, 40)
    cuts = [(1, 40), (5, 9), (9, 10), (10, 40), (39, 40), (20, 21)]
    agrees(subject, [ScoreGroup(whole[:at], (whole[at:to], whole[at : at + 1])) for at, to in cuts])


def duplicate_groups_are_all_answered_alike(subject: Subject) -> None:
    group = some_groups(subject, seed=4, count=1)[0]
    twice = ScoreGroup(group.context, group.continuations + group.continuations)
    replies = scores(subject.engine, [group, group, twice])
    assert_close(replies[0].logprobs, replies[1].logprobs, subject.tolerance)
    assert_close(replies[2].logprobs, replies[0].logprobs * 2, subject.tolerance)


def one_token_contexts_agree(subject: Subject) -> None:
    draw = random.Random(5)
    agrees(subject, [ScoreGroup(ids(draw, subject, 1), (ids(draw, subject, 6), ids(draw, subject, 1))) for _ in range(4)])


def long_contexts_agree(subject: Subject) -> None:
    draw = random.Random(6)
    stem = ids(draw, subject, subject.longest - 20)
    agrees(subject, [ScoreGroup(stem[:size] + ids(draw, subject, 8), (ids(draw, subject, 9),)) for size in (len(stem), 100, len(stem), 3)])


def long_continuations_agree(subject: Subject) -> None:
    whole = ids(random.Random(9), subject, subject.longest)
    agrees(subject, [ScoreGroup(whole[:1], (whole[1:],)), ScoreGroup(whole[:30], (whole[30:150], whole[30:60]))])


def log_probability_of_ab_is_a_plus_b_after_a(subject: Subject) -> None:
    draw = random.Random(7)
    context, a, b = ids(draw, subject, 13), ids(draw, subject, 2), ids(draw, subject, 3)
    whole, first, second = scores(subject.engine, [ScoreGroup(context, (a + b,)), ScoreGroup(context, (a,)), ScoreGroup(context + a, (b,))])
    assert_close(whole.logprobs, (first.logprobs[0] + second.logprobs[0],), subject.tolerance)


def order_of_requests_does_not_matter(subject: Subject) -> None:
    groups = some_groups(subject, seed=10)
    order = list(range(len(groups)))
    random.Random(0).shuffle(order)
    straight, shuffled = scores(subject.engine, groups), scores(subject.engine, [groups[index] for index in order])
    for place, index in enumerate(order):
        assert_close(shuffled[place].logprobs, straight[index].logprobs, subject.tolerance)
        assert shuffled[place].greedy == straight[index].greedy


def company_does_not_matter(subject: Subject) -> None:
    groups = some_groups(subject, seed=11)
    together = scores(subject.engine, groups)
    for group, reply in zip(groups, together, strict=True):
        assert_close(scores(subject.engine, [group])[0].logprobs, reply.logprobs, subject.tolerance)


def greedy_flags_say_what_greedy_decoding_would_give(subject: Subject) -> None:
    draw = random.Random(12)
    groups = []
    for _ in range(4):
        context = ids(draw, subject, 10)
        best: TokenIds = ()
        for _ in range(3):
            best += (int(subject.truth.rows(context + best)[-1].argmax()),)
        wrong = (best[0], best[1], (best[2] + 1) % subject.vocabulary)
        groups.append(ScoreGroup(context, (best, best[:1], wrong, wrong[2:]), greedy=True))
    for group, reply in zip(groups, scores(subject.engine, groups), strict=True):
        assert reply.greedy == subject.truth.greedy(group)
        assert reply.greedy[:3] == (True, True, False)


def greedy_flags_come_only_where_asked(subject: Subject) -> None:
    group = some_groups(subject, count=1)[0]
    with_greedy, without = scores(subject.engine, [group, ScoreGroup(group.context, group.continuations)])
    assert len(with_greedy.greedy) == len(group.continuations)
    assert without.greedy == ()


def nothing_asked_nothing_answered(subject: Subject) -> None:
    assert list(subject.engine.score([])) == []
    assert list(subject.engine.generate([])) == []


def bad_requests_fail_alone(subject: Subject) -> None:
    good = some_groups(subject, seed=13, count=3)
    alone = scores(subject.engine, good)
    limits = subject.engine.limits
    unknown = ScoreGroup((subject.low, limits.vocabulary), ((subject.low,),))
    answer = ScoreGroup((subject.low,), ((subject.low,), (limits.vocabulary + 5,)))
    negative = ScoreGroup((subject.low,), ((subject.low,), (-1,)))
    long = ScoreGroup((subject.low,) * limits.positions, ((subject.low, subject.low),))
    bad = [unknown, answer, negative, *([long] if limits.positions < 100_000 else [])]
    mixed = dict(subject.engine.score([*good, *bad]))
    assert sorted(mixed) == list(range(len(good) + len(bad)))
    for index, reply in enumerate(alone):
        found = mixed[index]
        assert isinstance(found, ScoreReply)
        assert_close(found.logprobs, reply.logprobs, subject.tolerance)
    for index in range(len(good), len(mixed)):
        found = mixed[index]
        assert isinstance(found, Failure)
        assert found.reason


def tokens_are_counted(subject: Subject) -> None:
    groups = some_groups(subject, seed=14)
    stats = subject.engine.stats
    before = (stats.logical, stats.computed, stats.forwards)
    scores(subject.engine, groups)
    assert stats.logical - before[0] == sum(len(group.context) + len(part) for group in groups for part in group.continuations)
    assert stats.computed > before[1]
    assert stats.forwards > before[2]


def some_prompts(subject: Subject, seed: int = 20, count: int = 6) -> list[TokenIds]:
    draw = random.Random(seed)
    stem = ids(draw, subject, 12)
    prompts = [stem + ids(draw, subject, draw.randrange(1, 10)) for _ in range(count)]
    return [*prompts, prompts[0], stem, prompts[1][:3]]


def greedy_generation_takes_the_argmax(subject: Subject) -> None:
    """Every generated id is the reference's argmax, or ties with it, given the ids before; log-probabilities add up."""
    prompts = some_prompts(subject)
    replies = texts(subject.engine, [GenRequest(prompt, 3 + 2 * (number % 4)) for number, prompt in enumerate(prompts)])
    for number, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
        rows = subject.truth.rows(prompt + reply.tokens[:-1])[len(prompt) - 1 :]
        given = [float(rows[place, token]) for place, token in enumerate(reply.tokens)]
        assert len(reply.tokens) == 3 + 2 * (number % 4) or reply.finish == "stop"
        assert all(value >= float(row.max()) - 2 * subject.tolerance for value, row in zip(given, rows, strict=True))
        assert math.isnan(reply.logprob) or abs(reply.logprob - sum(given)) <= subject.tolerance * len(given)


def generation_is_the_same_again_and_in_any_company(subject: Subject) -> None:
    requests = [GenRequest(prompt, 5) for prompt in some_prompts(subject, seed=21)]
    first = texts(subject.engine, requests)
    again = texts(subject.engine, requests[::-1])[::-1]
    alone = [texts(subject.engine, [request])[0] for request in requests]
    for one, two, three in zip(first, again, alone, strict=True):
        assert one.tokens == two.tokens == three.tokens
        assert one.text == two.text == three.text


def samples_follow_their_seed(subject: Subject) -> None:
    prompt = some_prompts(subject, seed=22)[0]
    requests = [GenRequest(prompt, 8, temperature=2.0, seed=seed) for seed in (1, 2, 3, 1)]
    drawn = texts(subject.engine, requests)
    assert drawn[0].tokens == drawn[3].tokens
    assert len({reply.tokens for reply in drawn}) == 3
    assert [reply.tokens for reply in texts(subject.engine, requests[::-1])][::-1] == [reply.tokens for reply in drawn]


def text_ends_before_a_stop_string(subject: Subject) -> None:
    """A response is cut at a stop string that is a part of it."""
    requests = [GenRequest(prompt, 8) for prompt in some_prompts(subject, seed=23)]
    tried = 0
    for request, free in zip(requests, texts(subject.engine, requests), strict=True):
        if len(free.text) < 4:
            continue
        mark = free.text[2:4]
        reply = texts(subject.engine, [GenRequest(request.prompt, 8, stop=("not in it", mark))])[0]
        assert reply.text == free.text[: free.text.find(mark)]
        assert reply.finish == "stop"
        assert reply.tokens == free.tokens[: len(reply.tokens)]
        tried += 1
    assert tried, "no response could be cut"


def bad_prompts_fail_alone(subject: Subject) -> None:
    good = GenRequest(some_prompts(subject, seed=24)[0], 4)
    limits = subject.engine.limits
    bad = [GenRequest((subject.low, limits.vocabulary), 4)]
    if limits.positions < 100_000:
        bad.append(GenRequest((subject.low,) * (limits.positions + 1), 4))
    mixed = dict(subject.engine.generate([*bad, good]))
    assert sorted(mixed) == list(range(len(bad) + 1))
    assert all(isinstance(mixed[index], Failure) for index in range(len(bad)))
    found = mixed[len(bad)]
    assert isinstance(found, GenReply)
    assert found.tokens == texts(subject.engine, [good])[0].tokens


def swapped_weights_give_the_scores_of_a_fresh_engine(subject: Subject) -> None:
    """Runs last: swaps to other weights and back, so that the subject is unchanged."""
    groups = some_groups(subject, seed=30)
    before = scores(subject.engine, groups)
    subject.engine.swap(subject.other)
    try:
        fresh = open_reference(subject.other)
        for group, reply in zip(groups, scores(subject.engine, groups), strict=True):
            assert_close(reply.logprobs, fresh.logprobs(group), subject.tolerance)
    finally:
        subject.engine.swap(subject.home)
    for old, new in zip(before, scores(subject.engine, groups), strict=True):
        assert_close(new.logprobs, old.logprobs, subject.tolerance)


Check = Callable[[Subject], None]

SCORING: tuple[Check, ...] = (
    agrees_with_one_plain_forward_per_continuation,
    single_token_continuations_agree,
    many_continuations_of_one_context_agree,
    identical_contexts_agree,
    nested_contexts_agree,
    duplicate_groups_are_all_answered_alike,
    one_token_contexts_agree,
    long_contexts_agree,
    long_continuations_agree,
    log_probability_of_ab_is_a_plus_b_after_a,
    order_of_requests_does_not_matter,
    company_does_not_matter,
    greedy_flags_say_what_greedy_decoding_would_give,
    greedy_flags_come_only_where_asked,
    nothing_asked_nothing_answered,
    bad_requests_fail_alone,
    tokens_are_counted,
)
GENERATION: tuple[Check, ...] = (
    greedy_generation_takes_the_argmax,
    generation_is_the_same_again_and_in_any_company,
    samples_follow_their_seed,
    text_ends_before_a_stop_string,
    bad_prompts_fail_alone,
)
CONTRACT: tuple[Check, ...] = (*SCORING, *GENERATION, swapped_weights_give_the_scores_of_a_fresh_engine)
