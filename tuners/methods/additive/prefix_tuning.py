"""Prefix tuning: trained keys and values before those of the prompt, in every layer (Li and Liang 2021, arXiv 2101.00190)."""

import random
from typing import Any

from assay.tuners.methods.peft_method import check_count, peft_errors, wrap
from assay.tuners.training.method import Method, Trainable


def prepare(model: Any, tokens: int = 20, seed: int = 0) -> Trainable:
    """Starts from the keys and values of real tokens, as the paper found better than noise: random ones moved SmolLM2-135M by 8 nats per
    token and did not train, those of vocabulary words by 0.6."""
    from peft import PrefixTuningConfig, initialize_kv_prefix_from_past_key_values

    check_count("prefix_tuning", tokens=tokens)
    start = keys_and_values(model, tokens, seed)
    trainable = wrap(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens))
    with peft_errors("prefix_tuning", "use prompt_tuning"):
        initialize_kv_prefix_from_past_key_values(trainable.model, past_key_values=start)
    return trainable


def keys_and_values(model: Any, tokens: int, seed: int) -> Any:
    """The model's cache after its first token (BOS, on which models rest their attention) and random words of its vocabulary."""
    import torch

    config, draw = model.config.get_text_config(), random.Random(f"prefix:{seed}")
    first = config.bos_token_id if isinstance(config.bos_token_id, int) else 0
    ids = [first, *(draw.randrange(config.vocab_size) for _ in range(tokens - 1))]
    was_training = model.training
    model.eval()
    with torch.no_grad(), peft_errors("prefix_tuning", "use prompt_tuning"):
        found = model(input_ids=torch.tensor([ids], device=model.device), use_cache=True).past_key_values
    model.train(was_training)
    return found


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
