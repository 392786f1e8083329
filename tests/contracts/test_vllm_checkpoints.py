"""One vLLM engine and several tiny checkpoints and adapters: scores belong to the files on disk, never to an old cache."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from fakes import place

from assay import Plan, evaluate, read_run
from assay.harness.engines import Settings
from assay.harness.engines.request import Failure, GenReply, GenRequest, ScoreGroup, ScoreReply
from assay.harness.engines.vllm_offline import engine as vllm
from assay.harness.errors import AssayError
from assay.harness.model.find import ModelRef, find_model
from tests.contracts.plain_forward import check, forward, ids, worst
from tests.matrix.adapters import save_adapter
from tests.matrix.models import change_tensors
from tests.security.baits import bring_code

pytestmark = pytest.mark.vllm


def make_tiny(folder: Path, seed: int, **changes: Any) -> ModelRef:
    """A random Llama with a head size that vLLM's CPU kernels support, and a tokenizer."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    settings = {"vocab_size": 97, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**(settings | changes))).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({f"w{number}": number for number in range(97)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="w2").save_pretrained(folder)
    return find_model(str(folder), cache=folder)


def load(ref: ModelRef) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ref.path).eval()


def groups_of(seed: int) -> list[ScoreGroup]:
    dice = random.Random(seed)
    stem = ids(dice, 70, 97)
    return [ScoreGroup(stem + ids(dice, 3, 97), tuple(ids(dice, count, 97) for count in (1, 2, 4))) for _ in range(4)]


def test_a_swapped_checkpoint_scores_as_a_fresh_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_tiny(tmp_path / "1", 1), make_tiny(tmp_path / "2", 2)
    groups = groups_of(0)
    engine = vllm.open_engine(first, Settings())
    try:
        check(engine, load(first), groups)
        engine.swap(second.path)
        check(engine, load(second), groups)
        with monkeypatch.context() as patch:
            patch.setattr(engine.llm, "reset_prefix_cache", lambda: True)
            engine.swap(first.path)
        stale = dict(engine.score(groups))
        assert max(worst(stale[index], forward(load(first), groups[index])) for index in stale) > 0.01, "why the reset is mandatory"
        engine.swap(first.path)
        check(engine, load(first), groups)
        with monkeypatch.context() as patch:
            patch.setattr(engine.llm, "reset_prefix_cache", lambda: False)
            with pytest.raises(AssayError, match="prefix cache"):
                engine.swap(first.path)
        for changes in ({"intermediate_size": 64}, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}):
            with pytest.raises(AssayError, match="differ"):
                engine.swap(make_tiny(tmp_path / str(changes.keys()), 3, **changes).path)
        check(engine, load(first), groups)
    finally:
        engine.close()
    assert capfd.readouterr().out == ""


