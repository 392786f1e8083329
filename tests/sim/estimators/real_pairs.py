"""Runs of the built-in model and of seven changed copies: python -m tests.sim.estimators.real_pairs FOLDER [PAIR ...].

Weights rounded to 8, 6 and 4 bits, weights with noise, a short fine-tune, bfloat16, and vLLM (where it is installed), each scored on nine
tasks of at most 150 items. Needs the built-in model, `assay[tune]` and $ASSAY_DATA. Runs and models already in FOLDER are reused.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from assay.harness.files.places import surroundings
from assay.harness.model.find import find_model
from tests.rounding import changed_model, rounded
from tests.sim.real import tuned_model

MODEL = "builtin:smollm2-135m"
TASKS = ("tests/sim/pairs.py", "superglue/copa", "glue/sst2", "superglue/wic", "superglue/rte", "mmlu/marketing")
LIMIT = 150


def noisy(values: Any, share: float = 0.05) -> Any:
    """A weight matrix with normal noise of `share` of each row's standard deviation; the seed is fixed."""
    import torch

    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values.dtype)
    return values + share * values.std(dim=1, keepdim=True) * noise


CHANGES: dict[str, Callable[[Path, Path], Path]] = {
    "8bit": partial(changed_model, change=partial(rounded, bits=8)),
    "6bit": partial(changed_model, change=partial(rounded, bits=6)),
    "4bit": partial(changed_model, change=rounded),
    "noise": partial(changed_model, change=noisy),
    "tuned": partial(tuned_model, lr=1e-4),
}
OPTIONS: dict[str, tuple[str, ...]] = {"bf16": ("--dtype", "bfloat16"), "vllm": ("--engine", "vllm")}
TITLES = {
    "8bit": "8-bit rounding",
    "6bit": "6-bit rounding",
    "4bit": "4-bit rounding",
    "noise": "noise of 5 % of each row's deviation",
    "tuned": "four steps of fine-tuning at 1e-4",
    "bf16": "bfloat16",
    "vllm": "vLLM",
}


def score(folder: Path, name: str) -> str:
    """The id of the run of "base" or of a pair; a run that exists is reused."""
    kept = folder / f"{name}.run"
    if kept.exists():
        return kept.read_text()
    model = MODEL
    if name in CHANGES:
        here = surroundings()
        changed = folder / f"smollm2-135m-{name}"
        if not changed.exists():
            CHANGES[name](find_model(MODEL, cache=here.cache, offline=here.offline).path, changed)
        model = str(changed)
    options = OPTIONS.get(name, ())
    engine = () if "--engine" in options else ("--engine", "hf")
    command = ("run", "--model", model, "--tasks", ",".join(TASKS), "--limit", str(LIMIT), "--shots", "0", *engine, *options)
    done = subprocess.run(
        [sys.executable, "-m", "assay", *command, "--results", str(folder), "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    kept.write_text(json.loads(done.stdout)["run"])
    return kept.read_text()


def main(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or ("base", *TITLES):
        print(name, score(folder, name), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
