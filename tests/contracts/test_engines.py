"""The transformers engine keeps the engine contract on random models of many architectures, and falls back where packing fails."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from contracts import engine_contract as contract
from contracts import tiny_models
from contracts.engine_contract import SETTINGS, Subject
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay.harness.engines import Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply, TokenIds
from assay.harness.errors import AssayError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from assay.harness.engines.hf.engine import HfEngine, open_engine


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny matrices are faster on one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


PACKED = {"llama", "qwen3", "gemma3", "gpt2", "mistral", "mixtral"}


@pytest.fixture(scope="module", params=tiny_models.KINDS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    home, other = tmp_path_factory.mktemp(request.param), tmp_path_factory.mktemp(request.param)
    ref = tiny_models.make(home, request.param)
    tiny_models.make(other, request.param, seed=1)
    engine = open_engine(ref, SETTINGS)
    assert isinstance(engine, HfEngine)
    engine.run.pack = 24  # many packs even on small tries
    yield Subject(engine, contract.open_reference(home), tiny_models.VOCABULARY, home=home, other=other)
    engine.close()


@pytest.mark.parametrize("check", contract.CONTRACT, ids=lambda check: check.__name__)
def test_contract(subject: Subject, check: Callable[[Subject], None]) -> None:
    check(subject)


def test_the_route_is_the_one_that_the_architecture_allows(subject: Subject) -> None:
    kind = subject.truth.model.config.model_type.removesuffix("_text")
    route = subject.engine.describe()["route"]
    assert route == ("packed" if kind in PACKED else "plain")
    assert any(note.startswith(f"{route} route") for note in subject.engine.stats.notes)


IDS = st.lists(st.integers(3, 6), min_size=1, max_size=14).map(tuple)
GROUPS = st.lists(
    st.builds(ScoreGroup, context=IDS, continuations=st.lists(IDS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=6
)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(groups=GROUPS, pack=st.integers(1, 40))
def test_packs_of_any_size_give_the_plain_scores(subject: Subject, groups: list[ScoreGroup], pack: int) -> None:
    assert isinstance(subject.engine, HfEngine)
    kept, subject.engine.run.pack = subject.engine.run.pack, pack
    try:
        contract.agrees(subject, groups)
    finally:
        subject.engine.run.pack = kept


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    tiny_models.make(path)
    return path


@pytest.fixture
def engine(home: Path) -> Iterator[HfEngine]:
    opened = open_engine(tiny_models.refer(home), SETTINGS)
    yield opened
    opened.close()


def as_subject(engine: HfEngine, home: Path) -> Subject:
    return Subject(engine, contract.open_reference(home), tiny_models.VOCABULARY, home=home)


def test_the_packed_route_computes_each_distinct_prefix_once(engine: HfEngine, home: Path) -> None:
    groups = contract.some_groups(as_subject(engine, home), count=20)
    wholes = [group.context + part[:-1] for group in groups for part in group.continuations]
    distinct = len({whole[:size] for whole in wholes for size in range(1, len(whole) + 1)})
    list(engine.score(groups))
    assert engine.stats.computed == distinct
    assert engine.stats.cached == sum(map(len, wholes)) - distinct
    assert engine.stats.forwards == 1
    assert engine.stats.fallbacks == 0


def test_shared_prompts_are_computed_once_over_many_batches(engine: HfEngine) -> None:
    stem = tuple(range(3, 43))
    requests = [GenRequest((*stem, 50 + number), 1) for number in range(12)]
    engine.run.batch = 4
    list(engine.generate(requests))
    assert engine.stats.computed == len(stem) + 12


def test_many_samples_of_one_prompt_compute_it_once_and_one_token_per_batch(engine: HfEngine) -> None:
    requests = [GenRequest(tuple(range(3, 43)), 1, temperature=1.0, seed=seed) for seed in range(12)]
    engine.run.batch = 4
    list(engine.generate(requests))
    assert engine.stats.computed == 40 + 2


def test_replies_stream_before_the_last_pack(engine: HfEngine, home: Path) -> None:
    groups = contract.some_groups(as_subject(engine, home), count=12)
    engine.run.pack = 16
    next(iter(engine.score(groups)))
    early = engine.stats.forwards
    engine.run.stats.forwards = 0
    list(engine.score(groups))
    assert early < engine.stats.forwards


def starve(engine: HfEngine, most: int, keys: int = 1 << 20) -> None:
    """Make every forward over more than `most` tokens, or `keys` cached ones, run out of memory between two layers."""

    def guard(module: object, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        mask = options.get("attention_mask")
        if inputs[0].shape[:2].numel() > most or (mask is not None and mask.shape[-1] > keys):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    engine.run.model.model.layers[1].register_forward_pre_hook(guard, with_kwargs=True)


def test_out_of_memory_halves_the_pack_and_is_recorded(engine: HfEngine, home: Path) -> None:
    subject = as_subject(engine, home)
    starve(engine, 20)
    contract.agrees_with_one_plain_forward_per_continuation(subject)
    assert any("out of memory" in note for note in engine.stats.notes)


def test_out_of_memory_halves_the_batch_on_the_plain_route(engine: HfEngine, home: Path) -> None:
    subject = as_subject(engine, home)
    engine.run.packed = False
    starve(engine, 60)
    contract.agrees_with_one_plain_forward_per_continuation(subject)
    assert any("batches halved" in note for note in engine.stats.notes)


def test_out_of_memory_halves_the_batch_of_generation(engine: HfEngine, home: Path) -> None:
    subject = as_subject(engine, home)
    free = contract.texts(engine, [GenRequest(prompt, 6) for prompt in contract.some_prompts(subject)])
    starve(engine, 16)
    tight = contract.texts(engine, [GenRequest(prompt, 6) for prompt in contract.some_prompts(subject)])
    assert [reply.tokens for reply in tight] == [reply.tokens for reply in free]
    assert any("out of memory" in note for note in engine.stats.notes)


@pytest.mark.parametrize("packed", [True, False])
def test_only_a_request_that_never_fits_fails(engine: HfEngine, packed: bool) -> None:
    """A sequence of 53 tokens never fits; the others, one of them its prefix, do."""
    engine.run.packed = packed
    starve(engine, most=20, keys=40)
    long = tuple(range(7, 60))
    groups = [ScoreGroup(long, ((5,), (6,))), ScoreGroup((3, 4), ((5,),)), ScoreGroup(long[:9], ((5,),)), ScoreGroup((80, 81), ((5,),))]
    replies = dict(engine.score(groups))
    assert replies[0] == Failure("out of memory")
    assert isinstance(replies[1], ScoreReply)
    assert isinstance(replies[3], ScoreReply)
    assert isinstance(replies[2], ScoreReply if packed else Failure)
    replies = dict(engine.generate([GenRequest(prompt, 2) for prompt in (long, (3, 4), (80, 81), long[:9], (*long[:9], 3))]))
    assert replies[0] == Failure("out of memory")
    assert all(isinstance(replies[index], GenReply) for index in range(1, 5))


@pytest.mark.parametrize("packed", [True, False])
def test_a_token_with_nan_fails_only_its_own_requests(engine: HfEngine, home: Path, packed: bool) -> None:
    import torch

    subject = as_subject(engine, home)
    engine.run.packed = packed
    with torch.no_grad():
        engine.run.model.get_input_embeddings().weight[90] = torch.nan
    draw = random.Random(0)
    stem = tuple(draw.randrange(3, 80) for _ in range(9))
    clean = [ScoreGroup((*stem, 10 + number), ((4, 5), (6,))) for number in range(6)]
    mixed = [clean[0], ScoreGroup((*stem, 90), ((4, 5),)), *clean[1:], ScoreGroup(stem, ((90, 3), (4,)))]
    replies = dict(engine.score(mixed))
    spoilt = [index for index, reply in replies.items() if isinstance(reply, Failure)]
    assert sorted(spoilt) == [1, len(mixed) - 1]
    assert replies[1] == Failure("non-finite log-probability")
    for index, group in enumerate(mixed):
        if index not in spoilt:
            reply = replies[index]
            assert isinstance(reply, ScoreReply)
            contract.assert_close(reply.logprobs, subject.truth.logprobs(group), 1e-4)


def test_a_broken_model_fails_fast(engine: HfEngine) -> None:
    import torch

    with torch.no_grad():
        engine.run.model.lm_head.weight.fill_(torch.nan)
    groups = [ScoreGroup((3, 4, number), ((5,),)) for number in range(6, 60)]
    assert {reply for _, reply in engine.score(groups)} == {Failure("non-finite log-probability")}
    assert engine.stats.forwards < 20
    assert {reply for _, reply in engine.generate([GenRequest((3, 4), 4)])} == {Failure("non-finite log-probability")}


def test_a_model_that_ignores_the_mask_uses_the_plain_route(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test must detect it: here every token attends to every other one."""
    import torch

    from assay.harness.engines.hf import score as hf_score

    monkeypatch.setattr(hf_score, "ancestor_mask", lambda queries, keys, end: torch.ones(len(queries), len(keys), dtype=torch.bool))
    engine = open_engine(tiny_models.refer(home), SETTINGS)
    assert engine.describe()["route"] == "plain"
    assert any("self-test" in note for note in engine.stats.notes)
    contract.agrees_with_one_plain_forward_per_continuation(as_subject(engine, home))


