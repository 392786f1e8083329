"""Tiny random models and examples that every tuners test shares."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Any

from assay.tuners.training.batches import Example
from assay.tuners.training.loss import log_probabilities, loss_of

VOCABULARY = 64


def device() -> str:
    """Where the tuners train on this machine."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tiny_llama(biases: bool = False, seed: int = 0, layers: int = 2) -> Any:
    """A random two-layer Llama with weights large enough that every change shows in the logits; on the GPU where there is one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attention_bias=biases,
        initializer_range=0.1,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval().to(device())


def tiny_examples(count: int = 16, seed: int = 0) -> list[Example]:
    """Random prompts of 4 to 9 ids whose answer, 1 to 3 ids, is the prompt's first ids."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        prompt = [draw.randrange(VOCABULARY) for _ in range(draw.randint(4, 9))]
        made.append(Example((*prompt, *prompt[: draw.randint(1, 3)]), len(prompt)))
    return made


def mean_loss(model: Any, examples: Sequence[Example]) -> float:
    """Mean negative log-likelihood per loss token, in nats."""
    return loss_of(log_probabilities(model, examples), examples)


def digest_tensors(tensors: Mapping[str, Any]) -> str:
    """Hash of named tensors: names, dtypes, shapes and bytes."""
    import torch

    state = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        state.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        state.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return state.hexdigest()[:24]