def test_an_adapter_scores_as_its_merged_model(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model

    base = make_tiny(tmp_path / "base", 1)
    tuned = get_peft_model(load(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1, generator=torch.Generator().manual_seed(len(name)))
    tuned.save_pretrained(tmp_path / "adapter")
    ref = find_model(str(base.path), adapter=tmp_path / "adapter", cache=tmp_path)
    merged = PeftModel.from_pretrained(load(base), tmp_path / "adapter").merge_and_unload()
    groups = groups_of(1)
    assert worst(forward(merged, groups[0]), forward(load(base), groups[0])) > 0.01
    engine = vllm.open_engine(ref, Settings())
    try:
        check(engine, merged, groups)
        check(engine, merged, groups)
        with pytest.raises(AssayError, match="adapter"):
            engine.swap(base.path)
    finally:
        engine.close()


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_tensor_that_the_files_lack_is_refused_before_vllm_loads(tmp_path: Path, lost: str) -> None:
    """vLLM leaves such a parameter as whatever its memory holds."""
    ref = make_tiny(tmp_path / "m", 1)
    change_tensors(ref.path, (lost,))
    with pytest.raises(AssayError, match=lost):
        vllm.open_engine(find_model(str(ref.path), cache=tmp_path), Settings())


@pytest.mark.parametrize(("kind", "words"), [("half of the tensors", "incomplete"), ("unknown names", "belong to no module")])
def test_an_adapter_that_peft_would_not_load_whole_is_refused(tmp_path: Path, kind: str, words: str) -> None:
    base = make_tiny(tmp_path / "m", 1).path
    save_adapter(kind, load(find_model(str(base), cache=tmp_path)), base, tmp_path / "a")
    with pytest.raises(AssayError, match=words):
        vllm.open_engine(find_model(str(base), adapter=tmp_path / "a", cache=tmp_path), Settings())


def test_memory_bounds_the_length_and_is_noted(tmp_path: Path) -> None:
    ref = make_tiny(tmp_path / "long", 1, max_position_embeddings=100_000)
    engine = vllm.open_engine(ref, Settings(budget=4 * 2**20))
    try:
        assert 1000 < engine.limits.positions < 100_000
        assert any("limited by the memory" in note for note in engine.stats.notes)
        check(engine, load(ref), groups_of(2))
    finally:
        engine.close()


def test_a_model_that_vllm_cannot_load_is_one_line(tmp_path: Path) -> None:
    ref = make_tiny(tmp_path / "odd", 1)
    with pytest.raises(AssayError) as caught:
        vllm.open_engine(ref, Settings(dtype="float31"))
    assert "\n" not in str(caught.value) and "--engine hf" in str(caught.value)
    with pytest.raises(AssayError, match="not for"):
        vllm.open_engine(ref, Settings(device="tpu"))


def test_a_soft_prompt_scores_as_the_tuned_model(tmp_path: Path) -> None:
    """Virtual tokens as embeddings before the ids: scores, rows of long answers, generation and a warm cache, against peft."""
    import torch
    from peft import PromptTuningConfig, get_peft_model

    base = make_tiny(tmp_path / "base", 1)
    tuned = get_peft_model(load(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)).eval()
    with torch.no_grad():
        weights = next(weights for name, weights in tuned.named_parameters() if "prompt_encoder" in name)
        torch.nn.init.normal_(weights, std=1.0, generator=torch.Generator().manual_seed(3))
    tuned.save_pretrained(tmp_path / "soft")
    ref = find_model(str(base.path), adapter=tmp_path / "soft", cache=tmp_path)

    def truth(group: ScoreGroup) -> list[list[float]]:
        found = []
        for answer in group.continuations:
            whole = torch.tensor([group.context + answer[:-1]])
            with torch.inference_mode():
                logits = tuned(whole, attention_mask=torch.ones_like(whole)).logits[0][-len(answer) :]
            found.append([float(row[token]) for row, token in zip(logits.float().log_softmax(-1), answer, strict=True)])
        return found

    groups = groups_of(4)
    assert abs(truth(groups[0])[0][0] - forward(load(base), groups[0]).logprobs[0][0]) > 0.01
    engine = vllm.open_engine(ref, Settings())
    try:
        assert engine.use_cache and engine.limits.positions == 256 - 5 and "mixed prompt embeddings" in engine.describe()["route"]
        for order in (groups, groups[::-1]):  # the second time from a warm cache
            for index, reply in engine.score(order):
                assert isinstance(reply, ScoreReply)
                pairs = zip(reply.logprobs, truth(order[index]), strict=True)
                assert max(abs(a - b) for left, right in pairs for a, b in zip(left, right, strict=True)) < 1e-4
        assert engine.stats.cached > 0
        prompt = groups[0].context
        ((_, reply),) = engine.generate([GenRequest(prompt, 4)])
        assert isinstance(reply, GenReply)
        assert reply.logprob == pytest.approx(sum(truth(ScoreGroup(prompt, (reply.tokens,)))[0]), abs=1e-3)
        with pytest.raises(AssayError, match="adapter"):
            engine.swap(base.path)
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["llama", "evil"])
def test_code_of_a_model_that_nothing_checked_does_not_run(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened with vLLM without our own check: vLLM must not run code of the model."""
    ref, wire = make_tiny(tmp_path / "m", 1), tmp_path / "wire"
    bring_code(ref.path, wire, kind)
    monkeypatch.setattr(vllm, "check_tensors", lambda checkpoint: ())  # transformers would refuse the model first
    with pytest.raises(AssayError, match="vLLM cannot load this model"):
        vllm.open_engine(ref, Settings())
    assert not wire.exists(), "the canary fired"


ROPES: dict[str, dict[str, Any]] = {
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
}


@pytest.mark.parametrize("rope", ROPES)
def test_a_stretched_rope_keeps_its_length(rope: str, tmp_path: Path) -> None:
    ref = make_tiny(tmp_path / rope, 1, max_position_embeddings=512, **ROPES[rope])
    engine, dice = vllm.open_engine(ref, Settings()), random.Random(0)
    try:
        assert engine.limits.positions == ref.positions == 512
        check(engine, load(ref), [ScoreGroup(ids(dice, count, 97), (ids(dice, 1, 97), ids(dice, 3, 97))) for count in (60, 140, 500)])
    finally:
        engine.close()


def test_yarn_ends_where_vllms_table_of_positions_ends(tmp_path: Path) -> None:
    """Above it vLLM reads other memory: up to 3.7 nats, or NaN."""
    ref = make_tiny(tmp_path, 1, max_position_embeddings=1024, **ROPES["yarn"])
    engine, dice = vllm.open_engine(ref, Settings()), random.Random(0)
    try:
        assert ref.positions == 1024 and engine.limits.positions == 512
        check(engine, load(ref), [ScoreGroup(ids(dice, 500, 97), (ids(dice, 3, 97),))])
        ((_, reply),) = engine.score([ScoreGroup(ids(dice, 600, 97), (ids(dice, 3, 97),))])
        assert isinstance(reply, Failure) and "512 positions" in reply.reason
    finally:
        engine.close()


def test_longrope_is_refused_above_its_first_length_before_anything_is_scored(tmp_path: Path) -> None:
    """vLLM takes the short factors only, transformers those of each length."""
    import torch
    import transformers

    make_tiny(tmp_path, 1)
    sizes = {"vocab_size": 97, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    factors = {"type": "longrope", "short_factor": [1.0] * 16, "long_factor": [1.0 + 3 * n for n in range(16)]}
    lengths = {"max_position_embeddings": 512, "original_max_position_embeddings": 128, "rope_scaling": factors}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(1)
    transformers.Phi3ForCausalLM(transformers.Phi3Config(**sizes, **lengths, **ends, initializer_range=0.2)).save_pretrained(tmp_path)
    words = " ".join(f"w{n % 90}" for n in range(200))
    (task := tmp_path / "words.py").write_text(
        "from assay import Choose, Doc, Task, accuracy, inline\n"
        f"TASKS = (Task('words', inline(test=[{{}}]), lambda row: Doc({words!r}, choices=('w1', 'w2'), gold=0), Choose(), (accuracy,)),)\n"
    )
    with pytest.raises(AssayError, match=r"the longest request needs 221 tokens; engine vllm takes 128"):
        evaluate(Plan(model=str(tmp_path), tasks=(str(task),), engine="vllm"), place(tmp_path / "store"))
    assert not list((tmp_path / "store" / "results" / "runs").iterdir())
    run = read_run(evaluate(Plan(model=str(tmp_path), tasks=(str(task),)), place(tmp_path / "store")))
    assert run.manifest["engine"]["name"] == "hf" and "LongRoPE" in run.manifest["engine"]["reason"]