def test_generation_stops_at_the_end_of_text_and_at_the_last_position(engine: HfEngine, home: Path) -> None:
    import torch

    subject = as_subject(engine, home)
    prompt = contract.some_prompts(subject)[0]
    free = contract.texts(engine, [GenRequest(prompt, 9)])[0]
    long = (prompt * 40)[:500]
    assert len(long) <= engine.limits.positions
    room = engine.limits.positions - len(long)
    assert len(contract.texts(engine, [GenRequest(long, 10_000)])[0].tokens) <= room
    with torch.no_grad():  # the third token becomes the end of text
        decoder = engine.decoder()
    object.__setattr__(decoder, "stops", frozenset({free.tokens[2]}))
    reply = contract.texts(engine, [GenRequest(prompt, 9)])[0]
    first = free.tokens.index(free.tokens[2]) + 1
    assert reply.finish == "stop"
    assert reply.tokens == free.tokens[:first]


def test_swap_refuses_another_architecture_and_broken_weights(engine: HfEngine, home: Path, tmp_path: Path) -> None:
    groups = [ScoreGroup((3, 4), ((5, 6),))]
    before = dict(engine.score(groups))
    tiny_models.make(tmp_path / "gpt2", "gpt2")
    with pytest.raises(AssayError, match="not the same architecture"):
        engine.swap(tmp_path / "gpt2")
    tiny_models.make(tmp_path / "torn", seed=3)
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4096])
    with pytest.raises(AssayError, match="cannot be loaded"):
        engine.swap(tmp_path / "torn")
    with pytest.raises(AssayError):
        engine.swap(tmp_path / "nothing here")
    assert dict(engine.score(groups)) == before


