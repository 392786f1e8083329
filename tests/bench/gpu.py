"""Whole commands on one GPU, here and in lm-eval: MMLU 5-shot and GSM8K on models with random weights, which need no download.

    ASSAY_DATA=DATA python -m tests.bench.gpu [--sizes 1b,8b] [--peer PYTHON] [--device cuda] [--minutes 9]

Takes the tokenizer of the built-in model. vLLM is used where it is installed, else transformers, on both sides. PYTHON is the interpreter
that has lm-eval; without it only assay's side is measured. Every command ends after MINUTES. Writes results/speed/gpu.csv.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from assay.harness.files.places import surroundings
from assay.harness.model.find import find_model
from tests.bench.csv_file import write_rows
from tests.bench.overhead import peer_command, timed

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "results" / "speed" / "gpu.csv"
TOKENIZER = "builtin:smollm2-135m"
SIZES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
}
"""Fields of a Llama configuration, the larger ones those of Llama 3."""
TASKS = {
    "mmlu": (("mmlu", "--shots", "5"), "mmlu", 10),
    "gsm8k": (("helm/gsm8k@helm", "--shots", "5", "--max-tokens", "256"), "gsm8k", 200),
}
"""By name: task and options here, task in lm-eval, and items (of each subject) that both sides score. GSM8K here has HELM's prompts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One command: seconds of wall and of CPU, and peak memory in MB, from its start to the stored run; `limit` is empty for all items."""

    size: str
    task: str
    side: str
    limit: str
    wall: float
    cpu: float
    peak: float
    status: str


def make_model(size: str, folder: Path, device: str) -> Path:
    """A Llama model with random weights in bfloat16 and the built-in model's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = find_model(TOKENIZER, cache=surroundings().cache, offline=True)
    config = LlamaConfig(vocab_size=49152, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2, **SIZES[size])
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for path in tokenizer.path.iterdir():
        if "token" in path.name or path.name in ("vocab.json", "merges.txt"):
            shutil.copy(path, folder / path.name)
    return folder


def commands(model: Path, name: str, engine: str, device: str, peer: str, limit: int | None, out: Path) -> dict[str, list[str]]:
    """The commands of both sides, by side."""
    ours, theirs, _ = TASKS[name]
    part = [] if limit is None else ["--limit", str(limit)]
    found = {
        f"assay {engine}": [
            *(sys.executable, "-m", "assay", "run", "--model", str(model), "--tasks", *ours, "--engine", engine),
            *("--device", device, "--limit-order", "first", *part, "--results", str(out / "assay"), "--json"),
        ]
    }
    if peer and limit is not None:
        options = [] if engine == "vllm" else ["--device", device]
        found[f"lm-eval {engine}"] = [
            *peer_command(peer),
            *("--model", engine, "--model_args", f"pretrained={model},dtype=bfloat16"),
            *("--tasks", theirs, "--num_fewshot", "5", "--batch_size", "auto", *options, *part),
            *("--output_path", str(out / "peer"), "--log_samples"),
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sizes", default="1b,8b")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--peer", default="")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=int, help="items of each task, instead of those in TASKS; then all items are not measured")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    engine, rows = "vllm" if find_spec("vllm") else "hf", []
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes.split(","):
            model = make_model(size, Path(folder) / size, given.device)
            for name in given.tasks.split(","):
                for limit in [given.limit] if given.limit else [TASKS[name][2], None]:
                    for side, command in commands(model, name, engine, given.device, given.peer, limit, Path(folder)).items():
                        if (left := end - time.monotonic()) > 0:
                            rows.append(Row(size, name, side, str(limit or ""), *asdict(timed(command, left)).values()))
                            print(*asdict(rows[-1]).values(), sep="\t", flush=True)
            shutil.rmtree(model)
    write_rows(given.out, rows)


if __name__ == "__main__":
    main()
