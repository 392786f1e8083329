"""lm-eval's requests sent to vLLM as lm-eval sends them, one in every few: what each computes, and how long it takes.

    python peer_vllm.py MODEL OUT.json PEER.json COUNT

PEER.json is what peer.py wrote. The request is that of lm-eval 0.4.13 (models/vllm_causallms.py, `_model_generate(generate=False)`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from measure import measured, peak_bytes, write

from assay.harness.engines import Settings
from assay.harness.engines.vllm_offline.process import prepare_environment, quiet_library


def main() -> None:
    model, out, peer, count = sys.argv[1:]
    pairs = json.loads(Path(peer).read_text())["requests"]
    chosen = list(range(0, len(pairs), max(1, len(pairs) // int(count))))[: int(count)]
    prepare_environment(True, Settings())
    with measured() as opening, quiet_library():
        from vllm import LLM, SamplingParams, TokensPrompt

        options = {"block_size": 32, "kv_cache_memory_bytes": 512 << 20, "enforce_eager": True, "enable_prefix_caching": True}
        llm = LLM(model, dtype="float32", seed=1234, disable_log_stats=True, **options)
        params = SamplingParams(temperature=0, prompt_logprobs=1, max_tokens=1, detokenize=False)
        llm.generate([TokensPrompt(prompt_token_ids=[1, 2, 3])], params, use_tqdm=False)
    prompts = [pairs[number][0] + pairs[number][1] for number in chosen]
    with measured() as scoring, quiet_library():
        outputs = llm.generate([TokensPrompt(prompt_token_ids=ids) for ids in prompts], params, use_tqdm=False)
    sums = []
    for number, output in zip(chosen, outputs, strict=True):
        start, ids = len(pairs[number][0]), output.prompt_token_ids
        sums.append(sum(row[token].logprob for row, token in zip(output.prompt_logprobs[start:], ids[start:], strict=True)))
    write(
        Path(out),
        {
            "side": "lm-eval vllm",
            "chosen": chosen,
            "sums": sums,
            "sent": sum(map(len, prompts)),
            "cached": sum(output.num_cached_tokens or 0 for output in outputs),
            "computed": sum(len(context) + len(continuation) for context, continuation in pairs),
            "open": opening.as_json(),
            "score": scoring.as_json(),
            "peak": peak_bytes(),
        },
    )


if __name__ == "__main__":
    main()
