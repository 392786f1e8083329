"""What every fine-tuning method must keep, on a tiny random Llama."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.errors import AssayError
from tests.tuners.tiny import tiny_examples, tiny_llama
from tuners.batches import plan_steps
from tuners.loss import kl_to_base, mean_loss
from tuners.method import Method, Trainable
from tuners.methods import find_method, method_names
from tuners.saved import attach, saved_bytes
from tuners.train import Recipe, train

SMALL = {"rank": 4, "first_rank": 6, "layers": 1, "tokens": 5}
RATES = {"full": 3e-3, "last_k": 3e-3, "lora": 1e-2, "rslora": 1e-2, "dora": 1e-2, "pissa": 1e-2, "adalora": 5e-2, "shira": 1e-2}
RATES |= {"layernorm": 3e-2, "bitfit": 3e-2, "vera": 1e-1, "ia3": 3e-2, "houlsby": 1e-2, "pfeiffer": 1e-2, "parallel": 3e-3}
RATES |= {"prompt_tuning": 1e-1, "p_tuning": 3e-2, "prefix_tuning": 3e-2, "peft:HiraConfig": 1e-2}
TRAINED = (*(name for name in method_names() if name != "in_context"), "peft:HiraConfig")


def options_of(name: str) -> dict[str, Any]:
    if name == "peft:HiraConfig":
        return {"r": 4, "target_modules": ["q_proj", "down_proj"]}
    return {key: value for key, value in SMALL.items() if key in find_method(name).options()}


def begin(name: str, steps: int = 20) -> tuple[Method, Any, Trainable]:
    base = tiny_llama(biases=name == "bitfit")
    method = find_method(name)
    return method, base, method.begin(copy.deepcopy(base), seed=3, steps=steps, options=options_of(name))


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """Of the given ids; virtual tokens before them are dropped."""
    model.eval()
    with torch.no_grad():
        return model(ids).logits[:, -ids.shape[1] :]


IDS = torch.arange(24).reshape(2, 12)


def test_every_method_is_tried() -> None:
    assert len(method_names()) == 19
    assert all(find_method(name).name == name for name in method_names())


@pytest.mark.parametrize("name", TRAINED)
def test_method_keeps_its_contract(name: str, tmp_path: Path) -> None:
    steps = plan_steps(tiny_examples(), loss_tokens=240, batch=8, seed=0)
    method, base, trainable = begin(name, len(steps))
    expected = logits(base, IDS)
    start = (logits(trainable.model, IDS) - expected).abs().max().item()
    if method.identity:
        assert start <= method.tolerance
    if method.identity is False:
        assert start > 1e-3 and kl_to_base(trainable, tiny_examples()) > 0

    before, frozen = mean_loss(trainable.model, tiny_examples()), trainable.frozen_digest()
    held = {key: value.detach().clone() for key, value in trainable.trained.items()}
    trainable.remember()
    done = train(trainable, steps, Recipe(lr=RATES[name]))
    assert done.status == "done" and done.loss_tokens == 240
    assert mean_loss(trainable.model, tiny_examples()) < before - 0.01
    assert trainable.frozen_digest() == frozen
    assert any(not torch.equal(value, held[key]) for key, value in trainable.trained.items())
    assert trainable.count == sum(value.numel() for value in held.values())

    tuned = logits(trainable.model, IDS)
    assert (tuned - expected).abs().max() > 1e-3
    with trainable.reference():
        assert (logits(trainable.model, IDS) - expected).abs().max() <= method.tolerance
    assert torch.equal(logits(trainable.model, IDS), tuned)
    check_saved(name, base, trainable, tmp_path, tuned)
    check_merged(method, trainable, tuned)


def check_saved(name: str, base: Any, trainable: Trainable, folder: Path, tuned: torch.Tensor) -> None:
    from transformers import AutoModelForCausalLM

    trainable.save(folder)
    assert saved_bytes(folder) > 0
    assert not [path for path in folder.rglob("*") if path.suffix not in (".json", ".safetensors")]
    again = AutoModelForCausalLM.from_pretrained(folder) if name == "full" else attach(copy.deepcopy(base), folder)
    assert (logits(again, IDS) - tuned).abs().max() <= 2e-6


def check_merged(method: Method, trainable: Trainable, tuned: torch.Tensor) -> None:
    if method.merges is not None:
        assert (trainable.merged is not None) == method.merges
    if trainable.merged is not None:
        assert (logits(trainable.merged(), IDS) - tuned).abs().max() <= 1e-3
        assert torch.equal(logits(trainable.model, IDS), tuned), "merging must leave the tuned model alone"


@pytest.mark.parametrize("name", ["lora", "shira", "vera", "houlsby", "p_tuning", "adalora"])
def test_equal_seeds_give_equal_starts(name: str) -> None:
    first, second = begin(name)[2], begin(name)[2]
    assert all(torch.equal(first.trained[key], second.trained[key]) for key in first.trained)
    other = find_method(name).begin(tiny_llama(), seed=4, steps=20, options=options_of(name))
    same = [torch.equal(first.trained[key], other.trained[key]) for key in first.trained]
    assert not all(same) or name in ("shira", "vera"), "what differs there are the mask and the projections"


def test_pissa_is_saved_as_plain_lora(tmp_path: Path) -> None:
    import peft

    _, base, trainable = begin("pissa")
    trainable.save(tmp_path)
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert config.r == 8 and config.lora_alpha == 8 and config.init_lora_weights is True
    assert (logits(attach(copy.deepcopy(base), tmp_path), IDS) - logits(base, IDS)).abs().max() < 1e-5


def test_bottleneck_computes_what_the_paper_says() -> None:
    _, base, trainable = begin("pfeiffer")
    adapter = trainable.model.model.layers[1].mlp.bottleneck
    with torch.no_grad():
        for value in adapter.parameters():
            value.normal_()
    seen: dict[str, torch.Tensor] = {}
    base.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: seen.update(out=output))
    base.model.layers[1].register_forward_hook(lambda module, inputs, output: seen.update(layer=output))
    with torch.no_grad():
        base(IDS)
        out = seen["out"]
        change = torch.relu(out @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias
        expected = base.lm_head(base.model.norm(seen["layer"] + change))
    assert (logits(trainable.model, IDS) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("bitfit", {}, "no bias vectors"),
        ("lora", {"rank": 17}, "rank 17 is above the dimension 16"),
        ("lora", {"rank": 0}, "rank 0 trains nothing"),
        ("lora", {"targets": "nowhere_proj"}, "not found in the base model"),
        ("lora", {"rnak": 4}, "its options are: rank"),
        ("last_k", {"layers": 3}, "last 3 of 2 layers"),
        ("houlsby", {"reduction": 64}, "cannot be reduced 64 times"),
        ("in_context", {}, "trains nothing"),
        ("peft:LoraConfig", {"rank": 4}, "peft refuses"),
    ],
)
def test_bad_input_is_one_clear_line(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError) as caught:
        find_method(name).begin(tiny_llama(), options=options)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"), [("lorra", "did you mean lora"), ("peft:LoraConfg", "did you mean LoraConfig"), ("peft:nn", "no nn")]
)
def test_unknown_methods_get_a_suggestion(name: str, says: str) -> None:
    with pytest.raises(AssayError, match=says):
        find_method(name)
