"""`assay run --model BASE --adapter DIR` scores exactly what a method saved: every method, through the transformers engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from assay import AssayError, ModelRef
from assay.harness.engines import Settings
from assay.harness.engines.opening import open_engine
from assay.harness.engines.request import ScoreGroup, ScoreReply
from assay.harness.engines.vllm_offline.soft_prompts import soft_prompt
from assay.harness.model.adapter import read_adapter
from assay.harness.model.find import find_model
from assay.tuners import toy
from assay.tuners.methods import find_method, method_names
from assay.tuners.study.trial import open_base
from assay.tuners.training.batches import Example, plan_steps
from assay.tuners.training.loss import log_probabilities
from assay.tuners.training.train import Recipe, train

TRAINED = tuple(name for name in method_names() if name not in ("in_context", "bitfit", "full"))
SMALL = {"rank": 4, "first_rank": 6, "layers": 1, "tokens": 4}
EXAMPLES = [toy.encode(row) for row in list(toy.rows("max", "test"))[:12]]


@pytest.fixture(scope="module")
def base(toy_folder: Path) -> ModelRef:
    return find_model(str(toy_folder), cache=toy_folder, offline=True)


def tuned(name: str, base: ModelRef, steps: int = 6) -> Any:
    method = find_method(name)
    options = {key: value for key, value in SMALL.items() if key in method.options()}
    plan = plan_steps([toy.encode(row) for row in list(toy.rows("max", "train"))[:32]], loss_tokens=8 * steps, batch=8, seed=0)
    trainable = method.begin(open_base(base.path), seed=0, steps=steps, options=options)
    train(trainable, plan, Recipe(lr=3 * method.lr))
    return trainable


def score_all(ref: ModelRef) -> list[float]:
    """Log-probability of each answer, from the engine."""
    engine = open_engine("hf", ref, Settings(device="cpu"))
    groups = [ScoreGroup(example.ids[: example.loss_from], (example.ids[example.loss_from :],)) for example in EXAMPLES]
    found: dict[int, float] = {}
    for index, reply in engine.score(groups):
        assert isinstance(reply, ScoreReply), reply
        found[index] = sum(reply.logprobs[0])
    engine.close()
    return [found[index] for index in range(len(groups))]


def direct(model: Any, examples: list[Example]) -> list[float]:
    return [float(log_probabilities(model, [example])[0, example.ids[-1]]) for example in examples]


@pytest.mark.parametrize("name", TRAINED)
def test_a_saved_adapter_is_what_the_engine_scores(name: str, base: ModelRef, tmp_path: Path) -> None:
    trainable = tuned(name, base)
    trainable.save(tmp_path)
    ref = find_model(str(base.path), adapter=tmp_path, cache=tmp_path, offline=True)
    assert ref.digest != base.digest
    expected, untuned = direct(trainable.model, EXAMPLES), direct(open_base(base.path), EXAMPLES)
    served = score_all(ref)
    assert max(abs(a - b) for a, b in zip(served, expected, strict=True)) < 1e-4
    assert max(abs(a - b) for a, b in zip(served, untuned, strict=True)) > 1e-4, "training must show"


@pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning"])
def test_what_an_engine_puts_before_the_ids_is_the_saved_soft_prompt(name: str, base: ModelRef, tmp_path: Path) -> None:
    """As the vLLM engine does it, with transformers: the rows of the file, then the ids' own embeddings."""
    trainable = tuned(name, base)
    trainable.save(tmp_path)
    assert read_adapter(tmp_path).is_soft_prompt
    soft, model = soft_prompt(tmp_path, 64, torch.float32), open_base(base.path)
    ids = list(EXAMPLES[0].ids)
    sent = soft.prompt(ids)
    assert soft.virtual == SMALL["tokens"] and sent["prompt_is_token_ids"] == [False] * soft.virtual + [True] * len(ids)
    with torch.no_grad():
        own = model.get_input_embeddings()(torch.tensor([ids], device=model.device))
        embedded = torch.cat([sent["prompt_embeds"][None, : soft.virtual].to(own), own], dim=1)
        served = model(inputs_embeds=embedded).logits[0, soft.virtual :].log_softmax(-1)
        expected = trainable.model.eval()(torch.tensor([ids], device=model.device)).logits[0, -len(ids) :].log_softmax(-1)
    assert (served - expected).abs().max() < 1e-5


def test_other_virtual_tokens_are_no_soft_prompt(base: ModelRef, tmp_path: Path) -> None:
    """A prefix holds keys and values of every layer, not embeddings."""
    tuned("prefix_tuning", base, steps=1).save(tmp_path)
    assert not read_adapter(tmp_path).is_soft_prompt


def test_an_adapter_format_of_another_package_is_found_by_its_entry_point_alone(base: ModelRef, tmp_path: Path) -> None:
    trainable = tuned("pfeiffer", base, steps=1)
    trainable.save(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"peft_type": "UNHEARD_OF"}))
    with pytest.raises(AssayError, match="adapter cannot be loaded"):
        score_all(find_model(str(base.path), adapter=tmp_path, cache=tmp_path, offline=True))


def test_our_adapters_must_fit_the_base(base: ModelRef, tmp_path: Path) -> None:
    for name in ("houlsby", "last_k"):
        tuned(name, base, steps=1).save(tmp_path / name)
    wide = tmp_path / "wide"
    with torch.random.fork_rng():
        toy.fresh_model(0, width=32, layers=2).save_pretrained(wide)
    toy.save_tokenizer(wide)
    for name in ("houlsby", "last_k"):
        with pytest.raises(AssayError, match=r"fit|no parameter"):
            score_all(find_model(str(wide), adapter=tmp_path / name, cache=tmp_path, offline=True))
