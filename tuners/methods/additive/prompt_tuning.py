"""Prompt tuning: trained embeddings before the prompt (Lester et al. 2021, arXiv 2104.08691)."""

from typing import Any

from assay.tuners.methods.peft_method import check_count, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, tokens: int = 20) -> Trainable:
    """Starts from embeddings of random vocabulary words, which the paper found better than noise."""
    from peft import PromptTuningConfig

    check_count("prompt_tuning", tokens=tokens)
    return wrap(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, prompt_tuning_init="SAMPLE_VOCAB"))


METHOD = Method(
    "prompt_tuning",
    family="additive",
    prepare=prepare,
    lr=3e-2,
    route="prompt",
    identity=False,
    merges=False,
    about="Lester et al. 2021, arXiv 2104.08691",
)
