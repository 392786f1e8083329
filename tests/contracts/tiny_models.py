"""Tiny random models, made at test time in a few milliseconds each; weights large enough that attention matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assay.harness.model.find import ModelRef

VOCABULARY = 97
WINDOW = 8
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "initializer_range": 0.3}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def config(kind: str) -> Any:
    """The configuration of one architecture."""
    import transformers as hub

    makers: dict[str, Any] = {
        "llama": lambda: hub.LlamaConfig(**COMMON, **ATTENTION, **ENDS),
        "qwen3": lambda: hub.Qwen3Config(**COMMON, **ATTENTION, **ENDS, head_dim=8),
        "gemma3": lambda: hub.Gemma3TextConfig(
            **{**COMMON, "initializer_range": 0.2},
            **ATTENTION,
            **ENDS,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        "gpt2": lambda: hub.GPT2Config(
            vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=512, initializer_range=0.3, bos_token_id=1, eos_token_id=2
        ),
        "mistral": lambda: hub.MistralConfig(**COMMON, **ATTENTION, **ENDS, sliding_window=WINDOW),
        "mamba": lambda: hub.MambaConfig(**COMMON, **ENDS, state_size=8, expand=2, conv_kernel=3, use_mambapy=False),
        "bloom": lambda: hub.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=3, n_head=4, initializer_range=0.3, **ENDS),
        "mixtral": lambda: hub.MixtralConfig(**COMMON, **ATTENTION, **ENDS, num_local_experts=4, num_experts_per_tok=2),
    }
    return makers[kind]()


KINDS = ("llama", "qwen3", "gemma3", "gpt2", "mistral", "mamba", "bloom", "mixtral")


def save_tokenizer(path: Path) -> None:
    """A word tokenizer: id 3 + n is the word `w<n>`, some of them punctuation."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", *(f"w{number}" for number in range(VOCABULARY - 3))]
    words[10], words[11] = ".", "stop"
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Fuse()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(path)


def make(path: Path, kind: str = "llama", seed: int = 0) -> ModelRef:
    """Write a random model of one architecture, with its tokenizer, and refer to it."""
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config(kind)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    save_tokenizer(path)
    return refer(path)


def refer(path: Path) -> ModelRef:
    """A reference to a model in a directory; its digest is its name."""
    return ModelRef(name=path.name, path=path, digest=path.name)