def test_unusable_models_are_refused_in_one_line(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load, save_file

    ref = tiny_models.make(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    good = weights.read_bytes()
    tensors = load(good)
    name = "model.layers.0.mlp.up_proj.weight"

    def opening() -> str:
        with pytest.raises(AssayError) as caught:
            open_engine(ref, SETTINGS)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    weights.write_bytes(good[: len(good) // 2])
    assert "truncated or corrupt" in opening()
    save_file({key: value for key, value in tensors.items() if key != name}, weights, metadata={"format": "pt"})
    assert "missing keys" in opening() and name in opening()
    save_file({**tensors, name: torch.zeros(3, 3)}, weights, metadata={"format": "pt"})
    opening()
    weights.unlink()
    torch.save(tensors, tmp_path / "m" / "pytorch_model.bin")
    assert "only pickle weights" in opening()
    with pytest.raises(AssayError, match="unknown dtype"):
        open_engine(ref, replace(SETTINGS, dtype="int3"))


def test_scores_do_not_depend_on_the_budget(home: Path) -> None:
    wanted = None
    for budget, pack in itertools.product((1, 300_000, None), (None, 32)):
        engine = open_engine(tiny_models.refer(home), replace(SETTINGS, budget=budget))
        engine.run.pack = pack or engine.run.pack
        subject = as_subject(engine, home)
        replies = contract.scores(engine, contract.some_groups(subject))
        wanted = wanted or replies
        for reply, other in zip(replies, wanted, strict=True):
            contract.assert_close(reply.logprobs, other.logprobs, 1e-4)


def test_on_a_cpu_the_type_is_fp32_where_none_is_named(home: Path) -> None:
    assert open_engine(tiny_models.refer(home), Settings(device="cpu")).describe()["dtype"] == "float32"


def test_sixteen_bit_floats_stay_near(home: Path) -> None:
    engine = open_engine(tiny_models.refer(home), replace(SETTINGS, dtype="bfloat16"))
    subject = as_subject(engine, home)
    assert engine.describe()["dtype"] == "bfloat16"
    for group, reply in zip(contract.some_groups(subject), contract.scores(engine, contract.some_groups(subject)), strict=True):
        contract.assert_close(reply.logprobs, subject.truth.logprobs(group), 1.0)


def peak_memory(work: Callable[[], object]) -> int:
    """Largest growth of the process's memory in bytes while a function runs."""

    def status(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"this system does not measure peak memory: {error}")
    before = status("VmRSS")
    work()
    return status("VmHWM") - before


def test_peak_memory_stays_under_the_budget_on_a_trie_ten_times_larger(tmp_path: Path) -> None:
    import transformers

    wide = transformers.LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=64,
        intermediate_size=32,
    )
    transformers.AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path)
    budget = 16 << 20
    engine = open_engine(tiny_models.refer(tmp_path), replace(SETTINGS, budget=budget))
    draw, stem = random.Random(0), tuple(range(3, 43))
    groups = [ScoreGroup((*stem, *draw.choices(range(3, 97), k=60)), ((5, 6),)) for _ in range(100)]
    list(engine.score([ScoreGroup(stem, ((5, 6),))]))
    engine.stats.computed = 0
    grown = peak_memory(lambda: list(engine.score(groups)))
    assert engine.stats.computed * engine.run.foot.kv > 10 * budget
    assert grown < budget, f"grew by {grown >> 20} MiB"
    assert not any("too small" in note for note in engine.stats.notes)


ADAPTERS = ("lora", "ia3", "prompt", "prefix")


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapters_keep_the_contract(home: Path, tmp_path: Path, kind: str) -> None:
    """Soft prompts and prefixes are in the cache before the trie; the others are modules of the model."""
    peft = pytest.importorskip("peft")
    import torch
    import transformers

    modules = ["q_proj", "v_proj"]
    made = {
        "lora": lambda: peft.LoraConfig(task_type="CAUSAL_LM", r=4, init_lora_weights=False, target_modules=modules),
        "ia3": lambda: peft.IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False, target_modules=modules, feedforward_modules=[]),
        "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
        "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    }[kind]()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        tuned = peft.get_peft_model(transformers.AutoModelForCausalLM.from_pretrained(home), made).eval()
    tuned.save_pretrained(tmp_path)
    engine = open_engine(replace(tiny_models.refer(home), adapter=tmp_path), SETTINGS)
    subject = Subject(engine, Tuned(tuned), tiny_models.VOCABULARY, home=home)
    assert engine.describe()["route"] == "packed"
    untuned = contract.open_reference(home).rows((3, 4, 5))
    assert float((subject.truth.rows((3, 4, 5)) - untuned).abs().max()) > 0.1
    for check in (*contract.SCORING[:6], *contract.GENERATION[:2]):
        check(subject)
    with pytest.raises(AssayError, match="adapter"):
        engine.swap(home)
    engine.run.packed = False
    for check in (contract.SCORING[0], contract.GENERATION[0]):
        check(subject)


@dataclass(frozen=True, slots=True)
class Tuned(contract.Reference):
    """A plain forward of a peft model, without the rows of its virtual tokens."""

    def rows(self, ids: TokenIds) -> Any:
        import torch

        with torch.inference_mode():
            logits = self.model(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).logits[0]
        return logits[-len(ids) :].float().log_softmax(-1)


def test_a_checkpoint_overwritten_under_a_live_engine_changes_nothing(tmp_path: Path) -> None:
    engine = open_engine(tiny_models.make(tmp_path / "m"), SETTINGS)
    tiny_models.make(tmp_path / "other", seed=1)
    groups = [ScoreGroup((3, 4, 5), ((6,),))]
    before = dict(engine.score(groups))
    with (tmp_path / "m" / "model.safetensors").open("r+b") as file:
        file.write((tmp_path / "other" / "model.safetensors").read_bytes())
    assert dict(engine.score(groups)) == before


@pytest.mark.model
def test_the_built_in_model_is_scored_exactly(builtin_model: Path) -> None:
    engine = open_engine(tiny_models.refer(builtin_model), SETTINGS)
    subject = Subject(engine, contract.open_reference(builtin_model), 49152, home=builtin_model)
    assert engine.describe()["route"] == "packed"
    engine.run.pack = 48
    contract.agrees(subject, contract.some_groups(subject, count=4))
    contract.greedy_flags_say_what_greedy_decoding_would_give(subject)
    prompts = [tuple(engine.decoder().tokenizer(f"The capital of {land} is")["input_ids"]) for land in ("France", "Italy")]
    assert [reply.text for reply in contract.texts(engine, [GenRequest(prompt, 1) for prompt in prompts])] == [" Paris", " Rome"]
    assert contract.texts(engine, [GenRequest(prompts[0], 30, stop=(".",))])[0].finish == "stop"
