"""How long vLLM takes from nothing to its first scores, as it comes and as assay starts it; and what the next checkpoint costs.

python start.py MODEL OUT.json default|assay
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from measure import measured, peak_bytes, write

IDS = tuple(range(100, 140))


def default(model: str) -> dict[str, Any]:
    """vLLM with no setting but dtype, length and 1 GiB for keys and values (it would take most of the machine, and longer).

    Then one request that wants the prompt's log-probabilities.
    """
    with measured() as opening:
        from vllm import LLM, SamplingParams

        llm = LLM(model, dtype="float32", max_model_len=2048, kv_cache_memory_bytes=1 << 30)
    with measured() as first:
        llm.generate([{"prompt_token_ids": list(IDS)}], SamplingParams(temperature=0, prompt_logprobs=1, max_tokens=1), use_tqdm=False)
    return {"side": "vllm default", "open": opening.as_json(), "first": first.as_json(), "peak": peak_bytes()}


def assay(model: str) -> dict[str, Any]:
    """The engine opened, one group scored; then the same weights loaded again as the next checkpoint, and the group scored again."""
    from assay.harness.engines import Settings
    from assay.harness.engines.opening import open_engine
    from assay.harness.engines.request import ScoreGroup
    from assay.harness.model.find import find_model

    group = ScoreGroup(IDS[:30], (IDS[30:], IDS[31:32]))
    ref = find_model(model, cache=Path("unused"))
    with measured() as opening:
        engine = open_engine("vllm", ref, Settings())
    with measured() as first:
        list(engine.score([group]))
    swaps = []
    for _ in range(3):
        with measured() as swap:
            engine.swap(ref.path)
            list(engine.score([group]))
        swaps.append(swap.as_json())
    found = {"side": "vllm assay", "open": opening.as_json(), "first": first.as_json(), "swaps": swaps, "peak": peak_bytes()}
    engine.close()
    return found


if __name__ == "__main__":
    started = time.monotonic()
    model, out, side = sys.argv[1:]
    found = {"default": default, "assay": assay}[side](model)
    write(Path(out), {**found, "ready": round(time.monotonic() - started, 3)})
