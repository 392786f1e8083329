"""Prefix tuning: trained keys and values before those of the prompt, in every layer (Li and Liang 2021, arXiv 2101.00190)."""

from typing import Any

from assay.tuners.methods.peft_method import check_count, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, tokens: int = 20) -> Trainable:
    from peft import PrefixTuningConfig

    check_count("prefix_tuning", tokens=tokens)
    return wrap(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens))


METHOD = Method(
    "prefix_tuning",
    family="additive",
    prepare=prepare,
    lr=5e-3,
    route="transformers",
    identity=False,
    merges=False,
    about="Li and Liang 2021, arXiv 2101.00190",
)
