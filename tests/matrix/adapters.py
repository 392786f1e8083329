"""Adapters of peft on a tiny model, in the forms that public reports complain of."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.matrix.tokenizers import TEMPLATE

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OPTIONS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rank and alpha patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 64, "v_proj": 2}},
    "DoRA": {"use_dora": True},
    "rsLoRA": {"use_rslora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "OLoRA": {"init_lora_weights": "olora"},
    "trained tokens": {"trainable_token_indices": [5, 40, 41]},
    "saved modules": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved norms": {"modules_to_save": ["norm", "input_layernorm"]},
    "on embeddings and head": {"target_modules": [*LINEAR, "embed_tokens", "lm_head"]},
    "trained biases": {"bias": "all"},
    "replicated layers": {"layer_replication": [[0, 2], [0, 2]]},
    "activated LoRA": {"alora_invocation_tokens": [20, 21]},
    "on qkv": {"target_modules": ["qkv_proj", "o_proj", "down_proj"]},
    "on the router": {"target_modules": ["q_proj", "gate"]},
    "on linear attention": {"target_modules": ["in_proj_qkv", "out_proj", "q_proj", "down_proj"]},
    "on the language side": {"target_modules": r".*language_model.*(q_proj|v_proj|up_proj)"},
}
OTHERS = ("IA3", "prompt tuning", "prefix tuning", "VeRA", "LayerNorm tuning")
RENAMED: dict[str, Callable[[str], str]] = {
    "names with _orig_mod": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "names with module": lambda name: name.replace("base_model.model.", "base_model.model.module."),
    "names with a doubled prefix": lambda name: "base_model.model." + name,
    "names without prefix": lambda name: name.removeprefix("base_model.model."),
    "names with the adapter's name": lambda name: name.replace(".weight", ".default.weight"),
    "unknown names": lambda name: name.replace("self_attn", "attention"),
}


def peft_config(kind: str) -> Any:
    import peft

    if kind == "IA3":
        return peft.IA3Config(
            task_type="CAUSAL_LM", init_ia3_weights=False, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
        )
    if kind == "prompt tuning":
        return peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    if kind == "prefix tuning":
        return peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    if kind == "VeRA":
        return peft.VeraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj"])
    if kind == "LayerNorm tuning":
        return peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"])
    options = {"r": 4, "lora_alpha": 16, "target_modules": LINEAR, "task_type": "CAUSAL_LM"} | OPTIONS.get(kind, {})
    return peft.LoraConfig(**options)


def save_adapter(kind: str, model: Any, base: Path, folder: Path) -> tuple[Any, Path]:
    """Train nothing, but move every trainable value at random, and save. Returns the live tuned model and the folder of its tokenizer."""
    import torch
    from peft import get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    speaker = base
    tokenizer = AutoTokenizer.from_pretrained(base)
    if kind in ("added tokens, resized", "added tokens, spare rows"):
        tokenizer.add_tokens(["<|im_start|>", "Paris is"])
        if kind.endswith("resized"):
            model.resize_token_embeddings(len(tokenizer))
    config = peft_config("saved modules" if kind == "added tokens, resized" else kind)
    tuned = get_peft_model(model, config)
    draw = torch.Generator().manual_seed(5)
    for tensor in tuned.parameters():
        if tensor.requires_grad:
            tensor.data += torch.randn(tensor.shape, generator=draw).to(tensor.dtype) * 0.1
    tuned.eval().save_pretrained(folder)
    if kind.startswith("added tokens") or kind == "own chat template":
        tokenizer.chat_template = TEMPLATE
        tokenizer.save_pretrained(folder)
        speaker = folder
    if kind == "chat template alone":
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    path = folder / "adapter_model.safetensors"
    if kind in RENAMED:
        save_file({RENAMED[kind](name): tensor for name, tensor in load_file(path).items()}, path)
    if kind == "a tensor more":
        more = {"base_model.model.model.layers.0.attention.q_proj.lora_A.weight": torch.ones(4, 64)}
        save_file(load_file(path) | more, path)
    if kind == "half of the tensors":
        save_file({name: tensor for name, tensor in load_file(path).items() if "layers.1" not in name}, path)
    if kind == "pickle":
        shutil.move(path, folder / "adapter_model.bin")
    return tuned, speaker
