"""The contract of every fine-tuning method, on a tiny random Llama."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from assay.harness.errors import AssayError
from assay.tuners.methods import find_method, method_names
from assay.tuners.methods.peft_method import try_forward
from assay.tuners.methods.saved import attach, saved_bytes
from assay.tuners.training.batches import plan_steps
from assay.tuners.training.loss import kl_to_base
from assay.tuners.training.method import Method, Trainable
from assay.tuners.training.train import Extras, Recipe, train
from tests.tuners.tiny import device, digest_tensors, mean_loss, tiny_examples, tiny_llama

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
    """Logits of the given ids, without those of virtual tokens."""
    model.eval()
    with torch.no_grad():
        return model(ids).logits[:, -ids.shape[1] :]


IDS = torch.arange(24, device=device()).reshape(2, 12)


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

    before, frozen = mean_loss(trainable.model, tiny_examples()), frozen_digest(trainable)
    held = {key: value.detach().clone() for key, value in trainable.trained.items()}
    trainable.remember()
    done = train(trainable, steps, Recipe(lr=RATES[name]))
    assert done.status == "done" and done.loss_tokens == 240
    assert mean_loss(trainable.model, tiny_examples()) < before - 0.01
    assert frozen_digest(trainable) == frozen
    assert any(not torch.equal(value, held[key]) for key, value in trainable.trained.items())
    assert trainable.count == sum(value.numel() for value in held.values())

    tuned = logits(trainable.model, IDS)
    assert (tuned - expected).abs().max() > 1e-3
    with trainable.reference():
        assert (logits(trainable.model, IDS) - expected).abs().max() <= method.tolerance
    assert torch.equal(logits(trainable.model, IDS), tuned)
    check_saved(name, base, trainable, tmp_path, tuned)
    check_merged(method, trainable, tuned)


def frozen_digest(trainable: Trainable) -> str:
    """Hash of the parameters that training must not change."""
    return digest_tensors({name: value for name, value in trainable.model.named_parameters() if not value.requires_grad})


def check_saved(name: str, base: Any, trainable: Trainable, folder: Path, tuned: torch.Tensor) -> None:
    from transformers import AutoModelForCausalLM

    trainable.save(folder)
    assert saved_bytes(folder) > 0
    assert not [path for path in folder.rglob("*") if path.suffix not in (".json", ".safetensors")]
    again = AutoModelForCausalLM.from_pretrained(folder).to(device()) if name == "full" else attach(copy.deepcopy(base), folder)
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
    assert not all(same) or name in ("shira", "vera"), "the seed of these determines the mask and the projections"


def test_pissa_is_saved_as_plain_lora(tmp_path: Path) -> None:
    import peft

    _, base, trainable = begin("pissa")
    trainable.save(tmp_path)
    config = peft.PeftConfig.from_pretrained(str(tmp_path))
    assert config.r == 8 and config.lora_alpha == 8 and config.init_lora_weights is True
    assert (logits(attach(copy.deepcopy(base), tmp_path), IDS) - logits(base, IDS)).abs().max() < 1e-5


def shaken(sublayer: Any) -> Any:
    """The adapter of a sub-layer, with random weights."""
    with torch.no_grad():
        for value in sublayer.bottleneck.parameters():
            value.normal_(std=0.3)
    return sublayer.bottleneck


def bottleneck(adapter: Any, hidden: torch.Tensor, act: Any) -> torch.Tensor:
    return act(hidden @ adapter.down.weight.T + adapter.down.bias) @ adapter.up.weight.T + adapter.up.bias


@pytest.mark.parametrize("name", ["pfeiffer", "houlsby", "parallel"])
def test_bottleneck_computes_the_papers_formula(name: str) -> None:
    """Computes the last layer by hand from the base model's input to it: h + MLP(norm(h)) with the adapters."""
    _, base, trainable = begin(name)
    tuned, plain = trainable.model.model.layers[1], base.model.layers[1]
    seen: dict[str, torch.Tensor] = {}
    plain.register_forward_pre_hook(lambda module, inputs: seen.update(hidden=inputs[0]))
    plain.self_attn.register_forward_hook(lambda module, inputs, output: seen.update(attention=output[0]))
    with torch.no_grad():
        base(IDS)
        attention = seen["attention"]
        if name == "houlsby":
            attention = attention + bottleneck(shaken(tuned.self_attn), attention, torch.nn.functional.silu)
        hidden = seen["hidden"] + attention
        inside = plain.post_attention_layernorm(hidden)
        out, adapter = plain.mlp(inside), shaken(tuned.mlp)
        if name == "parallel":
            out = out + 4 * bottleneck(adapter, inside, torch.relu)
        else:
            out = out + bottleneck(adapter, out, torch.relu if name == "pfeiffer" else torch.nn.functional.silu)
        expected = base.lm_head(base.model.norm(hidden + out))
    assert (expected - logits(base, IDS)).abs().max() > 0.1
    assert (logits(trainable.model, IDS) - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("bitfit", {}, "no bias vectors"),
        ("lora", {"rank": 17}, "rank 17 is above the dimension 16"),
        ("lora", {"rank": 0}, "rank 0 trains nothing"),
        ("lora", {"targets": "nowhere_proj"}, "not found in the base model"),
        ("lora", {"rnak": 4}, "choose from rank"),
        ("last_k", {"layers": 3}, "last 3 of 2 layers"),
        ("houlsby", {"reduction": 64}, "cannot be reduced 64 times"),
        ("in_context", {}, "trains nothing"),
        ("peft:LoraConfig", {"rank": 4}, "peft refuses"),
        ("lora", {"rank": "abc"}, "rank='abc' is not a whole number"),
        ("lora", {"alpha": "much"}, "alpha='much' is not a number"),
        ("lora", {"rank": True}, "rank=True is not a whole number"),
        ("lora", {"targets": 5}, "targets=5 is not a name"),
        ("last_k", {"layers": 1.5}, "layers=1.5 is not a whole number"),
        ("houlsby", {"reduction": "x"}, "reduction='x' is not a whole number"),
        ("lora", {"rank": 4, "targets": "q_proj,nowhere_proj"}, "'nowhere_proj' not found in the base model. choose from"),
        ("lora", {"rank": 4, "targets": "q_prj,v_proj"}, "choose from q_proj"),
        ("lora", {"rank": 17, "targets": "v_proj"}, "above the dimension 16"),
        ("adalora", {"rank": 12}, "not below first_rank 12"),
        ("vera", {"rank": 0}, "rank=0 trains nothing"),
        ("prompt_tuning", {"tokens": 0}, "tokens=0 trains nothing"),
        ("prefix_tuning", {"tokens": -1}, "tokens=-1 trains nothing"),
        ("p_tuning", {"hidden": 0}, "hidden=0 trains nothing"),
        ("peft:LoraConfig", {"r": 9999}, "rank 9999 is above the dimension 32"),
        ("peft:LoraConfig", {"r": 4, "target_modules": ["q_proj", "k_prj"]}, "'k_prj' not found in the base model. choose from k_proj"),
        ("ia3", {"targets": "k_prj"}, "'k_prj' not found"),
    ],
)
def test_bad_input_is_a_one_line_error(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError) as caught:
        find_method(name).begin(tiny_llama(), options=options)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def other(kind: str, **more: Any) -> Any:
    """A tiny model of another architecture: GPT-2's layers are Conv1D, and OPT has no MLP module."""
    import transformers

    made: dict[str, Any] = {
        "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, **more),
        "opt": lambda: transformers.OPTConfig(
            vocab_size=64, hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4
        ),
    }
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(made[kind]()).eval()


