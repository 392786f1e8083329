"""Every run proves its engine on its own requests. Run: pytest tests/harness/run/test_proof.py"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import NOWHERE, echo, make_model, place, sums, write_task

from assay import Doc, Plan, evaluate, read_run
from assay.harness.decide.early_stopping import gate_early, plan_like
from assay.harness.decide.policy import Policy
from assay.harness.engines import Engine, Settings
from assay.harness.engines.hf.engine import open_engine as open_hf
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.errors import Incomplete, Invalid
from assay.harness.model.find import ModelRef
from assay.harness.prompt.tokens import open_tokenizer
from assay.harness.run.dispatch import NoProgress
from assay.harness.run.evaluate import resume
from assay.harness.run.merge import merge
from assay.harness.run.prepare import PreparedTask, prepare_task
from assay.harness.run.proof import (
    FEW,
    MOST_SHARE,
    SHARE,
    Allowance,
    allowances,
    changes,
    check_ids,
    compared,
    distinct_tokens,
    draw,
    excess,
    length,
    sentence,
    text_of,
    thresholds,
    together,
)
from assay.harness.store import check


@dataclass
class Wrong:
    """The transformers engine with every fast score moved by `nats`; right on its plain way unless `always`."""

    inner: Any
    nats: float
    stop_after: int | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, Any]]:
        for count, (index, reply) in enumerate(self.inner.score(groups)):
            if self.stop_after is not None and count >= self.stop_after:
                raise RuntimeError("killed")
            yield index, ScoreReply(tuple(tuple(value - self.nats for value in values) for values in reply.logprobs))


def opening(nats: float, always: bool = False, stop_after: int | None = None, opened: list[Settings] | None = None) -> Any:
    def opener(name: str, ref: ModelRef, settings: Settings) -> Engine:
        if opened is not None:
            opened.append(settings)
        plain = settings.plain and not always
        return Wrong(open_hf(ref, settings), 0.0 if plain else nats, stop_after)  # type: ignore[return-value]

    return opener


class Lines(NoProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def stage(self, text: str) -> None:
        self.lines.append(text)


def plan_of(folder: Path, count: int = 12) -> Plan:
    return Plan(model=str(make_model(folder / "model")), tasks=(str(write_task(folder, count)),), engine="hf")


def prepared(folder: Path, task: Any) -> PreparedTask:
    model = make_model(folder / "model")
    return prepare_task(task, Plan(model=str(model), tasks=("x",)), NOWHERE, open_tokenizer(model), 512)


def logprobs(bundle: Path) -> list[float]:
    return [value for record in read_run(bundle).records() for values in record.output["logprobs"] for value in values]


def test_a_right_engine_is_proven_and_the_facts_are_stored(tmp_path: Path) -> None:
    run = read_run(evaluate(plan_of(tmp_path), place(tmp_path)))
    proof = run.summary()["proof"]
    assert (proof["way"], proof["yardstick"], proof["requests"], proof["reason"]) == ("fast", "transformers", FEW, "")
    assert proof["tasks"]["sums"]["largest"] < 1e-4 and 0 < proof["tokens"] < FEW * 40
    assert "3 requests also scored by plain forwards" in sentence(proof)


def test_a_wrong_fast_way_gives_way_to_plain_forwards(tmp_path: Path) -> None:
    plan, lines, opened = plan_of(tmp_path), Lines(), list[Settings]()
    right = logprobs(evaluate(plan, place(tmp_path / "right")))
    bundle = evaluate(plan, place(tmp_path), lines, opening(0.3, opened=opened))
    assert logprobs(bundle) == pytest.approx(right, abs=1e-4)
    proof = read_run(bundle).summary()["proof"]
    assert proof["way"] == "plain" and "differ by 0.3 nats per token from transformers" in proof["reason"]
    assert [settings.plain for settings in opened] == [False, True]
    assert sum(line.startswith("WARNING") for line in lines.lines) == 1
    assert "scored by plain forwards" in sentence(proof)
    assert read_run(bundle).summary()["engine"]["route"] == "plain"


def test_an_engine_that_is_wrong_on_its_plain_way_too_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="even the plain way gives other scores than the library"):
        evaluate(plan_of(tmp_path), place(tmp_path), opener=opening(0.3, always=True))


def test_records_of_a_wrong_way_that_was_killed_are_replaced_on_resume(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    right = logprobs(evaluate(plan, place(tmp_path / "right")))
    with pytest.raises(Incomplete):
        evaluate(plan, place(tmp_path), opener=opening(0.3, stop_after=9))
    bundle = next((tmp_path / "results" / "runs").iterdir())
    assert 0 < len(read_run(bundle).records()) < 12
    resume(bundle, place(tmp_path), opener=opening(0.3))
    assert logprobs(bundle) == pytest.approx(right, abs=1e-4)


def test_a_resumed_run_keeps_the_proofs_of_all_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, second = plan_of(tmp_path, 6), tmp_path / "more.py"
    second.write_text(write_task(tmp_path / "model", 12).read_text().replace('"sums"', '"more"').replace("} +", "} plus"))
    plan = replace(plan, tasks=(*plan.tasks, str(second)))
    whole = read_run(evaluate(plan, place(tmp_path / "whole"))).summary()["proof"]
    with pytest.raises(Incomplete, match="killed"):  # the first task is proven, the second is not
        evaluate(plan, place(tmp_path), opener=opening(0.0, stop_after=9))
    bundle = next((tmp_path / "results" / "runs").iterdir())
    with monkeypatch.context() as patch, pytest.raises(Incomplete, match="interrupted"):  # all is scored, the summary is not written
        patch.setattr("assay.harness.run.evaluate.results_of", interrupted)
        resume(bundle, place(tmp_path))
    resume(bundle, place(tmp_path))
    proof = read_run(bundle).summary()["proof"]
    assert {**proof, "seconds": 0} == {**whole, "seconds": 0} and proof["tasks"].keys() == {"sums", "more"}
    assert [problem.what for problem in check(tmp_path / "results")] == []


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_merged_run_has_the_proofs_of_its_shards(tmp_path: Path) -> None:
    parts = [evaluate(replace(plan_of(tmp_path), shard=f"{n}/2"), place(tmp_path)) for n in (1, 2)]
    one, two = (read_run(part).summary()["proof"] for part in parts)
    proof = read_run(merge(parts, place(tmp_path))).summary()["proof"]
    assert proof["requests"] == 2 * FEW == proof["tasks"]["sums"]["requests"] and proof["tokens"] == one["tokens"] + two["tokens"]
    assert proof["tasks"]["sums"]["largest"] == max(each["tasks"]["sums"]["largest"] for each in (one, two))
    slow = {**two, "way": "plain", "reason": "differs", "tasks": {"sums": {**two["tasks"]["sums"], "largest": None}}}
    found = together([one, {}, slow])
    assert (found["way"], found["reason"], found["tasks"]["sums"]["largest"]) == ("plain", "differs", None)
    assert together([{}]) == {}


LONG_TASK = """
from assay import Choose, Doc, Task, accuracy, inline

