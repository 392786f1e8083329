"""vLLM's sampling parameters: one object for all requests that are alike, and no output before a request is finished."""

from __future__ import annotations

import functools
from typing import Any

from assay.harness.engines.request import TokenIds

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


@functools.lru_cache(KINDS)
def text_params(temperature: float, seed: int, top_p: float, ends: TokenIds, stop: tuple[str, ...], max_tokens: int, fresh: bool) -> Any:
    """The SamplingParams of generation requests that are alike. vLLM makes text of the tokens only to find stop strings."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=temperature,
        seed=seed if temperature else None,
        top_p=top_p,
        # The request's ends are all that end a response; without any, vLLM takes those of the model's files.
        stop_token_ids=list(ends) or None,
        ignore_eos=bool(ends),
        max_tokens=max_tokens,
        stop=list(stop) or None,
        detokenize=bool(stop),
        logprobs=0,
        flat_logprobs=True,
        skip_reading_prefix_cache=fresh,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


def leave_out_token_texts(engine: Any, request: str) -> None:
    """Keep vLLM from decoding each token for its log-probability: nothing reads these texts, and they take most of the time per token."""
    state = engine.output_processor.request_states.get(request)
    if state is not None and state.logprobs_processor is not None:
        state.logprobs_processor.tokenizer = None