@pytest.mark.parametrize(
    ("kind", "name", "options", "says"),
    [
        ("gpt2", "lora", {"rank": 33}, "rank 33 is above the dimension 32"),
        ("gpt2", "lora", {"rank": 33, "targets": "c_attn"}, "rank 33 is above the dimension 32"),
        ("opt", "parallel", {}, "opt models have no MLP module"),
    ],
)
def test_unsupported_architectures_are_refused(kind: str, name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(AssayError, match=says):
        find_method(name).begin(other(kind), options=options)


def test_targets_are_whole_names() -> None:
    """A part of a module name, such as q of q_proj, is not a target."""
    trainable = find_method("ia3").begin(tiny_llama(), options={"targets": "k_proj, v_proj"})
    assert {name.split(".")[-3] for name in trainable.trained} == {"k_proj", "v_proj"}
    with pytest.raises(AssayError, match="'q' not found"):
        find_method("lora").begin(tiny_llama(), options={"rank": 4, "targets": "q"})


def test_what_peft_cannot_run_or_merge_is_refused_before_training() -> None:
    poly = find_method("peft:PolyConfig").begin(tiny_llama(), options={"r": 4})
    with pytest.raises(AssayError, match="first forward pass: peft refuses: task_ids"):
        try_forward(poly, tiny_examples()[0], merging=False)
    beft = find_method("peft:BeftConfig").begin(tiny_llama())
    try_forward(beft, tiny_examples()[0], merging=False)
    with pytest.raises(AssayError, match="merging: peft refuses: Base layer has no bias"):
        try_forward(beft, tiny_examples()[0], merging=True)


def test_the_bases_logits_are_without_dropout_when_training_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = other("gpt2", resid_pdrop=0.5, embd_pdrop=0.5), []
    clean = mean_loss(model, tiny_examples())

    def kept(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
        seen.append((base, tuned.detach()))
        return tuned.sum() * 0

    monkeypatch.setattr("assay.tuners.training.train.summed_kl", kept)
    examples = tiny_examples()
    (step, *_) = plan_steps(examples, loss_tokens=sum(example.loss_tokens for example in examples), batch=16, seed=0)
    trainable = find_method("lora").begin(model, options={"rank": 4})
    train(trainable, [step], Recipe(lr=1e-9, micro=16), Extras(kl=1.0))
    ((base, tuned),) = seen
    targets = torch.tensor([token for example in step.target for token in example.ids[example.loss_from :]])
    losses = [float(torch.nn.functional.cross_entropy(each.cpu(), targets)) for each in (base, tuned)]
    assert abs(losses[0] - clean) < 1e-5 and abs(losses[1] - clean) > 1e-3
    assert trainable.model.training


@pytest.mark.parametrize(
    ("name", "says"), [("lorra", "did you mean lora"), ("peft:LoraConfg", "did you mean LoraConfig"), ("peft:nn", "no nn")]
)
def test_unknown_methods_get_a_suggestion(name: str, says: str) -> None:
    with pytest.raises(AssayError, match=says):
        find_method(name)
