"""vLLM's sampling parameters: one object for all requests that are alike, and no output before a request is finished."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from assay.harness.engines.request import GenRequest, TokenIds

KINDS = 4096
"""Most kinds of parameters that are kept."""


@functools.lru_cache(KINDS)
def score_params(tokens: TokenIds, prompt_logprobs: int | None, fresh: bool) -> Any:
    """The SamplingParams of a probe for the log-probabilities of `tokens`, one object for all requests that are alike."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0,
        max_tokens=1,
        detokenize=False,
        logprob_token_ids=list(tokens),
        prompt_logprobs=prompt_logprobs,
        flat_logprobs=prompt_logprobs is not None,
        skip_reading_prefix_cache=fresh,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # vLLM copies them before it changes a field
    )


def text_params(request: GenRequest, max_tokens: int, fresh: bool) -> Any:
    """The SamplingParams of a generation request, one object for all that are alike."""
    return params_of(replace(request, prompt=(), max_tokens=max_tokens, seed=request.seed if request.temperature else 0), fresh)


@functools.lru_cache(KINDS)
def params_of(request: GenRequest, fresh: bool) -> Any:
    """vLLM makes text of the tokens only to find stop strings, and log-probabilities, which take most of its time, where they are read."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=request.temperature,
        seed=request.seed if request.temperature else None,
        top_p=request.top_p,
        # The request's ends are all that end a response; without any, vLLM takes those of the model's files.
        stop_token_ids=list(request.ends) or None,
        ignore_eos=bool(request.ends),
        max_tokens=request.max_tokens,
        stop=list(request.stop) or None,
        detokenize=bool(request.stop),
        logprobs=0 if request.logprob else None,
        flat_logprobs=request.logprob,
        skip_reading_prefix_cache=fresh,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def leave_out_token_texts(engine: Any, request: str) -> None:
    """Keep vLLM from decoding each token for its log-probability: nothing reads these texts, and they take most of the time per token."""
    state = engine.output_processor.request_states.get(request)
    if state is not None and state.logprobs_processor is not None:
        state.logprobs_processor.tokenizer = None