rows = [{"n": n, "text": "abcde " * (20 + 6 * n)} for n in range(10)]
TASKS = (Task("long", inline(test=rows), lambda r: Doc(r["text"], choices=("x", "yz"), gold=r["n"] % 2), Choose(), (accuracy,)),)
"""


def make_longrope(folder: Path, switch: int) -> Path:
    """A tiny Phi-3 whose rope takes its long factors above `switch` tokens, with the tokenizer of `make_model`."""
    import torch
    import transformers

    make_model(folder)
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0 + 3 * n for n in range(4)]}
    config = transformers.Phi3Config(
        **{"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "max_position_embeddings": 1024, "original_max_position_embeddings": switch},
        **{"rope_scaling": rope, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.3},
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def test_a_rope_that_switches_is_caught_by_the_runs_own_long_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(model=str(make_longrope(tmp_path / "phi", 300)), tasks=(str(write_long(tmp_path)),), engine="hf")
    right = read_run(evaluate(plan, place(tmp_path / "right")))
    assert right.summary()["proof"]["way"] == "fast"
    monkeypatch.setattr("assay.harness.engines.hf.forward.rope_switch", lambda config: 0)  # an engine that does not know LongRoPE
    bundle = evaluate(plan, place(tmp_path))
    proof = read_run(bundle).summary()["proof"]
    assert proof["way"] == "plain" and "differ by" in proof["reason"]
    assert logprobs(bundle) == pytest.approx(logprobs(right.path), abs=1e-4)


def test_generated_texts_are_proven_by_the_log_probability_of_their_tokens(tmp_path: Path) -> None:
    task = tmp_path / "echo.py"
    task.write_text(
        "from assay import Doc, Generate, Task, exact_match, inline\n"
        "rows = [{'w': f'w{n}'} for n in range(6)]\n"
        "TASKS = (Task('echo', inline(test=rows), lambda r: Doc(f\"Say {r['w']}:\", references=(r['w'],)), Generate(max_tokens=8),"
        " (exact_match,)),)\n"
    )
    plan = replace(plan_of(tmp_path), tasks=(str(task),))
    proof = read_run(evaluate(plan, place(tmp_path))).summary()["proof"]
    assert proof["requests"] == FEW and proof["tasks"]["echo"]["largest"] < 1e-4
    request, plain = GenRequest((1, 2), 8), ScoreReply(((-1.0, -2.0),))
    assert changes(request, [(-1.5,)], plain) == [0.0] and changes(request, [(-1.25,)], plain) == [0.25]


def test_an_early_gate_is_proven_before_its_first_look(tmp_path: Path) -> None:
    plan, opened, lines = plan_of(tmp_path, 120), list[Settings](), Lines()
    base = read_run(evaluate(plan, place(tmp_path)))
    candidate = plan_like(base, str(make_model(tmp_path / "candidate")))
    found = gate_early(candidate, base, Policy(margin=10.0), place(tmp_path), lines, opening(0.3, opened=opened))
    assert [settings.plain for settings in opened] == [False, True] and found.delta == 0.0
    assert sum(line.startswith("WARNING") for line in lines.lines) == 1


@pytest.mark.vllm
@pytest.mark.model
@pytest.mark.parametrize("beside", [True, False])
def test_vllm_is_proven_by_transformers_beside_it_or_by_its_own_plain_way(
    builtin_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    if not beside:
        monkeypatch.setattr("assay.harness.run.proof.can_hold", lambda *model: False)
    plan = Plan(model=str(builtin_model), tasks=(str(write_task(tmp_path, 6)),), engine="vllm")
    proof = read_run(evaluate(plan, place(tmp_path))).summary()["proof"]
    assert proof["way"] == "fast" and proof["requests"] == FEW and proof["tasks"]["sums"]["largest"] < 1e-3
    expected = "transformers, loaded beside the engine" if beside else "vllm, one request at a time without a prefix cache"
    assert proof["yardstick"] == expected


def test_both_sides_of_a_length_the_longest_and_the_shortest_are_drawn(tmp_path: Path) -> None:
    items = prepared(tmp_path, sums(40)).items
    sizes = sorted({length(request) for each in items for request in each.requests})
    limit = sizes[len(sizes) // 2 - 1]
    drawn = [length(request) for _, request in draw(items, (limit,), Allowance(2, math.inf), 0)]
    assert {sizes[0], sizes[-1], limit, min(size for size in sizes if size > limit)} <= set(drawn)
    assert draw(items, (), Allowance(5, math.inf), 0) == draw(items, (), Allowance(5, math.inf), 0)
    assert len(draw(items, (10_000,), Allowance(1, 0.0), 0)) == 1, "never none"


def test_lengths_at_which_a_model_computes_otherwise() -> None:
    rope = {"rope_type": "longrope", "original_max_position_embeddings": 4096, "factor": 32.0}
    assert thresholds({"sliding_window": 2047, "rope_scaling": rope}) == (2047, 4096, 131072)
    assert thresholds({"text_config": {"sliding_window": 512, "rope_parameters": {"full_attention": rope}}}) == (512, 4096, 131072)
    assert thresholds({"sliding_window": None, "max_position_embeddings": 2048}) == ()


def test_a_large_run_spends_at_most_its_share_on_proofs(tmp_path: Path) -> None:
    tasks = [prepared(tmp_path, sums(1500)), prepared(tmp_path, echo(800))]
    total, drawn = 0.0, list[int]()
    for task, allowed in zip(tasks, allowances(tasks), strict=True):
        own = [length(request) for _, request in draw(task.items, (), allowed, 0)]
        total, drawn = total + sum(own), drawn + own
        assert allowed.requests == 8
    tokens = sum(each.logical for task in tasks for each in task.items)
    assert 0 < total <= SHARE * tokens
    assert max(drawn) == max(length(request) for task in tasks for each in task.items for request in each.requests)


def test_the_longest_request_is_left_out_where_it_would_take_too_much(tmp_path: Path) -> None:
    def lengths(extra: int) -> tuple[int, float]:
        """The longest request that proves a task whose last prompt has `extra` more letters, and the share of its tokens."""
        task = sums(1200)
        whole = prepared(
            tmp_path, replace(task, doc=lambda row: Doc(("x" * extra if row["a"] == 7 else "") + task.doc(row).prompt, ("1", "2"), 0))
        )
        own = [length(request) for _, request in draw(whole.items, (), allowances([whole])[0], 0)]
        return max(own), sum(own) / distinct_tokens(whole.items)

    longest, share = lengths(100)
    assert longest > 100 and share <= SHARE
    longest, share = lengths(450)
    assert longest < 20 and share <= MOST_SHARE


def test_half_precision_is_compared_by_medians_over_text() -> None:
    noise = [[0.02, 0.4, 0.05] * 10, [0.01, 0.03] * 10, [0.6]]
    assert excess(noise, "bfloat16") == 0.0 and excess(noise, "float32") == 0.6
    assert excess([[0.2] * 20, [0.15, 0.01] * 10], "bfloat16") == pytest.approx(0.175)
    assert excess([[0.02] * 90, [0.9, 0.8] * 10], "bfloat16") == pytest.approx(0.85), "one request on the far side of a length"
    assert excess([[0.02] * 90, [4.9]], "bfloat16") == 4.9, "a choice that rounding does not explain"
    assert excess([[math.inf]], "float32") == math.inf and excess([], "float32") == 0.0


def test_half_precision_is_proven_on_the_text_of_the_requests(tmp_path: Path) -> None:
    plan = replace(plan_of(tmp_path), dtype="bfloat16")
    bundle = evaluate(replace(plan, tasks=(str(write_long(tmp_path)),)), place(tmp_path))
    proof = read_run(bundle).summary()["proof"]
    assert proof["way"] == "fast" and proof["requests"] == 2 * FEW and proof["tasks"]["long"]["median"] < 0.1
    assert len(read_run(bundle).records()) == 10
    (text,) = text_of((prepared(tmp_path, sums(2)).items[0], ScoreGroup((1, 2, 3), ((4,) * 20, (5,)))))
    assert text[1] == ScoreGroup((1,), ((2, 3) + (4,) * 20,)) and text_of((text[0], GenRequest((1,) * 9, 4))) == []


def write_long(folder: Path) -> Path:
    path = folder / "long.py"
    path.write_text(LONG_TASK)
    return path


def test_prompts_must_have_the_ids_of_the_tokenizers_own_call(tmp_path: Path) -> None:
    for task in (prepared(tmp_path, sums(8)), prepared(tmp_path, echo(4))):
        tokenizer = open_tokenizer(tmp_path / "model")
        check_ids(task, tokenizer, chat=False, seed=0)
        with pytest.raises(Invalid, match="not those of the tokenizer's own call"):
            check_ids(with_first_id(task, 7), tokenizer, chat=False, seed=0)


def test_a_cut_prompt_may_have_other_ids_than_its_text(tmp_path: Path) -> None:
    task = with_first_id(prepared(tmp_path, sums(4)), 7)
    cut = tuple(replace(each, item=replace(each.item, doc={**each.item.doc, "cut": 600})) for each in task.items)
    check_ids(replace(task, items=cut), open_tokenizer(tmp_path / "model"), chat=False, seed=0)


def with_first_id(task: PreparedTask, token: int) -> PreparedTask:
    """The task with another first id in every prompt, as where BOS is lost."""

    def other(request: Any) -> Any:
        if isinstance(request, GenRequest):
            return replace(request, prompt=(token, *request.prompt))
        return replace(request, context=(token, *request.context))

    return replace(task, items=tuple(replace(each, requests=tuple(map(other, each.requests))) for each in task.items))


def test_a_reply_without_a_number_is_not_compared() -> None:
    assert compared(GenRequest((1,), 4), GenReply("", (), "stop", 0.0)) is None
    assert compared(GenRequest((1,), 4), GenReply("a", (3,), "stop")) is None
    request, reply = ScoreGroup((1,), ((2,), (3, 4, 5), (6, 7))), ScoreReply(((-1.0,), (-2.0, -3.0, -4.0), (-5.0, -6.0)))
    assert compared(request, reply) == (ScoreGroup((1,), ((3, 4, 5),)), [(-2.0, -3.0, -4.0)])
    request, reply = ScoreGroup((1,), ((2,), (3,))), ScoreReply(((-1.0,), (-2.0,)))
    assert compared(request, reply) == (request, [(-1.0,), (-2.0,)])


@pytest.mark.parametrize("fast", [(-1.0, math.nan), (math.nan, -1.0)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_difference_without_a_number_is_infinite_in_any_order(fast: tuple[float, float], dtype: str) -> None:
    request = ScoreGroup((1,), ((2, 3),))
    found = changes(request, [fast], ScoreReply(((-1.0, -1.0),)))
    assert max(found) == math.inf and sorted(found)[0] == 0.0
    assert excess([found, [0.0]], dtype) == excess([[0.0], found], dtype) == math.inf


def test_an_item_that_fails_when_scored_again_does_not_keep_its_wrong_score(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    right = logprobs(evaluate(plan, place(tmp_path / "right")))

    def opener(name: str, ref: ModelRef, settings: Settings) -> Any:
        return Failing(open_hf(ref, settings), 0.0) if settings.plain else Wrong(open_hf(ref, settings), 0.3)

    with pytest.raises(Incomplete, match=r"sums .* failed when it was scored again by plain forwards: no memory"):
        evaluate(plan, place(tmp_path), opener=opener)
    bundle = next((tmp_path / "results" / "runs").iterdir())
    assert len(read_run(bundle).records()) == 11, "a resumed run proves the task again"
    resume(bundle, place(tmp_path), opener=opening(0.3))
    assert logprobs(bundle) == pytest.approx(right, abs=1e-4)


class Failing(Wrong):
    """Gives no reply to its fifth request."""

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, Any]]:
        for count, (index, reply) in enumerate(super().score(groups)):
            yield index, Failure("no memory") if count == 4 else reply


def test_a_failure_before_the_proof_leaves_an_item_to_prove_the_task(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    right = logprobs(evaluate(plan, place(tmp_path / "right")))
    with pytest.raises(Incomplete, match="gone"):
        evaluate(plan, place(tmp_path), opener=lambda name, ref, settings: Dying(open_hf(ref, settings), 0.3))  # type: ignore[arg-type,return-value]
    bundle = next((tmp_path / "results" / "runs").iterdir())
    assert len(read_run(bundle).records()) == 11
    resume(bundle, place(tmp_path), opener=opening(0.3))
    assert logprobs(bundle) == pytest.approx(right, abs=1e-4)


class Dying(Wrong):
    """Dies after its last reply."""

    def score(self, groups: Sequence[ScoreGroup]) -> Iterator[tuple[int, Any]]:
        yield from super().score(groups)
        raise RuntimeError("gone")
