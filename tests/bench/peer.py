"""lm-eval's side, run by its own interpreter: its HFLM on one task, counting every token that it sends through the model.

    python peer.py MODEL OUT.json TASK SHOTS LIMIT BATCH DEVICE DTYPE

LIMIT 0 is none; BATCH 0 takes the fastest of a few sizes on some items. With $ASSAY_DATA, data sets are read from that mirror.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from measure import measured, peak_bytes, write

BATCHES = {"cpu": (1, 4, 8), "cuda": (8, 32, 128)}
TRIAL = {"cpu": 4, "cuda": 64}


def read_mirror() -> None:
    """Let `datasets.load_dataset` take <org>__<name>/<config>/<split>.parquet below $ASSAY_DATA where it is there."""
    import datasets

    root, real = Path(os.environ["ASSAY_DATA"]), datasets.load_dataset

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        home = root / path.replace("/", "__")
        folder = next((home / config for config in (name, "all", "default") if config and (home / config).is_dir()), None)
        if folder is None:
            return real(path, name, **options)
        data = real("parquet", data_files={file.stem: str(file) for file in sorted(folder.glob("*.parquet"))})
        return data.filter(lambda row: row["subject"] == name) if folder.name == "all" and name != "all" else data

    datasets.load_dataset = load


def main() -> None:
    model, out, task, shots, limit, batch, device, dtype = sys.argv[1:]
    if os.environ.get("ASSAY_DATA"):
        read_mirror()
    with measured() as opening:
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        engine = HFLM(pretrained=model, dtype=dtype, device=device, batch_size=1)

    count = {"forwards": 0, "padded": 0, "tokens": 0}
    requests: list[tuple[list[int], list[int]]] = []
    forward, ask = engine._model_call, engine._loglikelihood_tokens

    def counted(inputs: Any, **options: Any) -> Any:
        count["forwards"] += 1
        count["padded"] += inputs.numel()
        return forward(inputs, **options)

    def seen(wanted: Any, *rest: Any, **options: Any) -> Any:
        requests.extend((list(context), list(continuation)) for _, context, continuation in wanted)
        return ask(wanted, *rest, **options)

    engine._model_call, engine._loglikelihood_tokens = counted, seen

    def evaluate(items: int | None) -> Any:
        return simple_evaluate(
            model=engine, tasks=[task], num_fewshot=int(shots), limit=items, bootstrap_iters=0, log_samples=True, verbosity="ERROR"
        )

    trials = {}
    for size in BATCHES[device] if batch == "0" else ():
        engine.batch_size_per_gpu = size
        with measured() as trial:
            evaluate(TRIAL[device])
        trials[size] = trial.cpu if device == "cpu" else trial.wall
    engine.batch_size_per_gpu = min(trials, key=trials.__getitem__) if trials else int(batch)
    requests.clear()
    count.update(dict.fromkeys(count, 0))
    with measured() as scoring:
        result = evaluate(int(limit) or None)
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    heads = {tuple(context + continuation[:-1]) for context, continuation in requests}
    write(
        Path(out),
        {
            "side": "lm-eval hf",
            "items": [
                [float(reply[0][0]) if isinstance(reply[0], (list, tuple)) else float(reply[0]) for reply in s["resps"]] for s in samples
            ],
            "accuracy": float(result["results"][task]["acc,none"]),
            "requests": requests,
            "forwards": count["forwards"],
            "padded": count["padded"],
            "computed": sum(map(len, heads)),
            "batch": engine.batch_size_per_gpu,
            "trials": trials,
            "open": opening.as_json(),
            "score": scoring.as_json(),
            "peak": peak_bytes(),
        },
    )


if __name__ == "__main__":
    main()
