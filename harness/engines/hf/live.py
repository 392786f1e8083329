"""An engine over a model that is already in memory and whose weights change between calls, as in training: nothing is loaded or copied."""

from __future__ import annotations

import functools
from typing import Any

from assay.harness.engines import EngineStats, Limits
from assay.harness.engines.hf.engine import HfEngine, choose_budget, load_decoder, measure_kv
from assay.harness.engines.hf.forward import attention_of, footprint
from assay.harness.engines.hf.load import stop_ids
from assay.harness.engines.hf.score import Runner, self_test
from assay.harness.model.find import ModelRef


def open_live(model: Any, ref: ModelRef) -> HfEngine:
    """The transformers engine on a causal model or a peft model. `ref`: the base, for its tokenizer and limits.

    The model must be in evaluation mode whenever the engine is used. Prefixes are shared as in other runs of the engine, if its self-test
    passes. Closing the engine leaves the model in memory.
    """
    soft = bool(getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False))
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    on_cpu, dtype = inner.device.type == "cpu", str(inner.dtype).removeprefix("torch.")
    run = Runner(
        model=model if soft else inner,
        attention=attention_of(inner),
        stats=EngineStats(),
        budget=choose_budget(None, str(inner.device)),
        foot=footprint(inner, 0),
        pack=512 if on_cpu else 4096,
        batch=32 if on_cpu else 128,
        soft=soft,
    )
    vocabulary = int(inner.get_input_embeddings().weight.shape[0])
    self_test(run, vocabulary, dtype)
    run.foot = footprint(inner, measure_kv(run.model, run))
    virtual = int(model.active_peft_config.num_virtual_tokens) if soft else 0
    limits = Limits(ref.positions - virtual, vocabulary)
    decoder = functools.cache(lambda: load_decoder(ref, stop_ids(inner)))
    return HfEngine(ref, run, limits, run.stats, {"engine": "hf", "dtype": dtype}, decoder)
