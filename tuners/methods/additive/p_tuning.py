"""P-tuning: embeddings before the prompt, made by a small trained network (Liu et al. 2021, arXiv 2103.10385)."""

from typing import Any

from assay.tuners.methods.peft_method import check_count, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, tokens: int = 20, hidden: int = 128) -> Trainable:
    """Only the network's output, the embeddings, is saved."""
    from peft import PromptEncoderConfig

    check_count("p_tuning", tokens=tokens, hidden=hidden)
    return wrap(model, PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, encoder_hidden_size=hidden))


METHOD = Method(
    "p_tuning",
    family="additive",
    prepare=prepare,
    lr=1e-3,
    route="prompt",
    identity=False,
    merges=False,
    about="Liu et al. 2021, arXiv 2103.10385",
)
