"""Small stand-ins: a model folder without weights worth loading, and tasks of our own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from assay import Choose, Doc, Generate, Task, accuracy, exact_match, inline
from assay.harness.files.places import Access, Surroundings

NOWHERE = Access()


def make_model(folder: Path, seed: int = 0, positions: int = 512) -> Path:
    """A Llama folder with a byte-level tokenizer (no merges) and tiny random weights; loads in transformers."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<eos>": 0, **{letter: number for number, letter in enumerate(letters, 1)}}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    width, inner, size = 16, 32, len(vocabulary)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "eos_token_id": 0,
        "bos_token_id": 0,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}))
    draw = np.random.default_rng(seed)
    shapes = {
        "model.embed_tokens.weight": (size, width),
        "model.norm.weight": (width,),
        "model.layers.0.input_layernorm.weight": (width,),
        "model.layers.0.post_attention_layernorm.weight": (width,),
        **{f"model.layers.0.self_attn.{part}_proj.weight": (width, width) for part in "qkvo"},
        "model.layers.0.mlp.gate_proj.weight": (inner, width),
        "model.layers.0.mlp.up_proj.weight": (inner, width),
        "model.layers.0.mlp.down_proj.weight": (width, inner),
    }
    weights = {name: draw.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_lora(folder: Path) -> Path:
    """A LoRA of rank 2 on the query projection of `make_model`, as peft saves it."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    draw = np.random.default_rng(0)
    tensors = {f"{name}.lora_A.weight": draw.normal(size=(2, 16)), f"{name}.lora_B.weight": draw.normal(size=(16, 2))}
    save_file({key: value.astype(np.float32) for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "base", "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "CAUSAL_LM"}))
    return folder


def place(folder: Path) -> Surroundings:
    """A store of its own, no data, no network."""
    return Surroundings(results=folder / "results", cache=folder / "cache", data=None, offline=True)


def sums(count: int = 40) -> Task:
    """Which of three numbers is a + b?"""

    def doc(row: dict[str, int]) -> Doc:
        total = row["a"] + row["b"]
        return Doc(f"{row['a']} + {row['b']} =", choices=(str(total - 1), str(total), str(total + 2)), gold=1)

    rows = [{"a": n, "b": 3 * n % 7} for n in range(count)]
    return Task("sums", inline(test=rows, train=[{"a": 100 + n, "b": 1} for n in range(6)]), doc, Choose(), (accuracy,))


def echo(count: int = 10) -> Task:
    """Repeat a word."""
    rows = [{"word": f"w{n}"} for n in range(count)]
    ask = Generate(max_tokens=8, stop=("\n",))
    return Task("echo", inline(test=rows), lambda row: Doc(f"Say {row['word']}:", references=(row["word"],)), ask, (exact_match,))


FILE_TASK = '''"""Which of three numbers is a + b?"""
from assay import Choose, Doc, Task, accuracy, inline


def doc(row):
    total = row["a"] + row["b"]
    return Doc(f"{row['a']} + {row['b']} =", choices=(str(total - 1), str(total), str(total + 2)), gold=1)


TASKS = (Task("sums", inline(test=[{"a": n, "b": 3 * n % 7} for n in range(%d)]), doc, Choose(), (accuracy,)),)
'''


def write_task(folder: Path, count: int = 40) -> Path:
    """The task `sums` as a file."""
    path = folder / "sums.py"
    path.write_text(FILE_TASK.replace("%d", str(count)))
    return path
